"""The picture of filters: a dot for each token and filter, filled exactly where decoding would keep the token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoding.rows import built, run
from fanlight.errors import OptionError
from fanlight.kernels import load_ops
from fanlight.trace.distribution import Distribution
from fanlight.views.axes import percent
from fanlight.views.figures import DARK, LIGHT
from fanlight.views.filters import FILTERS, filters_figure
from views.drawn import check, said
from views.test_next_tokens import INF, label, row_of

MANY: dict[str, Any] = {
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.2,
    "typical_p": 0.4,
    "top_n_sigma": 0.7,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.05,
    "tfs": 0.7,
    "top_a": 0.4,
    "top_h": 0.4,
}


def kept(row: Any, name: str, value: float) -> Any:
    """By the processors, without the code that the picture uses."""
    processors = built({"do_sample": True, name: value}, load_ops(), n_vocab=len(row))
    return run(processors, np.asarray(row, np.float32)) > -INF


@pytest.mark.parametrize(
    ("n_vocab", "filters", "dark"),
    [(3, {"top_k": 2}, True), (40, MANY, False), (2000, FILTERS, True), (7, MANY, False)],
)
def test_a_dot_is_filled_where_the_processor_keeps_the_token(n_vocab: int, filters: dict[str, Any], dark: bool) -> None:
    rows = [row_of(n_vocab, 6.0), row_of(n_vocab, 0.7, seed=1)]
    steps = [Distribution.of_row(row, label, "some context $") for row in rows]
    figure = filters_figure(*steps, filters=filters, n=13, dark=dark)
    ground = (DARK if dark else LIGHT).ground
    for step, row, axes in zip(steps, rows, figure.axes[1::2], strict=True):
        for x, (name, value) in enumerate(filters.items()):
            stays = kept(row, name, value)[step.ids]
            dots = [line for line in axes.lines if line.get_marker() == "o" and set(line.get_xdata()) == {x}]
            for line in dots:
                is_hollow = line.get_markerfacecolor() == ground
                assert all(bool(stays[y]) != is_hollow for y in line.get_ydata())
            assert sorted(y for line in dots for y in line.get_ydata()) == list(range(min(13, n_vocab)))
            assert f"{int(stays.sum()):,}" in said(figure)
            assert percent(float(step.probs[stays].sum())) in said(figure)
            if n_vocab > 13:
                others = int(stays[13:].sum())
                assert axes.texts[x].get_text() == (f"+{others:,}" if others else "0")
    check(figure)


def test_the_title_counts_the_survivors_of_both_steps() -> None:
    certain = Distribution.of_row(np.log([0.97, 0.02, 0.01]), label)
    uncertain = Distribution.of_row(np.zeros(3), label)
    words = said(filters_figure(certain, uncertain, filters={"top_p": 0.9, "top_k": 2}))
    assert "1 to 2 tokens survive a filter on the certain step, 3 tokens on the uncertain one" in words
    assert "certain: entropy 0.15 nats" in words
    assert "uncertain: entropy 1.10 nats" in words


def test_bars_are_raw_probabilities() -> None:
    steps = [Distribution.of_row(row_of(60, spread), label) for spread in (5.0, 1.0)]
    figure = filters_figure(*steps, n=9)
    for step, axes in zip(steps, figure.axes[::2], strict=True):
        widths = [patch.get_width() for patch in axes.patches]
        assert widths[:9] == pytest.approx(step.probs[:9])
        assert widths[9] == pytest.approx(min(step.probs[0], step.probs[9:].sum()))
        assert percent(float(step.probs[9:].sum())) in said(figure)


def test_rows_at_the_edge_of_what_there_can_be() -> None:
    one_left = np.full(33, -INF)
    one_left[7] = -2.0
    for row in (one_left, [0.0], [0.0, 1e-30], [0.0, -69.0, -745.0], [5.0] * 40):
        step = Distribution.of_row(row, label, "x" * 200)
        check(filters_figure(step, step))


def test_what_cannot_be_shown_is_an_error() -> None:
    step = Distribution.of_row(row_of(33), label)
    with pytest.raises(OptionError, match="1 to 10 options"):
        filters_figure(step, step, filters={})
    with pytest.raises(OptionError, match="how many tokens"):
        filters_figure(step, step, n=0)
    with pytest.raises(OptionError, match="repetition_penalty"):
        filters_figure(step, step, filters={"repetition_penalty": 2.0})
