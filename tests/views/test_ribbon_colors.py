"""The numbers and colours of ribbons: one order, readable, the same for pictures, terminal and page."""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import OptionError
from fanlight.trace.records import StepRecord
from fanlight.views.figures import DARK, LIGHT
from fanlight.views.ribbon_colors import (
    BY,
    DARK_STOPS,
    LIGHT_STOPS,
    RGB,
    color,
    color_of,
    contrast,
    hexed,
    ink_on,
    luminance,
    measure,
    share_of,
    value_of,
)
from views.records import record

PROBS = (0.5, 0.3, 0.15, 0.05)


def test_the_values_are_those_of_the_record() -> None:
    found = record(PROBS, chosen=2)
    assert value_of(found, "surprise") == pytest.approx(-log(0.15))
    assert value_of(found, "rank") == 2
    assert value_of(found, "entropy") == pytest.approx(-sum(p * log(p) for p in PROBS))
    assert value_of(found, "margin") is None  # this record has none
    assert share_of(found, "margin") == 0


def test_a_share_begins_at_calm_and_ends_at_strong() -> None:
    for by in BY:
        m = measure(by)
        assert m.share(m.calm) == 0
        assert m.share(m.strong) == 1
        beyond = m.strong + (m.strong - m.calm)
        assert m.share(beyond) == 1
        shares = [m.share(tick) for tick in m.ticks]
        assert shares[0] == 0
        assert shares[-1] == 1
        assert all(a < b for a, b in pairwise(shares))


@given(st.sampled_from(BY), st.floats(0, 1))
def test_a_value_is_where_its_share_says(by: str, share: float) -> None:
    m = measure(by)
    assert m.share(m.value_at(share)) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("dark", [False, True])
def test_lightness_goes_one_way_from_the_ground_of_the_page(dark: bool) -> None:
    steps = [luminance(color(i / 200, dark=dark)) for i in range(201)]
    assert all((b >= a) if dark else (b <= a) for a, b in pairwise(steps))
    assert abs(steps[-1] - steps[0]) > 0.7
    assert hexed(color(0.0, dark=dark)) == (DARK if dark else LIGHT).ground
    assert color(-1, dark=dark) == color(0, dark=dark)
    assert color(7, dark=dark) == (DARK_STOPS if dark else LIGHT_STOPS)[-1]


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_can_be_read_on_every_ground(ground: tuple[int, ...]) -> None:
    rgb = cast("RGB", ground)
    assert contrast(ink_on(rgb), rgb) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_a_less_expected_token_is_further_from_the_ground() -> None:
    tokens: list[StepRecord] = [record(PROBS, chosen=i) for i in range(4)]
    for by in ("surprise", "rank"):
        lights = [luminance(color_of(token, by)) for token in tokens]
        assert all(a > b for a, b in pairwise(lights))


def test_words_have_units() -> None:
    assert measure("surprise").words(1.234) == "1.23 nats"
    assert measure("rank").words(1234.0) == "rank 1,234"
    assert measure("margin").words(None) == "no other choice"
    assert hexed((1, 171, 255)) == "#01abff"


@pytest.mark.parametrize("by", ["suprise", "", "RANK", None, 3])
def test_an_unknown_measure_is_refused(by: object) -> None:
    with pytest.raises(OptionError, match="surprise, rank, entropy, margin: got"):
        measure(by)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="did you mean 'surprise'"):
        measure("suprise")
