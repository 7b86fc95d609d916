"""A decoder and an encoder on the same sentence: what one token may look at in each. In: two Attentions with labels. Out: a Figure.

Above, the mean weights of what was recorded, the token's row framed; below, that row as bars under its columns, with a cross where
it may not look, and the same in words. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanlight.errors import OptionError
from fanlight.views import axes as ax
from fanlight.views.attention import hidden, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.trace.looks import Attention

PANEL, GAP, BARS = 4.3, 0.5, 1.05  # inches: a square, the room between two, the bars' height
NOT_SEEN = "\u00d7"
MOST_PERCENTS = 14
"""Positions up to which bars have their numbers."""


class _Side(NamedTuple):
    name: str
    labels: Sequence[str]
    weights: NDArray[np.float64]
    """(queries, positions)"""
    seen: NDArray[np.bool_]
    row: int
    """The token's, among the queries."""
    query_labels: Sequence[str]

    @property
    def allowed(self) -> list[str]:
        return [label for label, seen in zip(self.labels, self.seen[self.row], strict=True) if seen]

    @property
    def denied(self) -> list[str]:
        return [label for label, seen in zip(self.labels, self.seen[self.row], strict=True) if not seen]


def attention_pair_figure(
    decoder: Attention,
    encoder: Attention,
    decoder_labels: Sequence[str],
    encoder_labels: Sequence[str],
    *,
    token: str = "sat",
    names: tuple[str, str] = ("decoder", "encoder"),
    dark: bool = False,
) -> Figure:
    """The mean of all recorded layers and heads of each; labels: of every position.

    token: the word whose row is looked at, or a part of one as the labels have it; spaces, marks and case do not matter.
    Errors: MissingExtra; OptionError if a sentence has no such token, or its row was not recorded.
    """
    sides = [
        _side(name, attention, labels, token)
        for name, attention, labels in zip(names, (decoder, encoder), (decoder_labels, encoder_labels), strict=True)
    ]
    word = ax.drawable(token.strip())
    counts = [f"{len(side.allowed)} of {ax.count(len(side.labels), 'token')}" for side in sides]
    title = f"What '{word}' may look at: {counts[0]} in the {sides[0].name}, {counts[1]} in the {sides[1].name}"
    facts = [
        "Mean weights of the recorded layers and heads; colours: square root; grey: may not look there; rows are queries."
    ]
    widest = max(ax.width_of(ax.token(x), ax.SMALL, mono=True) for side in sides for x in side.labels)
    left, under = widest + 0.45, widest + 0.25
    lines = [_listed(side, word) for side in sides]
    listing = max(map(len, lines)) * ax.SMALL * ax.LINE / 72 + 0.2
    height = listing + BARS + 0.4 + under + PANEL + 0.3
    page = ax.page(left + 2 * PANEL + GAP + widest + 0.5 + ax.MARGIN, height, title, facts, dark=dark)
    for i, side in enumerate(sides):
        x = left + i * (PANEL + GAP + widest + 0.3)
        matrix = page.axes(x, height - 0.3 - PANEL, PANEL, PANEL)
        _matrix(page, matrix, side)
        _bars(page, page.axes(x, listing + 0.12, PANEL, BARS), side)
        for at, line in enumerate(lines[i]):
            y = listing - 0.08 - (at + 0.5) * ax.SMALL * ax.LINE / 72
            page.text(x, y, line, ax.SMALL, color=ax.quiet(page.palette))
    return page.figure


def _side(name: str, attention: Attention, labels: Sequence[str], token: str) -> _Side:
    weights = np.asarray(attention.weights, np.float64)
    if not weights.size:
        raise OptionError(f"{name}: there are no attention weights; record them with attention=True")
    if len(labels) != weights.shape[3]:
        raise OptionError(
            f"{name}: there must be a label for each of the {weights.shape[3]} positions: got {len(labels)}"
        )
    wanted = _bare(token)
    at = next((i for i, label in enumerate(labels) if wanted and _bare(label) == wanted), None)
    if at is None:
        raise OptionError(f"{name}: the sentence has no token {token!r:.80}; it has {', '.join(labels[:20])}")
    if at not in attention.queries:
        raise OptionError(
            f'{name}: position {at} ({labels[at]}) was not recorded as a query; record them with queries="all"'
        )
    seen = np.logical_or.reduce([visible(attention, i) for i in range(len(attention.layers))])
    row = attention.queries.index(at)
    return _Side(name, labels, weights.mean((0, 1)), seen, row, [labels[q] for q in attention.queries])


def _bare(label: str) -> str:
    return label.replace("␣", " ").removeprefix("##").strip().casefold()


def _listed(side: _Side, word: str) -> list[str]:
    def joined(labels: Sequence[str]) -> str:
        return "  ".join(ax.token(label) for label in labels) or "nothing"

    lines = ax.wrapped(f"'{word}' may see:  {joined(side.allowed)}", PANEL, ax.SMALL, most=3)
    return lines + ax.wrapped(f"may not see:  {joined(side.denied)}", PANEL, ax.SMALL, most=3)


def _matrix(page: ax.Page, axes: Axes, side: _Side) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    colours: Any = ax.sequential(page.palette)(PowerNorm(0.5, 0, 1)(side.weights))[..., :3]
    colours[~side.seen] = hidden(page)
    axes.imshow(colours, interpolation="nearest", aspect="auto")
    ax.dress(axes, page.palette, ())
    ax.token_ticks(axes, "x", side.labels)
    inks = [page.palette.feed_forward if i == side.row else page.palette.ink for i in range(len(side.query_labels))]
    ax.token_ticks(axes, "y", side.query_labels, colours=inks)
    ax.subtitle(axes, page.palette, ax.drawable(side.name), ax.BODY + 1, weight="bold")
    frame = Rectangle(
        (-0.5, side.row - 0.5), len(side.labels), 1, fill=False, lw=2.2, ec=page.palette.feed_forward, clip_on=False,
        label="row",
    )  # fmt: skip
    axes.add_patch(frame)


def _bars(page: ax.Page, axes: Axes, side: _Side) -> None:
    p, n = page.palette, len(side.labels)
    row, seen = side.weights[side.row], side.seen[side.row]
    axes.bar(np.arange(n)[seen], row[seen], width=0.72, color=p.feed_forward, label="weights")
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(0, max(0.05, float(row.max()) * 1.3))
    axes.set_xticks([])
    ax.percent_axis(axes, "y")
    ax.dress(axes, p)
    how: dict[str, Any] = {"ha": "center", "va": "bottom", "family": list(ax.fonts())}
    if n <= MOST_PERCENTS:
        for at in range(n):
            said = ax.short_percent(round(float(row[at]), 2 if row[at] >= 0.1 else 3)) if seen[at] else NOT_SEEN
            axes.text(at, row[at] if seen[at] else 0.0, said, size=7, color=p.ink if seen[at] else ax.quiet(p), **how)
    elif not seen.all():
        axes.plot(np.arange(n)[~seen], np.zeros((~seen).sum()), "x", ms=3, color=ax.quiet(p), clip_on=False)
