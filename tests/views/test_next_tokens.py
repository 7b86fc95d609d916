"""The picture of what could come next: every number in it is that of the row, and it is legible whatever the row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.distribution import Distribution
from fanlight.tracing.reshaping import reshaped
from fanlight.views.axes import percent
from fanlight.views.next_tokens import FILTERS, cuts_of, n_for, next_figure
from views.drawn import check, said

INF = float("inf")
LABELS = ["␣the", "$x^2$", "_", "\\n", "猫", "\U0001f600", "\\xe7\\x8c", "␣" + "long" * 12, "a_b", r"\$", "%", "ж"]


def label(token: int) -> str:
    return LABELS[token % len(LABELS)] + ("" if token < len(LABELS) else str(token))


def row_of(n_vocab: int, spread: float = 3.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, spread, n_vocab).astype(np.float32)


def distribution(n_vocab: int, spread: float = 3.0, context: str = "The cat $at_ on\nthe") -> Distribution:
    return Distribution.of_row(row_of(n_vocab, spread), label, context)


def widths(figure: Any) -> list[float]:
    return [patch.get_width() for patch in figure.axes[0].patches]


@pytest.mark.parametrize(
    ("n_vocab", "n", "dark"), [(1, 20, False), (2, 1, True), (11, 20, False), (33, 7, True), (5000, 60, False)]
)
def test_bars_are_the_probabilities_and_the_rest_is_one_bar(n_vocab: int, n: int, dark: bool) -> None:
    one = distribution(n_vocab)
    figure = next_figure(one, n=n, dark=dark)
    shown = min(n, n_vocab)
    assert widths(figure)[:shown] == pytest.approx(one.probs[:shown])
    if n_vocab > shown:
        assert widths(figure)[shown:] == pytest.approx([one.probs[shown:].sum()])
        others = n_vocab - shown
        assert f"{others:,} other" in said(figure)
    for prob in one.probs[: min(shown, 5)]:
        assert percent(float(prob)) in said(figure)
    check(figure)


def test_the_line_adds_the_bars_up() -> None:
    one = distribution(40)
    figure = next_figure(one, n=9)
    (line,) = [line for line in figure.axes[1].lines if len(line.get_xdata()) > 2]
    assert np.asarray(line.get_xdata())[:10] == pytest.approx(np.concatenate([[0], np.cumsum(one.probs[:9])]))
    assert np.asarray(line.get_xdata())[-1] == 1
    assert np.asarray(line.get_ydata())[1:10] == pytest.approx(np.arange(9) + 0.5)


@pytest.mark.parametrize("n_vocab", [11, 500])
def test_a_cut_lies_between_the_last_token_kept_and_the_first_removed(n_vocab: int) -> None:
    one = distribution(n_vocab)
    filters = {"top_k": 4, "top_p": 0.5, "min_p": 0.3}
    figure = next_figure(one, filters=filters, n=10)
    at = sorted(line.get_ydata()[0] for line in figure.axes[0].lines)
    kept = {name: reshaped(one, {name: value}).n_kept for name, value in filters.items()}
    assert at == pytest.approx(sorted(n - 0.5 for n in kept.values()))
    for name, n in kept.items():
        word = "token" if n == 1 else "tokens"
        assert f"{name}={filters[name]:g}: {n} {word}, {percent(float(one.probs[:n].sum()))}" in said(figure)
    check(figure)


def test_a_cut_among_the_others_lies_on_the_line_of_sums() -> None:
    one = distribution(3000, 1.0)
    figure = next_figure(one, filters={"top_p": 0.9}, n=5)
    assert not figure.axes[0].lines
    (cut,) = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 2 and line.get_linestyle() != "-"]
    (line,) = [line for line in figure.axes[1].lines if len(line.get_xdata()) > 2]
    kept = reshaped(one, {"top_p": 0.9})
    on_line = np.interp(cut.get_ydata()[0], line.get_ydata(), line.get_xdata())
    assert on_line == pytest.approx(1 - kept.removed_prob)


def test_a_filter_that_skips_the_first_tokens_has_words_and_no_line() -> None:
    one = Distribution.of_row(np.log([0.5, 0.2, 0.2, 0.1]), label)
    (cut,), unknown = cuts_of(one, {"typical_p": 0.3})
    assert (cut.is_first, cut.n_kept, unknown) == (False, 2, [])
    figure = next_figure(one, filters={"typical_p": 0.3})
    assert "typical_p=0.3: 2 tokens, 40.0%, not the first" in said(figure)
    assert not figure.axes[0].lines


def test_the_title_says_entropy_and_how_few_tokens_hold_most() -> None:
    one = Distribution.of_row(np.log([0.5, 0.25, 0.15, 0.1]), label, "on the")
    assert n_for(one, 0.8) == 3
    assert "after 'on the': entropy 1.21 nats; 3 tokens hold 80%" in said(next_figure(one))
    sure = Distribution.of_row(np.log([0.97, 0.02, 0.01]), label)
    assert "1 token holds 97.0%" in said(next_figure(sure))


@pytest.mark.parametrize("chosen", [3, 4321])
def test_the_chosen_token_is_marked_wherever_it_stands(chosen: int) -> None:
    one = distribution(5000)
    token = int(one.ids[chosen])
    figure = next_figure(one, chosen=token)
    at = min(chosen, 20)
    assert widths(figure)[at] == pytest.approx(one.probs[chosen])
    colours = {patch.get_facecolor() for patch in figure.axes[0].patches[:20]}
    marked = figure.axes[0].patches[at].get_facecolor()
    assert marked not in {patch.get_facecolor() for i, patch in enumerate(figure.axes[0].patches) if i != at}
    assert len(colours) <= 2
    assert ("chosen, no. 4,322" in said(figure)) == (chosen > 20)
    assert sum(widths(figure)) == pytest.approx(1)
    check(figure)


def test_one_token_left() -> None:
    row = np.full(33, -INF)
    row[7] = -2.0
    figure = next_figure(Distribution.of_row(row, label, "x"))
    assert widths(figure) == [1.0]
    assert "100%" in said(figure)
    assert "other" not in said(figure)
    assert "entropy 0.00 nats; 1 token holds 100%" in said(figure)
    check(figure)


def test_probabilities_beyond_reach_of_the_eye() -> None:
    one = Distribution.of_row([0.0, -69.0, -69.0 + 1e-9, -80.0, -745.0, -900.0], label)
    figure = next_figure(one)
    assert percent(float(np.exp(-80))) in said(figure)
    check(figure)


@pytest.mark.parametrize("n", [1, 3, 20])
def test_all_filters_at_one_place_are_told_apart(n: int) -> None:
    filters = {"top_k": 1, "top_p": 0.01, "min_p": 1.0, "top_n_sigma": 0.01, "top_a": 1.0, "tfs": 0.01, "top_h": 0.01}
    one = Distribution.of_row(np.log([0.9, 0.05, 0.03, 0.02]), label)
    figure = next_figure(one, filters=filters, n=n)
    check(figure)
    for name in filters:
        assert f"{name}=" in said(figure)


def test_a_recorded_step_shows_what_it_holds_and_says_what_it_lacks() -> None:
    whole = distribution(500)
    part = replace(whole, ids=whole.ids[:20], logits=whole.logits[:20], n_top=20)
    figure = next_figure(part, n_top=20)
    assert widths(figure)[-1] == pytest.approx(whole.probs[20:].sum())
    assert "480 others" in said(figure)
    assert "not recorded enough for top_p=0.9, top_n_sigma=1" in said(figure)
    assert f"top_k=10: 10 tokens, {percent(float(whole.probs[:10].sum()))}" in said(figure)
    with pytest.raises(OptionError, match="candidates=-1"):
        next_figure(part, filters={"typical_p": 0.5})
    check(figure)


def test_what_cannot_be_shown_is_an_error() -> None:
    one = distribution(33)
    for n in (0, -1, 201, True, 2.5):
        with pytest.raises(OptionError, match="how many tokens"):
            next_figure(one, n=n)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="not among the 33 tokens"):
        next_figure(one, chosen=99)
    with pytest.raises(OptionError, match="repetition_penalty"):
        next_figure(one, filters={"repetition_penalty": 1.5})
    with pytest.raises(OptionError, match="top_k"):
        next_figure(one, filters={"topk": 5})


def test_the_filters_shown_by_default_are_options_of_decoding() -> None:
    from fanlight.decoding.config import GenerationConfig

    GenerationConfig.from_options(FILTERS)
    assert len(next_figure(distribution(33), filters={}).axes[0].lines) == 0
