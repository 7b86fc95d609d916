"""What the pictures in a terminal share: it fits whatever it holds, and its colours are those of the files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import OptionError
from fanlight.views import axes
from fanlight.views.figures import DARK, LIGHT
from fanlight.views.terminal import Canvas, columns
from fanlight.views.terminal_sheet import (
    DIVERGING,
    SEQUENTIAL,
    Brush,
    among,
    bands,
    beside,
    between,
    chart,
    cut,
    ending_of,
    fitted,
    name_of,
    pooled,
    ruler,
    sheet,
    short_percent,
    width_of,
    wrapped,
)
from views.terminals import LABELS, SIZES, anything, check, said


@anything
@given(LABELS, st.integers(0, 40), SIZES)
def test_a_cut_label_fits_and_keeps_its_beginning(label: str, width: int, canvas: Canvas) -> None:
    found = name_of(label, width, canvas)
    whole = name_of(label, 10_000, canvas)
    assert columns(found) <= width
    assert whole.startswith(found.removesuffix("\u2026").removesuffix("...")) or found in whole
    assert found == whole or columns(whole) > width


@anything
@given(LABELS, st.integers(8, 60), SIZES)
def test_an_ending_fits_and_is_the_end(text: str, width: int, canvas: Canvas) -> None:
    found = ending_of(text, width, canvas)
    whole = ending_of(text, 10_000, canvas)
    assert columns(found) <= width
    assert found[0] == found[-1] == "'"
    assert whole.endswith(found.removeprefix("'").removeprefix("\u2026").removeprefix("..."))


@anything
@given(st.lists(LABELS, max_size=9), st.integers(2, 40))
def test_wrapping_loses_no_sign(words: list[str], width: int) -> None:
    text = " ".join("".join(word.split()) for word in words)
    found = list(wrapped(text, width))
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert all(columns(line) <= width for line in found)


@anything
@given(LABELS, st.lists(LABELS, max_size=3), SIZES)
def test_a_sheet_fits_and_its_colours_end(title: str, painted: list[str], canvas: Canvas) -> None:
    from fanlight.views.terminal_sheet import one_line

    rows = [canvas.paint(one_line(text * 9, canvas), "model") + "tail" for text in painted]
    check(sheet(canvas, one_line(title, canvas), [], rows), canvas)


def test_a_line_that_is_too_wide_is_cut_with_its_colours_closed() -> None:
    canvas = Canvas(width=5, color=True)
    line = fitted(canvas.paint("abcdefgh", "cut") + "xyz", canvas)
    assert said(line) == "abcde"
    assert line.endswith("\x1b[0m")
    assert fitted("\u6f22\u5b57\u6f22", canvas) == "\u6f22\u5b57"


@pytest.mark.parametrize("dark", [False, True])
def test_grounds_are_those_of_the_pictures_in_files(dark: bool) -> None:
    palette = DARK if dark else LIGHT
    for stops, theirs in ((SEQUENTIAL[dark], axes.sequential(palette)), (DIVERGING[dark], axes.diverging(palette))):
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            r, g, b, _ = theirs(share)
            assert between(stops, share) == pytest.approx((r * 255, g * 255, b * 255), abs=1.5)


def test_a_brush_says_colours_as_the_terminal_has_them() -> None:
    canvas = Canvas(color=True)
    assert "\x1b[48;2;250;244;184;38;2;0;0;0m" in Brush(canvas, {"COLORTERM": "truecolor"}).much("x", 1.0)
    assert Brush(canvas, {}).much("x", 1.0).startswith("\x1b[48;5;")
    assert "48;2;18;41;77" in Brush(canvas, {"COLORTERM": "24bit", "COLORFGBG": "0;15"}).much("x", 1.0)
    assert Brush(Canvas(), {"COLORTERM": "truecolor"}).much("x", 1.0) == "x"


def test_bands_hold_every_column_once_and_fit() -> None:
    widths = [7, 3, 9, 30, 2, 2, 11]
    found = bands(widths, 12)
    assert [i for band in found for i in band] == list(range(7))
    assert all(sum(widths[i] for i in band) <= 12 or len(band) == 1 for band in found)
    assert [len(band) for band in found] == [2, 1, 1, 2, 1]


def test_a_ruler_stands_above_its_cells_and_numbers_do_not_touch() -> None:
    assert ruler(range(5), 2) == " 0 1 2 3 4"
    line = ruler(range(41), 1)
    for word in line.split():
        assert line[: int(word) + 1].endswith(word)
    assert ruler([3, 7, 10], 5) == "    3    7   10"


def test_charts_grow_upwards_and_show_whatever_is_more_than_nothing() -> None:
    assert chart([0.0, 1e-9, 0.5, 1.0, None], 2, Canvas()) == ["   \u2588 ", " \u2581\u2588\u2588 "]
    assert chart([0.0, 1e-9, 0.5, 1.0, None], 2, Canvas(unicode=False)) == ["   # ", " .## "]
    assert pooled([1, 5, 2, 2, 9, 0, 3], 3) == [5, 2, 9]
    assert pooled([1, 2], 3) == [1, 2]


@pytest.mark.parametrize(
    ("prob", "words"), [(1, "100%"), (0.287, "29%"), (0.0253, "2.5%"), (0.0004, ".04%"), (1e-7, "<.1%"), (0, "0%")]
)
def test_short_percents_have_four_columns(prob: float, words: str) -> None:
    assert short_percent(prob) == words
    assert len(words) <= 4


def test_blocks_stand_beside_each_other_whatever_their_colours() -> None:
    canvas = Canvas(color=True)
    rows = beside([[canvas.paint("\u6f22", "cut"), "abc"], ["x"]], 2)
    assert [said(row) for row in rows] == ["\u6f22   x", "abc"]
    assert width_of(rows[0]) == 6
    assert cut("abcdef", 2, Canvas(unicode=False)) == "ab"


def test_numbers_that_were_not_recorded_are_refused() -> None:
    assert among("layer", -1, (2, 5)) == 1
    for wrong in (0, -3, 6):
        with pytest.raises(OptionError, match=r"was not recorded; there is 2, 5"):
            among("layer", wrong, (2, 5))
    with pytest.raises(OptionError, match="whole number"):
        among("layer", True, (0, 1))
