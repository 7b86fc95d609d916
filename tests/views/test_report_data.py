"""The data of a page: what it says of a step is what the trace says, within what it may round; and it stays small."""

from __future__ import annotations

import base64
import json
from math import exp, inf
from typing import Any

import numpy as np
import pytest

from fakes.traces import a_branch, a_trace
from fanlight.trace.looks import Attention
from fanlight.tracing.trace import Trace
from fanlight.views.report_arrays import KINDS, LP16_NONE, LP16_STEPS, SQ16_MAX, array, whole
from fanlight.views.report_attention import MOST_BYTES, attention_data
from fanlight.views.report_data import LEVELS, MOST_CANDIDATES, Labels, level, pieces_of, report_data
from fanlight.views.report_facts import facts, settings
from fanlight.views.ribbon_colors import BY, share_of


def numbers(packed: dict[str, Any]) -> Any:
    found = np.frombuffer(base64.b64decode(packed["d"]), KINDS[packed["t"]])
    if packed["t"] == "lp16":
        return np.where(found == LP16_NONE, -np.inf, -found.astype(float) / LP16_STEPS)
    return (found / SQ16_MAX) ** 2 if packed["t"] == "sq16" else found


def test_a_logprob_in_16_bits_is_off_by_less_than_an_eye_sees() -> None:
    logprobs = np.array([0.0, -1e-9, -0.5, -7.31, -31.9, -33.0, -1000.0, -inf, np.nan])
    found = numbers(array(logprobs, "lp16"))
    assert found[7] == found[8] == -inf
    assert np.all(np.isfinite(found[:7]))
    assert np.abs(np.exp(found[:5]) / np.exp(logprobs[:5]) - 1).max() < 0.0003
    assert np.exp(found[5:7]).max() < 1e-13


def test_a_share_in_16_bits_keeps_small_ones() -> None:
    shares = np.array([0.0, 1e-6, 0.003, 0.5, 1.0, 1.0002])
    assert numbers(array(shares, "sq16")) == pytest.approx(np.minimum(shares, 1), abs=2e-5, rel=0.02)


@pytest.mark.parametrize(("top", "kind"), [(255, "u8"), (256, "u16"), (65535, "u16"), (65536, "u32")])
def test_whole_numbers_take_the_smallest_type(top: int, kind: str) -> None:
    packed = whole([0, 3, top])
    assert packed["t"] == kind
    assert numbers(packed).tolist() == [0, 3, top]
    assert numbers(whole([])).tolist() == []


def test_a_step_says_what_its_record_says() -> None:
    trace = a_trace(n_steps=11, candidates=6, guesses=True)
    data = report_data(trace)
    steps, words = data["steps"], data["labels"]
    offset = numbers(steps["candidates"]["offset"])
    for i, record in enumerate(trace.steps):
        assert words[numbers(steps["token"])[i]] == trace.token_label(record.id)
        assert numbers(steps["rawLogprob"])[i] == pytest.approx(record.raw_logprob, rel=1e-6)
        assert numbers(steps["nKept"])[i] == record.n_kept
        rows = slice(offset[i], offset[i + 1])
        shown = [words[at] for at in numbers(steps["candidates"]["token"])[rows]]
        wanted = sorted(record.candidates, key=lambda c: (-c.raw_logit, c.id))
        assert shown == [trace.token_label(c.id) for c in wanted]
        probs = np.exp(numbers(steps["candidates"]["final"])[rows])
        assert probs == pytest.approx([c.final_prob for c in wanted], rel=1e-5)
        removed = record.removals()
        rules = [data["strings"][at - 1] if at else None for at in numbers(steps["candidates"]["rule"])[rows]]
        assert rules == [removed[c.id].rule if c.id in removed else None for c in wanted]
    assert sorted(map(int, steps["guesses"])) == [i for i, r in enumerate(trace.steps) if r.guess is not None]
    assert steps["stop"] == {"10": trace.steps[10].stop.detail}  # type: ignore[union-attr]


def test_what_stands_between_the_processors_is_there_in_order() -> None:
    trace = a_trace(n_steps=5)
    data = report_data(trace)
    record = trace.steps[0]
    labels = [label for label, _ in data["steps"]["chains"][numbers(data["steps"]["chain"])[0]]]
    assert labels == [effect.label for effect in record.effects]
    assert len(labels) == 2
    order = sorted(range(len(record.candidate_ids)), key=lambda i: (-record.raw_logits[i], record.candidate_ids[i]))
    wanted = [exp(record.effects[0].logits[i] - record.effects[0].after.logsumexp) for i in order]
    after = np.exp(numbers(data["steps"]["candidates"]["after"])[: len(order)])
    assert after == pytest.approx(wanted, rel=0.0004)


def test_colours_are_those_of_the_other_ribbons() -> None:
    trace = a_trace(n_steps=13)
    levels = report_data(trace)["steps"]["levels"]
    for by in BY:
        assert numbers(levels[by]).tolist() == [level(share_of(record, by)) for record in trace.steps]
    assert max(numbers(levels["surprise"])) <= LEVELS


def test_many_candidates_are_cut_and_the_page_says_so() -> None:
    trace = a_trace(n_steps=4, n_vocab=77, candidates=70, lens=False, attention=False)
    data = report_data(trace)
    offset = numbers(data["steps"]["candidates"]["offset"])
    assert np.diff(offset).tolist() == [MOST_CANDIDATES] * 4
    assert data["leftOut"] == ["40 candidates of each step; the trace has more"]
    for i, record in enumerate(trace.steps):
        tokens = numbers(data["steps"]["candidates"]["token"])[offset[i] : offset[i + 1]]
        ids = {numbers(data["ids"])[at] for at in tokens}
        assert record.id in ids
        best = max(record.candidates, key=lambda c: c.final_prob)
        assert best.id in ids


def test_a_character_of_several_tokens_belongs_to_its_last() -> None:
    trace = a_trace()
    tokens = {7: b"a\xc3", 8: b"\xbc ", 9: b"\xff"}
    other = Trace(
        trace.header, prompt_ids=(7, 8, 9), ids=(), pieces=(), vocabulary=tokens, steps=tuple, looks={}
    )  # fmt: skip
    assert pieces_of(other, other.prompt_ids) == ["a", "ü ", "\ufffd"]
    assert [Labels(other).place(token) for token in (9, 12)] == [0, 0]


@pytest.mark.parametrize("n_steps", [0, 1])
def test_texts_without_or_with_one_token_have_data(n_steps: int) -> None:
    data = report_data(a_trace(n_steps=n_steps))
    assert data["nSteps"] == n_steps
    json.dumps(data, allow_nan=False)


def test_the_head_says_where_settings_come_from_and_what_it_branched_from() -> None:
    trace = a_trace(setting_origins={"temperature": "preset creative"}, unkept=("logits_processor",))
    assert ("temperature", "0.8", "preset creative") in settings(trace.header)
    assert ("logits_processor", "code, which no file holds", "call") in settings(trace.header)
    branch = a_branch(trace, 3)
    assert dict(facts(branch, list(branch.steps)))["branch of"] == f"{trace.id} from step 3 on: token ' not'"


# -- attention -------------------------------------------------------------------------------------------------------------


def test_attention_holds_the_largest_weights_of_the_mean_and_of_each_head() -> None:
    look = a_trace(n_steps=41, n_prompt=13, n_layer=3, n_head=2).attention
    assert look is not None
    data, missed = attention_data(look)
    n_rows, width = len(look.queries), data["nMean"]
    assert width == 32
    weights = look.weights.astype(np.float32)
    at = numbers(data["mean"]["at"]).reshape(3, n_rows, width)
    found = numbers(data["mean"]["weight"]).reshape(3, n_rows, width)
    for layer in range(3):
        mean = weights[layer].mean(0)
        assert found[layer] == pytest.approx(-np.sort(-mean, axis=-1)[:, :width], abs=1e-4)
        assert np.take_along_axis(mean, at[layer].astype(int), -1) == pytest.approx(found[layer], abs=1e-4)
    heads = numbers(data["head"]["at"]).reshape(3, 2, n_rows, data["nHead"])
    assert (weights.argmax(-1) == heads[..., 0]).mean() > 0.99  # float16 has ties
    assert missed.startswith("attention: the 32 strongest of 53 positions for the mean over the heads, the 4 strongest")
    assert missed.endswith("the trace has all")


@pytest.mark.parametrize(("n_layer", "n_head", "n_rows", "n_positions"), [(30, 9, 300, 320), (41, 17, 1100, 133)])
def test_attention_stays_small_and_says_what_it_leaves_out(
    n_layer: int, n_head: int, n_rows: int, n_positions: int
) -> None:
    weights = np.broadcast_to(np.float16(1 / n_positions), (n_layer, n_head, n_rows, n_positions))
    look = Attention(
        layers=tuple(range(n_layer)), heads=tuple(range(n_head)), queries=tuple(range(n_rows)), weights=weights
    )
    data, missed = attention_data(look)
    assert len(json.dumps(data)) < MOST_BYTES * 4 / 3 + 1000 * n_layer
    assert data["layers"][-1] == n_layer - 1
    assert "the trace has all" in missed
    assert ("layers" in missed) == (len(data["layers"]) < n_layer)


def test_three_hundred_tokens_with_lens_and_all_attention_take_less_than_three_megabytes() -> None:
    words = [f" w{i}".encode() for i in range(2000)]
    trace = a_trace(n_steps=300, n_layer=30, n_vocab=2000, vocabulary=words, candidates=20, lens=5, attention=False)
    look = Attention(
        layers=tuple(range(30)),
        heads=tuple(range(9)),
        queries=tuple(range(2, 302)),
        weights=np.broadcast_to(np.float16(1 / 303), (30, 9, 300, 303)),
    )
    data, _ = attention_data(look)
    assert len(json.dumps({**report_data(trace), "attention": data})) < 3_000_000 - 100_000  # the page around it
