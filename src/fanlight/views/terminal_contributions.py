"""What each block added to the chosen token's logit, in a terminal. In: Contributions, the steps' labels, a Canvas. Out: text.

One step: bars to the left below nothing, to the right above it, and the running sum. Several: blocks down, steps across. Knows no
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, sqrt
from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import OptionError
from fanlight.views.lens import chosen_steps
from fanlight.views.terminal import Canvas, left, right
from fanlight.views.terminal_sheet import Brush, bands, cut, name_of, sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.trace.looks import Contributions

LEAD, NUMBER, SUM, MOST_BAR = 6, 7, 8, 14  # columns
CELL = 7
LARGEST = 3
"""The title of one step names so many parts."""


def contributions_text(
    contributions: Contributions,
    labels_of_steps: Sequence[str],
    canvas: Canvas,
    *,
    step: int | None = None,
    steps: Sequence[int] | None = None,
) -> str:
    """step: that one as bars. Otherwise numbers of all steps, or of those in `steps`; of one alone, its bars.

    labels_of_steps: of the token that each step chose. Errors: OptionError.
    """
    if step is not None and steps is not None:
        raise OptionError("give step= for one step as bars, or steps= for several, not both")
    at = chosen_steps(len(contributions.logits), labels_of_steps, steps if step is None else [step])
    if len(at) == 1:
        return _bars(contributions, at[0], labels_of_steps[at[0]], canvas)
    return _table(contributions, at, [labels_of_steps[i] for i in at], canvas)


# -- one step --------------------------------------------------------------------------------------------------------------


def _bars(c: Contributions, step: int, label: str, canvas: Canvas) -> str:
    attention, feed_forward = np.asarray(c.attention[step], float), np.asarray(c.feed_forward[step], float)
    start, constant, logit = float(c.embedding[step]), float(c.constant[step]), float(c.logits[step])
    n = len(attention)
    both = np.concatenate([attention, feed_forward])
    most = max(float(np.abs(both).max(initial=0.0)), 1e-9)
    room = max(1, min(MOST_BAR, (canvas.width - LEAD - 2 * NUMBER - SUM - 4) // 4))
    side = NUMBER + 2 + 2 * room
    names = ("att.", "f.-f.") if side < 15 else (" attention", " feed-forward")
    heads = "".join(left(name, side) for name in names)
    lines = [canvas.paint(f"{right('block', LEAD - 1)} {heads}{right('sum', SUM - 1)}", "dim")]
    blank = " " * side
    total = start
    lines.append(f"{right('emb.', LEAD - 1)} {right(f'{start:+.2f}', NUMBER)}{blank[NUMBER:]}{blank}{_sum(total)}")
    for i in range(n):
        total += float(attention[i]) + float(feed_forward[i])
        parts = _part(float(attention[i]), most, room, "model", canvas) + _part(
            float(feed_forward[i]), most, room, "final", canvas
        )
        lines.append(f"{right(str(i), LEAD - 1)} {parts}{_sum(total)}")
    if constant:
        total += constant
        lines.append(
            f"{right('bias', LEAD - 1)} {right(f'{constant:+.2f}', NUMBER)}{blank[NUMBER:]}{blank}{_sum(total)}"
        )
    lines.append(canvas.paint(f"{right('logit', LEAD - 1)} {blank}{blank}{_sum(logit)}", "bold"))
    parts_of = [*(f"attention of block {i}" for i in range(n)), *(f"feed-forward of block {i}" for i in range(n))]
    order = [int(i) for i in np.argsort(-np.abs(both), kind="stable")[:LARGEST]]
    said = f"embedding {start:+.2f}, attention {attention.sum():+.2f}, feed-forward {feed_forward.sum():+.2f}"
    said += f", constant {constant:+.2f}" if constant else ""
    facts = [f"Largest: {', '.join(f'{parts_of[i]} {both[i]:+.2f}' for i in order)}. Bars to one scale: {most:.2f}."]
    if abs(total - logit) >= 0.005:
        facts.append(
            f"The parts sum to {total:.2f}; what is between is the rounding of activations, or a cap on logits."
        )
    title = f"Why '{name_of(label, 24, canvas)}' at step {step}? Its logit {logit:.2f} = {said}"
    return sheet(canvas, title, facts, lines)


def _sum(total: float) -> str:
    return right(f"{round(total, 2) + 0:.2f}", SUM - 1)


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0:+.2f}"


def _part(value: float, most: float, room: int, style: str, canvas: Canvas) -> str:
    """A number and its bar, below nothing to the left."""
    share = abs(value) / most
    lower = canvas.bar_left(share if value < 0 else 0.0, room, style)
    upper = canvas.bar(share if value > 0 else 0.0, room, style)
    middle = "│" if canvas.unicode else "|"
    return f"{right(_signed(value), NUMBER)} {lower}{canvas.paint(middle, 'dim')}{upper}"


# -- several steps ---------------------------------------------------------------------------------------------------------


def _table(c: Contributions, at: Sequence[int], labels: Sequence[str], canvas: Canvas) -> str:
    attention, feed_forward = np.asarray(c.attention, float)[at], np.asarray(c.feed_forward, float)[at]
    start, constant, logits = (np.asarray(part, float)[at] for part in (c.embedding, c.constant, c.logits))
    ends = [("emb.", start)] + ([("bias", constant)] if constant.any() else [])
    most = max(float(np.abs(part).max(initial=0.0)) for part in (attention, feed_forward, start, constant)) or 1.0
    brush, lines = Brush(canvas), list[str]()
    for band in bands([CELL] * len(at), canvas.width - LEAD):
        lines += [""] if lines else []
        numbers = "".join(right(str(at[k]), CELL) for k in band)
        names = "".join(right(name_of(labels[k], CELL - 1, canvas), CELL) for k in band)
        lines.append(canvas.paint(f"{right('step', LEAD - 1)} {numbers}", "dim"))
        lines.append(canvas.paint(f"{' ' * LEAD}{names}", "bold"))
        for title, rows in (("attention of block", attention), ("feed-forward of block", feed_forward)):
            lines.append(canvas.paint(cut(title, canvas.width, canvas), "dim"))
            for i in range(rows.shape[1]):
                lines.append(_row(str(i), rows[:, i], band, most, brush))
        lines.append(canvas.paint("the rest", "dim"))
        lines += [_row(name, values, band, most, brush) for name, values in ends]
        sums = "".join(right(f"{logits[k]:.2f}", CELL) for k in band)
        lines.append(canvas.paint(f"{right('logit', LEAD - 1)} {sums}", "bold"))
    means = {"attention": attention.sum(1), "feed-forward": feed_forward.sum(1), "the embedding": start}
    said = ", ".join(f"{name} {values.mean():+.2f}" for name, values in means.items())
    title = f"What the blocks add to the chosen logits, means of {len(at)} steps: {said}"
    facts = [f"Mean logit {logits.mean():.2f}; its parts are read with the final norm as it was."]
    if canvas.color:
        facts.append("Grounds: blue below nothing, orange above; the square root.")
    return sheet(canvas, title, facts, lines)


def _row(name: str, values: NDArray[np.float64], band: range, most: float, brush: Brush) -> str:
    cells = []
    for k in band:
        value = float(values[k])
        share = copysign(sqrt(abs(value) / most), value)
        said = _signed(value) if abs(value) < 99.995 else f"{value:+.0f}"
        cells.append(" " + brush.signed(right(said, CELL - 1), share))
    return f"{right(name, LEAD - 1)} {''.join(cells)}"
