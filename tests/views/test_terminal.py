"""Bars, numbers and labels: as wide as promised, whatever the place can show."""

from __future__ import annotations

import re

import pytest

from fanlight.views.terminal import Canvas, columns, heat, percent, visible

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
CANVASES = [Canvas(), Canvas(color=True), Canvas(unicode=False), Canvas(unicode=False, color=True)]


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("style", ["model", "others"])
@pytest.mark.parametrize("share", [0.0, 1e-9, 0.01, 0.33, 0.5, 0.999, 1.0, 1.5])
@pytest.mark.parametrize("width", [1, 7, 24])
def test_a_bar_is_as_wide_as_asked_and_shows_whatever_is_above_zero(
    canvas: Canvas, style: str, share: float, width: int
) -> None:
    for bar in (canvas.bar(share, width, style), canvas.bar_left(share, width, style)):
        text = ESCAPE.sub("", bar)
        assert columns(text) == width
        assert bool(text.strip()) == (share > 0)


def test_bars_grow_with_the_share_and_towards_opposite_sides() -> None:
    canvas = Canvas()
    assert canvas.bar(0.5, 8, "model") == "████    "
    assert canvas.bar_left(0.5, 8, "model") == "    ████"
    assert canvas.bar(0.25 + 1 / 64, 8, "model") == "██▏     "
    assert canvas.bar_left(5 / 16, 8, "model") == "     ▐██"
    assert canvas.bar(0.5, 8, "others") == "░░░░    "


def test_there_is_no_escape_sequence_without_colour_and_no_other_sign_without_unicode() -> None:
    plain = Canvas(unicode=False)
    drawn = plain.bar(0.3, 9, "final") + plain.bar_left(0.3, 9, "others") + plain.label("␣日本 · → é", 40)
    assert drawn.isascii()
    assert "\x1b" not in drawn
    assert plain.paint("x", "bold") == "x"


@pytest.mark.parametrize(
    ("prob", "text"),
    [
        (0.0, "0%"),
        (1e-7, "<0.01%"),
        (0.0043, "0.43%"),
        (0.00996, "1.0%"),
        (0.286, "28.6%"),
        (0.9996, ">99.9%"),
        (0.99949, "99.9%"),
        (1.0, "100%"),
        (1.0000001, "100%"),
    ],
)
def test_percentages_take_at_most_six_columns_and_never_lie_at_the_ends(prob: float, text: str) -> None:
    assert percent(prob) == text
    assert len(text) <= 6


def test_a_label_is_cut_by_columns_not_characters() -> None:
    assert Canvas().label("日本語日本語", 7) == "日本語…"
    assert Canvas().label("abc", 3) == "abc"
    assert columns("e\u0301日") == 3


def test_heat_has_a_style_for_every_probability() -> None:
    assert [heat(p) for p in (1.0, 0.5, 0.49, 0.2, 0.05, 0.0)] == ["sure", "sure", "likely", "likely", "open", "rare"]


def test_control_characters_are_written_out_and_newlines_stay() -> None:
    assert visible("a\x1b]0;title\x07\r\n\tb\x9b") == "a\\x1b]0;title\\x07\\x0d\n\tb\\x9b"
