"""What temperature does to a distribution: side by side, and as a smooth sweep with entropy. In: a Distribution. Out: a Figure.

Every probability comes from the processors of decoding, through `reshaped`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.tracing.reshaping import reshaped
from fanlight.views import axes as shared
from fanlight.views.axes import BODY, MARGIN, SMALL, count, mixed, page, percent, quiet, series, token, width_of
from fanlight.views.next_tokens import n_possible, possible

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.trace.distribution import Distribution
    from fanlight.views.axes import Page

TEMPERATURES = (0.1, 0.7, 1.5)
LOW, HIGH, POINTS = 0.05, 3.0, 61
TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100)
"""Of the sweep, evenly on a log axis."""
MOST_PANELS, MOST_BANDS = 8, 7
ROW, PANEL, GAP = 0.235, 2.35, 0.35  # inches
SWEEP = 2.5  # inches, its height


class Shape(NamedTuple):
    """The distribution at one temperature."""

    temperature: float
    probs: NDArray[np.float64]
    """(n,): of the most probable tokens."""
    rest: float
    """Of all others together."""
    entropy: float


def temperature_figure(
    distribution: Distribution,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    n: int = 12,
    sweep: bool = True,
    dark: bool = False,
) -> Figure:
    """Panels with the same tokens to one scale, one for each temperature; below, their probabilities from 0.05 to 3.

    0 is greedy: the most probable token alone. Errors: MissingExtra; OptionError for a distribution that is not whole, as a
    temperature lifts tokens that were not recorded.
    """
    if not 1 <= len(temperatures) <= MOST_PANELS:
        raise OptionError(f"temperatures must be 1 to {MOST_PANELS} numbers: got {len(temperatures)}")
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 100:
        raise OptionError(f"n is how many tokens to show, from 1 to 100: got {n!r:.80}")
    shown = min(n, possible(distribution))
    shapes = [shape_at(distribution, temperature, shown) for temperature in temperatures]
    labels = [distribution.label(int(token_id)) for token_id in distribution.ids[:shown]]
    others = n_possible(distribution) - shown
    names = [*labels, count(others, "other")] if others else labels
    left = MARGIN + max(width_of(token(label, 18), BODY, mono=True) for label in names) + 0.12
    wide = max(left + len(shapes) * (PANEL + GAP) + MARGIN, 7.4)
    tall = len(names) * ROW
    below = SWEEP + 1.05 if sweep else 0.0
    made = page(wide, tall + 1.12 + below, _title(distribution, shapes), [_facts(sweep)], dark=dark)
    panel = (wide - MARGIN - left - GAP * (len(shapes) - 1)) / len(shapes)
    _panels(made, shapes, names, bool(others), (left, 0.55 + below, panel, tall))
    if sweep:
        _sweep(made, distribution, labels[:MOST_BANDS], temperatures, left)
    return made.figure


def shape_at(distribution: Distribution, temperature: float, n: int) -> Shape:
    """The probabilities of the first n tokens at a temperature, as decoding has them."""
    after = reshaped(distribution, {"temperature": temperature})
    return Shape(temperature, after.probs[:n], max(0.0, float(after.probs[n:].sum())), after.entropy)


def _title(distribution: Distribution, shapes: Sequence[Shape]) -> str:
    after = f"after {shared.context(distribution.context)}: " if distribution.context else ""
    if len(shapes) == 1:
        return f"{after}temperature {shapes[0].temperature:g}, entropy {shapes[0].entropy:.2f} nats"
    low, *_, high = sorted(shapes, key=lambda shape: shape.temperature)
    return (
        f"{after}temperature {low.temperature:g} to {high.temperature:g} takes entropy from {low.entropy:.2f} "
        f"to {high.entropy:.2f} nats"
    )


def _facts(sweep: bool) -> str:
    said = "every logit is divided by the temperature: below 1 sharpens, above 1 flattens; the order stays"
    return f"{said}; dashed below: the temperatures above" if sweep else said


def _panels(
    made: Page,
    shapes: Sequence[Shape],
    names: Sequence[str],
    has_others: bool,
    place: tuple[float, float, float, float],
) -> None:
    import numpy as np

    left, bottom, width, height = place
    palette = made.palette
    most = max(float(shape.probs.max()) for shape in shapes) or 1.0
    limit = most * 1.02 + (most * 0.62 / width)  # room for the percents
    for k, shape in enumerate(shapes):
        axes = made.axes(left + k * (width + GAP), bottom, width, height)
        values = np.append(shape.probs, shape.rest) if has_others else shape.probs
        colours = [palette.attention] * len(shape.probs) + [palette.faint]
        axes.barh(range(len(values)), values, height=0.72, color=colours[: len(values)])
        axes.set_xlim(0, limit)
        axes.set_ylim(len(names) - 0.5, -0.5)
        for i, value in enumerate(values):
            beyond = value > most * 1.02
            axes.annotate(
                percent(float(value)), (limit if beyond else value, i), (-4 if beyond else 3, 0), va="center",
                textcoords="offset points", ha="right" if beyond else "left", size=SMALL, family=list(shared.fonts()),
                color=palette.ground if beyond else palette.ink,
            )  # fmt: skip
        if k == 0:
            shared.token_ticks(axes, "y", names, most=18, size=BODY)
        else:
            axes.set_yticks([])
        axes.tick_params(axis="y", length=0)
        shared.percent_axis(axes, "x", nbins=3 if width < 2 else 4)
        shared.grid(axes, palette, "x")
        shared.name(axes, palette, "x", "probability")
        greedy = " (greedy)" if shape.temperature == 0 else ""
        head = (
            f"T = {shape.temperature:g}{greedy}\nentropy {shape.entropy:.2f} nats, top {percent(float(shape.probs[0]))}"
        )
        shared.subtitle(axes, palette, head)


def _sweep(
    made: Page, distribution: Distribution, labels: Sequence[str], temperatures: Sequence[float], left: float
) -> None:
    """Bands of probability over the temperature, the entropy as a line."""
    import numpy as np

    palette, n = made.palette, len(labels)
    low, high = min([LOW, *filter(None, temperatures)]), max(HIGH, *temperatures)
    grid = np.geomspace(low, high, POINTS)
    shapes = [shape_at(distribution, float(temperature), n) for temperature in grid]
    bands = np.array([shape.probs for shape in shapes])  # (POINTS, n)
    colours = [mixed(colour, palette.ground, 0.85) for colour in series(palette)[:n]]
    right = max([width_of(token(label, 18), SMALL, mono=True) for label in labels] + [0.8]) + 1.25
    axes = made.axes(left, 0.5, made.width - left - right, SWEEP)
    rest = [shape.rest for shape in shapes]
    axes.stackplot(
        grid, *bands.T, rest, colors=[*colours, mixed(palette.faint, palette.ground, 0.35)], lw=0.6, ec=palette.ground
    )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    shared.percent_axis(axes, "y")
    shared.name(axes, palette, "x", "temperature (log scale)")
    shared.name(axes, palette, "y", "probability")
    _temperature_ticks(axes, low, high)
    other = axes.twinx()
    shared.dress(other, palette, ("right",))
    other.patch.set_visible(False)
    other.plot(grid, [shape.entropy for shape in shapes], color=palette.ground, lw=4.2, solid_capstyle="round")
    other.plot(grid, [shape.entropy for shape in shapes], color=palette.ink, lw=2, solid_capstyle="round")
    other.set_ylim(0, max(0.1, max(shape.entropy for shape in shapes) * 1.08))
    shared.name(other, palette, "y", "entropy, nats (line)")
    for temperature in temperatures:
        if temperature:
            axes.axvline(temperature, color=palette.ink, lw=1, ls=(0, (4, 2.5)))
            axes.annotate(
                f"{temperature:g}", (temperature, 1), (0, 3), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                textcoords="offset points", size=SMALL, color=palette.ink, family=list(shared.fonts()),
            )  # fmt: skip
    _names(made, labels, colours, (made.width - right + 0.75, 0.5))


def _temperature_ticks(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _names(
    made: Page, labels: Sequence[str], colours: Sequence[tuple[float, float, float]], place: tuple[float, float]
) -> None:
    """The bands' tokens beside them, in the order of the bands: the most probable at the bottom."""
    from matplotlib.patches import Rectangle

    x, bottom = place
    whole = made.figure.get_size_inches()
    step = min(0.26, SWEEP / (len(labels) + 1))
    ground = mixed(made.palette.faint, made.palette.ground, 0.35)
    for i, (label, colour) in enumerate(zip([*labels, "all others"], [*colours, ground], strict=True)):
        y = bottom + (i + 0.5) * step
        made.figure.add_artist(
            Rectangle((x / whole[0], (y - 0.06) / whole[1]), 0.13 / whole[0], 0.12 / whole[1], color=colour)
        )
        is_token = i < len(labels)
        made.text(
            x + 0.2, y, token(label, 18), SMALL, family=list(shared.fonts(mono=is_token)),
            color=made.palette.ink if is_token else quiet(made.palette),
        )  # fmt: skip
