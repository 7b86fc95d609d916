"""The end of a text in a terminal: how likely it was, and why it came."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.traces import a_trace, replace_header, some_records
from fanlight.errors import OptionError
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.trace import Trace
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_ending import ending_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, unbroken


def of(raw: list[float], final: list[float] | None = None) -> Trace:
    records = some_records(len(raw), settings={"do_sample": False})
    ends = final or raw
    made = [replace(found, eos_prob=a, final_eos_prob=b) for found, a, b in zip(records, raw, ends, strict=True)]
    return a_trace(records=made, lens=False, attention=False)


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("n_steps", [1, 7, 301])
def test_it_fits(canvas: Canvas, n_steps: int) -> None:
    check(ending_text(a_trace(n_steps=n_steps, lens=False, attention=False), canvas), canvas)


@anything
@given(LABELS, st.lists(st.sampled_from((0.0, 1e-300, 1e-9, 0.3, 1.0)), min_size=1, max_size=9), SIZES)
def test_it_fits_with_any_text_and_any_probability(text: str, probs: list[float], canvas: Canvas) -> None:
    trace = replace_header(of(probs, probs[::-1]), stop=Stop(StopReason.STOP_STRING, text))
    check(ending_text(trace, canvas), canvas)


def test_columns_are_as_high_as_the_logarithm() -> None:
    text = lines(ending_text(of([1.0, 0.1, 0.001, 0.0]), Canvas(width=80)))
    rows = {
        line.split()[0]: line[10:14].ljust(4) for line in text if re.match(r" +[\d.e-]+%? *[\u2581-\u2588 ]*$", line)
    }
    assert list(rows) == ["100%", "10%", "1%", "0.1%", "0.01%", "0.001%"]
    assert [rows[name][0] for name in rows] == ["\u2588"] * 6
    assert [rows[name][1] for name in rows] == [" ", *["\u2588"] * 5]
    assert [rows[name][2] for name in rows] == [" ", " ", " ", *["\u2588"] * 3]
    assert [rows[name][3] for name in rows] == [" "] * 6


def test_a_step_that_cannot_end_is_counted_and_both_lines_are_drawn() -> None:
    text = unbroken(ending_text(of([0.2, 0.1, 0.3], [0.0, 0.4, 0.0]), Canvas(width=80)))
    assert "raw: the model's own" in text
    assert "after all processors" in text
    assert "processors made ending impossible: 2 steps" in text
    assert "after all processors" not in unbroken(ending_text(of([0.2, 0.1]), Canvas(width=80)))


def test_it_says_why_it_ended_and_where_the_end_was_likeliest() -> None:
    trace = replace_header(of([0.02, 0.41, 0.1]), stop=Stop(StopReason.EOS, "the model ended the text"))
    text = unbroken(ending_text(trace, Canvas(width=120)))
    assert text.startswith("the model ended the text; the end was likeliest at step 1 of 3: 41.0%")
    assert "every step step raw chosen after 0 2.0%" in text
    given_text = replace_header(trace, is_given=True)
    assert ending_text(given_text, Canvas()).startswith("the text was given; ")
    with pytest.raises(OptionError, match="no steps"):
        ending_text(a_trace(n_steps=0), Canvas())


def test_a_long_text_lists_its_likeliest_ends_and_the_last_step() -> None:
    probs = [0.001] * 50
    probs[7] = probs[31] = 0.6
    rows = lines(ending_text(of(probs), Canvas(width=80)))
    steps = [int(line.split()[0]) for line in rows[rows.index("where ending was likeliest, and the last step") + 2 :]]
    assert {7, 31, 49} <= set(steps)
    assert steps == sorted(steps)
    assert len(steps) == 6
