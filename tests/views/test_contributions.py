"""What each block added: bars as high as the numbers, a running sum that ends at the logit, maps of all steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.looks import Contributions
from fanlight.views import axes as ax
from fanlight.views.contributions import contributions_figure
from views.structures import check

LABELS = ["␣the_$", "\\n", "猫", "␣internationalisation", "."]


def contributions_of(n_steps: int, n_layer: int, *, constant: float = 0.0, off: float = 0.0) -> Contributions:
    rng = np.random.default_rng([n_steps, n_layer])
    attention, feed_forward = rng.normal(0, 2, (2, n_steps, n_layer)).astype(np.float32)
    embedding = rng.normal(0, 1, n_steps).astype(np.float32)
    whole = np.full(n_steps, constant, np.float32)
    logits = embedding + attention.sum(1) + feed_forward.sum(1) + whole + off
    return Contributions(
        embedding=embedding, attention=attention, feed_forward=feed_forward, constant=whole, logits=logits
    )


def labels(n: int) -> list[str]:
    return [LABELS[i % 5] for i in range(n)]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("constant", [0.0, -0.75])
def test_bars_are_the_parts_and_the_sum_ends_at_the_logit(constant: float, dark: bool) -> None:
    found = contributions_of(5, 7, constant=constant)
    figure = contributions_figure(found, labels(5), step=-2, dark=dark)
    said = check(figure)
    bars, sums = figure.axes
    heights = {str(group.get_label()): [bar.get_height() for bar in group] for group in bars.containers}
    np.testing.assert_allclose(heights["attention"], found.attention[3], rtol=1e-6)
    np.testing.assert_allclose(heights["feed-forward"], found.feed_forward[3], rtol=1e-6)
    np.testing.assert_allclose(heights["embedding"], found.embedding[3], rtol=1e-6)
    assert ("constant (biases)" in heights) == bool(constant)
    (line,) = [line for line in sums.lines if line.get_label() == "running sum"]
    ys = np.asarray(line.get_ydata(), float)
    assert ys[0] == pytest.approx(found.embedding[3])
    assert ys[2] == pytest.approx(found.embedding[3] + found.attention[3, 0] + found.feed_forward[3, 0], rel=1e-5)
    assert ys[-1] == pytest.approx(found.logits[3], rel=1e-4)
    assert f"Its logit {found.logits[3]:.2f}" in said
    assert f"attention {found.attention[3].sum():+.2f}" in said
    parts = np.concatenate([found.attention[3], found.feed_forward[3]])
    at = int(np.abs(parts).argmax())
    assert f"Largest: {'attention' if at < 7 else 'feed-forward'} of block {at % 7} {parts[at]:+.2f}" in said
    assert "rounding" not in said


def test_what_the_parts_do_not_sum_to_is_said() -> None:
    found = contributions_of(1, 3, off=0.3)
    said = check(contributions_figure(found, labels(1)))
    assert f"The parts sum to {found.logits[0] - 0.3:.2f}; what is between" in said


@pytest.mark.parametrize(("n_steps", "n_layer"), [(2, 1), (12, 30), (300, 30), (3, 80)])
@pytest.mark.parametrize("dark", [False, True])
def test_several_steps_are_maps_with_one_scale(n_steps: int, n_layer: int, dark: bool) -> None:
    found = contributions_of(n_steps, n_layer, constant=0.5 if n_steps == 12 else 0.0)
    figure = contributions_figure(found, labels(n_steps), dark=dark)
    said = check(figure)
    ends, feed_forward, attention = figure.axes[:3]
    most = max(np.abs(x).max() for x in (found.attention, found.feed_forward, found.embedding, found.constant))
    colours = ax.diverging(ax.palette_of(dark))

    def expected(x: Any) -> Any:
        return colours(0.5 + np.sign(x) * np.sqrt(np.abs(x) / most) / 2)[..., :3]

    for axes, values in ((feed_forward, found.feed_forward), (attention, found.attention)):
        np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), expected(values.T), atol=0.02)
    assert len(np.asarray(ends.images[0].get_array())) == (2 if n_steps == 12 else 1)
    assert f"means of {n_steps} steps: attention {found.attention.sum(1).mean():+.2f}" in said.replace("\n", " ")


def test_the_steps_that_are_named_are_shown() -> None:
    found = contributions_of(9, 4)
    figure = contributions_figure(found, labels(9), steps=[1, -1])
    assert np.asarray(figure.axes[2].images[0].get_array()).shape == (4, 2, 3)
    assert "step 8" in check(contributions_figure(found, labels(9), steps=[-1]))


def test_what_is_out_of_range_is_refused() -> None:
    found = contributions_of(3, 2)
    with pytest.raises(OptionError, match="there is no step 3; the trace has 3, from 0 to 2"):
        contributions_figure(found, labels(3), step=3)
    with pytest.raises(OptionError, match="not both"):
        contributions_figure(found, labels(3), step=1, steps=[1])
    with pytest.raises(OptionError, match="a label for each of the 3 steps"):
        contributions_figure(found, labels(2))
    with pytest.raises(OptionError, match="no step"):
        contributions_figure(contributions_of(0, 2), [])
