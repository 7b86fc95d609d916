"""`generate(..., trace=...)`: the text does not change, the trace is of it, and files are there in time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanlight
from fanlight import TraceOptions
from fanlight.errors import OptionError, TraceError
from fanlight.tracing import files
from fanlight.tracing.recording import FIRST_SNAPSHOT, kept_settings, numbered

if TYPE_CHECKING:
    from fanlight import Generation, Model

PROMPT = "The future of artificial intelligence is"
EVERYTHING = TraceOptions(lens=3, attention=True, contributions=True, norms=True, timings=True)


def records(found: Generation) -> list[Any]:
    return [step.record for step in found.steps]


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.1},
        {"num_beams": 3, "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"do_sample": True, "seed": 4, "prompt_lookup_num_tokens": 5},
        {"do_sample": True, "seed": 5, "num_return_sequences": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_looking_changes_nothing(smollm: Model, options: dict[str, Any]) -> None:
    plain = smollm.generate(PROMPT, max_new_tokens=9, **options)
    traced = smollm.generate(PROMPT, max_new_tokens=9, trace=EVERYTHING, **options)
    assert len(plain.all) == len(traced.all)
    for one, other in zip(plain.all, traced.all, strict=True):
        assert one.ids == other.ids
        assert records(one) == records(other)
        assert other.trace is not None
        assert other.trace.ids == one.ids
        assert list(other.trace.steps) == records(one)
        assert other.trace.text == one.text
        assert "".join(other.trace.pieces) == one.text
        assert set(other.trace.has) >= {"lens", "attention", "contributions", "norms", "timings"}
    assert plain.trace is None


def test_what_is_asked_for_is_in_the_trace_and_nothing_else(smollm: Model) -> None:
    trace = smollm.generate(PROMPT, max_new_tokens=4, trace=TraceOptions(norms=True)).trace
    assert trace is not None
    assert trace.has == ("norms",)
    assert trace.lens is None
    with pytest.raises(OptionError, match="this trace has no lens; record it with lens=True"):
        trace.needs("lens")


def test_trace_true_a_path_a_dict_and_options_mean_the_same_text(smollm: Model, tmp_path: Path) -> None:
    wanted: list[Any] = [
        True,
        tmp_path / "a.safetensors",
        str(tmp_path / "b.safetensors"),
        {"norms": True},
        TraceOptions(),
    ]
    found = [smollm.generate(PROMPT, max_new_tokens=3, trace=trace).trace for trace in wanted]
    assert len({trace.id for trace in found if trace is not None}) == 1
    assert [trace.path for trace in found if trace is not None][1:3] == [
        str(tmp_path / f"{n}.safetensors") for n in "ab"
    ]


@pytest.mark.parametrize(
    ("trace", "match"),
    [
        ({"lenses": True}, "a trace has no option 'lenses'"),
        (7, "trace must be True, a file's name, or TraceOptions: got 7"),
        ({"lens": 101}, "lens must be True, False, or how many tokens"),
        ({"attention": [0, 30]}, "attention: there is no layer 30; there are 30, from 0 to 29"),
        ({"attention": True, "heads": [9]}, "heads: there is no head 9; there are 9, from 0 to 8"),
        ({"attention": [1.5]}, "attention must be True, or numbers of layers"),
        ({"norms": 1}, "norms must be True or False"),
    ],
)
def test_a_mistake_in_the_options_is_said_before_anything_is_written(smollm: Model, trace: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        smollm.generate(PROMPT, max_new_tokens=3, trace=trace)


def test_a_position_that_the_text_does_not_have_costs_no_text(smollm: Model) -> None:
    found = smollm.generate(PROMPT, max_new_tokens=3, trace=TraceOptions(attention=True, queries=[99], norms=True))
    assert len(found.ids) == 3
    assert found.trace is not None
    assert found.trace.has == ("norms",)
    assert any("queries: there is no position 99" in note for note in found.notes)
    with pytest.raises(OptionError, match="this trace has no attention: queries: there is no position 99"):
        found.trace.needs("attention")


def test_leaving_a_stream_keeps_what_came(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with smollm.stream(PROMPT, max_new_tokens=50, trace=path) as stream:
        for step in stream:
            if step.index == 5:
                break
    kept = fanlight.open_trace(path)
    assert kept.n_steps == 6
    assert not kept.header.complete
    other = tmp_path / "other.safetensors"

    def interrupted() -> None:
        with smollm.stream(PROMPT, max_new_tokens=50, trace=other) as stream:
            for step in stream:
                if step.index == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fanlight.open_trace(other).n_steps == 4
    assert "KeyboardInterrupt" in fanlight.open_trace(other).header.problem


def test_a_trace_needs_the_account_of_the_steps(smollm: Model) -> None:
    with pytest.raises(OptionError, match="candidates must be above 0"):
        smollm.generate(PROMPT, max_new_tokens=3, candidates=0, trace=True)


def test_an_unwritable_place_is_said_before_anything_is_computed(smollm: Model, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no/such/folder"):
        smollm.generate(PROMPT, max_new_tokens=3, trace=tmp_path / "no/such/folder/run.safetensors")


def test_a_file_holds_what_the_trace_holds(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    trace = smollm.generate(PROMPT, max_new_tokens=8, trace=TraceOptions(path=path, lens=True, norms=True)).trace
    assert trace is not None
    again = fanlight.open_trace(path)
    assert again.header == trace.header
    assert list(again.steps) == list(trace.steps)
    assert again.lens is not None
    assert trace.lens is not None
    assert (again.lens.ids == trace.lens.ids).all()
    assert (again.lens.logprobs == trace.lens.logprobs).all()


def test_several_texts_have_a_file_each(smollm: Model, tmp_path: Path) -> None:
    found = smollm.generate(
        PROMPT, max_new_tokens=3, do_sample=True, seed=1, num_return_sequences=3, trace=tmp_path / "run.safetensors"
    )
    names = ["run.safetensors", "run.2.safetensors", "run.3.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert [fanlight.open_trace(tmp_path / name).text for name in names] == [text.text for text in found.all]
    assert numbered("runs/", 2) == "runs/"


def test_many_prompts_fill_a_folder(smollm: Model, tmp_path: Path) -> None:
    prompts = [PROMPT, "The cat sat on", "Once upon a time"]
    found = smollm.generate_many(prompts, max_new_tokens=5, trace=f"{tmp_path}/")
    assert {fanlight.open_trace(path).text for path in tmp_path.glob("*.safetensors")} == {text.text for text in found}
    assert [text.trace.header.prompt for text in found if text.trace is not None] == prompts


def test_a_run_that_is_cut_off_leaves_what_came_before_marked(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with smollm.stream(PROMPT, max_new_tokens=400, ignore_eos=True, trace=path) as stream:
        for step in stream:
            if step.index == FIRST_SNAPSHOT + 3:
                break
        early = fanlight.open_trace(path)  # as after a power cut
        assert not early.header.complete
        assert early.n_steps == FIRST_SNAPSHOT
        assert "still being written" in early.header.problem
    found = stream.result()
    assert found.trace is not None
    assert not found.trace.header.complete
    late = fanlight.open_trace(path)
    assert late.n_steps == FIRST_SNAPSHOT + 4
    assert not late.header.complete


def test_a_full_disk_ends_no_text(smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    whole = smollm.generate(PROMPT, max_new_tokens=6)

    def full(*_: Any) -> str:
        raise TraceError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(files, "save_trace", full)
    found = smollm.generate(PROMPT, max_new_tokens=6, trace=TraceOptions(path=path, norms=True))
    assert found.text == whole.text
    assert any("No space left on device" in note for note in found.notes)
    assert found.trace is not None
    assert found.trace.path is None
    assert not found.trace.header.complete
    assert "No space left" in found.trace.header.problem
    assert found.trace.norms is not None  # still in memory


def test_a_disk_that_is_full_on_the_way_ends_no_text(
    smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"

    def full(*_: Any) -> str:
        raise TraceError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(files, "save_trace", full)
    found = smollm.generate(PROMPT, max_new_tokens=FIRST_SNAPSHOT + 2, ignore_eos=True, trace=path)
    assert len(found.ids) == FIRST_SNAPSHOT + 2
    assert any("No space left on device" in note for note in found.notes)


def test_where_the_looks_do_not_fit_the_steps_are_kept(
    smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "run.safetensors", files.save_trace

    def tight(trace: Any, where: Any) -> str:
        if trace.norms is not None:
            raise TraceError(f"{path}: cannot be written (No space left on device)")
        return save(trace, where)

    monkeypatch.setattr(files, "save_trace", tight)
    found = smollm.generate(PROMPT, max_new_tokens=6, trace=TraceOptions(path=path, norms=True))
    kept = fanlight.open_trace(path)
    assert kept.text == found.text
    assert not kept.header.complete
    assert "No space left" in kept.header.missing["norms"]


def test_an_error_on_the_way_leaves_what_came_before(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"

    def breaks(ids: Any, logits: Any) -> Any:
        if len(ids) > 12:
            logits = logits * float("nan")
        return logits

    with pytest.raises(fanlight.errors.FanlightError):
        smollm.generate(PROMPT, max_new_tokens=20, processors=[breaks], trace=path)
    kept = fanlight.open_trace(path)
    assert kept.n_steps == 13 - len(kept.prompt_ids)
    assert not kept.header.complete
    assert "ended by" in kept.header.problem


def test_settings_that_are_code_are_named(smollm: Model) -> None:
    def same(ids: Any, logits: Any) -> Any:
        return logits

    config = smollm.settings(top_k=7, processors=["top_k", same], stop_strings=["."])
    kept, unkept = kept_settings(config)
    assert kept["top_k"] == 7
    assert kept["stop_strings"] == ["."]
    assert unkept == ("processors",)
    trace = smollm.generate(PROMPT, config, max_new_tokens=2, trace=True).trace
    assert trace is not None
    with pytest.raises(OptionError, match="made with processors of its caller"):
        fanlight.replay(trace, smollm)


def test_the_timings_are_of_this_text(smollm: Model) -> None:
    trace = smollm.generate(PROMPT, max_new_tokens=5, trace=TraceOptions(timings=True)).trace
    assert trace is not None
    assert trace.timings is not None
    spent = float(trace.timings.forward.sum() + trace.timings.deciding.sum())
    whole = trace.header.prefill_seconds + trace.header.decode_seconds
    assert 0.5 * whole < spent <= whole * 1.05
    assert trace.timings.layers.shape == (30, 2)
    assert (trace.timings.layers > 0).all()
