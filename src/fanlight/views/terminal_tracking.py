"""How likely a token, or a text, was at each step, in a terminal. In: a Tracked, a Canvas. Out: text. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.views.terminal import Canvas, right
from fanlight.views.terminal_sheet import (
    POWER_LEAD,
    count,
    highest_power,
    name_of,
    one_line,
    power_chart,
    sheet,
    small_percent,
)

if TYPE_CHECKING:
    from fanlight.tracing.tracking import Tracked

PERCENT, NAME = 9, 16  # columns
MOST_LISTED, FEW = 8, 20
"""Steps that are listed; up to FEW, all are."""


def tracking_text(tracked: Tracked, canvas: Canvas) -> str:
    """The probability over the steps, on a log scale; the steps where it was likeliest, and what was chosen there.

    Of a step that did not store it, the most that it can be. Errors: OptionError for a run without steps.
    """
    n = tracked.n_steps
    if not n:
        raise OptionError("this run has no steps: there is nothing to track")
    probs = [float(prob) for prob in tracked.raw_probs]
    bounds = [not known for known in tracked.exact.tolist()]
    lines = power_chart(probs, highest_power(probs), "model", canvas, bounds=bounds)
    lines += ["", *_listed(tracked, probs, canvas)]
    name, best = one_line(tracked.label, canvas), tracked.likeliest
    if best is None:
        title = f"'{name}' over {count(n, 'step')}: no step stored it, it had {small_percent(max(probs))} at most"
    else:
        title = f"'{name}' over {count(n, 'step')}: most probable at step {best}, {small_percent(probs[best])}"
    return sheet(canvas, title, _facts(tracked, canvas), lines)


def _facts(tracked: Tracked, canvas: Canvas) -> list[str]:
    n_open = tracked.n_steps - int(tracked.exact.sum())
    found = ["the model's own probability, on a log scale"]
    chosen = [i for i in range(tracked.n_steps) if tracked.chosen[i]]
    for what, steps in (
        ("passes 50% at", tracked.passed_half),
        ("becomes the first at", tracked.became_first),
        ("chosen at", chosen),
    ):
        if len(steps):
            more = f" and {len(steps) - FEW} more" if len(steps) > FEW else ""
            found.append(f"{what} step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps[:FEW]))}{more}")
    if n_open:
        found.append(f"not stored at {count(n_open, 'step')}: lighter, the most it can be")
    shared = "of steps that share a column, the largest" if tracked.n_steps > canvas.width - POWER_LEAD - 1 else ""
    return ["; ".join(found), shared, tracked.note]


def _listed(tracked: Tracked, probs: list[float], canvas: Canvas) -> list[str]:
    """The likeliest steps of those that are known, and those that chose it, in their order; of a short run all."""
    n = tracked.n_steps
    order = sorted(range(n), key=lambda i: (not tracked.exact[i], -probs[i], i))
    chosen = [i for i in range(n) if tracked.chosen[i]][:MOST_LISTED]
    shown = range(n) if n <= FEW else sorted({*order[:MOST_LISTED], *chosen})
    head = "every step" if len(shown) == n else "where it was likeliest, and where it was chosen"
    number = max(4, len(str(n - 1)))
    lines = [canvas.paint(head, "bold")]
    lines.append(canvas.paint(f"{'step':>{number}}  {'prob':>{PERCENT}}  {'rank':>7}  chosen", "dim"))
    for i in shown:
        is_known = bool(tracked.exact[i])
        prob = ("" if is_known else "<= ") + small_percent(probs[i])
        rank = ("" if is_known else ">= ") + f"{int(tracked.ranks[i]):,}"
        name = "it" if tracked.chosen[i] else name_of(tracked.step_labels[i], NAME, canvas)
        line = f"{right(str(i), number)}  {right(prob, PERCENT)}  {right(rank, 7)}  {name}"
        lines.append(canvas.paint(line, "final") if tracked.chosen[i] else line)
    return lines
