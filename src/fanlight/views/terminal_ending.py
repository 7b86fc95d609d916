"""How likely a text was to end, step by step, in a terminal, and why it did. In: a Trace, a Canvas. Out: text. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.trace.stop import StopReason
from fanlight.views.terminal import Canvas, left, right
from fanlight.views.terminal_sheet import (
    POWER_LEAD,
    count,
    cut,
    ending_of,
    highest_power,
    name_of,
    one_line,
    power_chart,
    sheet,
    small_percent,
)

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

PERCENT, NAME = 7, 16  # columns
MOST_LISTED = 5
FEW = 12
"""Steps up to which all are listed."""


def ending_text(trace: Trace, canvas: Canvas) -> str:
    """The probability of ending over the steps, raw and after the processors, on a log scale; where it was likeliest; the reason.

    Errors: OptionError for a trace without steps.
    """
    if not trace.n_steps:
        raise OptionError("this trace has no steps: there is nothing to show of how it ended")
    records = trace.steps
    raw = [record.eos_prob for record in records]
    final = [record.final_eos_prob for record in records]
    differs = any(abs(a - b) > 1e-9 * max(a, b) for a, b in zip(raw, final, strict=True))
    top = highest_power([*raw, *final])
    lines = [canvas.paint("raw: the model's own", "bold"), *power_chart(raw, top, "model", canvas)]
    if differs:
        gone = sum(prob <= 0 for prob in final)
        lines += ["", canvas.paint("after all processors", "bold")]
        lines += power_chart(final, top, "final", canvas) if gone < len(final) else []
        lines += [canvas.paint(f"processors made ending impossible: {count(gone, 'step')}", "cut")] if gone else []
    lines += ["", *_listed(trace, raw, final if differs else None, canvas)]
    best = max(range(len(raw)), key=lambda i: raw[i])
    title = f"{_why(trace, canvas)}; " + (
        f"ending had {small_percent(raw[0])}"
        if len(raw) == 1
        else f"the end was likeliest at step {best:,} of {len(raw):,}: {small_percent(raw[best])}"
    )
    facts = ["probability of all tokens that end a text, together; height: its logarithm"]
    if len(raw) > canvas.width - POWER_LEAD - 1:
        facts.append(f"Of {len(raw):,} steps, those that share a column have their largest probability.")
    return sheet(canvas, title, facts, lines)


def _why(trace: Trace, canvas: Canvas) -> str:
    stop = trace.header.stop
    if trace.header.is_given or stop.reason is StopReason.GIVEN:
        return "the text was given"
    return one_line(stop.detail, canvas)


def _listed(trace: Trace, raw: Sequence[float], final: Sequence[float] | None, canvas: Canvas) -> list[str]:
    """The steps at which it was likeliest, and the last one, in the order of the text; of a short text all steps."""
    order = sorted(range(len(raw)), key=lambda i: (-raw[i], i))
    shown = sorted({*order[: FEW if len(raw) <= FEW else MOST_LISTED], len(raw) - 1})
    number = max(4, len(str(len(raw) - 1)))
    after = f"  {'final':>{PERCENT}}" if final is not None else ""
    head = f"{'step':>{number}}  {'raw':>{PERCENT}}{after}  {left('chosen', NAME)} after"
    room = canvas.width - number - 2 - PERCENT - len(after) - 2 - NAME - 1
    lines = [
        canvas.paint(
            cut(
                "every step" if len(shown) == len(raw) else "where ending was likeliest, and the last step",
                canvas.width,
                canvas,
            ),
            "bold",
        )
    ]
    lines.append(canvas.paint(cut(head, canvas.width, canvas), "dim"))
    for i in shown:
        other = f"  {right(small_percent(final[i]), PERCENT)}" if final is not None else ""
        name = name_of(trace.token_label(trace.ids[i]), NAME, canvas)
        said = f"{right(str(i), number)}  {right(small_percent(raw[i]), PERCENT)}{other}  {left(name, NAME)} "
        lines.append(said + canvas.paint(ending_of(trace.context(i, 60), max(8, room), canvas), "dim"))
    return lines
