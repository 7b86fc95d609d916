"""The picture of temperatures: panels and sweep hold the probabilities that decoding would draw from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.distribution import Distribution
from fanlight.views.axes import percent
from fanlight.views.temperature import MOST_BANDS, temperature_figure
from views.drawn import check, said
from views.test_next_tokens import INF, distribution, label


def softmax(logits: Any, temperature: float) -> Any:
    weights = np.exp((logits - logits.max()) / temperature)
    return weights / weights.sum()


def entropy(probs: Any) -> float:
    own = probs[probs > 0]
    return float(-(own * np.log(own)).sum())


@pytest.mark.parametrize(
    ("n_vocab", "temperatures", "dark"),
    [
        (1, (0.1, 0.7, 1.5), True),
        (2, (1.0,), False),
        (11, (0.3, 0.6, 1, 1.2, 2.5), True),
        (700, (0.1, 0.7, 1.5), False),
    ],
)
def test_panels_hold_the_softmax_at_each_temperature(n_vocab: int, temperatures: tuple[float, ...], dark: bool) -> None:
    one = distribution(n_vocab)
    figure = temperature_figure(one, temperatures=temperatures, n=7, dark=dark)
    for axes, temperature in zip(figure.axes, temperatures, strict=False):
        probs = softmax(one.logits, temperature)
        widths = [patch.get_width() for patch in axes.patches]
        assert widths[:7] == pytest.approx(probs[:7], abs=1e-6)
        if n_vocab > 7:
            assert widths[7] == pytest.approx(probs[7:].sum(), abs=1e-5)
        head = axes.get_title(loc="left")
        assert head.startswith(f"T = {temperature:g}\n")
        assert f"entropy {abs(entropy(probs)):.2f} nats, top {percent(float(probs[0]))}" in head
    limits = {axes.get_xlim() for axes in figure.axes[: len(temperatures)]}
    assert len(limits) == 1
    check(figure)


def test_the_sweep_holds_bands_and_entropy_at_every_temperature() -> None:
    one = distribution(300)
    figure = temperature_figure(one)
    bands, line = figure.axes[3], figure.axes[4].lines[-1]
    grid, found = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert (grid[0], grid[-1]) == pytest.approx((0.05, 3.0))
    assert found == pytest.approx([entropy(softmax(one.logits, t)) for t in grid], abs=1e-4)
    assert len(bands.collections) == MOST_BANDS + 1
    first = bands.collections[0].get_paths()[0].vertices
    tops = {round(x, 9): y for x, y in first if y > 0}
    for t in (grid[0], grid[30], grid[-1]):
        assert tops[round(t, 9)] == pytest.approx(softmax(one.logits, t)[0], abs=1e-5)
    assert "all others" in said(figure)
    check(figure)


def test_the_shown_temperatures_are_marked_in_the_sweep() -> None:
    figure = temperature_figure(distribution(50), temperatures=(0, 0.02, 1, 7))
    sweep = figure.axes[4]
    assert [line.get_xdata()[0] for line in sweep.lines] == [0.02, 1, 7]  # 0 is on no log axis
    assert [text.get_text() for text in sweep.texts] == ["0.02", "1", "7"]
    assert sweep.get_xlim() == (0.02, 7)
    check(figure)


def test_the_title_says_what_temperature_does_to_entropy() -> None:
    one = distribution(100)
    low, high = (entropy(softmax(one.logits, t)) for t in (0.5, 2))
    title = said(temperature_figure(one, temperatures=(2, 0.5), sweep=False))
    assert f"temperature 0.5 to 2 takes entropy from {low:.2f} to {high:.2f} nats" in title


def test_zero_is_greedy() -> None:
    figure = temperature_figure(distribution(33), temperatures=(0, 1), sweep=False, n=3)
    assert [patch.get_width() for patch in figure.axes[0].patches] == [1, 0, 0, 0]
    assert "T = 0 (greedy)\nentropy 0.00 nats, top 100%" in figure.axes[0].get_title(loc="left")
    check(figure)


def test_the_same_temperature_twice_is_two_panels() -> None:
    check(temperature_figure(distribution(33), temperatures=(1, 1), sweep=False))


def test_without_a_sweep_there_are_only_panels() -> None:
    assert len(temperature_figure(distribution(33), sweep=False).axes) == 3


def test_rows_at_the_edge_of_what_there_can_be() -> None:
    one_left = np.full(33, -INF)
    one_left[7] = -2.0
    for row in (one_left, [0.0, 1e-30], [0.0, -69.0, -70.0], [5.0] * 40, [80.0, *[-80.0] * 30]):
        figure = temperature_figure(Distribution.of_row(row, label), temperatures=(0.05, 1, 100))
        check(figure)


def test_what_cannot_be_shown_is_an_error() -> None:
    one = distribution(33)
    with pytest.raises(OptionError, match="temperatures must be 1 to 8"):
        temperature_figure(one, temperatures=())
    with pytest.raises(OptionError, match="temperatures must be 1 to 8"):
        temperature_figure(one, temperatures=[1.0] * 9)
    with pytest.raises(OptionError, match="temperature"):
        temperature_figure(one, temperatures=(-1,))
    with pytest.raises(OptionError, match="how many tokens"):
        temperature_figure(one, n=0)
    part = replace(one, ids=one.ids[:20], logits=one.logits[:20], n_top=20)
    with pytest.raises(OptionError, match="candidates=-1"):
        temperature_figure(part)
