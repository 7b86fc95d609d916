"""Traces that replay, branches that leave them, and scores of given texts, on the default model."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanlight
from fanlight.errors import ContextOverflow, OptionError, TraceError
from fanlight.tracing.branching import branch_tree
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model, Trace

PROMPT = "The cat sat on the"
SAMPLED = {"do_sample": True, "seed": 3, "top_p": 0.9, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def trace(smollm: Model) -> Trace:
    found = smollm.generate(PROMPT, trace=True, **SAMPLED).trace
    assert found is not None
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True},  # whose seed is made for it
        {"do_sample": True, "seed": 2, "mirostat": 2},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_beams": 2, "seed": 6},
        {"do_sample": True, "best_of": 3, "num_return_sequences": 2, "seed": 7},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"regex": "[a-z ]{10,30}"},
        {"token_healing": True},
        {"guidance_scale": 1.5, "negative_prompt": "The dog"},
        {"dola_layers": "low"},
        {"max_time": 60.0},
        {"stop_strings": [" a"], "repetition_penalty": 1.3},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_trace_replays_token_for_token_and_number_for_number(
    smollm: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    found = smollm.generate(PROMPT, max_new_tokens=12, trace=tmp_path / "run.safetensors", **options)
    for text in found.all:
        assert text.trace is not None
        assert text.trace.path is not None
        replayed = fanlight.replay(fanlight.open_trace(text.trace.path), smollm)
        assert replayed.same, str(replayed)
        assert replayed.same_numbers
        assert replayed.differences == ()
        assert str(replayed).startswith(f"the same: all {len(text.ids)} tokens")


def test_a_text_that_was_cut_off_is_compared_as_far_as_it_goes(smollm: Model) -> None:
    with smollm.stream(PROMPT, max_new_tokens=50, ignore_eos=True, trace=True) as stream:
        for step in stream:
            if step.index == 6:
                break
    cut = stream.result().trace
    assert cut is not None
    assert cut.n_steps == 7
    assert fanlight.replay(cut, smollm).same


def test_a_changed_token_is_found(smollm: Model, trace: Trace) -> None:
    other = trace._with(trace.header, None)
    other.ids = (*trace.ids[:4], trace.ids[4] + 1, *trace.ids[5:])
    found = fanlight.replay(other, smollm)
    assert not found.same
    assert found.first_difference == 4
    assert "step 4 chose" in str(found)


def test_another_model_is_refused_and_can_be_asked_for(smollm: Model, trace: Trace, tmp_path: Path) -> None:
    other = fanlight.load(tiny.write_folder(tmp_path / "tiny", tiny.llama()))
    with pytest.raises(TraceError, match=r"the trace was made by SmolLM2.*this model is tiny"):
        fanlight.replay(trace, other)
    with pytest.raises(TraceError, match="vocabulary of 49152 tokens"):
        fanlight.replay(trace, other, any_model=True)
    with pytest.raises(OptionError, match="needs a model"):
        fanlight.replay(trace, "smollm")


def test_a_different_build_says_what_differs(smollm: Model, trace: Trace) -> None:
    origin = replace(
        trace.header.origin, kernels="native (neon)", fanlight="0.0.1", platform="Linux aarch64, Python 3.12"
    )
    found = fanlight.replay(trace._with(replace(trace.header, origin=origin), None), smollm)
    assert found.same
    assert len(found.differences) == 3
    assert any("kernels" in difference and "neon" in difference for difference in found.differences)
    assert "another version of Fanlight" in str(found)


# -- branches ------------------------------------------------------------------------------------------------------------


def test_a_branch_shares_its_beginning_and_goes_on_from_the_token(smollm: Model, trace: Trace) -> None:
    found = fanlight.branch(trace, smollm, 5, token=" dog")
    assert found.ids[:5] == trace.ids[:5]
    assert list(found.steps[:5]) == list(trace.steps[:5])
    assert found.token_text(found.ids[5]) == " dog"
    assert found.steps[5].noise is None  # it was not drawn
    assert found.header.parent is not None
    assert (found.header.parent.id, found.header.parent.step, found.header.parent.change) == (
        trace.id,
        5,
        "token ' dog'",
    )
    ids = trace.prompt_ids + found.ids[:6]
    same = smollm.generate(ids, do_sample=True, seed=3, top_p=0.9, max_new_tokens=found.n_steps - 6)
    assert found.ids[6:] == same.ids  # the noise is a function of the position


def test_a_branch_with_settings_that_change_nothing_is_the_same_text(smollm: Model, trace: Trace) -> None:
    found = fanlight.branch(trace, smollm, 9, min_p=0.0)
    assert found.ids == trace.ids
    assert list(found.steps[10:]) == list(trace.steps[10:])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 23), temperature=st.sampled_from([0.3, 0.9, 1.6]), penalty=st.sampled_from([1.0, 1.3]))
def test_a_branch_is_what_the_settings_write_after_the_same_beginning(
    smollm: Model, trace: Trace, step: int, temperature: float, penalty: float
) -> None:
    step = min(step, trace.n_steps - 1)
    found = fanlight.branch(trace, smollm, step, temperature=temperature, repetition_penalty=penalty)
    assert found.ids[:step] == trace.ids[:step]
    other = smollm.generate(
        trace.prompt_ids + trace.ids[:step],
        do_sample=True,
        seed=3,
        top_p=0.9,
        temperature=temperature,
        repetition_penalty=penalty,
        max_new_tokens=24 - step,
    )
    assert found.ids[step:] == other.ids


def test_a_branch_may_leave_with_several_tokens_and_with_a_search_refuses(smollm: Model, trace: Trace) -> None:
    found = fanlight.branch(trace, smollm, 2, token=" not a big dog")
    assert "".join(map(found.token_text, found.ids[2:6])) == " not a big dog"
    with pytest.raises(OptionError, match="beam search cannot begin with given tokens"):
        fanlight.branch(trace, smollm, 2, num_beams=3, do_sample=False)


def test_a_branch_obeys_what_ends_a_text(smollm: Model, trace: Trace) -> None:
    last = fanlight.branch(trace, smollm, trace.n_steps - 1, token=" dog")
    assert last.n_steps == trace.n_steps
    assert last.header.stop.reason is fanlight.StopReason.MAX_NEW_TOKENS
    eos = smollm.tokenizer.eos_ids[0]
    ended = fanlight.branch(trace, smollm, 3, token=eos)
    assert ended.ids == (*trace.ids[:3], eos)
    assert ended.header.stop.reason is fanlight.StopReason.EOS


@pytest.mark.parametrize(
    ("step", "options", "match"),
    [
        (24, {"token": " dog"}, "there is no step 24; the trace has 24"),
        (-25, {"token": " dog"}, "there is no step -25"),
        (1.5, {"token": " dog"}, "a step is a whole number"),
        (2, {}, "a branch needs another token, or other settings"),
        (2, {"token": 49152}, "an id from 0 to 49151"),
        (2, {"token": ""}, "an empty text"),
        (2, {"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_mistakes_of_a_branch_are_said(smollm: Model, trace: Trace, step: Any, options: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        fanlight.branch(trace, smollm, step, **options)


def test_the_token_that_was_chosen_is_no_branch(smollm: Model, trace: Trace) -> None:
    with pytest.raises(OptionError, match="itself; a branch needs another token"):
        fanlight.branch(trace, smollm, 2, token=trace.ids[2])


def test_branches_of_branches_are_a_tree_that_is_kept(smollm: Model, trace: Trace, tmp_path: Path) -> None:
    trace.save(f"{tmp_path}/")
    first = trace.branch(smollm, 5, token=" dog", trace=f"{tmp_path}/")
    second = trace.branch(smollm, 3, token=" big", trace=f"{tmp_path}/")
    third = first.branch(smollm, 10, temperature=0.2, trace=f"{tmp_path}/")
    (root,) = branch_tree(map(fanlight.open_trace, sorted(tmp_path.glob("*.safetensors"))))
    assert root.trace.id == trace.id
    assert [twig.trace.id for twig in root.branches] == [second.id, first.id]  # by their steps
    assert [twig.trace.id for twig in root.branches[1].branches] == [third.id]
    assert [twig.trace.id for twig in branch_tree([first, third])] == [first.id]  # whose parent is not there


def test_a_forced_beginning_is_the_same_with_guesses_and_guidance(smollm: Model, trace: Trace) -> None:
    plain = fanlight.branch(trace, smollm, 6, token=" dog", guidance_scale=1.4, negative_prompt="A")
    guessed = fanlight.branch(
        trace, smollm, 6, token=" dog", guidance_scale=1.4, negative_prompt="A", prompt_lookup_num_tokens=6
    )
    assert plain.ids == guessed.ids


# -- scores --------------------------------------------------------------------------------------------------------------


def test_a_score_is_what_the_models_logits_say(smollm: Model) -> None:
    text = "The future of artificial intelligence is bright, and the cat knows it."
    found = smollm.score(text)
    ids, logits = smollm.prompt_ids(text), smollm.logits(text).astype(np.float64)
    assert found.prompt_ids + found.ids == ids
    assert found.header.is_given
    for i, record in enumerate(found.steps):
        row = logits[i]
        logprobs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert record.raw_logprob == pytest.approx(logprobs[ids[i + 1]], abs=1e-5)
        assert record.raw_rank == int((logprobs > logprobs[ids[i + 1]]).sum())
    assert log(found.perplexity) == pytest.approx(-np.mean([record.raw_logprob for record in found.steps]))


def test_a_score_after_a_prompt_counts_every_token(smollm: Model) -> None:
    found = smollm.score(" on the mat.", prompt="The cat sat")
    assert found.text == " on the mat."
    assert found.n_steps == len(smollm.tokenizer.encode(" on the mat.", add_special=False))
    assert sum(found.rank_histogram().values()) == found.n_steps


def test_a_rank_histogram_puts_every_token_in_one_place(smollm: Model) -> None:
    found = smollm.score("Colourless green ideas sleep furiously, xylophone quantum of marmalade.")
    ranks = [record.raw_rank for record in found.steps]
    histogram = found.rank_histogram((1, 5, 50))
    assert list(histogram) == ["1", "2-5", "6-50", "51+"]
    assert histogram["1"] == sum(rank == 0 for rank in ranks)
    assert histogram["2-5"] == sum(1 <= rank < 5 for rank in ranks)
    assert histogram["51+"] == sum(rank >= 50 for rank in ranks)
    with pytest.raises(OptionError, match="must grow from 1"):
        found.rank_histogram((5, 5))


def test_a_text_is_less_surprising_than_the_same_words_in_disorder(smollm: Model) -> None:
    assert smollm.score("The cat sat on the mat.").perplexity < smollm.score("Mat the on sat cat the.").perplexity


def test_a_text_of_one_token_has_no_step(smollm: Model) -> None:
    found = smollm.score("The")
    assert found.n_steps == 0
    assert np.isnan(found.perplexity)


def test_a_text_longer_than_the_window_is_said(tmp_path: Path) -> None:
    model = fanlight.load(tiny.write_folder(tmp_path / "tiny", tiny.llama()))
    with pytest.raises(ContextOverflow):
        model.score([5] * (model.decoder.config.n_ctx + 2))


def test_a_score_replays(smollm: Model) -> None:
    assert fanlight.replay(smollm.score("The cat sat on the mat."), smollm).same_numbers


def test_perplexity_of_a_sampled_text_is_e_to_its_mean_surprise(trace: Trace) -> None:
    assert trace.perplexity == pytest.approx(exp(-sum(r.raw_logprob for r in trace.steps) / trace.n_steps))
