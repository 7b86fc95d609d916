"""Contributions in a terminal: the parts, their sign, their sum."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.traces import a_trace
from fanlight.errors import OptionError
from fanlight.trace.looks import Contributions
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_contributions import contributions_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, unbroken


def made(n_steps: int = 7, n_layer: int = 5) -> tuple[Contributions, list[str]]:
    trace = a_trace(n_steps=n_steps, n_layer=n_layer, attention=False, lens=False)
    assert trace.contributions is not None
    return trace.contributions, [trace.token_label(token) for token in trace.ids]


def by_hand() -> Contributions:
    parts = {"embedding": [1.0], "attention": [[2.0, -1.0]], "feed_forward": [[0.0, -0.5]], "constant": [0.25]}
    return Contributions(**{name: np.float32(part) for name, part in parts.items()}, logits=np.float32([1.75]))  # type: ignore[arg-type]


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize(("n_steps", "n_layer"), [(1, 1), (13, 5), (3, 33)])
def test_it_fits(canvas: Canvas, n_steps: int, n_layer: int) -> None:
    found, labels = made(n_steps, n_layer)
    check(contributions_text(found, labels, canvas), canvas)
    check(contributions_text(found, labels, canvas, step=n_steps - 1), canvas)


@anything
@given(st.lists(LABELS, min_size=3, max_size=3), SIZES)
def test_it_fits_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    found, _ = made(3)
    check(contributions_text(found, labels, canvas), canvas)
    check(contributions_text(found, labels, canvas, step=1), canvas)


def test_bars_go_left_below_nothing_and_sums_run_to_the_logit() -> None:
    text = lines(contributions_text(by_hand(), ["\u2423cat"], Canvas(width=120)))
    rows = [line for line in text if re.match(r" *(emb\.|\d|bias|logit) ", line)]
    assert [row.split()[-1] for row in rows] == ["1.00", "3.00", "1.50", "1.75", "1.75"]
    first, second = (re.findall(r"[+-]\d\.\d\d [^+-]*", row) for row in rows[1:3])
    assert [first[0][:5], second[0][:5], second[1][:5]] == ["+2.00", "-1.00", "-0.50"]
    bar = re.search(r"(.*)\u2502(\u2588+)", first[0])
    assert bar is not None
    assert ("\u2588" in bar[1], len(bar[2])) == (False, 14)
    left_bar, right_bar = second[0].split("\u2502")
    assert (left_bar.count("\u2588"), right_bar.count("\u2588")) == (7, 0)
    assert "\u2588" not in first[1]
    head = unbroken("\n".join(text))
    assert head.startswith(
        "Why '\u2423cat' at step 0? Its logit 1.75 = embedding +1.00, attention +1.00, feed-forward -0.50"
    )
    assert "Largest: attention of block 0 +2.00, attention of block 1 -1.00, feed-forward of block 1 -0.50." in head


def test_several_steps_hold_every_number_and_none_is_lost() -> None:
    found, labels = made(17, 3)
    text = lines(contributions_text(found, labels, Canvas(width=60)))
    steps = [int(word) for line in text if line.strip().startswith("step") for word in line.split()[1:]]
    assert steps == list(range(17))
    rows = [line.split()[1:] for line in text if re.match(r" +0 ", line)]
    attention = [word for row in rows[::2] for word in row]
    feed_forward = [word for row in rows[1::2] for word in row]
    assert attention == [f"{value:+.2f}" for value in found.attention[:, 0]]
    assert feed_forward == [f"{value:+.2f}" for value in found.feed_forward[:, 0]]


def test_a_step_that_is_not_there_is_refused() -> None:
    found, labels = made(3)
    with pytest.raises(OptionError, match="there is no step 3; the trace has 3, from 0 to 2"):
        contributions_text(found, labels, Canvas(), step=3)
    with pytest.raises(OptionError, match="not both"):
        contributions_text(found, labels, Canvas(), step=1, steps=[2])
