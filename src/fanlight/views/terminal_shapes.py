"""Distributions of the next token in a terminal: as they are, at temperatures, under filters. In: Distributions, a Canvas.

Out: text. The numbers are those of the pictures in files (`next_tokens`, `temperature`, `filters`). Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fanlight.errors import OptionError
from fanlight.tracing.reshaping import reshaped
from fanlight.views import filters as of_filters
from fanlight.views import next_tokens as of_next
from fanlight.views.filters import Column
from fanlight.views.next_tokens import SHARE, Cut, cuts_of, n_for, n_possible, possible
from fanlight.views.temperature import HIGH, LOW, MOST_PANELS, TEMPERATURES, Shape, shape_at
from fanlight.views.terminal import Canvas, left, right
from fanlight.views.terminal_sheet import (
    after,
    at_least_one,
    bands,
    beside,
    chart,
    count,
    cut,
    ending_of,
    name_of,
    percent_of,
    sheet,
    width_of,
)

if TYPE_CHECKING:
    from fanlight.trace.distribution import Distribution

RANK, NAME, PERCENT = 5, 18, 6  # columns
NARROWEST, WIDEST, GAP = 12, 26, 2  # columns of one temperature, and between two
SWEEP, MOST_POINTS = 4, 61  # lines of the sweep, and its columns at most
TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0)


def next_text(
    row: Distribution,
    canvas: Canvas,
    *,
    n: int = 20,
    chosen: int | None = None,
    filters: Mapping[str, Any] | None = None,
    n_top: int | None = None,
) -> str:
    """The n most probable tokens, their sum down to each, and a line where each filter by itself would cut.

    filters: an option -> its value; None: those of the picture; {}: none. chosen: an id that is marked, and shown wherever it
    stands. n_top: for a recorded step, see `reshaped`. Errors: OptionError.
    """
    shown = list(range(min(at_least_one("n", n, 200), possible(row))))
    if chosen is not None:
        at = next((i for i, token in enumerate(row.ids.tolist()) if token == chosen), None)
        if at is None:
            raise OptionError(f"token {chosen} is not among the {len(row.ids):,} tokens of this distribution")
        shown += [at] if at not in shown else []
    known = of_next.FILTERS if filters is None else filters
    cuts, unknown = cuts_of(row, known, n_top=n_top, strict=filters is not None)
    probs = row.probs
    n_in_order = next((i for i, at in enumerate(shown) if i != at), len(shown))
    name = min(NAME, max(4, canvas.width // 4))
    room = canvas.width - RANK - 2 - name - 2 * PERCENT - 4
    most = max((float(probs[at]) for at in shown), default=1.0) or 1.0

    def line(number: str, mark: str, label: str, prob: float, total: float | None, style: str) -> str:
        bar = canvas.bar(min(1.0, prob / most), room, style) if room >= 2 else ""
        said = right(percent_of(total), PERCENT) if total is not None else ""
        return f"{right(number, RANK - 1)} {mark}{left(label, name)} {right(percent_of(prob), PERCENT)} {bar} {said}"

    head = f"{' ' * (RANK + 2)}{left('token', name)} {'prob':>{PERCENT}} {' ' * max(0, room)} {'cumul.':>{PERCENT}}"
    lines, total, rest = [canvas.paint(head, "dim")], 0.0, [one for one in cuts if one.is_first]
    for i, at in enumerate(shown):
        total += float(probs[at]) if i < n_in_order else 0.0
        is_chosen = int(row.ids[at]) == chosen
        style = "final" if is_chosen else "model"
        mark = canvas.paint(canvas.plain("▸ "), "final") if is_chosen else "  "
        label = name_of(row.label(int(row.ids[at])), name, canvas)
        lines.append(line(f"{at + 1}", mark, label, float(probs[at]), total if i < n_in_order else None, style))
        if i < n_in_order:
            lines += [_cut_line(one, canvas) for one in rest if one.n_kept == i + 1]
    others = n_possible(row) - len(shown)
    if others > 0:
        prob = max(0.0, 1 - sum(float(probs[at]) for at in shown))
        lines.append(line("", "  ", cut(count(others, "other"), name, canvas), prob, 1.0, "others"))
        lines += [_cut_line(one, canvas) for one in sorted(rest, key=lambda c: c.n_kept) if one.n_kept > n_in_order]
    later = [_words(one) for one in cuts if not one.is_first]
    facts = ["bars to one scale; a line: where a filter by itself would cut"] if cuts else []
    facts += [f"not the first tokens alone: {'; '.join(later)}"] if later else []
    facts += [f"not recorded enough for {', '.join(unknown)}"] if unknown else []
    return sheet(canvas, _title(row, canvas), facts, lines)


def _words(one: Cut) -> str:
    return f"{one.label}: {count(one.n_kept, 'token')}, {percent_of(one.mass)}"


def _cut_line(one: Cut, canvas: Canvas) -> str:
    said = f" {_words(one)} "
    lead = min(RANK + 2, max(0, canvas.width - len(said) - 2))
    line = canvas.plain("─" * lead) + said
    return canvas.paint(line + canvas.plain("─" * max(0, canvas.width - len(line))), "cut")


def _title(row: Distribution, canvas: Canvas) -> str:
    n = n_for(row, SHARE)
    held = f"more than {count(len(row.ids), 'token')}" if n is None else count(n, "token")
    share = percent_of(float(row.probs[0])) if n == 1 else f"{SHARE:.0%}"
    verb = "holds" if n == 1 else "hold"
    return f"{after(row.context, canvas)}entropy {abs(row.entropy):.2f} nats; {held} {verb} {share}"


# -- temperature -----------------------------------------------------------------------------------------------------------


def temperature_text(
    row: Distribution,
    canvas: Canvas,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    n: int = 12,
    sweep: bool = True,
) -> str:
    """The same tokens at each temperature, bars to one scale; below, entropy and the first token from 0.05 to 3.

    Errors: OptionError for a distribution that is not whole, as a temperature lifts tokens that were not recorded.
    """
    if not 1 <= len(temperatures) <= MOST_PANELS:
        raise OptionError(f"temperatures must be 1 to {MOST_PANELS} numbers: got {len(temperatures)}")
    shown = min(at_least_one("n", n, 100), possible(row))
    shapes = [shape_at(row, temperature, shown) for temperature in temperatures]
    name = min(NAME, max(4, canvas.width // 4))
    room = canvas.width - name - 1
    fit = min(len(shapes), max(1, room // (NARROWEST + GAP)))
    width = max(PERCENT, min(WIDEST, room // fit - GAP))
    labels = [name_of(row.label(token), name, canvas) for token in row.ids[:shown].tolist()]
    scale = max(float(shape.probs.max()) for shape in shapes) or 1.0
    lines: list[str] = []
    for start in range(0, len(shapes), fit):
        lines += [*_temperatures(shapes[start : start + fit], labels, name, width, scale, n_possible(row), canvas), ""]
    if sweep:
        lines += _sweep(row, canvas)
    after_it = after(row.context, canvas)
    ends = sorted(shapes, key=lambda shape: shape.temperature)
    title = (
        f"{after_it}temperature {ends[0].temperature:g}, entropy {ends[0].entropy:.2f} nats"
        if len(ends) == 1
        else f"{after_it}temperature {ends[0].temperature:g} to {ends[-1].temperature:g} takes entropy from "
        f"{ends[0].entropy:.2f} to {ends[-1].entropy:.2f} nats"
    )
    facts = [
        "every logit is divided by the temperature: below 1 sharpens, above 1 flattens; the order stays; 0 is greedy"
    ]
    return sheet(canvas, title, facts, lines)


def _temperatures(
    shapes: Sequence[Shape], labels: Sequence[str], name: int, width: int, scale: float, n_all: int, canvas: Canvas
) -> list[str]:
    gap = " " * GAP

    def line(label: str, cells: Sequence[str], style: str = "") -> str:
        said = f"{left(label, name + 1)}{gap.join(cells)}"
        return canvas.paint(said, style) if style else said

    def cell(prob: float, style: str) -> str:
        bar = width - PERCENT - 1
        said = right(percent_of(prob), PERCENT)
        return f"{said} {canvas.bar(min(1.0, prob / scale), bar, style)}" if bar >= 1 else left(said, width)

    heads = [f"T={shape.temperature:g}" for shape in shapes]
    lines = [line("", [left(cut(right(head, PERCENT), width, canvas), width) for head in heads], "bold")]
    for i, label in enumerate(labels):
        lines.append(line(label, [cell(float(shape.probs[i]), "model") for shape in shapes]))
    others = n_all - len(labels)
    if others > 0:
        lines.append(line(cut(count(others, "other"), name, canvas), [cell(shape.rest, "others") for shape in shapes]))
    facts = [left(right(f"{shape.entropy:.2f}", PERCENT), width) for shape in shapes]
    return [*lines, line(cut("entropy, nats", name, canvas), facts, "bold")]


def _sweep(row: Distribution, canvas: Canvas) -> list[str]:
    """Entropy and the first token's probability over temperatures, evenly on a log axis."""
    import numpy as np

    head = 11
    n = max(2, min(MOST_POINTS, canvas.width - head))
    grid = np.geomspace(LOW, HIGH, n)
    shapes = [shape_at(row, float(temperature), 1) for temperature in grid]
    entropies = [shape.entropy for shape in shapes]
    firsts = [float(shape.probs[0]) for shape in shapes]
    high = max(entropies) or 1.0
    first = name_of(row.label(int(row.ids[0])), max(4, canvas.width - 45), canvas)
    lines = [canvas.paint(f"entropy from temperature {LOW:g} to {HIGH:g}, nats", "bold")]
    lines += _plot([one / high for one in entropies], f"{high:.2f}", "0", head, canvas)
    lines += ["", canvas.paint(f"probability of {first}, the most probable token", "bold")]
    lines += _plot(firsts, "100%", "0%", head, canvas)
    axis = ""
    for tick in TICKS:
        said = f"{tick:g}"
        at = round(np.log(tick / LOW) / np.log(HIGH / LOW) * (n - 1))
        if at + len(said) <= canvas.width - head and (not axis or at > len(axis)):
            axis = axis.ljust(int(at)) + said
    return [*lines, canvas.paint(f"{left('T', head)}{axis}", "dim")]


def _plot(shares: Sequence[float], high: str, low: str, head: int, canvas: Canvas) -> list[str]:
    names = [high, *[""] * (SWEEP - 2), low]
    rows = chart(list(shares), SWEEP, canvas)
    return [
        canvas.paint(right(name, head - 1), "dim") + " " + canvas.paint(line, "model")
        for name, line in zip(names, rows, strict=True)
    ]


# -- filters ---------------------------------------------------------------------------------------------------------------


def filters_text(
    certain: Distribution,
    uncertain: Distribution,
    canvas: Canvas,
    *,
    filters: Mapping[str, Any] | None = None,
    n: int = 25,
) -> str:
    """Tokens down, filters across, on both steps: which tokens each filter by itself keeps, how many and how much.

    Errors: OptionError for what is no filter of a row, or needs more of it than was recorded.
    """
    chosen = of_filters.FILTERS if filters is None else filters
    if not 1 <= len(chosen) <= of_filters.MOST_FILTERS:
        raise OptionError(
            f"filters must be 1 to {of_filters.MOST_FILTERS} options with their values: got {len(chosen)}"
        )
    at_least_one("n", n, 100)
    steps = {"certain": certain, "uncertain": uncertain}
    found = {
        name: [Column(k, f"{v:g}", reshaped(step, {k: v})) for k, v in chosen.items()] for name, step in steps.items()
    }
    tables = [_filters(name, step, found[name], n, canvas) for name, step in steps.items()]
    whole = beside(tables, 3)
    lines = whole if max(map(width_of, whole)) <= canvas.width else [*tables[0], "", *tables[1]]
    kept = [[column.after.n_kept for column in found[name]] for name in steps]
    title = f"{_range(kept[0])} survive a filter on the certain step, {_range(kept[1])} on the uncertain one"
    facts = [f"each filter by itself on the raw row; {_sign(True, canvas)} kept, {_sign(False, canvas)} removed"]
    return sheet(canvas, title, facts, lines)


def _range(kept: Sequence[int]) -> str:
    low, high = min(kept), max(kept)
    return count(low, "token") if low == high else f"{low:,} to {high:,} tokens"


def _sign(kept: bool, canvas: Canvas) -> str:
    if canvas.unicode:
        return "●" if kept else "·"
    return "x" if kept else "."


def _filters(name: str, step: Distribution, found: Sequence[Column], n: int, canvas: Canvas) -> list[str]:
    """One step; filters that have no room follow below."""
    shown = min(n, possible(step))
    wide = min(NAME, max(4, canvas.width // 4))
    labels = [name_of(step.label(token), wide, canvas) for token in step.ids[:shown].tolist()]
    others = n_possible(step) - shown
    probs = step.probs
    cells = [max(len(column.name), len(column.value), len(f"{column.after.n_kept:,}"), PERCENT) + 1 for column in found]
    lead = wide + 1 + PERCENT + 1
    lines = [canvas.paint(f"{name}: entropy {abs(step.entropy):.2f} nats", "bold")]
    if step.context:
        room = min(canvas.width - 6, lead + sum(cells) - 6)
        lines.append(canvas.paint(f"after {ending_of(step.context, max(12, room), canvas)}", "dim"))
    for band in bands(cells, canvas.width - lead):
        these = [found[i] for i in band]
        widths = [cells[i] for i in band]

        def line(label: str, prob: str, words: Sequence[str], style: str = "", widths: list[int] = widths) -> str:
            said = "".join(right(word, width) for word, width in zip(words, widths, strict=True))
            whole = f"{left(label, wide)} {right(prob, PERCENT)} {said}"
            return canvas.paint(whole, style) if style else whole

        lines.append(line("", "", [column.name for column in these], "dim"))
        lines.append(line("token", "prob", [column.value for column in these], "dim"))
        for i, label in enumerate(labels):
            marks = [
                " " * (width - 1) + canvas.paint(_sign(bool(column.after.kept[i]), canvas), _style(column, i))
                for column, width in zip(these, widths, strict=True)
            ]
            lines.append(f"{left(label, wide)} {right(percent_of(float(probs[i])), PERCENT)} {''.join(marks)}")
        if others > 0:
            rest = float(probs[shown:].sum()) + step.rest_prob
            more = [column.after.n_kept - int(column.after.kept[:shown].sum()) for column in these]
            words = [f"+{one:,}" if one else "0" for one in more]
            lines.append(line(cut(count(others, "other"), wide, canvas), percent_of(rest), words, "dim"))
        lines.append(line("tokens kept", "", [f"{column.after.n_kept:,}" for column in these], "bold"))
        lines.append(line("their prob", "", [percent_of(1 - column.after.removed_prob) for column in these]))
    return lines


def _style(column: Column, i: int) -> str:
    return "sure" if column.after.kept[i] else "cut"
