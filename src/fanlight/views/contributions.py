"""What each block added to the chosen token's logit, as pictures. In: Contributions, the steps' labels. Out: a matplotlib Figure.

One step: the parts as bars, and their running sum up to the logit. Several steps: blocks times steps as maps, blue below nothing,
orange above. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError
from fanlight.views import axes as ax
from fanlight.views.lens import chosen_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.trace.looks import Contributions

WIDTH = 11.6  # inches: the map at most, and the bars
CELL, ROW = 0.4, 0.145  # inches: a step, and a block
SMALLEST = 3.2  # inches: a map
SUM, PARTS = 2.3, 2.7  # inches: the two panels of one step


def contributions_figure(
    contributions: Contributions,
    labels_of_steps: Sequence[str],
    *,
    step: int | None = None,
    steps: Sequence[int] | None = None,
    dark: bool = False,
) -> Figure:
    """step: that one as bars. Otherwise maps of all steps, or of those in `steps`; of one alone, its bars.

    labels_of_steps: of the token that each step chose. Errors: MissingExtra; OptionError.
    """
    if step is not None and steps is not None:
        raise OptionError("give step= for one step as bars, or steps= for maps, not both")
    wanted = steps if step is None else [step]
    at = chosen_steps(len(contributions.logits), labels_of_steps, wanted)
    if len(at) == 1:
        return _bars(contributions, at[0], labels_of_steps[at[0]], dark=dark)
    return _maps(contributions, at, [labels_of_steps[i] for i in at], dark=dark)


# -- one step --------------------------------------------------------------------------------------------------------------


def _bars(c: Contributions, step: int, label: str, *, dark: bool) -> Figure:
    attention, feed_forward = np.asarray(c.attention[step], float), np.asarray(c.feed_forward[step], float)
    start, constant, logit = float(c.embedding[step]), float(c.constant[step]), float(c.logits[step])
    n = len(attention)
    said = ax.token(label, 24)
    parts = f"embedding {start:+.2f}, attention {attention.sum():+.2f}, feed-forward {feed_forward.sum():+.2f}"
    parts += f", constant {constant:+.2f}" if constant else ""
    total = start + attention.sum() + feed_forward.sum() + constant
    names = [*(f"attention of block {i}" for i in range(n)), *(f"feed-forward of block {i}" for i in range(n))]
    both = np.concatenate([attention, feed_forward])
    order = [int(i) for i in np.argsort(-np.abs(both), kind="stable")[:3]]
    facts = [f"Largest: {', '.join(f'{names[i]} {both[i]:+.2f}' for i in order)}."]
    if abs(total - logit) >= 0.005:
        facts.append(
            f"The parts sum to {total:.2f}; what is between is the rounding of activations, or a cap on logits."
        )
    title = f"Why '{said}' at step {step}? Its logit {logit:.2f} = {parts}"
    left, below = 0.75, 0.62
    page = ax.page(left + WIDTH + ax.MARGIN, below + PARTS + 0.45 + SUM + 0.2, title, facts, dark=dark)
    p = page.palette
    bars = page.axes(left, below, WIDTH, PARTS)
    sums = page.axes(left, below + PARTS + 0.45, WIDTH, SUM)
    x = np.arange(n)
    bars.bar(x - 0.2, attention, width=0.38, color=p.attention, label="attention")
    bars.bar(x + 0.2, feed_forward, width=0.38, color=p.feed_forward, label="feed-forward")
    bars.bar([-1], [start], width=0.5, color=p.norm, label="embedding")
    ends = [-1, *range(n)]
    if constant:
        bars.bar([n], [constant], width=0.5, color=p.table, label="constant (biases)")
        ends.append(n)
    bars.axhline(0, color=p.faint, lw=0.8)
    ax.name(bars, p, "y", "added to the logit")
    _line(sums, c, step, constant=bool(constant), palette=p)
    for axes in (bars, sums):
        axes.set_xlim(-1.6, ends[-1] + 0.6)
        ax.grid(axes, p, "y")
    names_of = ["emb.", *map(str, range(n))] + (["bias"] if constant else [])
    ax.token_ticks(bars, "x", names_of, at=ends)
    sums.set_xticks([])
    ax.dress(sums, p, ("left",))
    sums.tick_params(bottom=False)
    ax.name(bars, p, "x", "block")
    ax.name(sums, p, "y", "running sum")
    bars.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=ax.SMALL, labelcolor=p.ink,
        borderaxespad=0.1, handlelength=1.0,
    )  # fmt: skip
    return page.figure


def _line(axes: Axes, c: Contributions, step: int, *, constant: bool, palette: Any) -> None:
    """The running sum: after the embedding, each block's attention, its feed-forward network, and the constant."""
    n = c.attention.shape[1]
    steps = [float(c.embedding[step])]
    for i in range(n):
        steps += [float(c.attention[step, i]), float(c.feed_forward[step, i])]
    places = [-1.0] + [i + side for i in range(n) for side in (-0.2, 0.2)]
    if constant:
        steps.append(float(c.constant[step]))
        places.append(float(n))
    sums = np.cumsum(steps)
    axes.plot(places, sums, "-", color=palette.ink, lw=1.5, marker=".", ms=4, label="running sum")
    logit = float(c.logits[step])
    axes.axhline(logit, color=palette.table, lw=1.1, ls=(0, (4, 3)), label="logit")
    axes.axhline(0, color=palette.faint, lw=0.8)
    low, high = min(0.0, float(sums.min()), logit), max(0.0, float(sums.max()), logit)
    room = (high - low) or 1.0
    axes.set_ylim(low - 0.08 * room, high + 0.2 * room)
    axes.annotate(
        f"logit {logit:.2f}", (-1.6, logit), (4, 3), textcoords="offset points", size=ax.SMALL, color=palette.table,
        va="bottom", family=list(ax.fonts()),
    )  # fmt: skip


# -- several steps ---------------------------------------------------------------------------------------------------------


def _maps(c: Contributions, at: Sequence[int], labels: Sequence[str], *, dark: bool) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import FuncNorm

    attention = np.asarray(c.attention, float)[at].T  # (blocks, steps)
    feed_forward = np.asarray(c.feed_forward, float)[at].T
    ends = np.stack([np.asarray(c.embedding, float)[at], np.asarray(c.constant, float)[at]])
    n, wide = len(attention), max(SMALLEST, min(WIDTH, len(at) * CELL))
    row = max(ROW, 1.2 / n)
    most = float(max(np.abs(attention).max(), np.abs(feed_forward).max(), np.abs(ends).max())) or 1.0
    norm = FuncNorm((lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda y: np.sign(y) * y * y), -most, most)
    colours = ScalarMappable(norm, ax.diverging(ax.palette_of(dark)))
    left, gap = 0.95, 0.34
    below = max(ax.width_of(ax.token(label), ax.SMALL, mono=True) for label in labels) + 0.5
    parts = {"attention": attention.sum(0), "feed-forward": feed_forward.sum(0), "the embedding": ends[0]}
    said = ", ".join(f"{name} {values.mean():+.2f}" for name, values in parts.items())
    title = f"What the blocks add to the chosen logits, means of {len(at)} steps: {said}"
    facts = [
        f"Mean logit {float(np.asarray(c.logits, float)[at].mean()):.2f}; its parts are read with the final norm as it was."
    ]
    maps = [
        ("embedding; biases after the last block", ends, ["emb.", "bias"], 2 * 0.16),
        ("feed-forward", feed_forward, [str(i) for i in range(n)], n * row),
        ("attention", attention, [str(i) for i in range(n)], n * row),
    ]
    if not np.any(ends[1]):
        maps[0] = ("embedding", ends[:1], ["emb."], 0.18)
    tall = sum(height for *_, height in maps) + 3 * gap
    page = ax.page(max(left + wide + 1.2, 6.2), below + tall + 0.1, title, facts, dark=dark)
    bottom = below
    for name, values, rows, height in maps:
        axes = page.axes(left, bottom, wide, height)
        axes.imshow(_rgb(colours, values), origin="lower", interpolation="nearest", aspect="auto")
        ax.dress(axes, page.palette, ())
        ax.token_ticks(axes, "y", rows)
        ax.subtitle(axes, page.palette, name, weight="bold", pad=4.0)
        if len(rows) > 2:
            ax.name(axes, page.palette, "y", "block")
        axes.set_xticks([])
        if bottom == below:
            ax.token_ticks(axes, "x", labels)
            ax.name(axes, page.palette, "x", "token that each step chose")
        bottom += height + gap
    high = min(3.2, tall - gap)
    bar = ax.colour_bar(
        page,
        (left + wide + 0.25, bottom - gap - high, 0.15, high),
        colours,
        "added to the logit (colours: square root)",
    )
    marks = [mark for mark in (most / 16, most / 4, most) for mark in (mark, -mark)]
    bar.set_yticks([0, *marks], [f"{mark:+.2g}" if mark else "0" for mark in [0, *marks]])
    bar.minorticks_off()
    return page.figure


def _rgb(colours: Any, values: NDArray[np.float64]) -> Any:
    return colours.to_rgba(values)[..., :3]
