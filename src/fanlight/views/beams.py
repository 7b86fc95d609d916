"""The tree that a search went through: which texts it followed, gave up, finished and returned. In: a SearchRecord. Out: a Figure.

Depth grows to the right, in several bands where one has no room; a band begins with the column that the one above ended with. Of
a very long search only the lines are drawn. Below: the texts that came out, with their scores. Knows no model and no search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError
from fanlight.views import axes as ax
from fanlight.views.figures import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.trace.search import SearchRecord

COLUMN, ROW, BAND = 1.08, 0.38, 0.34  # inches: a depth, a text, and the room between two bands
BOX_WIDTH, BOX_HEIGHT = 0.78, 0.29
COLUMNS, TALLEST = 12, 24.0  # depths a band has; inches: all bands
WIDTH = 13.0
LONG_ROW = 0.13  # inches: a text where only lines are drawn
SIZE, SCORE_SIZE = 7.6, 6.0
MOST_TEXTS = 6
FATES = ("returned", "finished", "kept", "pruned")
MEANING = {
    "returned": "on the way to a text that came out",
    "finished": "ended here",
    "kept": "followed further",
    "pruned": "given up for a better one",
}


class _Look(NamedTuple):
    colour: Any
    width: float
    dashes: Any


class _Place(NamedTuple):
    """Where a node stands."""

    band: int
    column: int
    row: int


def beams_figure(
    search: SearchRecord, label: Callable[[int], str], *, max_depth: int | None = None, dark: bool = False
) -> Figure:
    """label: of any token. max_depth: how many tokens of the texts to draw; None: all. Errors: MissingExtra; OptionError."""
    if max_depth is not None and (isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < 1):
        raise OptionError(f"max_depth must be 1 or more, or None: got {max_depth!r:.80}")
    if not search.nodes:
        raise OptionError("there is nothing to show: the search has no node")
    deepest = max(node.depth for node in search.nodes)
    depth = min(deepest, max_depth or deepest)
    rows = ordered(search, depth)
    fates = fates_of(search)
    n = {fate: sum(found == fate for found in fates) for fate in FATES}
    given_up = sum(node.fate == "pruned" for node in search.nodes)
    title = f"{search.kind[0].upper()}{search.kind[1:]}: {ax.count(len(search.nodes), 'node')}, {given_up:,} given up"
    if search.returned:
        title += f"; {ax.count(len(search.returned), 'text')} came out, best score {search.nodes[search.returned[0]].score:.3f}"
    shown = "" if depth == deepest else f" Drawn: the first {depth} of {ax.count(deepest, 'token')}."
    bands = 1 + max(0, -(-(depth - COLUMNS) // (COLUMNS - 1)))
    has_tokens = bands * (max(map(len, rows)) * ROW + BAND) <= TALLEST
    facts = [
        f"Each column is one more token{'; under it the score of the text up to it' if has_tokens else ''}.{shown}",
        f"{n['returned']:,} nodes are on the way to what came out.",
    ]
    texts = [_text(search, node, label, i) for i, node in enumerate(search.returned[:MOST_TEXTS])]
    if len(search.returned) > MOST_TEXTS:
        texts.append(f"and {len(search.returned) - MOST_TEXTS} more")
    listing = len(texts) * ax.BODY * 1.5 / 72 + 0.3
    if not has_tokens:
        return _long(search, rows, fates, depth, title, facts, texts, listing, dark=dark)
    places = _places(rows, depth)
    counts = [
        max(place.row for found in places.values() for place in found if place.band == band) + 1
        for band in range(bands)
    ]
    columns = min(depth, COLUMNS)
    width = max(columns * COLUMN + 2 * ax.MARGIN, 8.0)
    height = listing + 0.45 + sum(count * ROW for count in counts) + bands * BAND
    page = ax.page(width, height, title, facts, dark=dark)
    axes = _canvas(page)
    tops = [height - 0.02 - sum(counts[:i]) * ROW - (i + 1) * BAND + BAND / 2 for i in range(bands)]

    def spot(place: _Place) -> tuple[float, float]:
        return ax.MARGIN + (place.column + 0.5) * COLUMN, tops[place.band] - (place.row + 0.5) * ROW - 0.08

    _edges(axes, page.palette, search, places, fates, spot)
    for at, found in places.items():
        for i, place in enumerate(found):
            _box(axes, page.palette, search, at, fates[at], label, spot(place), is_copy=i > 0)
    for band in range(bands):
        for column in range(columns):
            number = band * (COLUMNS - 1) + column + 1
            if number <= depth:
                page.text(
                    ax.MARGIN + (column + 0.5) * COLUMN, tops[band] + 0.06, str(number), 6.5, ha="center",
                    color=ax.quiet(page.palette),
                )  # fmt: skip
    _legend(page, listing + 0.2)
    _list(page, texts, listing)
    return page.figure


def ordered(search: SearchRecord, depth: int) -> list[list[int]]:
    """The nodes of each depth from 1 on, top to bottom: below their parents, so that no two lines cross; best first."""
    best = {at: i for i, node in reversed(list(enumerate(search.returned))) for at in _way(search, node)}
    rows: list[list[int]] = []
    row_of = {-1: 0}
    for number in range(1, depth + 1):
        found = [at for at, node in enumerate(search.nodes) if node.depth == number]
        found.sort(
            key=lambda at: (
                row_of[search.nodes[at].parent], search.nodes[at].group, best.get(at, len(search.returned)),
                -search.nodes[at].score, at,
            )
        )  # fmt: skip
        row_of = {at: i for i, at in enumerate(found)}
        rows.append(found)
    return rows


def fates_of(search: SearchRecord) -> list[str]:
    """Of each node: one on the way to a text that came out is "returned", whatever it was called."""
    on_the_way = {at for node in search.returned for at in _way(search, node)}
    return ["returned" if at in on_the_way else node.fate for at, node in enumerate(search.nodes)]


def _way(search: SearchRecord, node: int) -> list[int]:
    found = []
    while node >= 0:
        found.append(node)
        node = search.nodes[node].parent
    return found


def _places(rows: Sequence[Sequence[int]], depth: int) -> dict[int, list[_Place]]:
    """A node that ends a band begins the next one too."""
    found: dict[int, list[_Place]] = {}
    for number in range(1, depth + 1):
        band, column = divmod(number - 1, COLUMNS - 1)
        for row, at in enumerate(rows[number - 1]):
            if column == 0 and band > 0:
                found[at] = [_Place(band - 1, COLUMNS - 1, row)]
                if number < depth:
                    found[at].append(_Place(band, 0, row))
            else:
                found[at] = [_Place(band, column, row)]
    return found


def _text(search: SearchRecord, node: int, label: Callable[[int], str], i: int) -> str:
    said = "".join(label(token) for token in search.path(node)).replace("␣", " ")
    found = search.nodes[node]
    return f"{i + 1}.  {found.score:.3f}  {ax.count(found.depth, 'token')}:  {ax.drawable(said)}"


# -- drawing ---------------------------------------------------------------------------------------------------------------


def _look(fate: str, palette: Palette) -> _Look:
    return {
        "returned": _Look(palette.attention, 2.4, "-"),
        "finished": _Look(palette.table, 1.6, "-"),
        "kept": _Look(ax.quiet(palette), 1.0, "-"),
        "pruned": _Look(ax.mixed(palette.faint, palette.ground, 0.8), 0.9, (0, (3, 2))),
    }[fate if fate in FATES else "kept"]


def _canvas(page: ax.Page) -> Axes:
    axes = page.axes(0, 0, page.width, page.height)
    axes.set_xlim(0, page.width)
    axes.set_ylim(0, page.height)
    axes.set_axis_off()
    return axes


def _edges(
    axes: Axes, palette: Palette, search: SearchRecord, places: dict[int, list[_Place]], fates: Sequence[str],
    spot: Callable[[_Place], tuple[float, float]],
) -> None:  # fmt: skip
    for at, found in places.items():
        parent = search.nodes[at].parent
        if parent < 0:
            continue
        here = found[0]
        there = next(place for place in places[parent] if place.band == here.band)
        (x0, y0), (x1, y1) = spot(there), spot(here)
        _curve(axes, (x0 + BOX_WIDTH / 2, y0), (x1 - BOX_WIDTH / 2, y1), _look(fates[at], palette), fates[at])


def _curve(axes: Axes, start: tuple[float, float], end: tuple[float, float], look: _Look, fate: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle = (start[0] + end[0]) / 2
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    path = Path([start, (middle, start[1]), (middle, end[1]), end], codes)
    order = len(FATES) - FATES.index(fate if fate in FATES else "kept")
    line = PathPatch(path, fill=False, ec=look.colour, lw=look.width, ls=look.dashes, zorder=order, capstyle="round")
    line.set_gid(f"edge {fate}")
    axes.add_patch(line)


def _box(
    axes: Axes, palette: Palette, search: SearchRecord, at: int, fate: str, label: Callable[[int], str],
    place: tuple[float, float], *, is_copy: bool,
) -> None:  # fmt: skip
    from matplotlib.patches import FancyBboxPatch

    (x, y), node, look = place, search.nodes[at], _look(fate, palette)
    is_last = at in search.returned
    fill = {"returned": 0.26, "finished": 0.26}.get(fate, 0.0)
    ground = look.colour if is_last else ax.mixed(look.colour, palette.ground, fill)
    box = FancyBboxPatch(
        (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2), BOX_WIDTH, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.05", fc=ground,
        ec=look.colour, lw=1.0, ls=look.dashes, alpha=0.6 if is_copy else 1.0, zorder=6,
    )  # fmt: skip
    box.set_gid(f"copy {at}" if is_copy else f"node {at} {fate}")
    axes.add_patch(box)
    ink: Any = ax.ink_on(ground) if is_last else palette.ink if fate != "pruned" else ax.quiet(palette)
    said = ax.token(label(node.id), int(BOX_WIDTH / ax.width_of("m", SIZE, mono=True)))
    how: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 7, "color": ink}
    axes.text(x, y + 0.055, said, size=SIZE, family=list(ax.fonts(mono=True)), **how)
    axes.text(x, y - 0.085, f"{node.score:.2f}", size=SCORE_SIZE, family=list(ax.fonts()), **how)


def _legend(page: ax.Page, y: float) -> None:
    from matplotlib.lines import Line2D

    whole = page.figure.get_size_inches()
    looks = {fate: _look(fate, page.palette) for fate in FATES}
    handles = [
        Line2D([], [], color=look.colour, lw=look.width, ls=look.dashes, label=f"{fate}: {MEANING[fate]}")
        for fate, look in looks.items()
    ]
    page.figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=((ax.MARGIN - 0.08) / whole[0], y / whole[1]), ncols=4,
        frameon=False, fontsize=7, labelcolor=page.palette.ink, handlelength=1.8, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip


def _list(page: ax.Page, texts: Sequence[str], listing: float) -> None:
    for i, text in enumerate(texts):
        (line,) = ax.wrapped(text, page.width - 2 * ax.MARGIN, ax.BODY, most=1)
        page.text(ax.MARGIN, listing - 0.1 - (i + 0.5) * ax.BODY * 1.5 / 72, line, ax.BODY)


def _long(
    search: SearchRecord, rows: Sequence[Sequence[int]], fates: Sequence[str], depth: int, title: str, facts: Sequence[str],
    texts: Sequence[str], listing: float, *, dark: bool,
) -> Figure:  # fmt: skip
    """Lines alone, one column of each depth."""
    count = max(map(len, rows))
    high = max(1.6, count * LONG_ROW)
    base = listing + 0.95
    page = ax.page(WIDTH, base + high + 0.15, title, facts, dark=dark)
    axes = page.axes(0.5, base, WIDTH - 0.5 - ax.MARGIN, high)
    axes.set_xlim(0.5, depth + 0.5)
    axes.set_ylim(count - 0.4, -0.6)
    places = {at: (number + 1.0, float(row)) for number, found in enumerate(rows) for row, at in enumerate(found)}
    for at, end in places.items():
        start = places.get(search.nodes[at].parent, (0.5, 0.0))
        _curve(axes, start, end, _look(fates[at], page.palette), fates[at])
    for at in search.returned:
        if at in places:
            axes.plot(*places[at], "o", ms=4.5, color=page.palette.attention, zorder=8, label="returned")
    ax.dress(axes, page.palette, ("bottom",))
    axes.set_yticks([])
    ax.name(axes, page.palette, "x", "tokens written")
    _legend(page, listing + 0.2)
    _list(page, texts, listing)
    return page.figure
