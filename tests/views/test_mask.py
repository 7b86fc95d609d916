"""Pictures of masks: the numbers in the cells are those of the masks, and nothing lies on anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.masks import KINDS, mask, masked, may_see, softmax
from fanlight.views.mask import example_scores, mask_effect_figure, mask_figure
from views.structures import check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = ["The", "␣cat", "␣sat", "␣on$", "␣the", "␣mat_1", "\\n"]


def cells(axes: Axes, n: int) -> list[list[str]]:
    found = {t.get_position(): t.get_text() for t in axes.texts if t.get_transform() == axes.transData}
    return [[found[(j, i)] for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("dark", [False, True])
def test_the_cells_hold_zero_and_the_large_negative_number(dark: bool) -> None:
    figure = mask_figure(labels=LABELS, window=2, dark=dark)
    said = check(figure)
    for axes, kind in zip(figure.axes, KINDS, strict=False):
        assert cells(axes, 7) == [["0" if x == 0 else "-1e9" for x in row] for row in mask(7, kind, 2)]
    for kind in KINDS:
        assert kind in said
    assert "-1e9 stands for -∞" in said
    assert "of 49 pairs" in said
    assert "28 pass, a window of 2 lets 13" in said.replace("\n", " ")


@pytest.mark.parametrize(("kind", "window"), [("causal", 3), ("bidirectional", 3), ("sliding window", 2)])
def test_the_effect_is_scores_then_masked_scores_then_softmax(kind: str, window: int) -> None:
    scores = np.random.default_rng(1).normal(0, 2, (6, 6))
    figure = mask_effect_figure(scores, LABELS[:6], kind=kind, window=window, name="scores of head 3")
    said = check(figure)
    assert "scores of head 3" in said
    raw, added, weights = (cells(axes, 6) for axes in figure.axes)
    after = masked(scores, kind, window)
    for i in range(6):
        for j in range(6):
            assert float(raw[i][j]) == pytest.approx(scores[i, j], abs=0.051)
            assert (added[i][j] == "-1e9") == (after[i, j] < -1e8) == (not may_see(6, kind, window)[i, j])
            assert float(weights[i][j]) == pytest.approx(softmax(after)[i, j], abs=0.0051)


def test_scores_of_a_caller_take_the_place_of_the_example() -> None:
    given = mask_figure(labels=LABELS, scores=np.zeros((7, 7)))
    assert cells(given.axes[5], 7)[4] == [".20"] * 5 + ["0"] * 2
    said = {text.get_text() for axes in given.axes for text in axes.texts}
    assert "scores" in said
    assert "scores (an example)" in {t.get_text() for axes in mask_figure(3).axes for t in axes.texts}
    assert (example_scores(5) == example_scores(5)).all()


@pytest.mark.parametrize("n", [1, 2, 12, 13, 127])
def test_any_number_of_positions_can_be_read(n: int) -> None:
    figure = mask_figure(n, labels=[f"␣token_{i}" for i in range(n)], window=5)
    check(figure)
    numbers = [t for t in figure.axes[0].texts if t.get_text() in ("0", "-1e9")]
    assert len(numbers) == (n * n if n <= 12 else 0)


def test_blocked_cells_look_different_from_small_weights() -> None:
    figure = mask_effect_figure(np.array([[0.0, 0.0], [-90.0, 0.0]]))
    image = figure.axes[2].images[0].get_array()
    assert image is not None
    assert not np.allclose(image[0, 1], image[1, 0], atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "1 to 512 positions: got 0"),
        ({"n": 513}, "1 to 512 positions"),
        ({"n": 4, "labels": ["a"]}, "a label for each of the 4"),
        ({"n": 4, "scores": [[1.0]]}, "scores of 1 positions, but n=4"),
        ({"n": 4, "window": 0}, "window=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        mask_figure(**arguments)  # type: ignore[arg-type]
