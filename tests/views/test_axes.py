"""What pictures share: texts that are drawn as they are, labels that fit, colours that all eyes can order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.views import axes as shared
from fanlight.views.figures import DARK, LIGHT, Palette
from views.drawn import check, rendered, said, texts

AWKWARD = ["␣the", "$x$", "a_b^2", r"\$", "\\n", "…", "猫\U0001f600", "\\xe7\\x8c", "␣" * 40, "", "ä", "ж", "%"]


def test_a_sign_that_no_font_has_becomes_its_escape() -> None:
    assert shared.drawable("\ue123 a") == "\\ue123 a"
    assert shared.drawable("a\nb\tc") == r"a\nb\tc"
    assert shared.drawable("ж␣é…") == "ж␣é…"


def test_dollars_are_no_formula_and_stay_what_they_are() -> None:
    made = shared.page(4, 1, shared.drawable(r"$a_b$ and \$"))
    (title,) = texts(made.figure)
    rendered(made.figure)
    shown, is_formula = title._preprocess_math(title.get_text())  # type: ignore[attr-defined]
    assert (shown, is_formula) == (r"$a_b$ and \$", False)


@pytest.mark.parametrize("label", AWKWARD)
@pytest.mark.parametrize("most", [1, 2, 7, 16])
def test_a_token_has_at_most_so_many_signs(label: str, most: int) -> None:
    assert len(shared.token(label, most).replace(r"\$", "$")) <= most
    assert shared.token(label, 99) == shared.drawable(label)


def test_an_escape_is_never_cut_in_two() -> None:
    label = "ab\ue123cd"
    found = {shared.token(label, most) for most in range(1, 12)}
    assert found == {"…", "a…", "ab…", "ab\\ue123…", "ab\\ue123cd"}


def test_a_context_keeps_its_end() -> None:
    assert shared.context("The cat\nsat on  the") == "'The cat sat on the'"
    found = shared.context("word " * 30 + "end", 12)
    assert found == "'…rd word end'"
    assert len(found.strip("'")) == 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Once upon a ", "'Once upon a␣'"),
        ("yes\n", r"'yes\n'"),
        (" a\t \n", r"'a\t␣\n'"),
        (" \n", r"'␣\n'"),
        ("", "''"),
    ],
)
def test_blanks_that_a_context_ends_in_are_seen(text: str, words: str) -> None:
    assert shared.context(text) == words


@settings(deadline=None, max_examples=40)  # the first text loads fonts
@given(st.text(st.characters(codec="utf-8"), max_size=80), st.floats(0.5, 6))
def test_lines_fit_whatever_the_text(text: str, inches: float) -> None:
    for line in shared.wrapped(shared.drawable(text), inches):
        assert shared.width_of(line) <= inches + 1e-6


def test_wrapping_keeps_every_word_where_there_is_room() -> None:
    text = "one two three four five six seven"
    assert " ".join(shared.wrapped(text, 1.0, most=9)) == text
    assert shared.wrapped(text, 1.0, most=1)[0].endswith("…")


@pytest.mark.parametrize(
    ("prob", "words"),
    [
        (0, "0"),
        (1, "100%"),
        (0.9999, ">99.9%"),
        (0.286, "28.6%"),
        (0.0043, "0.43%"),
        (3.14e-8, "3.1e-06%"),
        (1e-30, "1e-28%"),
        (0.0000823, "0.0082%"),
    ],
)
def test_percents(prob: float, words: str) -> None:
    assert shared.percent(prob) == words


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_the_lightness_of_the_sequential_colours_goes_one_way_from_the_ground(palette: Palette) -> None:
    colours = shared.sequential(palette)
    steps = [shared.lightness(colours(x)) for x in np.linspace(0, 1, 101)]
    away = [abs(step - shared.lightness(palette.ground)) for step in steps]
    assert all(a < b for a, b in pairwise(away))


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_the_diverging_colours_are_nearest_to_the_ground_at_nothing(palette: Palette) -> None:
    colours = shared.diverging(palette)
    away = [abs(shared.lightness(colours(x)) - shared.lightness(palette.ground)) for x in np.linspace(0, 1, 101)]
    assert int(np.argmin(away)) in range(48, 53)
    assert all(a > b for a, b in pairwise(away[:48]))
    assert all(a < b for a, b in pairwise(away[53:]))


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_ink_is_readable_on_every_colour_and_on_the_ground(palette: Palette) -> None:
    def contrast(a: object, b: object) -> float:
        low, high = sorted((shared.lightness(a), shared.lightness(b)))
        return (high + 0.05) / (low + 0.05)

    for colours in (shared.sequential(palette), shared.diverging(palette)):
        for x in np.linspace(0, 1, 41):
            assert contrast(colours(x), shared.ink_on(colours(x))) >= 4.0
    assert contrast(shared.quiet(palette), palette.ground) >= 4.5
    assert all(contrast(colour, palette.ground) >= 3 for colour in shared.series(palette))


@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize("n", [1, 7, 33, 500])
def test_labels_are_thinned_until_they_do_not_touch(which: shared.Which, n: int) -> None:
    made = shared.page(8, 4, "labels")
    axes = made.axes(1.4, 1.5, 6, 2.2)
    (axes.set_xlim if which == "x" else axes.set_ylim)(-0.5, n - 0.5)
    (axes.set_yticks if which == "x" else axes.set_xticks)([])
    labels = [f"␣token{i}" for i in range(n)]
    shown = shared.token_ticks(axes, which, labels)
    check(made.figure)
    ticks = axes.xaxis if which == "x" else axes.yaxis
    drawn = [text.get_text() for text in ticks.get_ticklabels()]
    assert drawn == labels[:: shown.every]
    assert (shown.every > 1) == (n == 500 or (n == 33 and which == "y"))


def test_short_labels_lie_and_long_ones_stand() -> None:
    made = shared.page(8, 4, "labels")
    axes = made.axes(0.5, 1.5, 7, 2)
    axes.set_xlim(-0.5, 19.5)
    assert not shared.token_ticks(axes, "x", ["ab"] * 20).turned
    assert shared.token_ticks(axes, "x", ["abcdefgh"] * 20).turned


def test_a_page_is_as_high_as_its_heading_needs() -> None:
    short, long = (shared.page(5, 2, "word " * n, ["fact " * n, ""]) for n in (3, 25))
    assert short.figure.get_size_inches()[1] < long.figure.get_size_inches()[1]
    for made in (short, long):
        assert made.height == 2
        check(made.figure)
    assert said(short.figure) == "word word word  fact fact fact "


@given(
    st.lists(st.floats(0, 10), max_size=12),
    st.floats(0.1, 0.8),
)
def test_places_are_moved_apart_and_no_further_than_need_be(places: list[float], gap: float) -> None:
    found = shared.apart(places, gap, 0, 10)
    order = np.argsort(places, kind="stable")
    moved = np.array(found)[order] if places else np.array([])
    assert np.all(np.diff(moved) >= gap - 1e-6)
    assert all(-1e-6 <= place <= 10 + 1e-6 for place in found)
    if places and np.all(np.diff(np.sort(places)) >= gap):
        assert found == pytest.approx(places)
