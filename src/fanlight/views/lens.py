"""What each layer would say: layers times steps as a map. In: a Lens and the labels of its tokens. Out: a matplotlib Figure.

Layers grow upwards, from the embedding to the last block. Where cells have room, each holds the token that its layer would say;
cells where that is the token the step chose are framed. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError
from fanlight.views import axes as ax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.trace.looks import Lens

WHAT = {
    "prob": "probability of what the layer would say",
    "chosen": "probability of the chosen token at the layer",
    "rank": "rank of the chosen token at the layer (0: its first; colours: logarithm)",
    "entropy": "entropy of what the layer would say, nats",
}
ROOM = 11.6  # inches: the map at most
WIDEST, NARROWEST = 1.02, 0.46  # inches: a cell with a token in it
ROW, LOW_ROW = 0.235, 0.155  # inches: a layer with tokens, and without
MOST_ROWS = 48
LEAST = 1.3  # inches: all layers
SIZE = 7.2


def lens_figure(
    lens: Lens,
    labels_of_steps: Sequence[str],
    label: Callable[[int], str],
    *,
    steps: Sequence[int] | None = None,
    what: str = "prob",
    dark: bool = False,
) -> Figure:
    """The map of all steps, or of those that are named.

    labels_of_steps: of the token that each step chose. label: of any token. what: "prob" and "entropy" are of what the layer
    would say, "chosen" and "rank" of the token that the step chose. Errors: MissingExtra; OptionError.
    """
    if what not in WHAT:
        raise OptionError(f"a lens shows {', '.join(WHAT)}: got {what!r:.80}")
    at = chosen_steps(len(lens.ids), labels_of_steps, steps)
    n_layer = lens.ids.shape[1] - 1
    every = -(-(n_layer + 1) // MOST_ROWS)
    layers = sorted({*range(n_layer, -1, -every), n_layer})
    cell = min(WIDEST, ROOM / len(at))
    has_tokens = cell >= NARROWEST
    row = max(ROW if has_tokens else LOW_ROW, LEAST / len(layers))
    right = np.asarray(lens.chosen_ranks)[at] == 0  # (steps, layers)
    widest = max(ax.width_of(ax.token(labels_of_steps[i]), ax.SMALL, mono=True) for i in at)
    left = 1.05
    below = (widest if widest + 0.06 > cell else 0.15) + 0.5
    width = max(left + cell * len(at) + 1.3, 6.2)
    facts = [
        "Final norm and head read the residual stream after every block"
        + (
            "; framed: the layer would say what was chosen"
            if has_tokens
            else "; inside the line: the layer would say it too"
        )
        + (f"; of {every} layers one is drawn" if every > 1 else "")
        + "."
    ]
    page = ax.page(width, below + row * len(layers) + 0.25, _title(right, n_layer), facts, dark=dark)
    axes = page.axes(left, below, cell * len(at), row * len(layers))
    values, colours = _colours(page, lens, at, what)
    shown: NDArray[np.float64] = np.asarray(colours.cmap(colours.norm(values)))[:, layers, :3].transpose(1, 0, 2)
    axes.imshow(shown, origin="lower", interpolation="nearest", aspect="auto")
    ax.dress(axes, page.palette, ())
    if has_tokens:
        _tokens(axes, np.asarray(lens.ids)[at][:, layers, 0].T, shown, label, cell)
    _frames(page, axes, right[:, layers].T, each=has_tokens)
    ax.token_ticks(axes, "x", [labels_of_steps[i] for i in at])
    ax.token_ticks(axes, "y", [_layer(i, n_layer) for i in layers])
    ax.name(axes, page.palette, "x", "token that each step chose")
    ax.name(axes, page.palette, "y", "after block")
    tall = min(3.4, row * len(layers))
    bar = ax.colour_bar(
        page, (left + cell * len(at) + 0.22, below + row * len(layers) - tall, 0.15, tall), colours,
        "\n".join(ax.wrapped(WHAT[what], max(tall, 1.6), ax.SMALL)),
    )  # fmt: skip
    _ticks(bar, what)
    return page.figure


def settled(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n_steps,): the layer from which on a step's token stays the first; n_layer + 1 where the last one says another.

    right: (n_steps, n_layer + 1): where a layer would say the chosen token.
    """
    wrong = ~right[:, ::-1]
    last_wrong = np.where(wrong.any(1), wrong.argmax(1), right.shape[1])  # layers from the end that stay right
    return np.asarray(right.shape[1] - last_wrong)


def chosen_steps(n_steps: int, labels: Sequence[str], steps: Sequence[int] | None) -> list[int]:
    """Numbers of steps, counted from the end if negative. Errors: OptionError."""
    if len(labels) != n_steps:
        raise OptionError(f"there must be a label for each of the {n_steps} steps: got {len(labels)}")
    if not n_steps:
        raise OptionError("there is nothing to show: the trace has no step")
    if steps is None:
        return list(range(n_steps))
    found = []
    for step in steps:
        if isinstance(step, bool) or not isinstance(step, int) or not -n_steps <= step < n_steps:
            raise OptionError(f"there is no step {step!r:.80}; the trace has {n_steps}, from 0 to {n_steps - 1}")
        found.append(step % n_steps)
    if not found:
        raise OptionError("steps= names no step; give those to show, or leave it out")
    return found


def _title(right: NDArray[np.bool_], n_layer: int) -> str:
    when = settled(right)
    n = len(when)
    if n == 1:
        said = (
            f"settled from block {when[0]} of {n_layer} on"
            if when[0] <= n_layer
            else "not what the last layer puts first"
        )
        return f"What each layer would say: the chosen token is {said}"
    middle = int(np.sort(when)[(n - 1) // 2])
    of = (
        f"half of {n} tokens are settled by block {middle} of {n_layer}"
        if middle <= n_layer
        else f"most of {n} tokens are not the model's first choice"
    )
    unlike = int((when > n_layer).sum())
    other = (
        f"; {unlike} {'is' if unlike == 1 else 'are'} not the model's first choice"
        if unlike and middle <= n_layer
        else ""
    )
    return f"What each layer would say: {of}{other}"


def _layer(layer: int, n_layer: int) -> str:
    return "embedding" if layer == 0 else f"{layer} (out)" if layer == n_layer else str(layer)


def _colours(page: ax.Page, lens: Lens, at: Sequence[int], what: str) -> tuple[NDArray[np.float64], Any]:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    norm: Any = Normalize(0, 1)
    colours: Any = ax.sequential(page.palette)
    if what == "rank":
        values = np.asarray(lens.chosen_ranks, np.float64)[at] + 1
        norm = LogNorm(1, max(10.0, float(values.max())))
        colours = colours.reversed()
    elif what == "entropy":
        values = np.asarray(lens.entropies, np.float64)[at]
        norm = Normalize(0, max(1.0, float(values.max())))
    else:
        logprobs = lens.logprobs[..., 0] if what == "prob" else lens.chosen_logprobs
        values = np.exp(np.asarray(logprobs, np.float64)[at])
    return values, ScalarMappable(norm, colours)


def _ticks(bar: Axes, what: str) -> None:
    if what == "rank":
        high = bar.get_ylim()[1]
        ranks = [rank for rank in (0, 9, 99, 999, 9999, 99999) if rank + 1 <= high]
        bar.set_yticks([rank + 1 for rank in ranks], [f"{rank:,}" for rank in ranks])
        bar.minorticks_off()
    elif what != "entropy":
        ax.percent_axis(bar, "y")


def _tokens(
    axes: Axes, ids: NDArray[np.int32], grounds: NDArray[np.float64], label: Callable[[int], str], cell: float
) -> None:
    """The token of every cell, cut to fit."""
    most = max(2, int((cell - 0.13) / ax.width_of("m", SIZE, mono=True)))
    known: dict[int, str] = {}
    family = list(ax.fonts(mono=True))
    for y, x in np.ndindex(*ids.shape):
        token = int(ids[y, x])
        said = known.setdefault(token, ax.token(label(token), most))
        ink = ax.ink_on(tuple(grounds[y, x]))
        axes.text(x, y, said, size=SIZE, ha="center", va="center_baseline", color=ink, family=family)


def _frames(page: ax.Page, axes: Axes, right: NDArray[np.bool_], *, each: bool) -> None:
    """Around each cell that is right; or one line around all that lie together. right: (rows, columns)."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    ink = page.palette.feed_forward
    if each:
        for y, x in zip(*np.nonzero(right), strict=True):
            axes.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, lw=1.3, ec=ink, label="right"))
        return
    padded = np.pad(right, 1)
    sides, ends = np.nonzero(padded[:, 1:] != padded[:, :-1]), np.nonzero(padded[1:] != padded[:-1])
    lines = [[(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in zip(*sides, strict=True)]
    lines += [[(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in zip(*ends, strict=True)]
    axes.add_collection(LineCollection(lines, colors=ink, linewidths=1.1, label="right", clip_on=False), autolim=False)
