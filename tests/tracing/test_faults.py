"""What once went wrong with traces, on tiny models: several texts, jobs, disks, files that went, branches that come back."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from fanlight import TraceOptions
from fanlight.errors import CheckpointError, NumericError, OptionError, TraceError
from fanlight.jobs import Job
from fanlight.tracing import files, recording
from fanlight.tracing.branching import branch_tree
from models import tiny
from models.hf_tiny import random_model

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model, Trace

PROMPT = "the cat in the"
FIRST_SNAPSHOT = 64
"""In these tests: a tiny model's window holds no more."""
TOKEN = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("models") / "tiny", tiny.llama())


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return fanlight.load(folder)


def traced(model: Model, **options: Any) -> Trace:
    found = model.generate(PROMPT, **{"max_new_tokens": 8, "trace": True, **options}).trace
    assert found is not None
    return found


# -- timings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
        {"do_sample": True, "seed": 3, "best_of": 4, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_timings_of_several_texts_are_of_each_one_and_kept(
    model: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    trace = TraceOptions(path=f"{tmp_path}/", timings=True)
    found = model.generate(PROMPT, max_new_tokens=7, trace=trace, **options)
    for text in found.all:
        assert not text.notes
        assert text.trace is not None
        assert text.trace.path is not None
        timings = fanlight.open_trace(text.trace.path).timings
        assert timings is not None
        assert timings.forward.shape == timings.deciding.shape == (len(text.ids),)
        assert (timings.forward >= 0).all()
        assert timings.forward.sum() > 0


def test_timings_of_many_prompts_are_measured(model: Model, tmp_path: Path) -> None:
    trace = TraceOptions(path=f"{tmp_path}/", timings=True)
    for text in model.generate_many([PROMPT, "he", "in the"], max_new_tokens=5, trace=trace):
        assert text.trace is not None
        assert text.trace.path is not None
        timings = fanlight.open_trace(text.trace.path).timings
        assert timings is not None
        assert timings.forward.shape == (len(text.ids),)
        assert timings.forward.sum() > 0


def test_a_model_whose_blocks_cannot_be_told_apart_shows_the_rest(tmp_path: Path) -> None:
    model = fanlight.load(tiny.write_folder(tmp_path / "rwkv", random_model("rwkv")), backend="hf")
    trace = traced(model, trace=TraceOptions(lens=2, attention=True, contributions=True, norms=True, timings=True))
    assert trace.has == ("lens",)
    assert "cannot be told apart" in trace.header.missing["timings"]
    assert "cannot be told apart" in trace.header.missing["norms"]
    assert "has no attention" in trace.header.missing["attention"]
    assert trace.n_steps == 8


# -- many jobs ----------------------------------------------------------------------------------------------------------


def test_many_prompts_do_not_go_into_one_file(model: Model, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"is one file, and there are 2 texts: give a folder"):
        model.generate_many([PROMPT, "he"], max_new_tokens=3, trace=tmp_path / "run.safetensors")
    assert list(tmp_path.iterdir()) == []
    (only,) = model.generate_many([PROMPT], max_new_tokens=3, trace=tmp_path / "run.safetensors")
    assert fanlight.open_trace(tmp_path / "run.safetensors").text == only.text


def test_a_job_whose_trace_cannot_be_made_leaves_the_others_alone(model: Model) -> None:
    config = model.settings(max_new_tokens=4)
    wrong = TraceOptions(attention=True, queries=[77])
    jobs = [Job(0, PROMPT, config, trace=wrong), Job(1, "he", config, trace=True), Job(2, "in", config)]
    found = {outcome.key: outcome for outcome in model.generate_each(jobs)}
    assert found.keys() == {0, 1, 2}
    assert all(found[key].error is None for key in (1, 2))
    assert found[0].error is None or "no position 77" in str(found[0].error)


def test_a_job_that_ends_with_an_error_leaves_what_came_before(model: Model, tmp_path: Path) -> None:
    n = len(model.prompt_ids(PROMPT))

    def breaks(ids: Any, logits: Any) -> Any:
        return logits * float("nan") if len(ids) > n + 4 else logits

    config = model.settings(max_new_tokens=30, processors=[breaks])
    (outcome,) = model.generate_each([Job(0, PROMPT, config, trace=tmp_path / "run.safetensors")])
    assert isinstance(outcome.error, NumericError)
    kept = fanlight.open_trace(tmp_path / "run.safetensors")
    assert kept.n_steps == 5
    assert "ended by NumericError" in kept.header.problem


# -- files --------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_half_way_ends_no_text(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FIRST_SNAPSHOT", FIRST_SNAPSHOT)
    save = files.save_trace

    def tight(trace: Trace, where: Any) -> str:
        if not trace.header.complete and trace.n_steps == FIRST_SNAPSHOT:
            raise TraceError(f"{where}: cannot be written (No space left on device)")
        return save(trace, where)

    monkeypatch.setattr(files, "save_trace", tight)
    path = tmp_path / "run.safetensors"
    trace = traced(model, max_new_tokens=FIRST_SNAPSHOT + 9, ignore_eos=True, trace=path)
    assert trace.n_steps == FIRST_SNAPSHOT + 9
    assert fanlight.open_trace(path).header.complete


def test_a_long_text_leaves_one_file_in_a_folder(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FIRST_SNAPSHOT", FIRST_SNAPSHOT)
    trace = traced(model, max_new_tokens=FIRST_SNAPSHOT + 9, ignore_eos=True, trace=f"{tmp_path}/")
    assert [str(path) for path in tmp_path.iterdir()] == [trace.path]


def test_a_model_whose_files_went_is_said_before_the_text_is_written(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "tiny")
    model = fanlight.load(tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match="No such file"):
        model.stream(PROMPT, max_new_tokens=3, trace=True)
    assert model.generate(PROMPT, max_new_tokens=3).ids


# -- settings and replays -----------------------------------------------------------------------------------------------


def test_a_bias_that_removes_a_token_is_kept_and_replays(model: Model, tmp_path: Path) -> None:
    first = traced(model).ids[0]
    trace = traced(model, logit_bias={first: -np.inf, 5: 1.5}, sequence_bias={(6, 7): -np.inf})
    assert trace.ids[0] != first
    trace.save(tmp_path / "run.safetensors")
    again = fanlight.open_trace(tmp_path / "run.safetensors")
    assert again.header.unkept == ()
    assert fanlight.replay(again, model).same_numbers
    assert fanlight.what_if(again).same_text


def test_a_text_that_was_cut_off_before_its_first_token_replays(model: Model) -> None:
    stream = model.stream(PROMPT, max_new_tokens=5, trace=True)
    stream.close()
    trace = stream.result().trace
    assert trace is not None
    assert trace.n_steps == 0
    assert fanlight.replay(trace, model).same
    with pytest.raises(OptionError, match="there is no step 0; the trace has none"):
        trace.at(0)


def test_a_text_of_no_tokens_stays_so_in_what_if(model: Model) -> None:
    trace = traced(model, max_new_tokens=0)
    assert fanlight.what_if(trace, top_p=0.5).same_text
    assert "the text would begin" in str(fanlight.what_if(trace, max_new_tokens=3))


def test_a_healed_prompt_of_ids_and_of_a_chat_replays(smollm: Model, tmp_path: Path) -> None:
    ids = smollm.prompt_ids("The address is http:")
    trace = smollm.generate(ids, max_new_tokens=4, token_healing=True, trace=tmp_path / "run.safetensors").trace
    assert trace is not None
    assert trace.prompt_ids + trace.header.taken_back == ids
    assert trace.header.taken_back
    assert fanlight.replay(fanlight.open_trace(tmp_path / "run.safetensors"), smollm).same_numbers
    said = [{"role": "user", "content": "Say hi"}]
    trace = smollm.chat(said, max_new_tokens=5, token_healing=True, trace=True).trace
    assert trace is not None
    assert fanlight.replay(trace, smollm).same_numbers


def test_what_an_amateur_had_a_part_in_is_not_written_again_without_it(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    amateur = fanlight.load(tiny.write_folder(tmp_path / "amateur", tiny.gpt2()))
    trace = traced(model, amateur=amateur)
    for asks in (
        lambda: fanlight.replay(trace, model),
        lambda: fanlight.branch(trace, model, 3, token=TOKEN),
    ):
        with pytest.raises(OptionError, match="was written with an amateur"):
            asks()
    assert fanlight.replay(trace, model, amateur=amateur).same_numbers
    helped = traced(model, assistant=amateur)
    assert fanlight.replay(helped, model).same_numbers  # guesses change nothing


# -- branches -----------------------------------------------------------------------------------------------------------


def test_a_branch_that_comes_back_to_its_grandparents_text_is_another_trace(model: Model, tmp_path: Path) -> None:
    root = traced(model, seed=1)
    root.save(f"{tmp_path}/")
    first = root.branch(model, 3, token=TOKEN, trace=f"{tmp_path}/")
    back = first.branch(model, 3, token=root.ids[3], trace=f"{tmp_path}/")
    assert back.ids == root.ids
    again = back.branch(model, 3, token=TOKEN, trace=f"{tmp_path}/")
    assert len({root.id, first.id, back.id, again.id}) == 4
    (twig,) = branch_tree(map(fanlight.open_trace, tmp_path.glob("*.safetensors")))
    line = []
    while True:
        line.append(twig.trace.id)
        if not twig.branches:
            break
        (twig,) = twig.branches
    assert line == [root.id, first.id, back.id, again.id]
    assert fanlight.replay(back, model).again.id == back.id


@pytest.mark.parametrize("n_prompt", [126, 130, 131])
def test_a_text_that_fills_the_window_has_branches_at_every_step(model: Model, n_prompt: int) -> None:
    n_ctx = model.decoder.config.n_ctx
    trace = model.generate([5] * n_prompt, ignore_eos=True, max_new_tokens=50, trace=True).trace
    assert trace is not None
    assert trace.n_steps == n_ctx + 1 - n_prompt
    for step in range(trace.n_steps):
        token = TOKEN if trace.ids[step] != TOKEN else TOKEN + 1
        found = fanlight.branch(trace, model, step, token=token)
        assert found.n_steps == trace.n_steps
        assert fanlight.replay(found, model).same_numbers


def test_a_branch_is_not_longer_than_max_length(model: Model) -> None:
    trace = traced(model, max_new_tokens=None, max_length=len(model.prompt_ids(PROMPT)) + 6, ignore_eos=True)
    assert trace.n_steps == 6
    with pytest.raises(OptionError, match=r"max_length=.* allows fewer; raise it"):
        fanlight.branch(trace, model, -1, token=" the cat")
    assert fanlight.branch(trace, model, -1, token=TOKEN).n_steps == 6


def test_a_branch_leaves_a_search_for_settings_without_one(model: Model) -> None:
    trace = traced(model, num_beams=3, num_return_sequences=2)
    with pytest.raises(OptionError, match="beam search cannot begin"):
        fanlight.branch(trace, model, 2, token=TOKEN)
    found = fanlight.branch(trace, model, 2, token=TOKEN, num_beams=1)
    assert found.ids[:3] == (*trace.ids[:2], TOKEN)
    assert fanlight.replay(found, model).same_numbers
