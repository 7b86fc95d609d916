"""Tracking: what records say agrees with the model, what they do not say has bounds, longer texts are products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.tracing.tracking import track
from fanlight.views.tracking import tracking_figure

if TYPE_CHECKING:
    from fanlight import Model
    from fanlight.tracing.trace import Trace

PROMPT = "The future of artificial intelligence is"


@pytest.fixture(scope="module")
def trace(smollm: Model) -> Trace:
    """Of 17 sampled tokens."""
    found = smollm.generate(PROMPT, trace=True, do_sample=True, seed=5, max_new_tokens=17).trace
    assert found is not None
    return found


def test_what_is_stored_agrees_with_the_model_and_the_rest_is_bounded(smollm: Model, trace: Trace) -> None:
    rows = smollm.logits(trace.prompt_ids + trace.ids[:-1])[len(trace.prompt_ids) - 1 :].astype(np.float64)
    probs = np.exp(rows - rows.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    for token in {*trace.ids, *trace.steps[3].candidate_ids, 5, 49151}:
        found, sure = track(trace, token), track(trace, token, model=smollm)
        assert sure.exact.all()
        np.testing.assert_allclose(sure.raw_probs, probs[:, token], rtol=1e-5)
        ranks = (rows > rows[:, [token]]).sum(1) + (rows[:, :token] == rows[:, [token]]).sum(1)
        np.testing.assert_array_equal(sure.ranks, ranks)
        exact = found.exact
        np.testing.assert_allclose(found.raw_probs[exact], probs[exact, token], rtol=1e-5)
        assert (found.raw_lows <= probs[:, token] * (1 + 1e-5)).all()
        assert (found.raw_probs >= probs[:, token] * (1 - 1e-5)).all()
        assert (found.ranks <= ranks).all()


def test_final_probabilities_are_those_of_the_records(trace: Trace) -> None:
    for step, token in enumerate(trace.ids):
        found = track(trace, token)
        assert found.chosen[step]
        assert found.final_probs[step] == pytest.approx(np.exp(trace.steps[step].final_logprob))


def test_of_a_text_of_several_tokens_the_probability_is_a_product(smollm: Model, trace: Trace) -> None:
    text = " not yet"
    ids = tuple(smollm.tokenizer.encode(text, add_special=False))
    assert len(ids) == 2
    found = track(trace, text, model=smollm)
    assert found.ids == ids
    for step in (0, 6, 16):
        before = trace.prompt_ids + trace.ids[:step]
        rows = smollm.logits(before + ids[:1])[-2:].astype(np.float64)
        logprobs = rows - rows.max(1, keepdims=True)
        logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
        assert found.raw_probs[step] == pytest.approx(np.exp(logprobs[0, ids[0]] + logprobs[1, ids[1]]), rel=1e-5)


def test_a_text_is_found_by_its_bytes_and_several_keep_their_order(smollm: Model, trace: Trace) -> None:
    words = [trace.token_text(trace.ids[2]), trace.token_text(trace.ids[0])]
    found = track(trace, words)
    assert [each.ids for each in found] == [(trace.ids[2],), (trace.ids[0],)]
    assert [each.ids for each in track(trace, words, model=smollm)] == [(trace.ids[2],), (trace.ids[0],)]
    assert [each.chosen[step] for each, step in zip(found, (2, 0), strict=True)] == [True, True]


def test_without_the_model_a_longer_text_stands_for_its_first_word_and_says_so(trace: Trace) -> None:
    word = trace.token_text(trace.ids[0])
    found = track(trace, word + " whatever")
    assert found.ids == trace.ids[:1]
    assert "first word alone" in found.note
    assert found.note in str(found)


def test_crossings_are_where_it_becomes_so(smollm: Model, trace: Trace) -> None:
    for token in trace.ids:
        found = track(trace, token, model=smollm)
        above, first = found.raw_probs > 0.5, found.ranks == 0
        assert found.passed_half == tuple(i for i in range(17) if above[i] and not (i and above[i - 1]))
        assert found.became_first == tuple(i for i in range(17) if first[i] and not (i and first[i - 1]))
        assert found.likeliest == int(found.raw_probs.argmax())
    assert any(track(trace, token).became_first for token in trace.ids)


def test_with_the_whole_vocabulary_everything_is_exact(smollm: Model) -> None:
    whole = smollm.generate(PROMPT, trace=True, max_new_tokens=3, candidates=-1).trace
    assert whole is not None
    found, sure = track(whole, 49151), track(whole, 49151, model=smollm)
    assert found.exact.all()
    np.testing.assert_allclose(found.raw_probs, sure.raw_probs, rtol=1e-5)
    np.testing.assert_array_equal(found.ranks, sure.ranks)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (49152, "no token 49152; the vocabulary goes from 0 to 49151"),
        ("", "empty"),
        ("zzzzqqq", "needs several tokens"),
        ([], "or a list of them"),
        (1.5, "or a list of them"),
        ([True], "an id or a text|id or a text"),
    ],
)
def test_what_cannot_be_tracked_is_an_error(trace: Trace, what: object, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        track(trace, what)  # type: ignore[call-overload]


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_says_what_it_shows_and_holds_all_texts(trace: Trace, dark: bool) -> None:
    one, two = track(trace, [trace.ids[0], trace.ids[1]])
    figure = tracking_figure(one, dark=dark)
    figure.canvas.draw()
    said = " ".join(text.get_text() for text in figure.texts)
    assert f"over 17 steps: likeliest at step {one.likeliest}" in said
    several = tracking_figure([one, two], dark=dark)
    names = [text.get_text() for text in several.axes[0].texts]
    assert names == [one.label, two.label]
    width, height = figure.get_size_inches() * figure.dpi
    for box in (text.get_window_extent() for text in [*figure.texts, *figure.axes[0].texts]):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height


def test_a_picture_of_different_runs_or_of_too_many_is_refused(smollm: Model, trace: Trace) -> None:
    other = smollm.generate("One", trace=True, max_new_tokens=2).trace
    assert other is not None
    with pytest.raises(OptionError, match="different runs"):
        tracking_figure([track(trace, 5), track(other, 5)])
    with pytest.raises(OptionError, match="1 to 8 tracked tokens: got 9"):
        tracking_figure([track(trace, 5)] * 9)
    with pytest.raises(OptionError, match="1 to 8 tracked tokens: got 0"):
        tracking_figure([])
