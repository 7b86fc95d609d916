"""Distributions in a terminal: their numbers are those of the row and of the processors."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import OptionError
from fanlight.trace.distribution import Distribution
from fanlight.tracing.reshaping import reshaped
from fanlight.views.terminal import Canvas, percent
from fanlight.views.terminal_shapes import filters_text, next_text, temperature_text
from views.records import label, record
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, said, unbroken


def row(n: int = 31, spread: float = 2.0, *, name: object = None) -> Distribution:
    logits = np.random.default_rng(n).normal(0, spread, n)
    return Distribution.of_row(logits, label if name is None else name, "The cat sat on the")  # type: ignore[arg-type]


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("n", [1, 2, 11, 5003])
def test_all_views_fit(canvas: Canvas, n: int) -> None:
    found = row(n)
    check(next_text(found, canvas, chosen=int(found.ids[-1])), canvas)
    check(temperature_text(found, canvas, temperatures=(0, 0.1, 0.7, 1, 1.5, 2, 5)), canvas)
    check(filters_text(found, row(n, 0.1), canvas), canvas)


@anything
@given(st.lists(LABELS, min_size=3, max_size=3), SIZES)
def test_all_views_fit_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    found = row(3, name=labels.__getitem__)
    check(next_text(found, canvas), canvas)
    check(temperature_text(found, canvas, sweep=False), canvas)
    check(filters_text(found, found, canvas), canvas)


def test_the_sum_grows_to_one_and_each_filter_cuts_behind_what_it_keeps() -> None:
    found = row()
    text = lines(next_text(found, Canvas(width=80), n=12, filters={"top_k": 5, "top_p": 0.6, "min_p": 0.3}))
    tokens = [line for line in text if re.match(r" +\d+ +\u2423", line)]
    sums = np.cumsum(found.probs)
    for i, line in enumerate(tokens):
        assert line.split()[1] == label(int(found.ids[i]))
        assert line.split()[2] == percent(float(found.probs[i]))
        assert line.split()[-1] == percent(float(sums[i]))
    for option, value in {"top_k": 5, "top_p": 0.6, "min_p": 0.3}.items():
        after = reshaped(found, {option: value})
        at = next(i for i, line in enumerate(text) if f" {option}={value}: " in line)
        before = [line for line in text[:at] if line in tokens]
        assert len(before) == after.n_kept
        assert f"{option}={value}: {after.n_kept} token" in text[at]
        assert percent(1 - after.removed_prob) in text[at]


def test_a_chosen_token_is_marked_wherever_it_stands() -> None:
    found = row()
    text = next_text(found, Canvas(width=80), n=3, chosen=int(found.ids[20]), filters={})
    assert re.search(rf"  21 \u25b8 {label(int(found.ids[20]))} ", said(text))
    assert "27 others" in said(text)
    assert "\u2500" not in said(text)
    with pytest.raises(OptionError, match="token 99 is not among the 31 tokens"):
        next_text(found, Canvas(), chosen=99)


def test_a_recorded_part_says_which_filters_it_is_too_small_for() -> None:
    kept = Distribution.of_record(record((0.4, 0.3, 0.2, 0.06, 0.04), shown=3), label, "")
    text = unbroken(next_text(kept, Canvas(width=120)))
    assert re.search(r"not recorded enough for [^;]*top_n_sigma=1", text)
    assert "2 others 10.0%" in text


def test_temperatures_are_those_of_decoding() -> None:
    found = row()
    text = lines(temperature_text(found, Canvas(width=120), temperatures=(0, 0.5, 2), n=4))
    heads = next(i for i, line in enumerate(text) if "T=0.5" in line)
    for k, temperature in enumerate((0, 0.5, 2)):
        after = reshaped(found, {"temperature": temperature})
        for i in range(4):
            assert re.findall(r"[<>\d.]+%", text[heads + 1 + i])[k] == percent(float(after.probs[i]))
        entropies = next(line for line in text if line.startswith("entropy, nats"))
        assert entropies.split()[2 + k] == f"{after.entropy:.2f}"


def test_the_sweep_rises_from_the_first_token_to_all() -> None:
    text = said(temperature_text(row(101), Canvas(width=80)))
    high = reshaped(row(101), {"temperature": 3.0}).entropy
    assert f"{high:.2f}" in text.split("entropy from temperature 0.05 to 3, nats")[1]
    assert re.search(r"T +0\.05 +0\.1 +0\.2 +0\.5 +1 +2 +3$", text)
    tall = [line for line in text.split("\n") if "\u2588" in line and "%" not in line and "tok" not in line]
    assert all(line.rstrip().endswith("\u2588") for line in tall[:1])


def test_dots_stand_where_a_filter_keeps_a_token() -> None:
    certain, uncertain = row(31, 4.0), row(31, 0.3)
    chosen = {"top_k": 4, "min_p": 0.2, "typical_p": 0.5}
    text = lines(filters_text(certain, uncertain, Canvas(width=80), filters=chosen, n=6))
    tokens = [line for line in text if line.startswith("\u2423tok")]
    assert len(tokens) == 12
    for step, rows in ((certain, tokens[:6]), (uncertain, tokens[6:])):
        kept = [reshaped(step, {name: value}).kept for name, value in chosen.items()]
        for i, line in enumerate(rows):
            assert line.split()[2:] == ["\u25cf" if own[i] else "\u00b7" for own in kept]
    counts = [line.split()[2:] for line in text if line.startswith("tokens kept")]
    for step, words in zip((certain, uncertain), counts, strict=True):
        assert words == [f"{reshaped(step, {name: value}).n_kept}" for name, value in chosen.items()]


def test_what_cannot_be_shown_is_refused() -> None:
    kept = Distribution.of_record(record((0.4, 0.3, 0.2, 0.1), shown=2), label, "")
    with pytest.raises(OptionError, match="needs more of the row"):
        temperature_text(kept, Canvas())
    with pytest.raises(OptionError, match="temperatures must be 1 to 8"):
        temperature_text(row(), Canvas(), temperatures=())
    with pytest.raises(OptionError, match="filters must be 1 to 10"):
        filters_text(row(), row(), Canvas(), filters={})
    for wrong in (0, True, 201):
        with pytest.raises(OptionError, match="how many tokens to show"):
            next_text(row(), Canvas(), n=wrong)
