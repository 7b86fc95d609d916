"""What looks where: attention weights as pictures. In: an Attention and the labels of its positions. Out: a matplotlib Figure.

One head as a matrix, queries down and keys across; a layer's heads side by side; all layers and heads as small pictures. Weights
have the square root's colours unless `scale` says otherwise, since a head that looks at the first token alone (a sink: Xiao et al.
2023) would leave everything else without one. Cells where a query may not look are grey. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanlight.errors import OptionError
from fanlight.views import axes as ax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.trace.looks import Attention

SCALES = {
    "power": "attention weight, share of its row (colours: square root)",
    "linear": "attention weight, share of its row",
    "log": "attention weight, share of its row (colours: logarithm; below 0.1%: none)",
}
LEAST = 1e-3
"""Where the scale of logarithms begins."""
CELL, LARGEST, SMALLEST = 0.34, 7.6, 2.2  # inches: a cell of one head, and the matrix at most and at least
HEAD, ACROSS = 2.05, 6  # inches: a head of a layer, and how many stand side by side
THUMB, MOST_PIXELS = 0.46, 40  # inches: a head of the whole model, and cells that its picture keeps a side


class Looked(NamedTuple):
    """How the weights of a head, or of several, are spread: means over the queries, which sum to 1."""

    first: float
    """On the text's first token, whoever looks."""
    itself: float
    """Of all but the first token."""
    previous: float
    """On the token before the query, where that is not the first."""
    rest: float

    def words(self) -> str:
        """Where most of it goes."""
        parts = {"the first token": self.first, "itself": self.itself, "the token before": self.previous}
        name = max(parts, key=lambda part: parts[part])
        others = [f"{other} {ax.short_percent(round(parts[other], 3))}" for other in parts if other != name]
        return f"{name} {ax.short_percent(round(parts[name], 3))}, {', '.join(others)}"

    def short(self) -> str:
        """The same in two words."""
        parts = {"first": self.first, "itself": self.itself, "before": self.previous, "others": self.rest}
        name = max(parts, key=lambda part: parts[part])
        return f"{name} {parts[name]:.0%}"


def attention_figure(
    attention: Attention,
    labels: Sequence[str],
    *,
    layer: int | None = None,
    head: int | None = None,
    keys: Sequence[int] | None = None,
    scale: str = "power",
    dark: bool = False,
) -> Figure:
    """layer and head: one matrix. layer alone: its heads. Neither: all that was recorded.

    labels: of every position. layer, head: the model's numbers; negative ones count from the last that was recorded. keys: the
    positions to show as columns; None: all. scale: "power", "linear", "log". Errors: MissingExtra; OptionError.
    """
    if scale not in SCALES:
        raise OptionError(f"a scale of colours is {', '.join(SCALES)}: got {scale!r:.80}")
    if head is not None and layer is None:
        raise OptionError(f"head {head} of which layer? give layer=, one of {_numbers(attention.layers)}")
    view = _View(attention, labels, keys, scale, dark)
    if layer is None:
        return view.model()
    at = _index("layer", layer, attention.layers)
    if head is None:
        return view.layer(at)
    return view.head(at, _index("head", head, attention.heads))


def looked(attention: Attention, layer: int | None = None, head: int | None = None) -> Looked:
    """Where the weights go: of one head, of a layer, or of all. layer, head: places among those recorded."""
    weights = attention.weights if layer is None else attention.weights[layer : layer + 1]
    weights = weights if head is None else weights[:, head : head + 1]
    mean = np.asarray(weights).mean((0, 1), dtype=np.float64)  # (queries, positions); only what is asked for is widened
    rows = np.asarray(attention.queries)
    own = np.arange(len(rows))
    n = len(rows)
    first = float(mean[:, 0].sum() / n)
    itself = float(mean[own[rows > 0], rows[rows > 0]].sum() / n)
    previous = float(mean[own[rows > 1], rows[rows > 1] - 1].sum() / n)
    return Looked(first, itself, previous, max(0.0, float(mean.sum() / n) - first - itself - previous))


def visible(attention: Attention, layer: int) -> NDArray[np.bool_]:
    """(queries, positions): where the queries of a layer (its place among those recorded) may look.

    A model whose weights reach beyond the query sees all: an encoder.
    """
    queries = np.asarray(attention.queries)[:, None]
    positions = np.arange(attention.weights.shape[3])[None, :]
    if bool((np.asarray(attention.weights[layer]) * (positions > queries)).any()):
        return np.ones((queries.shape[0], positions.shape[1]), bool)
    window = attention.windows[layer] if layer < len(attention.windows) else 0
    return np.asarray((positions <= queries) & ((positions > queries - window) if window else True))


def _numbers(found: Sequence[int]) -> str:
    return ", ".join(map(str, found)) if len(found) <= 8 else f"{found[0]} to {found[-1]} ({len(found)} of them)"


def _index(what: str, number: int, recorded: Sequence[int]) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise OptionError(f"a {what} is a whole number: got {number!r:.80}")
    wanted = recorded[number] if -len(recorded) <= number < 0 else number
    if wanted not in recorded:
        raise OptionError(f"{what} {number} was not recorded; there is {_numbers(recorded)}")
    return list(recorded).index(wanted)


class _View:
    def __init__(
        self, attention: Attention, labels: Sequence[str], keys: Sequence[int] | None, scale: str, dark: bool
    ) -> None:
        self.a, self.scale, self.dark = attention, scale, dark
        n = attention.weights.shape[3]
        if not attention.weights.size:
            raise OptionError("there are no attention weights: no query, layer or head was recorded")
        if len(labels) != n:
            raise OptionError(f"there must be a label for each of the {n} positions: got {len(labels)}")
        self.keys = list(range(n)) if keys is None else [_index("position", key, range(n)) for key in keys]
        if not self.keys:
            raise OptionError("keys= names no position; give those to show, or leave it out")
        self.key_labels = [labels[key] for key in self.keys]
        self.query_labels = [labels[query] for query in attention.queries]
        self.all_keys = len(self.keys) == n
        self.seen = [visible(attention, layer) for layer in range(len(attention.layers))]

    # -- what is shown ----------------------------------------------------------------------------------------------------

    def head(self, layer: int, head: int) -> Figure:
        number, which = self.a.layers[layer], self.a.heads[head]
        n_queries, n_keys = len(self.query_labels), len(self.keys)
        height = min(LARGEST, max(SMALLEST, n_queries * CELL))
        width = min(LARGEST + 1.6, max(SMALLEST + 0.6, n_keys * CELL))
        left = self._widest(self.query_labels) + 0.62
        below = self._widest(self.key_labels) + 0.5
        found = looked(self.a, layer, head)
        title = f"Layer {number}, head {which}: mean weight on {found.words()}"
        body = max(left + width + 1.25, 5.6)
        page = ax.page(body, height + below + 0.15, title, self._facts(layer), dark=self.dark)
        axes = page.axes(left, below, width, height)
        self._matrix(page, axes, layer, head)
        ax.token_ticks(axes, "x", self.key_labels)
        ax.token_ticks(axes, "y", self.query_labels)
        ax.name(axes, page.palette, "x", "key: is looked at")
        ax.name(axes, page.palette, "y", "query: looks")
        tall = min(height, 3.4)
        self._scale_of_colours(page, (left + width + 0.25, below + height - tall, 0.16, tall), upright=True)
        return page.figure

    def layer(self, layer: int) -> Figure:
        n, number = len(self.a.heads), self.a.layers[layer]
        rows = -(-n // ACROSS)
        columns = -(-n // rows)
        gap, above = 0.3, 0.3
        ratio = min(1.6, max(0.45, len(self.query_labels) / len(self.keys)))
        tall = HEAD * ratio
        size = 7.0
        left = self._widest(self.query_labels, size) + 0.55
        below = self._widest(self.key_labels, size) + 1.05
        width = max(left + columns * (HEAD + gap) + ax.MARGIN, 5.6)
        title = f"Layer {number}, {ax.count(n, 'head')}: mean weight on {looked(self.a, layer).words()}"
        facts = [f"{self._facts(layer)[0]}. Above each head: where most of its weight goes."]
        page = ax.page(width, below + rows * (tall + above + gap) - gap, title, facts, dark=self.dark)
        for i in range(n):
            row, column = divmod(i, columns)
            bottom = below + (rows - 1 - row) * (tall + above + gap)
            axes = page.axes(left + column * (HEAD + gap), bottom, HEAD, tall)
            self._matrix(page, axes, layer, i)
            said = f"head {self.a.heads[i]}: {looked(self.a, layer, i).short()}"
            ax.subtitle(axes, page.palette, said, ax.SMALL, pad=3.0)
            axes.set_xticks([])
            axes.set_yticks([])
            if i + columns >= n:  # nothing below it
                ax.token_ticks(axes, "x", self.key_labels, size=size)
            if column == 0:
                ax.token_ticks(axes, "y", self.query_labels, size=size)
        self._scale_of_colours(page, (left, 0.68, min(3.6, width - left - 1.6), 0.13), upright=False)
        page.text(0.2, below + rows * (tall + above + gap) / 2, "query: looks", ax.SMALL, rotation=90, ha="center")
        said = "key: is looked at"
        page.text(width - ax.MARGIN, 0.74, said, ax.SMALL, ha="right")
        return page.figure

    def model(self) -> Figure:
        n_layers, n_heads = len(self.a.layers), len(self.a.heads)
        step = min(max(THUMB, min(4.2 / n_heads, 9.0 / n_layers, 1.5)), 12.2 / n_heads)
        left, below, beside = 0.85, 1.4, 2.3
        width = max(left + n_heads * step + beside + ax.MARGIN, 6.4)
        tall = n_layers * step
        found = [[looked(self.a, i, j) for j in range(n_heads)] for i in range(n_layers)]
        firsts = np.array([[one.first for one in row] for row in found])
        most = np.unravel_index(int(firsts.argmax()), firsts.shape)
        is_pooled = max(len(self.keys), len(self.query_labels)) > MOST_PIXELS
        where = f"layer {self.a.layers[int(most[0])]}, head {self.a.heads[int(most[1])]}"
        title = f"{ax.count(n_layers, 'layer')} x {ax.count(n_heads, 'head')}: mean weight on {looked(self.a).words()}"
        facts = [
            *self._facts(None),
            f"Most on the first token: {where}, {ax.percent(float(firsts.max()))}. Each square is a head, queries down and keys "
            "across" + ("; of cells that share a dot, the largest weight." if is_pooled else "."),
        ]
        page = ax.page(width, below + tall + 0.42, title, facts, dark=self.dark)
        axes = page.axes(left, below, n_heads * step, tall)
        side = min(MOST_PIXELS, max(len(self.keys), len(self.query_labels)))
        border = max(1, round(side * 0.08))
        whole = np.empty((n_layers * (side + border), n_heads * (side + border), 3))
        whole[:] = _rgb(page.palette.ground)
        for i in range(n_layers):
            for j in range(n_heads):
                y, x = i * (side + border), j * (side + border)
                whole[y : y + side, x : x + side] = self._colours(page, *self._pooled(i, j, side))
        axes.imshow(whole, interpolation="nearest", aspect="auto", extent=(-0.5, n_heads - 0.5, n_layers - 0.5, -0.5))
        ax.dress(axes, page.palette, ())
        axes.set_ylim(n_layers - 0.5, -0.5)
        ax.token_ticks(axes, "y", [str(number) for number in self.a.layers])
        axes.xaxis.tick_top()
        ax.token_ticks(axes, "x", [str(number) for number in self.a.heads])
        axes.tick_params(length=0)
        ax.name(axes, page.palette, "y", "layer")
        page.text(left, below + tall + 0.3, "head", ax.BODY)
        self._shares(page, (left + n_heads * step + 0.35, below, beside - 0.45, tall), found)
        self._scale_of_colours(page, (left, 0.68, min(3.6, width - left - 0.5), 0.13), upright=False)
        return page.figure

    # -- parts ------------------------------------------------------------------------------------------------------------

    def _shares(
        self, page: ax.Page, place: tuple[float, float, float, float], found: Sequence[Sequence[Looked]]
    ) -> None:
        """Of each layer, the mean weight on the first token, itself, the token before and the others, as one bar."""
        axes = page.axes(*place)
        p, n = page.palette, len(found)
        inks = (*ax.series(p)[:3], ax.mixed(p.faint, p.ground, 0.4))
        sums = np.zeros(n)
        rows = np.arange(n)
        names = ("first", "itself", "before", "others")
        for name, ink in zip(names, inks, strict=True):
            field = {"before": "previous", "others": "rest"}.get(name, name)
            share = np.array([np.mean([getattr(one, field) for one in row]) for row in found])
            axes.barh(rows, share, left=sums, height=0.74, color=ink, label=name)
            sums += share
        axes.set_xlim(0, 1)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_yticks([])
        ax.percent_axis(axes, "x")
        axes.set_xticks([0, 0.5, 1])
        ax.dress(axes, p, ("bottom",))
        ax.name(axes, p, "x", "mean weight of a layer", ax.SMALL)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=7, labelcolor=p.ink,
            handlelength=0.9, handletextpad=0.4, columnspacing=0.8, borderaxespad=0.1, borderpad=0.1, labelspacing=0.25,
        )  # fmt: skip

    def _facts(self, layer: int | None) -> list[str]:
        windows = {w for w in self.a.windows if w} if layer is None else set(self.a.windows[layer : layer + 1]) - {0}
        facts = f"{ax.count(len(self.query_labels), 'query').replace('querys', 'queries')}"
        facts += f", {ax.count(len(self.keys), 'key')}"
        facts += "" if self.all_keys else f" of {self.a.weights.shape[3]:,}"
        facts += "; grey: may not look there" if not all(seen.all() for seen in self.seen) else ""
        facts += f"; sliding window of {', '.join(f'{w:,}' for w in sorted(windows))}" if windows else ""
        return [facts]

    def _widest(self, labels: Sequence[str], size: float = ax.SMALL) -> float:
        return max(ax.width_of(ax.token(label), size, mono=True) for label in labels)

    def _matrix(self, page: ax.Page, axes: Axes, layer: int, head: int) -> None:
        weights = np.asarray(self.a.weights[layer, head], np.float64)[:, self.keys]
        seen = self.seen[layer][:, self.keys]
        axes.imshow(self._colours(page, weights, seen), interpolation="nearest", aspect="auto")
        ax.dress(axes, page.palette, ())

    def _pooled(self, layer: int, head: int, side: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(side, side): the largest weight of each group of cells; small matrices are stretched."""
        weights = np.asarray(self.a.weights[layer, head], np.float64)[:, self.keys]
        seen = self.seen[layer][:, self.keys]
        for axis in (0, 1):
            n = weights.shape[axis]
            if n <= side:
                at = np.arange(side) * n // side
                weights, seen = weights.take(at, axis), seen.take(at, axis)
            else:
                starts = np.arange(side) * n // side
                weights = np.maximum.reduceat(weights, starts, axis)
                seen = np.logical_or.reduceat(seen, starts, axis)
        return weights, seen

    def _norm(self) -> Any:
        from matplotlib.colors import LogNorm, Normalize, PowerNorm

        if self.scale == "log":
            return LogNorm(LEAST, 1.0, clip=True)
        return Normalize(0, 1) if self.scale == "linear" else PowerNorm(0.5, 0, 1)

    def _colours(self, page: ax.Page, weights: NDArray[np.float64], seen: NDArray[np.bool_]) -> Any:
        rgb = ax.sequential(page.palette)(self._norm()(np.maximum(weights, LEAST if self.scale == "log" else 0.0)))[
            ..., :3
        ]
        rgb[~seen] = hidden(page)
        return rgb

    def _scale_of_colours(self, page: ax.Page, place: tuple[float, float, float, float], *, upright: bool) -> None:
        from matplotlib.cm import ScalarMappable

        bar = ax.colour_bar(
            page,
            place,
            ScalarMappable(self._norm(), ax.sequential(page.palette)),
            SCALES[self.scale].replace(" (", "\n("),
        )
        ticks = {
            "power": (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1),
            "linear": (0, 0.25, 0.5, 0.75, 1),
            "log": (0.001, 0.01, 0.1, 1),
        }
        marks = [tick for tick in ticks[self.scale] if upright or tick not in (0.01, 0.1)]
        (bar.set_yticks if upright else bar.set_xticks)(marks, [ax.short_percent(tick) for tick in marks])
        bar.minorticks_off()


def hidden(page: ax.Page) -> tuple[float, float, float]:
    """The grey of cells where a query may not look."""
    return ax.mixed(page.palette.faint, page.palette.ground, 0.42)


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
