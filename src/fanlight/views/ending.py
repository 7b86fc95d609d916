"""How likely a text was to end, step by step, and why it did. In: a Trace. Out: a matplotlib Figure. Knows no model.

The view's name in commands is "eos". A step's probability of ending is that of all tokens that end a text, together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.trace.stop import StopReason
from fanlight.views import axes as shared
from fanlight.views.axes import MARGIN, SMALL, context, count, drawable, page, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fanlight.tracing.trace import Trace
    from fanlight.views.axes import Page

WIDEST, NARROWEST, STEP = 11.0, 6.4, 0.2  # inches, and how much a step makes it wider
HEIGHT = 3.6  # inches, of the axes
LEAST = 1e-12
"""What is less probable is drawn at the bottom."""
MOST_DOTS = 80
"""Steps up to which each has a dot of its own."""


def ending_figure(trace: Trace, *, dark: bool = False) -> Figure:
    """The probability of ending at every step, raw and after the processors, on a log axis; at the end, why the text ended.

    Errors: MissingExtra; OptionError for a trace without steps.
    """
    if not trace.n_steps:
        raise OptionError("this trace has no steps: there is nothing to show of how it ended")
    records = trace.steps
    raw = [record.eos_prob for record in records]
    final = [record.final_eos_prob for record in records]
    differs = any(abs(a - b) > 1e-9 * max(a, b) for a, b in zip(raw, final, strict=True))
    labels = [trace.token_label(token) for token in trace.ids]
    wide = min(WIDEST, NARROWEST + STEP * trace.n_steps)
    made = page(wide, HEIGHT + 1.65, _title(trace, raw), [_facts(final, differs)], dark=dark)
    axes = made.axes(0.95, 1.3, wide - 0.95 - MARGIN, HEIGHT)
    axes.set_xlim(-0.6, max(trace.n_steps - 0.4, 0.6))
    _limits(axes, [*raw, *final])
    _line(axes, made, raw, made.palette.attention, "raw", dashed=False)
    if differs:
        _line(axes, made, final, made.palette.feed_forward, "after all processors", dashed=True)
        _removed(axes, made, final)
    _end(axes, made, trace, final if differs else raw)
    shared.name(axes, made.palette, "y", "probability of ending here (log scale)")
    shown = shared.token_ticks(axes, "x", labels, most=12)
    every = "" if shown.every == 1 else f", each {shown.every}th shown"
    shared.name(axes, made.palette, "x", f"token chosen at the step{every}")
    if differs:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, frameon=False, fontsize=SMALL, labelcolor=made.palette.ink,
            handlelength=2.2, borderaxespad=0.1,
        )  # fmt: skip
    return made.figure


# -- words -----------------------------------------------------------------------------------------------------------------


def _title(trace: Trace, raw: Sequence[float]) -> str:
    best = max(range(len(raw)), key=lambda i: raw[i])
    if len(raw) == 1:
        return f"{why(trace)}; ending had {percent(raw[0])}"
    return f"{why(trace)}; the end was likeliest at step {best:,} of {len(raw):,}: {percent(raw[best])} raw"


def why(trace: Trace) -> str:
    """Why it ended, in words."""
    stop = trace.header.stop
    if trace.header.is_given or stop.reason is StopReason.GIVEN:
        return "the text was given"
    return drawable(stop.detail)


def _facts(final: Sequence[float], differs: bool) -> str:
    said = "raw: the model's own; of all tokens that end a text, together"
    gone = sum(prob <= 0 for prob in final)
    if differs and gone:
        said += f"; triangles: processors made ending impossible, {count(gone, 'step')}"
    return said


# -- drawing ---------------------------------------------------------------------------------------------------------------


def _limits(axes: Axes, probs: Sequence[float]) -> None:
    shown = [prob for prob in probs if prob > 0]
    low = max(LEAST, min(shown, default=1e-3))
    shared.percent_axis(axes, "y", log=True)
    axes.set_ylim(low / 4, 2.5)


def _line(axes: Axes, made: Page, probs: Sequence[float], colour: str, label: str, *, dashed: bool) -> None:
    import numpy as np

    values = np.maximum(np.array(probs, np.float64), axes.get_ylim()[0] * 1.6)
    values[np.array(probs) <= 0] = np.nan
    marker = "o" if len(probs) <= MOST_DOTS else ""
    axes.plot(
        range(len(probs)), values, color=colour, lw=1.6 if len(probs) <= 200 else 1.1, marker=marker, ms=3.4, label=label,
        ls=(0, (4, 2)) if dashed else "-", zorder=3,
    )  # fmt: skip
    alone = [i for i in range(len(values)) if not np.isnan(values[i]) and np.isnan(_neighbours(values, i)).all()]
    axes.plot(alone, values[alone], "o", ms=3.4, color=colour, zorder=3)
    shared.grid(axes, made.palette, "y")


def _neighbours(values: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    return values[[j for j in (i - 1, i + 1) if 0 <= j < len(values)]]


def _removed(axes: Axes, made: Page, final: Sequence[float]) -> None:
    steps = [i for i, prob in enumerate(final) if prob <= 0]
    axes.plot(
        steps, [axes.get_ylim()[0] * 1.25] * len(steps), "v", color=made.palette.feed_forward, ls="", zorder=4,
        ms=4.5 if len(final) <= MOST_DOTS else 2.5, mfc=made.palette.ground, mew=0.9,
    )  # fmt: skip


def _end(axes: Axes, made: Page, trace: Trace, probs: Sequence[float]) -> None:
    """What ended the text, at its last step: a dot where a token did, a line where a limit did."""
    palette, last = made.palette, trace.n_steps - 1
    reason = trace.header.stop.reason
    if reason is StopReason.EOS:
        y = max(probs[last], axes.get_ylim()[0] * 1.6)
        axes.plot([last], [y], "o", ms=8.5, mfc="none", mec=palette.ink, mew=1.5, zorder=5)
        said, at, shift = f"ended here, at {percent(probs[last])}", y, 0 if probs[last] > 0.02 else 12
    elif reason is StopReason.GIVEN or trace.header.is_given:
        return
    else:
        axes.axvline(last + 0.3, color=palette.ink, lw=1.1, ls=(0, (4, 2.5)))
        said, at, shift = _short(trace), axes.get_ylim()[1] * 0.55, 0
    x = last if reason is StopReason.EOS else last + 0.3
    axes.annotate(
        said, (x, at), (-9, shift), textcoords="offset points", ha="right", va="center",
        size=SMALL, color=palette.ink, weight="bold", family=list(shared.fonts()), zorder=6,
        bbox={"facecolor": palette.ground, "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
    )  # fmt: skip


def _short(trace: Trace) -> str:
    """What cut the text, at the line: "max_new_tokens=40 cut it here"."""
    stop = trace.header.stop
    if stop.reason is StopReason.MAX_NEW_TOKENS:
        limit = trace.header.settings.get("max_new_tokens", trace.n_steps)
        return f"max_new_tokens={limit} cut it here"
    if stop.reason is StopReason.STOP_STRING and stop.string:
        return f"stop string {context(stop.string, 20)}"
    return str(stop.reason.value)
