"""`fanlight generate --trace`: what is kept where, that the text stays the same, and what a full disk costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import fanlight
from cli.conftest import Run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_trace_is_kept_and_the_text_is_the_same(run: Run, smollm: fanlight.Model, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    words = ["The cat", "-n", "5", "--do-sample", "--seed", "3"]
    plain = run("generate", *words, model=smollm)
    done = run(
        "generate",
        *words,
        "--trace",
        str(file),
        "--look",
        "lens=2,norms,attention=0:-1",
        "--heads",
        "1,2",
        model=smollm,
    )
    assert done.code == 0
    assert done.out == plain.out
    trace = fanlight.open_trace(file)
    assert f"[trace {file}: 5 steps, {file.stat().st_size / 1e3:.1f} kB]" in done.err
    assert set(trace.has) == {"lens", "norms", "attention"}
    assert trace.attention is not None
    assert (trace.attention.layers, trace.attention.heads) == ((0, 29), (1, 2))
    assert len(trace.steps[0].candidate_ids) in (20, 21)


def test_several_texts_are_kept_in_files_of_their_own(run: Run, smollm: fanlight.Model, tmp_path: Path) -> None:
    words = ["-n", "3", "--do-sample", "--seed", "3", "--num-return-sequences", "3"]
    done = run("generate", "The cat", *words, "--trace", str(tmp_path / "run.safetensors"), model=smollm)
    assert done.code == 0
    names = ["run.2.safetensors", "run.3.safetensors", "run.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert done.err.count("[trace ") == 3


def test_a_folder_that_is_not_there_is_made_and_its_file_named_by_the_id(
    run: Run, smollm: fanlight.Model, tmp_path: Path
) -> None:
    assert run("generate", "The cat", "-n", "2", "--trace", f"{tmp_path}/runs/", model=smollm).code == 0
    (file,) = (tmp_path / "runs").iterdir()
    assert file.name == f"{fanlight.open_trace(file).id}.safetensors"


def test_json_says_where_the_trace_is_and_nothing_is_on_standard_error(
    run: Run, smollm: fanlight.Model, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    done = run("generate", "The cat", "-n", "2", "--json", "--trace", str(file), model=smollm)
    assert (done.code, done.err) == (0, "")
    trace = fanlight.open_trace(file)
    found = json.loads(done.out)
    assert found["traces"] == [{"path": str(file), "id": trace.id, "complete": True, "problem": ""}]
    assert len(found["steps"]) == 2


def test_positions_that_the_text_has_not_are_told_and_the_account_of_the_steps_stays(
    run: Run, smollm: fanlight.Model, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    words = ["-n", "2", "--look", "attention,lens", "--queries", "900", "--trace", str(file)]
    done = run("generate", "The cat", *words, model=smollm)
    assert done.code == 0
    assert "queries: there is no position 900; there are 3, from 0 to 2" in done.err
    kept = fanlight.open_trace(file)
    assert (kept.n_steps, kept.header.complete, kept.has) == (2, True, ("lens",))
    assert "position 900" in kept.header.missing["attention"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_disk_that_is_full_costs_no_text_and_the_exit_code_tells(
    run: Run, smollm: fanlight.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    from fanlight.tracing import files

    write, calls = files.write_safetensors, []

    def fails(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) <= fails_at:
            raise fanlight.errors.CheckpointError(f"{args[0]}: cannot be written (No space left on device)")
        return write(*args, **options)

    monkeypatch.setattr(files, "write_safetensors", fails)
    file = tmp_path / "run.safetensors"
    done = run("generate", "The cat", "-n", "3", "--look", "norms", "--trace", str(file), model=smollm)
    assert done.out == smollm.generate("The cat", max_new_tokens=3).text + "\n"
    assert done.code == 1
    assert "No space left on device" in done.err
    assert file.exists() == (fails_at == 1)
    if fails_at == 1:
        assert "note: the trace was kept without norms: " in done.err
        kept = fanlight.open_trace(file)
        assert not kept.header.complete
        assert kept.n_steps == 3
    else:
        assert "note: the trace was not kept: " in done.err


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a fault")])
def test_what_ends_the_look_inside_leaves_the_account_of_the_steps(
    run: Run, smollm: fanlight.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    from fanlight.tracing import recording

    def ends(*_args: Any, **_options: Any) -> Any:
        raise error

    monkeypatch.setattr(recording, "look", ends)
    file = tmp_path / "run.safetensors"
    done = run("generate", "The cat", "-n", "3", "--look", "norms", "--trace", str(file), model=smollm)
    assert done.code == (130 if error is KeyboardInterrupt else 1)
    kept = fanlight.open_trace(file)
    assert (kept.n_steps, kept.header.complete) == (3, False)
    assert kept.header.problem.startswith("looking inside was ended by ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--look", "all"], "--look, --heads and --queries say what a trace holds: give --trace FILE with them"),
        (["--trace", "RUN", "--look", "lnes"], "--look: unknown 'lnes'; there is lens, attention"),
        (["--trace", "RUN", "--look", "norms=3"], "--look: norms takes no value: got 'norms=3'"),
        (["--trace", "RUN", "--look", "lens=0.5"], "--look lens takes whole numbers: got '0.5'"),
        (["--trace", "RUN", "--heads", "1"], "--heads and --queries are of attention"),
        (["--trace", "RUN", "--candidates", "0"], "--candidates must be at least 1 with it"),
        (["--trace", "RUN", "--look", "attention=3"], "attention: there is no layer 3; there are 3, from 0 to 2"),
        (["--trace", ""], "expected the path of a file or folder"),
        (["--trace", "x.json"], "x.json: a trace is kept as .safetensors, or in a folder (runs/)"),
        (["--trace", "/nope/x.safetensors"], "the folder /nope does not exist; make it first"),
        (["--trace", "/dev/full"], "/dev/full: expected a file to write, found a device or a pipe"),
    ],
)
def test_mistakes_with_a_trace_are_told_before_anything_is_written(
    run: Run, tmp_path: Path, words: list[str], message: str
) -> None:
    file = tmp_path / "run.safetensors"
    done = run("generate", "abc", *(str(file) if word == "RUN" else word for word in words))
    assert (done.code, done.out) == (2, "")
    assert message in done.error
    assert not file.exists()
