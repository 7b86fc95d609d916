"""What was tracked, in a terminal: its probability at the steps, and what is not known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given

from fakes.traces import a_trace
from fanlight.errors import OptionError
from fanlight.tracing.tracking import Tracked, track
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_tracking import tracking_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, unbroken


def tracked(n: int, label: str = "\u2423not") -> Tracked:
    random = np.random.default_rng(n)
    probs = 10.0 ** random.uniform(-9, 0, n)
    return Tracked(
        label=label, ids=(3,), raw_probs=probs, raw_lows=probs, final_probs=probs, ranks=random.integers(0, 90, n),
        exact=random.random(n) < 0.7, chosen=random.random(n) < 0.1, step_labels=(label,) * n, note="",
    )  # fmt: skip


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("n", [1, 7, 301])
def test_it_fits(canvas: Canvas, n: int) -> None:
    check(tracking_text(tracked(n), canvas), canvas)


@anything
@given(LABELS, SIZES)
def test_it_fits_with_any_label(label: str, canvas: Canvas) -> None:
    check(tracking_text(tracked(5, label), canvas), canvas)


def test_every_step_of_a_short_run_has_its_probability_and_what_was_chosen() -> None:
    trace = a_trace(n_steps=9, candidates=-1)
    found = track(trace, trace.ids[2])
    text = lines(tracking_text(found, Canvas(width=80)))
    rows = [line.split() for line in text[text.index("every step") + 2 :]]
    assert [int(row[0]) for row in rows] == list(range(9))
    for i, row in enumerate(rows):
        value = float(row[1].rstrip("%")) / (100 if row[1].endswith("%") else 1)
        assert value == pytest.approx(float(found.raw_probs[i]), rel=0.5)
        assert row[2] == f"{int(found.ranks[i]):,}"
        assert (row[-1] == "it") == bool(found.chosen[i])
    assert f"chosen at step{'s' if found.chosen.sum() > 1 else ''} 2" in unbroken("\n".join(text))


def test_what_was_not_stored_is_said_to_be_a_bound() -> None:
    found = tracked(12)
    text = unbroken(tracking_text(found, Canvas(width=80)))
    assert f"not stored at {int((~found.exact).sum())} steps" in text
    rows = [line for line in lines(tracking_text(found, Canvas(width=80))) if re.match(r" +\d+  ", line)]
    columns = list(
        zip(*(line[10:].ljust(12) for line in lines(tracking_text(found, Canvas(width=80)))[4:10]), strict=True)
    )
    assert ["\u2591" in column for column in columns] == [not exact for exact in found.exact]
    assert [">=" in line for line in rows] == [not exact for exact in found.exact]
    with pytest.raises(OptionError, match="no steps"):
        tracking_text(tracked(0), Canvas())
