"""How sure a step was, as a number, as a share of a scale and as a colour. In: a StepRecord. Out: numbers and RGB; no picture.

The picture, the terminal and the page colour a text with these, so that they agree. A larger share is a less expected token:
on light ground a darker colour, on dark ground a lighter one, one order of lightness for all eyes. Contrast is that of WCAG 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import expm1, log1p
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord

RGB = tuple[int, int, int]
"""0..255 each."""

LIGHT_STOPS: tuple[RGB, ...] = (
    (255, 255, 255),
    (254, 232, 193),
    (253, 190, 120),
    (239, 120, 66),
    (190, 52, 30),
    (112, 10, 16),
)
DARK_STOPS: tuple[RGB, ...] = (
    (22, 25, 29),
    (66, 32, 24),
    (124, 52, 22),
    (193, 92, 24),
    (240, 160, 60),
    (255, 236, 170),
)
BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)


class Measure(NamedTuple):
    """One way to say how sure a step was."""

    name: str
    unit: str
    meaning: str
    """In words, for legends."""
    value: Callable[[StepRecord], float | None]
    """None: the step had no choice."""
    calm: float
    """The value that has no colour."""
    strong: float
    """The value, and all beyond it, that has the strongest colour."""
    ticks: tuple[float, ...]
    """For legends."""
    is_log: bool = False
    """Its colours grow with log(1 + value)."""

    def share(self, value: float | None) -> float:
        """0: as expected, or no choice; 1: as unexpected as the scale tells."""
        if value is None:
            return 0.0
        to = log1p if self.is_log else float
        if self.is_log:
            value = max(0.0, value)
        found = (to(value) - to(self.calm)) / (to(self.strong) - to(self.calm))
        return min(1.0, max(0.0, found))

    def value_at(self, share: float) -> float:
        """The value that has this share of the scale."""
        if self.is_log:
            low, high = log1p(self.calm), log1p(self.strong)
            return expm1(low + share * (high - low))
        return self.calm + share * (self.strong - self.calm)

    def words(self, value: float | None) -> str:
        """A value with its unit: "2.31 nats", "rank 3"."""
        if value is None:
            return "no other choice"
        if self.name == "rank":
            return f"rank {value:,.0f}"
        return f"{value:.2f} {self.unit}"


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "surprise", "nats", "how unexpected the token was to the model itself: -ln(probability)",
            lambda record: -record.raw_logprob, 0.0, 8.0, (0, 2, 4, 6, 8),
        ),
        Measure(
            "rank", "tokens", "how many tokens the model held more probable; 0: its first choice",
            lambda record: float(record.raw_rank), 0.0, 999.0, (0, 1, 9, 99, 999), is_log=True,
        ),
        Measure(
            "entropy", "nats", "how undecided the model was, whatever was chosen",
            lambda record: record.raw_entropy, 0.0, 6.0, (0, 1.5, 3, 4.5, 6),
        ),
        Measure(
            "margin", "nats", "how far the token led the best other one; negative: it was passed over",
            lambda record: record.margin, 6.0, -3.0, (6, 3, 0, -3),
        ),
    )
}  # fmt: skip
"""By name. Surprise, rank and entropy are of the raw logits, the margin of the final ones."""

BY = tuple(MEASURES)


def measure(by: str) -> Measure:
    """By its name. Errors: OptionError."""
    found = MEASURES.get(by) if isinstance(by, str) else None
    if found is None:
        near = get_close_matches(str(by), BY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"a text can be coloured by {', '.join(BY)}: got {by!r:.80}{hint}")
    return found


def value_of(record: StepRecord, by: str) -> float | None:
    """Of one step; None: it had no choice. Errors: OptionError."""
    return measure(by).value(record)


def share_of(record: StepRecord, by: str) -> float:
    """Of one step, 0..1. Errors: OptionError."""
    found = measure(by)
    return found.share(found.value(record))


def color_of(record: StepRecord, by: str, *, dark: bool = False) -> RGB:
    """The ground of one step's token. Errors: OptionError."""
    return color(share_of(record, by), dark=dark)


def color(share: float, *, dark: bool = False) -> RGB:
    """Of a share of the scale, 0..1; beyond it, of its ends."""
    stops = DARK_STOPS if dark else LIGHT_STOPS
    place = min(1.0, max(0.0, share)) * (len(stops) - 1)
    at = min(int(place), len(stops) - 2)
    low, high = stops[at], stops[at + 1]
    r, g, b = (round(a + (place - at) * (z - a)) for a, z in zip(low, high, strict=True))
    return r, g, b


def ink_on(ground: RGB) -> RGB:
    """Black or white, whichever can be read better on a ground."""
    return BLACK if contrast(BLACK, ground) >= contrast(WHITE, ground) else WHITE


def hexed(rgb: RGB) -> str:
    """As "#c0341e"."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def contrast(one: RGB, other: RGB) -> float:
    """Of two colours, 1..21. Source: WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(rgb: RGB) -> float:
    """Relative, 0..1. Source: WCAG 2.2."""
    parts = [c / 255 for c in rgb]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
