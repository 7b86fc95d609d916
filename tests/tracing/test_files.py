"""Traces on disk: they come back as they were, lazily; a bad file is an error that says why; a full disk leaves nothing half."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fakes.traces import a_branch, a_trace, replace_header, some_records
from fanlight.checkpoints import writing
from fanlight.errors import TraceError
from fanlight.tracing import files
from fanlight.tracing.files import check_target, open_trace, save_trace
from fanlight.tracing.layout import LAYOUT
from fanlight.tracing.trace import LOOKS, Trace

PAGE = (Path(__file__).parents[2] / "docs" / "traces_format.md").read_text(encoding="utf-8")
Change = Callable[[dict[str, Any], dict[str, str]], Any]


def everything(**values: Any) -> Trace:
    return a_trace(search=True, guesses=True, **values)


def check_same(found: Trace, expected: Trace) -> None:
    """Every part, its types too."""
    assert found.header == expected.header
    assert (found.prompt_ids, found.ids, found.pieces) == (expected.prompt_ids, expected.ids, expected.pieces)
    assert dict(found.vocabulary) == dict(expected.vocabulary)
    assert found.steps == expected.steps
    assert found.search == expected.search
    assert found.has == expected.has
    for name in LOOKS:
        mine, its = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (its is None)
        for field in fields(its) if its is not None else ():
            one, other = getattr(mine, field.name), getattr(its, field.name)
            assert type(one) is type(other)
            np.testing.assert_array_equal(one, other)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_trace(everything(n_steps=4, n_layer=2), tmp_path_factory.mktemp("saved") / "run.safetensors"))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"search": True, "guesses": True, "n_steps": 13, "candidates": 3},
        {"n_steps": 0},
        {"n_steps": 1, "lens": False, "attention": False},
        {"lens": False, "attention": [-1, 0], "contributions": False, "norms": False, "timings": False},
        {"settings": {"do_sample": False}, "candidates": -1},
        {"n_prompt": 0, "attention": False},
        {"complete": False, "problem": "the disk was full", "score": -math.inf, "is_given": True, "seed": 2**64 - 1},
        {"missing": {"lens": "no head"}, "notes": ("a \ud800 note",), "prompt": None, "request_seed": -(2**70)},
    ],
)
def test_a_trace_comes_back_as_it_was(values: dict[str, Any], tmp_path: Path) -> None:
    trace = a_trace(**{"settings": {"do_sample": True, "top_p": 0.9}, **values})
    found = open_trace(save_trace(trace, tmp_path / "run.safetensors"))
    check_same(found, trace)
    assert found.path == str(tmp_path / "run.safetensors")


def test_a_branch_knows_where_it_comes_from(tmp_path: Path) -> None:
    branch = a_branch(everything(), 3)
    assert open_trace(save_trace(branch, tmp_path / "b")).header.parent == branch.header.parent is not None


def test_what_was_opened_can_be_saved_over_itself(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(saved.read_bytes())
    trace = open_trace(path)
    save_trace(trace, path)
    assert path.read_bytes() == saved.read_bytes()
    check_same(trace, open_trace(path))


def test_the_library_reads_our_files(saved: Path) -> None:
    arrays, trace = load_file(saved), open_trace(saved)
    np.testing.assert_array_equal(arrays["ids"], trace.ids)
    np.testing.assert_array_equal(arrays["lens/entropies"], trace.lens.entropies)  # type: ignore[union-attr]
    np.testing.assert_array_equal(arrays["attention/weights"], trace.attention.weights)  # type: ignore[union-attr]
    assert set(arrays) <= set(LAYOUT)
    with safe_open(saved, "np") as file:
        assert json.loads(file.metadata()["trace"])["text"] == trace.text


def test_we_read_what_the_library_writes(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, "np") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "checksums"}
    save_file(load_file(saved), tmp_path / "other.safetensors", metadata)
    check_same(open_trace(tmp_path / "other.safetensors"), open_trace(saved))


def test_the_page_names_every_array_and_its_example_runs(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [name for name in LAYOUT if f"`{name}`" not in PAGE] == []
    code = PAGE.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 12
    exec(compile(code.replace("run.safetensors", str(saved)), "docs/traces_format.md", "exec"), {})
    lines, trace = capsys.readouterr().out.splitlines(), open_trace(saved)
    for line, record in zip(lines[-trace.n_steps :], trace.steps, strict=True):
        surprise, rank, token = line.split(maxsplit=2)
        assert float(surprise) == pytest.approx(-record.raw_logprob, abs=0.01)
        assert int(rank) == record.raw_rank
        assert token == repr(trace.token_bytes(record.id))


def test_default_recording_takes_less_than_a_kilobyte_and_a_half_a_token(tmp_path: Path) -> None:
    plain = dict.fromkeys(("lens", "attention", "contributions", "norms", "timings"), False)
    trace = a_trace(n_steps=100, n_vocab=5000, candidates=20, **plain)  # type: ignore[arg-type]
    assert Path(save_trace(trace, tmp_path / "run")).stat().st_size / 100 < 1500


def test_opening_reads_no_attention(tmp_path: Path) -> None:
    trace = a_trace(n_steps=200, n_layer=8, n_head=8, lens=False)
    path = save_trace(trace, tmp_path / "run")
    code = (
        "import sys; from fanlight.tracing.files import open_trace; t = open_trace(sys.argv[1])\n"
        "def resident():\n"
        "    total, on = 0, False\n"
        "    for line in open('/proc/self/smaps'):\n"
        "        if '-' in line.split()[0]: on = sys.argv[1] in line\n"
        "        elif on and line.startswith('Rss'): total += int(line.split()[1])\n"
        "    return total\n"
        "t.steps[0]; before = resident(); t.attention.weights; print(before, resident())"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert trace.attention is not None
    size = trace.attention.weights.nbytes // 1024
    assert size > 3000
    assert before < 2000  # the rest of the file, and what the system reads ahead
    assert after > size * 0.9


def test_attention_stays_in_the_file_until_it_is_used(saved: Path) -> None:
    weights = open_trace(saved).attention.weights  # type: ignore[union-attr]
    assert not weights.flags.owndata
    assert not weights.flags.writeable


# -- where to -----------------------------------------------------------------------------------------------------------


def test_in_a_folder_the_id_is_the_name(tmp_path: Path) -> None:
    trace = everything()
    assert save_trace(trace, tmp_path) == str(tmp_path / f"{trace.id}.safetensors")
    assert save_trace(trace, f"{tmp_path}/new/") == str(tmp_path / "new" / f"{trace.id}.safetensors")


@pytest.mark.parametrize("name", ["../away", "", ".hidden", "a/b", "x" * 101, "a\0"])
def test_an_id_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is no name for a file"):
        save_trace(replace_header(everything(), id=name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TraceError, match=r"the folder .*gone does not exist; make it first: mkdir"):
        check_target(tmp_path / "gone" / "run.safetensors")
    with pytest.raises(TraceError, match="cannot be written"):
        check_target(f"{tmp_path}/file/")
    with pytest.raises(TraceError, match="found a device or a pipe"):
        check_target("/dev/null")
    with pytest.raises(TraceError, match="expected the path of a file or folder"):
        check_target("")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TraceError, match="cannot be written; check its rights"):
        check_target(tmp_path / "run.safetensors")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(saved.read_bytes())
    write = writing._write_entry
    left = [7]

    def full(file: Any, entry: writing.Entry) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        write(file, entry)

    monkeypatch.setattr(writing, "_write_entry", full)
    with pytest.raises(TraceError, match=r"run.safetensors: cannot be written \(No space left on device\)"):
        save_trace(everything(seed=9), path)
    assert path.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_may_not_grow_is_an_error(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from fakes.traces import a_trace; from fanlight.tracing.files import save_trace; from fanlight.errors import TraceError\n"
        "trace = a_trace(); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))\n"
        "try: save_trace(trace, sys.argv[1])\n"
        "except TraceError as error: print(error)"
    )
    tests = str(Path(__file__).parents[1])
    arguments = [sys.executable, "-c", code, str(tmp_path / "run"), tests]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # only the child was limited


def test_nan_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    made = some_records(3)
    made[1] = replace(made[1], raw_logits=(math.nan, *made[1].raw_logits[1:]))
    with pytest.raises(TraceError, match="'steps/raw_logits' holds NaN, expected numbers; it is not kept"):
        save_trace(a_trace(records=made), tmp_path / "run")
    with pytest.raises(TraceError, match="no form in JSON"):
        save_trace(everything(settings={}, setting_origins={"a": object()}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# -- bad files -----------------------------------------------------------------------------------------------------------


def use(path: Path) -> Trace:
    """Open it and ask for everything."""
    trace = open_trace(path)
    list(trace.steps)
    for name in (*LOOKS, "search"):
        getattr(trace, name)
    return trace


def rewritten(saved: Path, path: Path, change: Change) -> Path:
    """The file with other arrays or metadata, as somebody may write it who knows the format: with no checksums."""
    arrays = {name: array.copy() for name, array in load_file(saved).items()}
    with safe_open(saved, "np") as file:
        metadata = dict(file.metadata())
    del metadata["checksums"]
    change(arrays, metadata)
    save_file(arrays, path, metadata)
    return path


def put(name: str, *index: Any, value: Any) -> Change:
    def change(arrays: dict[str, Any], _: dict[str, str]) -> None:
        arrays[name][index or ...] = value

    return change


def instead(name: str, make: Callable[[Any], Any]) -> Change:
    def change(arrays: dict[str, Any], _: dict[str, str]) -> None:
        arrays[name] = make(arrays[name])

    return change


def without(*names: str) -> Change:
    return lambda arrays, _: [arrays.pop(name) for name in names]


def says(name: str, value: str) -> Change:
    return lambda _, metadata: metadata.update({name: value})


def header(**values: Any) -> Change:
    return lambda _, metadata: metadata.update(trace=json.dumps({**json.loads(metadata["trace"]), **values}))


def tables(make: Callable[[Any], Any]) -> Change:
    return lambda _, metadata: metadata.update(tables=json.dumps(make(json.loads(metadata["tables"]))))


BAD: list[tuple[Change, str]] = [
    (says("version", "2"), "a trace of version 2; this Fanlight reads version 1: update Fanlight"),
    (says("version", "1.5"), "'version' is '1.5' in its metadata, expected a number"),
    (says("format", "pt"), "found another safetensors file of 67 arrays"),
    (says("trace", "{"), "its header cannot be read"),
    (says("trace", "[]"), "its header cannot be read"),
    (says("trace", "[" * 100_000), "its header cannot be read"),
    (says("tables", "nonsense"), "'tables' in its metadata is not JSON"),
    (says("tables", "[]"), "'tables' in its metadata, expected a JSON object"),
    (lambda _, metadata: metadata.pop("tables"), "expected 'tables' in its metadata, found none"),
    (header(text=5), "'text' in its header is of the wrong type"),
    (header(seed=True), "'seed' in its header is of the wrong type"),
    (header(notes=[1]), "'notes' in its header is of the wrong type"),
    (header(settings=[1]), "'settings' in its header is of the wrong type"),
    (header(origin={"model": 5, "fingerprint": "", "architecture": "", "kernels": ""}), "'origin.model' in its header"),
    (header(origin={}), "its header cannot be read"),
    (header(stop={"reason": "boredom", "detail": ""}), "its header cannot be read"),
    (header(stop=None), "its header cannot be read"),
    (tables(lambda t: {**t, "steps": {}}), "the tables of its steps cannot be read"),
    (tables(lambda t: {**t, "steps": 5}), "expected tables of its steps, found none"),
    (tables(lambda t: {**t, "search": None}), "expected tables of its search, found none"),
    (tables(lambda t: {**t, "search": {"kind": "beam search", "fates": "kept"}}), "expected a kind and fates"),
    (tables(lambda t: {**t, "search": {**t["search"], "fates": []}}), "beyond the nodes or fates"),
    (
        tables(lambda t: {**t, "steps": {**t["steps"], "effects": []}}),
        "'steps/effect_kind' at 0, expected below 0",
    ),
    (
        tables(lambda t: {**t, "steps": {**t["steps"], "drafters": []}}),
        "'steps/guess_drafter', expected numbers below 0",
    ),
    (tables(lambda t: {**t, "steps": {**t["steps"], "drafters": [5]}}), "the tables of its steps, expected texts"),
    (
        tables(lambda t: {**t, "steps": {**t["steps"], "stops": {"9": t["steps"]["stops"]["3"]}}}),
        "'stops' at 0",
    ),
    (
        tables(lambda t: {**t, "steps": {**t["steps"], "stops": {"3": {"reason": 1}}}}),
        "the tables of its steps cannot be read",
    ),
    (without("ids"), "expected the array 'ids', found none of this name"),
    (without("steps/raw_logits"), "expected the array 'steps/raw_logits'"),
    (without("lens/entropies"), "expected the array 'lens/entropies'"),
    (without("steps/guess_id"), "together, found some of them"),
    (instead("ids", lambda a: a[:-1]), r"'pieces/offsets' has shape \[5\], expected \[4\]"),
    (instead("lens/ids", lambda a: a[..., None]), r"'lens/ids' has shape \[4, 3, 4, 1\], expected"),
    (instead("norms/attention", lambda a: a[:, :1]), r"'norms/attention' has shape \[4, 1\], expected \[4, 2\]"),
    (instead("timings/layers", lambda a: a[:, :1]), r"'timings/layers' has shape \[2, 1\], expected \[2, 2\]"),
    (instead("vocabulary/offsets", lambda a: a[:0]), r"'vocabulary/offsets' has shape \[0\]"),
    (instead("ids", lambda a: a.astype(np.float32)), "'ids' is of type F32, expected I32 or I64"),
    (
        instead("attention/weights", lambda a: a.astype(np.float64)),
        "'attention/weights' is of type F64, expected F16 or F32",
    ),
    (instead("steps/candidate_offsets", lambda a: a.astype(np.int32)), "'steps/candidate_offsets' is of type I32"),
    (put("prompt_ids", 0, value=33), "'prompt_ids' holds 33, expected token ids below the 33 of its model"),
    (put("ids", 0, value=-1), "'ids' holds -1, expected token ids"),
    (put("ids", 0, value=32), "'ids' at 0, expected one of the step's candidates"),
    (put("steps/runner_up", 0, value=-2), "'steps/runner_up' holds -2, expected token ids, or -1 for none"),
    (put("steps/raw_logits", 3, value=math.nan), "'steps/raw_logits' holds NaN"),
    (put("steps/eos_prob", 0, value=math.nan), "'steps/eos_prob' holds NaN"),
    (put("steps/raw_entropy", 1, value=math.inf), "'steps/raw_entropy' holds an infinite number"),
    (put("steps/raw_logits", 3, value=1e6), "'steps/raw_logits' at 3, expected at most the row's logsumexp"),
    (put("steps/effect_logits", 3, value=1e6), "'steps/effect_logits' at 3, expected at most the row's logsumexp"),
    (put("steps/n_top", 2, value=99), "'steps/n_top' at 2, expected at most"),
    (put("steps/guess_right", 0, value=2), "'steps/guess_right' holds 2, expected 0 or 1"),
    (put("steps/guess_id", 1, value=-1), "each with an id"),
    (put("steps/noise", 0, value=math.nan), "'steps/noise' is NaN for some candidates of a step"),
    (put("steps/candidate_offsets", 1, value=2**62), "'steps/candidate_offsets', expected offsets that rise from 0 to"),
    (put("steps/candidate_offsets", 1, value=-5), "'steps/candidate_offsets' holds -5, expected offsets"),
    (put("steps/candidate_offsets", 1, value=0), "'ids' at 0"),
    (put("steps/candidate_offsets", 0, value=1), "expected offsets that rise from 0 to"),
    (put("pieces/offsets", -1, value=2), "'pieces/offsets', expected offsets that rise"),
    (put("pieces/bytes", 0, value=0xFF), "'pieces/bytes', expected UTF-8"),
    (put("vocabulary/offsets", -1, value=10**9), "'vocabulary/offsets', expected offsets that rise"),
    (
        put("steps/effect_logit_offsets", 1, value=1),
        "'steps/effect_logit_offsets' at 0, expected a logit",
    ),
    (put("attention/weights", 0, 0, 0, 0, value=math.nan), "'attention/weights' holds NaN"),
    (put("lens/logprobs", value=math.nan), "'lens/logprobs' holds NaN"),
    (put("lens/chosen_ranks", 0, 0, value=-1), "'lens/chosen_ranks' holds -1, expected whole numbers from 0"),
    (put("search/parent", 0, value=0), "'search/parent', expected each node after its parent"),
    (put("search/returned", 0, value=99), "beyond the nodes or fates"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_file_that_is_wrong_is_refused(change: Change, message: str, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "bad.safetensors", change)
    with pytest.raises(TraceError, match=message) as caught:
        use(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_of_a_later_version_are_left_out(saved: Path, tmp_path: Path) -> None:
    def change(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        arrays["later/array"] = np.zeros(3)
        header(mood="good")(arrays, metadata)

    check_same(open_trace(rewritten(saved, tmp_path / "later", change)), open_trace(saved))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"short", "too short for one"),
        (b"GGUF" + bytes(100), "found a GGUF file"),
        (b'{"steps": []}', "found a JSON text"),
        (b"\x80\x04\x95" + bytes(100), "found a Python pickle"),
        (bytes(100), "expected a trace, which is a safetensors file"),
    ],
)
def test_another_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=message):
        open_trace(path)


def test_no_file_a_folder_and_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="found nothing at this path; check its spelling"):
        open_trace(tmp_path / "none")
    with pytest.raises(TraceError, match=r"expected a trace's file, found a folder; .*TraceIndex"):
        open_trace(tmp_path)
    save_file({"weight": np.zeros((2, 3))}, tmp_path / "model.safetensors")
    with pytest.raises(TraceError, match="found another safetensors file of 1 arrays; pass a file that a trace"):
        open_trace(tmp_path / "model.safetensors")


def test_no_message_speaks_of_downloads(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for n in (0, 5, 9, 300, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:n])
        with pytest.raises(TraceError) as caught:
            use(tmp_path / "cut")
        assert "download" not in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_byte_that_changed_is_noticed(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    raw = bytearray(saved.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "flipped").write_bytes(raw)
    try:
        found = use(tmp_path / "flipped")
    except TraceError:
        return
    check_same(found, open_trace(saved))  # it was a space that nobody reads


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_cut_or_grew_is_refused(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    raw = saved.read_bytes()
    changed = data.draw(
        st.integers(0, len(raw) - 1).map(lambda n: raw[:n]) | st.binary(min_size=1).map(lambda b: raw + b)
    )
    (tmp_path / "cut").write_bytes(changed)
    with pytest.raises(TraceError):
        use(tmp_path / "cut")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_numbers_of_any_kind_are_an_error_or_a_trace(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    """Without checksums, as a hostile hand would write them: any number, shape or name."""

    def change(arrays: dict[str, Any], _: dict[str, str]) -> None:
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(sorted(arrays)))
            array = arrays[name]
            what = data.draw(st.sampled_from(["value", "value", "shape", "type", "empty", "huge"]))
            if what == "value" and array.size:
                info: Any = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
                numbers = st.integers(int(info.min), int(info.max)) if info else st.floats()
                small = st.integers(0 if array.dtype == np.uint8 else -3, 40)
                with np.errstate(all="ignore"):
                    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = data.draw(small | numbers)
            elif what == "shape":
                arrays[name] = array.reshape(-1)[: data.draw(st.integers(0, array.size))].copy()
            elif what == "type":
                dtype = data.draw(st.sampled_from([np.int32, np.int64, np.float32, np.float16, np.uint8]))
                with np.errstate(all="ignore"):
                    arrays[name] = np.asarray(array.astype(dtype))
            elif what == "empty":
                arrays[name] = array[:0] if array.ndim else array
            elif what == "huge":
                arrays[name] = np.empty((0, 2**40), array.dtype)

    path = rewritten(saved, tmp_path / "any", change)
    try:
        found = use(path)
    except TraceError:
        return
    assert len(found.steps) == found.n_steps
    repr(list(found.steps))


@pytest.mark.parametrize("shape", [[2**62, 0], [0, 2**62, 2**62], [2**63 - 1, 0]])
def test_a_size_of_nothing_by_too_much(shape: list[int], saved: Path, tmp_path: Path) -> None:
    raw = saved.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8 : 8 + length])
    del about["__metadata__"]["checksums"]
    about["attention/windows"] = {"dtype": "I32", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(about).encode()
    (tmp_path / "odd").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(TraceError):
        use(tmp_path / "odd")


def test_a_file_that_is_cut_while_it_is_open_is_noticed(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(saved.read_bytes())
    trace = open_trace(path)
    os.truncate(path, 4096)
    with pytest.raises(TraceError, match=r"checksum|cut short"):
        list(trace.steps)


def test_types_are_named_as_the_format_has_them() -> None:
    assert set(files._TYPES.values()) == set(files._DTYPES)
