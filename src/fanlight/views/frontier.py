"""A Sweep as a picture: perplexity against diversity, every point labelled, the Pareto frontier marked. In: records. Out: a Figure.

The first axis of the grid is a colour, the second a shape. Bars are standard errors over the prompts. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import cos, exp, pi, sin
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.decoding.explaining import shown
from fanlight.errors import OptionError
from fanlight.views.figures import DARK, LIGHT, Palette, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from fanlight.comparing.measures import Spread
    from fanlight.comparing.sweep_records import Point, Sweep

WIDTH, HEIGHT = 11.0, 7.4  # inches
SHAPES = "osD^vP*X<>"
NAMES = {
    "self_bleu": "diversity: 1 - Self-BLEU of the samples",
    "distinct_1": "diversity: distinct-1 (different tokens / tokens)",
    "distinct_2": "diversity: distinct-2 (different pairs / pairs)",
    "distinct_3": "diversity: distinct-3 (different triples / triples)",
}
SIZE, LABEL_SIZE = 9, 8.0
REACHES = (11, 16, 24, 34, 46)  # points: how far a label may stand from its mark
DIRECTIONS = (3, 7, 1, 5, 0, 4, 2, 6)  # eighths of a turn, the best first


class _Mark(NamedTuple):
    """A point that has both measures."""

    number: int
    point: Point
    x: float
    y: float
    error: Spread | None


def frontier(found: Sweep, *, diversity: str | None = None, dark: bool = False) -> Figure:
    """The picture. diversity: "self_bleu", "distinct_1", "distinct_2" or "distinct_3"; None: what there is.

    Errors: MissingExtra; OptionError if no point has both measures, as Self-BLEU needs two samples.
    """
    measure = diversity or found.diversity
    marks = list(_marks(found, measure))
    if not marks:
        hint = "; Self-BLEU needs two samples at least" if measure == "self_bleu" else ""
        raise OptionError(f"no point of the sweep has both perplexity and {measure}{hint}")
    palette = DARK if dark else LIGHT
    figure = new_figure(WIDTH, HEIGHT, palette)
    axes = figure.add_axes((0.085, 0.1, 0.885, 0.745))
    _dress(axes, palette, measure)
    on_it = found.frontier(measure)
    _line(axes, [mark for number in on_it for mark in marks if mark.number == number], palette)
    _dots(axes, found, marks, on_it, palette)
    _titles(figure, found, palette)
    _legend(axes, found, palette)
    _label(figure, axes, found, marks, on_it, palette)
    return figure


def _marks(found: Sweep, measure: str) -> Iterator[_Mark]:
    for i, point in enumerate(found.points):
        y = point.diversity(measure)
        if point.perplexity is not None and y is not None:
            yield _Mark(i, point, point.perplexity, y.mean, y)


def _dress(axes: Axes, palette: Palette, measure: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_facecolor(palette.ground)
    axes.set_xlabel(
        "perplexity under the model, log scale (geometric mean over the prompts)", color=palette.ink, size=10
    )
    axes.set_ylabel(NAMES[measure], color=palette.ink, size=10)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 3, 5, 7), numticks=40))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _at: f"{x:,.3g}" if x < 1000 else f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(colors=palette.ink, labelsize=8.5)
    axes.grid(color=palette.faint, alpha=0.18, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.faint)


def _line(axes: Axes, marks: Sequence[_Mark], palette: Palette) -> None:
    """The frontier as steps: what lies below and right of it is bettered."""
    xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
    axes.step(xs, ys, where="post", color=palette.feed_forward, lw=1.6, alpha=0.9, zorder=2, label="_frontier")


def _dots(axes: Axes, found: Sweep, marks: Sequence[_Mark], on_it: Sequence[int], palette: Palette) -> None:
    for mark in marks:
        colour, shape = _look(found, mark.point, palette)
        log = mark.point.log_perplexity
        x_error = None
        if log is not None and log.error is not None:
            x_error = [[mark.x - exp(log.mean - log.error)], [exp(log.mean + log.error) - mark.x]]
        y_error = mark.error.error if mark.error is not None else None
        axes.errorbar(
            mark.x,
            mark.y,
            xerr=x_error,
            yerr=y_error,
            fmt="none",
            ecolor=palette.faint,
            elinewidth=0.8,
            alpha=0.55,
            zorder=1,
        )
        is_best = mark.number in on_it
        axes.plot(
            mark.x, mark.y, shape, ms=SIZE if is_best else SIZE - 2, mfc=colour, zorder=4 if is_best else 3,
            mec=palette.feed_forward if is_best else palette.ground, mew=1.8 if is_best else 0.8,
        )  # fmt: skip


def _look(found: Sweep, point: Point, palette: Palette) -> tuple[Any, str]:
    """Colour by the first axis of the grid, shape by the second."""
    names = list(found.axes)
    place = found.axes[names[0]].index(point.options[names[0]])
    shape = found.axes[names[1]].index(point.options[names[1]]) if len(names) > 1 else 0
    return _colour(place, len(found.axes[names[0]]), palette), SHAPES[shape % len(SHAPES)]


def _colour(place: int, n: int, palette: Palette) -> Any:
    """From dark to light; cividis is made so that all eyes see the same order."""
    from matplotlib import colormaps

    low, high = (0.05, 0.95) if palette is LIGHT else (0.25, 1.0)
    return colormaps["cividis"](low + (high - low) * (place / (n - 1) if n > 1 else 0.3))


def _titles(figure: Figure, found: Sweep, palette: Palette) -> None:
    texts = f"{found.n_prompts} prompt{'s' if found.n_prompts != 1 else ''} x {found.samples} sample"
    texts += "s" if found.samples != 1 else ""
    figure.text(0.085, 0.945, "Quality and diversity", size=14, weight="bold", color=palette.ink)
    facts = f"{found.model}, {len(found.points)} settings, {texts} each, seed {found.seed}".replace("$", r"\$")
    facts += f"; {found.n_failed:,} of {found.n_texts:,} texts failed" if found.n_failed else ""
    labels = f"labels: {', '.join(found.axes)}"
    bars = "; bars: ± 1 standard error over the prompts" if found.n_prompts > 1 else ""
    figure.text(0.085, 0.912, facts, size=9.5, color=palette.faint)
    figure.text(0.085, 0.882, labels + bars, size=9.5, color=palette.faint)


def _legend(axes: Axes, found: Sweep, palette: Palette) -> None:
    from matplotlib.lines import Line2D

    def dot(shape: str, colour: Any, name: str, value: Any) -> Line2D:
        label = f"{name} {_word(value)}"
        return Line2D([], [], marker=shape, ls="", ms=7, mfc=colour, mec=palette.ground, label=label)

    first, *others = found.axes
    values = found.axes[first]
    handles = [dot("o", _colour(i, len(values), palette), first, value) for i, value in enumerate(values)]
    for name in others[:1]:
        handles += [
            dot(SHAPES[i % len(SHAPES)], palette.faint, name, value) for i, value in enumerate(found.axes[name])
        ]
    said = "frontier: no point has less perplexity and more diversity"
    handles.append(Line2D([], [], color=palette.feed_forward, lw=1.6, label=said))
    axes.legend(
        handles=handles, loc="lower right", frameon=True, facecolor=palette.ground, edgecolor=palette.faint,
        labelcolor=palette.ink, fontsize=8, framealpha=0.9, ncols=1 if len(handles) <= 12 else 2,
    )  # fmt: skip


def _word(value: Any) -> str:
    return (value if isinstance(value, str) else shown(value)).replace("$", r"\$")[:30]


# -- labels that do not lie on each other ----------------------------------------------------------------------------------


def _label(
    figure: Figure, axes: Axes, found: Sweep, marks: Sequence[_Mark], on_it: Sequence[int], palette: Palette
) -> None:
    """Labels beside their marks; those on the frontier first. One without room is left out, unless it is on the frontier."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    figure.draw(renderer)
    scale = figure.dpi / 72
    places = {mark.number: axes.transData.transform((mark.x, mark.y)) for mark in marks}
    half = SIZE * scale * 0.62
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in places.values()]
    strokes = list(_strokes(axes, found, marks, on_it))
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    room = axes.get_window_extent(renderer)
    for mark in sorted(marks, key=lambda m: (m.number not in on_it, m.number)):
        is_best = mark.number in on_it
        text = axes.annotate(
            ", ".join(_word(value) for value in mark.point.options.values()), (mark.x, mark.y), (0, 0),
            textcoords="offset points", size=LABEL_SIZE, color=palette.ink if is_best else palette.faint,
            weight="bold" if is_best else "normal", ha="left", va="bottom", zorder=5,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2.5, foreground=palette.ground)])
        size = text.get_window_extent(renderer)
        spot = _free_spot(places[mark.number], size.width, size.height, [*taken, *strokes], room, scale)
        if spot is None and is_best:  # over a line rather than nowhere
            spot = _free_spot(places[mark.number], size.width, size.height, taken, room, scale)
        if spot is None:
            text.remove()
            continue
        dx, dy, box, reach = spot
        text.set_position((dx, dy))
        taken.append(box)
        if reach > REACHES[1]:
            cx, cy = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            axes.annotate(
                "", (mark.x, mark.y), tuple(axes.transData.inverted().transform((cx, cy))),
                arrowprops={"arrowstyle": "-", "color": palette.faint, "lw": 0.6, "shrinkA": size.height / 2 / scale, "shrinkB": 4},
                zorder=2,
            )  # fmt: skip


def _strokes(axes: Axes, found: Sweep, marks: Sequence[_Mark], on_it: Sequence[int]) -> Iterator[Bbox]:
    """Where lines are: the steps of the frontier, and the bars of errors, in pixels."""
    from matplotlib.transforms import Bbox

    def box(x0: float, y0: float, x1: float, y1: float) -> Bbox:
        (left, low), (right, high) = axes.transData.transform([(x0, y0), (x1, y1)])
        return Bbox.from_extents(left - 1, low - 1, right + 1, high + 1)

    known = {mark.number: mark for mark in marks}
    line = [known[number] for number in on_it]
    for a, b in pairwise(line):
        yield box(a.x, a.y, b.x, a.y)
        yield box(b.x, a.y, b.x, b.y)
    for mark in marks:
        log, error = mark.point.log_perplexity, mark.error
        if log is not None and log.error is not None:
            yield box(exp(log.mean - log.error), mark.y, exp(log.mean + log.error), mark.y)
        if error is not None and error.error is not None:
            yield box(mark.x, mark.y - error.error, mark.x, mark.y + error.error)


def _free_spot(
    place: Any, width: float, height: float, taken: Sequence[Bbox], room: Bbox, scale: float
) -> tuple[float, float, Bbox, float] | None:
    """Offset in points, the box in pixels, and how far away it is; None: all places are taken."""
    from matplotlib.transforms import Bbox

    x, y = place
    for reach in REACHES:
        for eighth in DIRECTIONS:
            angle = eighth * pi / 4
            cx = x + cos(angle) * (reach * scale + width / 2 * abs(cos(angle)))
            cy = y + sin(angle) * (reach * scale + height / 2)
            box = Bbox.from_bounds(cx - width / 2, cy - height / 2, width, height)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return (box.x0 - x) / scale, (box.y0 - y) / scale, box, reach
    return None
