"""How likely a token or a text was, step by step. In: one Tracked, or several. Out: a matplotlib Figure. Knows no model.

A line is what is known; where a step did not store the token, a bar from nothing to the most that it can have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.views import axes as shared
from fanlight.views.axes import BODY, MARGIN, SMALL, count, page, percent, series, token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.tracing.tracking import Tracked
    from fanlight.views.axes import Page

WIDEST, NARROWEST, STEP = 12.0, 6.4, 0.22  # inches, and how much a step makes it wider
HEIGHT = 3.6  # inches, of the axes
MOST = 8
"""Lines in one picture."""
MOST_DOTS = 80
"""Steps up to which each has a dot of its own."""
LEAST = 1e-7
"""What is less probable is drawn at the bottom."""
MARKERS = "os^Dv<>P"
"""So that lines can be told apart without their colours."""


def tracking_figure(tracked: Tracked | Sequence[Tracked], *, dark: bool = False) -> Figure:
    """Raw probability over the steps, on a log axis; where it passes 50 %, and where the text goes on with it.

    Errors: MissingExtra; OptionError for none, for more than 8, or for a run without steps.
    """
    several = list(tracked) if isinstance(tracked, Sequence) else [tracked]
    if not several or len(several) > MOST:
        raise OptionError(f"a picture shows 1 to {MOST} tracked tokens: got {len(several)}")
    n_steps = several[0].n_steps
    if not n_steps:
        raise OptionError("this run has no steps: there is nothing to follow a token over")
    if any(each.step_labels != several[0].step_labels for each in several):
        raise OptionError("these were tracked over different runs; show each in a picture of its own")
    wide = min(WIDEST, NARROWEST + STEP * n_steps)
    made = page(wide, HEIGHT + 1.65, _title(several), _facts(several), dark=dark)
    axes = made.axes(0.95, 1.3, wide - 0.95 - MARGIN - 1.3, HEIGHT)
    axes.set_xlim(-0.6, max(n_steps - 0.4, 0.6))
    shared.percent_axis(axes, "y", log=True)
    known = [float(prob) for each in several for prob in each.raw_probs if prob > 0]
    low = max(LEAST, min(known, default=1e-3)) / 3
    axes.set_ylim(low, 1.6)
    axes.axhline(0.5, color=made.palette.faint, lw=0.9, ls=(0, (4, 3)))
    shared.grid(axes, made.palette, "y")
    colours = series(made.palette)
    for i, each in enumerate(several):
        _line(axes, made, each, colours[i], MARKERS[i], (i - (len(several) - 1) / 2) * min(0.16, 0.7 / len(several)))
    _names(axes, made, several, colours)
    shared.name(axes, made.palette, "y", "probability by the model alone (log scale)")
    shown = shared.token_ticks(axes, "x", several[0].step_labels, most=12)
    every = "" if shown.every == 1 else f", each {shown.every}th shown"
    shared.name(axes, made.palette, "x", f"token chosen at the step{every}")
    return made.figure


# -- words -----------------------------------------------------------------------------------------------------------------


def _title(several: Sequence[Tracked]) -> str:
    n = count(several[0].n_steps, "step")
    if len(several) > 1:
        names = ", ".join(map(_highest, several[:4])) + (", …" if len(several) > 4 else "")
        return f"{names}, over {n}"
    only = several[0]
    best = only.likeliest
    if best is None:
        most = max(only.raw_probs.tolist())
        return f"'{token(only.label, 28)}' over {n}: never stored; {percent(most)} at most"
    first = ", the first of all" if only.ranks[best] == 0 else f", {count(int(only.ranks[best]), 'token')} before it"
    return f"'{token(only.label, 28)}' over {n}: likeliest at step {best:,} ({percent(float(only.raw_probs[best]))}{first})"


def _highest(each: Tracked) -> str:
    """A token, and how likely it became."""
    best = each.likeliest
    said = "never stored" if best is None else f"up to {percent(float(each.raw_probs[best]))} at step {best:,}"
    return f"'{token(each.label, 20)}' {said}"


def _facts(several: Sequence[Tracked]) -> list[str]:
    facts = []
    if len(several) == 1:
        only = several[0]
        for what, steps in (("Passes 50%", only.passed_half), ("Becomes the most probable token", only.became_first)):
            if steps:
                listed = ", ".join(f"{step:,}" for step in steps[:8]) + (", …" if len(steps) > 8 else "")
                facts.append(f"{what} at {'step' if len(steps) == 1 else 'steps'} {listed}.")
        if only.note:
            facts.append(shared.drawable(only.note))
    bars = any(not each.exact.all() for each in several)
    rings = any(each.chosen.any() for each in several)
    if any(0 < prob < LEAST for each in several for prob in each.raw_probs):
        facts.append(f"What is below {percent(LEAST)} is drawn at the bottom.")
    said = "Bars: the trace did not store it; it had that much at most." if bars else ""
    said += (" " if said and rings else "") + ("Rings: the text goes on with it." if rings else "")
    said += (" " if said else "") + "Dashed: 50%."
    return [*facts, said]


# -- drawing ---------------------------------------------------------------------------------------------------------------


def _line(axes: Axes, made: Page, each: Tracked, colour: str, marker: str, shift: float) -> None:
    import numpy as np

    low = axes.get_ylim()[0]
    steps = np.arange(each.n_steps)
    values = np.where(each.exact, np.maximum(each.raw_probs, low * 1.15), np.nan)
    is_long = each.n_steps > MOST_DOTS
    axes.plot(
        steps, values, color=colour, lw=1.1 if is_long else 1.6, marker=marker, ms=1.8 if is_long else 4.2, zorder=3,
        mec=made.palette.ground, mew=0 if is_long else 0.5,
    )  # fmt: skip
    unknown = steps[~each.exact]
    if len(unknown):
        tops = np.maximum(each.raw_probs[unknown], low * 1.05)
        wide = 1.2 if is_long else 2.6
        axes.vlines(unknown + shift, low, tops, color=colour, lw=wide, alpha=0.28, zorder=2)
        axes.plot(unknown + shift, tops, "_", color=colour, ms=2 if is_long else 5, mew=1.0, alpha=0.7, zorder=2)
    chosen = steps[each.chosen & each.exact]
    axes.plot(chosen, values[chosen], "o", ms=9.5, mfc="none", mec=colour, mew=1.4, zorder=4)


def _names(axes: Axes, made: Page, several: Sequence[Tracked], colours: Sequence[str]) -> None:
    """At the right end of the axes, each line's token at the height of its last value, moved apart."""
    from math import log

    low, high = axes.get_ylim()
    places = []
    for each in several:
        last = max((i for i in range(each.n_steps) if each.exact[i]), default=each.n_steps - 1)
        value = min(max(float(each.raw_probs[last]), low), 1.0)
        places.append(log(value / low) / log(high / low) * HEIGHT)
    gap = BODY * 1.5 / 72
    for i, place in enumerate(shared.apart(places, gap, gap / 2, HEIGHT - gap / 2)):
        axes.annotate(
            token(several[i].label, 14), (1, place / HEIGHT), (16, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", ha="left", size=SMALL, color=made.palette.ink, family=list(shared.fonts(mono=True)),
        )  # fmt: skip
        axes.plot(
            [1.0], [place / HEIGHT], MARKERS[i], transform=axes.transAxes, clip_on=False, color=colours[i], ms=5.5, zorder=5,
        )  # fmt: skip
        artist = axes.lines[-1]
        artist.set_xdata([1.0 + 8 / 72 / (axes.get_position().width * made.width)])
