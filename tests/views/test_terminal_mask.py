"""The mask in a terminal: its signs are the mask, its numbers the effect."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import OptionError
from fanlight.trace.masks import masked, may_see, softmax
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_mask import mask_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, unbroken


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("n", [1, 7, 33, 200])
def test_it_fits_at_any_size(canvas: Canvas, n: int) -> None:
    check(mask_text(n, canvas=canvas), canvas)


@anything
@given(st.lists(LABELS, min_size=1, max_size=9), SIZES)
def test_it_fits_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    check(mask_text(labels=labels, canvas=canvas), canvas)


def test_zero_stands_where_a_query_may_look() -> None:
    n = 7
    rows = [
        line for line in lines(mask_text(n, window=3, canvas=Canvas(width=120))) if re.match(r"\d  ?[0\u00b7 ]+$", line)
    ]
    assert len(rows) == n
    wanted = np.concatenate([may_see(n, kind, 3) for kind in ("causal", "bidirectional", "sliding window")], axis=1)
    assert [re.findall(r"[0\u00b7]", row[1:]) for row in rows] == [
        ["0" if allowed else "\u00b7" for allowed in row] for row in wanted
    ]


def test_the_stages_hold_the_scores_the_masked_scores_and_the_weights() -> None:
    scores = np.array([[0.5, -1.0, 2.0], [1.5, 0.0, 9.5], [-0.5, 3.0, 1.0]])
    text = mask_text(labels=["a", "b", "c"], scores=scores, canvas=Canvas(width=120))
    rows = lines(text)[-3:]
    weights = softmax(masked(scores))
    for i, row in enumerate(rows):
        numbers = row.split()[2:]
        assert numbers[:3] == [f"{score:.1f}" for score in scores[i]]
        assert numbers[3:6] == [f"{score:.1f}" if j <= i else "-1e9" for j, score in enumerate(scores[i])]
        assert numbers[6:] == [f"{weight:.2f}" if j <= i else "0" for j, weight in enumerate(weights[i])]


def test_what_has_no_room_is_named_and_wrong_sizes_are_refused() -> None:
    text = unbroken(mask_text(50, canvas=Canvas(width=60)))
    assert "Shown: the first 24 of 50 positions." in text
    assert "of 2,500 pairs a causal mask lets 1,275 pass" in text
    for wrong in (0, 513, True):
        with pytest.raises(OptionError, match="1 to 512 positions"):
            mask_text(wrong, canvas=Canvas())
    with pytest.raises(OptionError, match="a label for each"):
        mask_text(3, labels=["a"], canvas=Canvas())
