"""What each layer would say, in a terminal. In: a Lens, the labels of its steps and tokens, a Canvas. Out: text.

Layers go down, from the embedding to the last block, steps go across; steps that have no room follow below. A mark stands where a
layer would say what the step chose. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log1p
from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import OptionError
from fanlight.views.lens import WHAT, chosen_steps, settled
from fanlight.views.terminal import Canvas, Label, columns, left, right
from fanlight.views.terminal_sheet import Brush, bands, cut, mark, name_of, scale_of, sheet, short_percent

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanlight.trace.looks import Lens

LEAD, NARROWEST, WIDEST, GAP = 7, 6, 12, 1  # columns: a layer's number, a step
MOST_ROWS = 48
SHARES = (0.01, 0.1, 0.5, 1.0)


def lens_text(
    lens: Lens,
    labels_of_steps: Sequence[str],
    label: Label,
    canvas: Canvas,
    *,
    what: str = "prob",
    steps: Sequence[int] | None = None,
) -> str:
    """The token that each layer would say; or numbers of what it would say: `what` is as for `lens_figure`.

    labels_of_steps: of the token that each step chose. label: of any token. steps: None: all. Errors: OptionError.
    """
    if what not in WHAT:
        raise OptionError(f"a lens shows {', '.join(WHAT)}: got {what!r:.80}")
    at = chosen_steps(len(lens.ids), labels_of_steps, steps)
    n_layer = lens.ids.shape[1] - 1
    every = -(-(n_layer + 1) // MOST_ROWS)
    layers = sorted({*range(n_layer, -1, -every), n_layer})
    brush = Brush(canvas)
    draw = _tokens(lens, label, brush) if what == "prob" else _numbers(lens, what, brush)
    names = [name_of(labels_of_steps[i], WIDEST - 2, canvas) for i in at]
    widths = _widths(lens, at, names, label, canvas, has_tokens=what == "prob")
    lines: list[str] = []
    for band in bands(widths, canvas.width - LEAD):
        lines += [""] if lines else []
        numbers = "".join(left(f" {at[k]}", widths[k]) for k in band)
        lines.append(canvas.paint(f"{right('step', LEAD - 1)} {numbers}", "dim"))
        for layer in layers:
            said = "emb." if layer == 0 else "out" if layer == n_layer else str(layer)
            cells = "".join(draw(at[k], layer, widths[k]) for k in band)
            lines.append(f"{canvas.paint(right(said, LEAD - 1), 'dim')} {cells}")
        chosen = "".join(left(cut(f" {names[k]}", widths[k] - GAP, canvas), widths[k]) for k in band)
        lines.append(canvas.paint(f"{right('chosen', LEAD - 1)} {chosen}", "bold"))
    facts = [
        f"Final norm and head read the residual stream after every block; {canvas.plain('▸')}: the layer would say what was chosen"
        + (f"; of {every} layers one is shown" if every > 1 else "")
        + f". {WHAT[what][0].upper()}{WHAT[what][1:].replace('; colours: logarithm', '')}:"
    ]
    return sheet(canvas, _title(lens, at, n_layer), facts, [_legend(lens, what, brush), "", *lines])


def _title(lens: Lens, at: Sequence[int], n_layer: int) -> str:
    when = np.sort(settled(np.asarray(lens.chosen_ranks)[at] == 0))
    n, unlike = len(when), int((when > n_layer).sum())
    if n == 1:
        last = f"settled from block {when[0]} of {n_layer} on" if not unlike else "not what the last layer puts first"
        return f"What each layer would say: the chosen token is {last}"
    middle = int(when[(n - 1) // 2])
    half = f"half of {n} tokens are settled by block {middle} of {n_layer}"
    said = half if middle <= n_layer else f"most of {n} tokens are not the model's first choice"
    if unlike and middle <= n_layer:
        said += f"; {unlike} {'is' if unlike == 1 else 'are'} not the model's first choice"
    return f"What each layer would say: {said}"


def _widths(
    lens: Lens, at: Sequence[int], names: Sequence[str], label: Label, canvas: Canvas, *, has_tokens: bool
) -> list[int]:
    """Columns of each step: what its tokens need, within limits; on a narrow canvas, less."""
    most = max(NARROWEST, min(WIDEST, canvas.width - LEAD))
    found = []
    for i, name in zip(at, names, strict=True):
        own = [columns(name)]
        if has_tokens:
            own += [columns(name_of(label(token), most, canvas)) for token in set(lens.ids[i, :, 0].tolist())]
        found.append(min(most, max(NARROWEST, max(own) + 2 + GAP)))
    return found


def _tokens(lens: Lens, label: Label, brush: Brush) -> Callable[[int, int, int], str]:
    canvas = brush.canvas

    def draw(step: int, layer: int, width: int) -> str:
        prob = exp(float(lens.logprobs[step, layer, 0]))
        room = width - GAP
        sign = "" if canvas.color else mark(prob, canvas)
        said = name_of(label(int(lens.ids[step, layer, 0])), room - 1 - len(sign), canvas)
        return _right(lens, step, layer, canvas) + brush.much(left(said, room - 1 - len(sign)), prob) + sign + " " * GAP

    return draw


def _numbers(lens: Lens, what: str, brush: Brush) -> Callable[[int, int, int], str]:
    share = _share_of(lens, what)

    def draw(step: int, layer: int, width: int) -> str:
        room = width - GAP - 1
        if what == "chosen":
            said = short_percent(exp(float(lens.chosen_logprobs[step, layer])))
        elif what == "rank":
            rank = int(lens.chosen_ranks[step, layer])
            said = str(rank) if rank < 10_000 else f"{rank // 1000}k"
        else:
            said = f"{float(lens.entropies[step, layer]):.2f}"
        return _right(lens, step, layer, brush.canvas) + brush.much(right(said, room), share(step, layer)) + " " * GAP

    return draw


def _share_of(lens: Lens, what: str) -> Callable[[int, int], float]:
    """How much of the ground's scale: of ranks the logarithm, the first having the most."""
    if what == "chosen":
        return lambda step, layer: exp(float(lens.chosen_logprobs[step, layer]))
    if what == "rank":
        most = log1p(max(9.0, float(lens.chosen_ranks.max())))
        return lambda step, layer: 1 - log1p(float(lens.chosen_ranks[step, layer])) / most
    high = max(1.0, float(lens.entropies.max()))
    return lambda step, layer: float(lens.entropies[step, layer]) / high


def _right(lens: Lens, step: int, layer: int, canvas: Canvas) -> str:
    return canvas.paint(canvas.plain("▸"), "final") if lens.chosen_ranks[step, layer] == 0 else " "


def _legend(lens: Lens, what: str, brush: Brush) -> str:
    """Some values on their grounds."""
    if what == "rank":
        most = max(9, int(lens.chosen_ranks.max()))
        ranks = [rank for rank in (0, 9, 99, 999, 9999, 99999) if rank <= most]
        return scale_of([(f"{rank:,}", 1 - log1p(rank) / log1p(most)) for rank in ranks], brush)
    if what == "entropy":
        high = max(1.0, float(lens.entropies.max()))
        return scale_of([(f"{high * share:.1f}", share) for share in (0.0, 0.25, 0.5, 1.0)], brush)
    return scale_of([(short_percent(share), share) for share in SHARES], brush)
