"""A text on coloured grounds: every token is there, in its colour, on lines that fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fanlight.errors import OptionError
from fanlight.views.axes import token
from fanlight.views.ribbon import ribbon_figure
from fanlight.views.ribbon_colors import BY, color_of, hexed, ink_on
from views.records import record
from views.structures import PROBS, check, steps_of, trace_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOCABULARY = {0: b" the", 1: b" cat", 2: b"\n", 3: b" costs_$5", 4: "猫".encode()}
IDS = (1, 3, 2, 0, 4, 0, 0, 1, 2, 2, 3)


def boxes(figure: Figure) -> dict[str, tuple[float, ...]]:
    return {
        str(patch.get_gid()): patch.get_facecolor()
        for patch in figure.axes[0].patches
        if str(patch.get_gid()).startswith("step ")
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("by", BY)
def test_every_token_is_there_in_its_colour(by: str, dark: bool) -> None:
    from matplotlib.colors import to_hex

    trace = trace_of(IDS, VOCABULARY)
    figure = ribbon_figure(trace, by=by, dark=dark)
    said = check(figure)
    drawn = [t.get_text() for t in figure.axes[0].texts if str(t.get_gid()).startswith("token")]
    assert drawn == [token(trace.token_label(i)) for i in IDS]
    assert "␣costs_\\$5" in drawn
    found = boxes(figure)
    assert len(found) == len(IDS)
    for i, step in enumerate(trace.steps):
        assert to_hex(found[f"step {i}"]) == hexed(color_of(step, by, dark=dark))
    inks = {t.get_gid(): t.get_color() for t in figure.axes[0].texts if t.get_gid()}
    assert inks["token 3"] == hexed(ink_on(color_of(trace.steps[3], by, dark=dark)))
    assert by in said
    assert "The cat" in said


def test_a_line_end_of_the_text_ends_the_line() -> None:
    figure = ribbon_figure(trace_of(IDS, VOCABULARY))
    heights = [round(t.get_position()[1], 3) for t in figure.axes[0].texts if str(t.get_gid()).startswith("token")]
    assert heights[0] == heights[2] > heights[3] == heights[8] > heights[9] > heights[10]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_alternatives_stand_under_their_token_the_first_on_top(n: int) -> None:
    figure = ribbon_figure(trace_of((4, 0, 1), VOCABULARY), alternatives=n)
    check(figure)
    texts = figure.axes[0].texts
    (token,) = [t for t in texts if t.get_gid() == "token 1"]
    x, y = token.get_position()
    below = [t for t in texts if not t.get_gid() and t.get_position()[0] == x and t.get_position()[1] < y]
    assert [t.get_text() for t in below] == ["␣the", "␣cat", "\\n", "␣costs_\\$5"][: min(n, 4)]
    assert [t.get_fontweight() for t in below] == ["bold", *["normal"] * (len(below) - 1)]


@pytest.mark.parametrize("n", [1, 7, 503])
def test_long_and_short_texts_fit(n: int) -> None:
    ids = [(i * 7) % 5 if i % 9 else 3 for i in range(n)]
    figure = ribbon_figure(trace_of(ids, VOCABULARY))
    assert len(boxes(figure)) == n
    if n < 100:
        check(figure)
    width = figure.axes[0].get_xlim()[1]
    assert all(patch.get_x() + patch.get_width() <= width for patch in figure.axes[0].patches)  # type: ignore[attr-defined]


def test_of_a_very_long_text_the_beginning_is_shown_and_that_is_said() -> None:
    figure = ribbon_figure(trace_of([2] * 301, VOCABULARY))
    assert any("first 120 of 301 tokens" in text.get_text() for text in figure.texts)
    assert len(boxes(figure)) == 120


def test_the_heading_names_the_least_expected_token() -> None:
    steps = steps_of([0, 0, 0])
    steps[1] = record((0.9, 0.06, 0.03, 0.01), chosen=3)
    figure = ribbon_figure(trace_of((0, 3, 0), VOCABULARY, steps=steps))
    assert "largest 4.61 nats at step 1: '␣costs_\\$5'" in figure.texts[0].get_text()
    margins = [replace(step, margin=margin) for step, margin in zip(steps, (2.0, -1.5, 4.0), strict=True)]
    figure = ribbon_figure(trace_of((0, 3, 0), VOCABULARY, steps=margins), by="margin")
    assert "mean margin 1.50 nats; smallest -1.50 nats at step 1" in figure.texts[0].get_text()


def test_what_cannot_be_shown_is_refused() -> None:
    trace = trace_of(IDS, VOCABULARY)
    with pytest.raises(OptionError, match="alternatives must be 0 to 5: got 6"):
        ribbon_figure(trace, alternatives=6)
    with pytest.raises(OptionError, match="got 'colour'"):
        ribbon_figure(trace, by="colour")
    with pytest.raises(OptionError, match="no step"):
        ribbon_figure(trace_of((), VOCABULARY))
    assert sum(PROBS) == pytest.approx(1)
