"""One step's way through all processors in a terminal, and one token's. In: a StepRecord, a label, a Canvas. Out: text.

A column is the row after so many processors; the first is raw. A cross is where a processor removed a token; below, the rules in
words. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, isinf
from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.views.terminal import Canvas, Label, left, right
from fanlight.views.terminal_sheet import (
    Brush,
    after,
    at_least_one,
    bands,
    count,
    cut,
    name_of,
    one_line,
    percent_of,
    plain,
    sheet,
    wrapped,
)
from fanlight.views.waterfall import Stage, stages_of

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord

NAME, PERCENT, MOST_STAGE = 18, 6, 18  # columns
SAME = 1e-9


def waterfall_text(
    record: StepRecord,
    label: Label,
    canvas: Canvas,
    *,
    n: int = 12,
    context: str = "",
    token: int | None = None,
) -> str:
    """The candidates' probabilities after each processor; with a token, its logprob after each of them too.

    token: an id among the candidates. n: how many to show; the chosen one and `token` always are. context: the end of the text
    before. Errors: OptionError for a token that the step did not record.
    """
    at_least_one("n", n, 60)
    if token is not None and token not in record.candidate_ids:
        raise OptionError(
            f"token {token!r:.40} is not among the {len(record.candidate_ids)} candidates that this step recorded; "
            "record more with candidates="
        )
    stages = stages_of(record)
    rows = _rows(record, n, token)
    name = min(NAME, max(4, canvas.width // 4))
    names = {at: name_of(label(record.candidate_ids[at]), name, canvas) for at in rows}
    lines = _table(record, stages, rows, names, name, canvas)
    lines += _rules(record, rows, names, canvas)
    if token is not None:
        lines += ["", *_way(record, stages, token, name_of(label(token), 24, canvas), canvas)]
    chosen = name_of(label(record.id), 24, canvas)
    was, now = percent_of(exp(record.raw_logprob)), percent_of(exp(record.final_logprob))
    n_run = count(len(record.effects), "processor")
    title = after(context, canvas) + (
        f"{chosen} was chosen: {was} raw, {now} after {n_run}"
        if record.effects
        else f"{chosen} was chosen at {was}; no processor ran"
    )
    facts = [f"{record.raw.n_kept:,} tokens before, {record.n_kept:,} after; \u00d7: removed here; ▸: chosen"]
    return sheet(canvas, title, facts, lines)


def _rows(record: StepRecord, n: int, token: int | None) -> list[int]:
    """Places of candidates: the most probable, raw and final in turn, the chosen one and the token; by their raw logits."""
    places = range(len(record.candidate_ids))
    raw = sorted(places, key=lambda at: (-record.raw_logits[at], at))
    final = sorted(places, key=lambda at: (-record.final_logits[at], at))
    asked = [record.candidate_ids.index(one) for one in (record.id, *([] if token is None else [token]))]
    leading = [
        at
        for pair in zip(raw, final, strict=True)
        for at in pair
        if at in raw[:n] or not isinf(record.final_logits[at])
    ]
    shown = list(dict.fromkeys((*asked, *leading)))[: max(n, len(set(asked)))]
    return sorted(shown, key=lambda at: (-record.raw_logits[at], record.candidate_ids[at]))


# -- the step --------------------------------------------------------------------------------------------------------------


def _table(
    record: StepRecord,
    stages: Sequence[Stage],
    rows: Sequence[int],
    names: dict[int, str],
    name: int,
    canvas: Canvas,
) -> list[str]:
    """Candidates down, stages across; stages that have no room follow below."""
    heads = [_heads(stage, canvas) for stage in stages]
    room = canvas.width - name - 3
    widths = [min(MOST_STAGE, room, max(PERCENT, *map(len, head)) + 2) for head in heads]
    chosen = record.candidate_ids.index(record.id)
    brush, lines = Brush(canvas), list[str]()
    most = max((stage.prob(at) for stage in stages for at in rows), default=1.0) or 1.0
    for band in bands(widths, room):
        lines += [""] if lines else []
        for i in range(len(heads[0])):
            words = [right(cut(heads[k][i], widths[k] - 1, canvas), widths[k]) for k in band]
            said = ("tokens left", "entropy, nats")[i - 2] if i >= 2 else ""
            style = "dim" if i >= 2 else "bold"
            lines.append(canvas.paint(f"  {left(cut(said, name, canvas), name)} {''.join(words)}", style))
        for at in rows:
            mark = canvas.paint(canvas.plain("▸ "), "final") if at == chosen else "  "
            cells = "".join(_cell(stages, k, at, widths[k], most, brush) for k in band)
            label = left(names[at], name)
            lines.append(f"{mark}{canvas.paint(label, 'bold') if at == chosen else label} {cells}")
        others = [_others(stages[k], rows) for k in band]
        if any(others):
            words = [
                right(percent_of(prob) if prob else "none", widths[k]) for k, prob in zip(band, others, strict=True)
            ]
            lines.append(canvas.paint(f"  {left(cut('all others', name, canvas), name)} {''.join(words)}", "dim"))
    return lines


def _heads(stage: Stage, canvas: Canvas) -> tuple[str, str, str, str]:
    """The processor, its setting, what is left, the entropy."""
    name, _, setting = one_line(stage.label, canvas).partition("(")
    return name, setting.removesuffix(")"), f"{stage.n_kept:,}", f"{abs(stage.entropy):.2f}"


def _cell(stages: Sequence[Stage], k: int, at: int, width: int, most: float, brush: Brush) -> str:
    stage, canvas = stages[k], brush.canvas
    if isinf(stage.logits[at]):
        is_now = k > 0 and not isinf(stages[k - 1].logits[at])
        said = plain("\u00d7", canvas) if is_now else " "
        return " " * (width - 1) + canvas.paint(said, "cut")
    prob = stage.prob(at)
    return " " * (width - PERCENT) + brush.much(right(percent_of(prob), PERCENT), prob / most)


def _others(stage: Stage, rows: Sequence[int]) -> float:
    """Probability of the tokens that are not shown; 0: none is left."""
    n = stage.n_kept - sum(not isinf(stage.logits[at]) for at in rows)
    return max(1e-12, 1 - sum(stage.prob(at) for at in rows)) if n > 0 else 0.0


def _rules(record: StepRecord, rows: Sequence[int], names: dict[int, str], canvas: Canvas) -> list[str]:
    """Why each was removed: those with the same reason on one line."""
    removals = record.removals()
    by_rule: dict[str, list[str]] = {}
    for at in rows:
        found = removals.get(record.candidate_ids[at])
        if found is not None:
            by_rule.setdefault(one_line(found.rule, canvas), []).append(names[at])
    if not by_rule:
        return []
    lines = ["", canvas.paint("why they were removed", "bold")]
    for rule, tokens in by_rule.items():
        for i, line in enumerate(wrapped(f"{'  '.join(tokens)}: {rule}", max(8, canvas.width - 4))):
            lines.append(("  " if i == 0 else "    ") + line)
    return lines


# -- one token -------------------------------------------------------------------------------------------------------------


def _way(record: StepRecord, stages: Sequence[Stage], token: int, name: str, canvas: Canvas) -> list[str]:
    """The token's logprob after each stage, how it changed, its probability as a bar."""
    at = record.candidate_ids.index(token)
    values = [stage.logprob(at) for stage in stages]
    head = min(24, max(len(stage.label) for stage in stages), max(6, canvas.width // 3))
    removal = record.removal(token)
    said = f"{name}: {percent_of(stages[0].prob(at))} raw, {percent_of(stages[-1].prob(at))} at the end"
    said += f"; removed by {one_line(removal.rule, canvas)}" if removal is not None else ""
    lines = [canvas.paint(line, "bold") for line in wrapped(said, canvas.width)]
    lines.append(canvas.paint(f"{left('after', head)} {'logprob':>8} {'change':>8} {'prob':>{PERCENT}}", "dim"))
    most = max(stage.prob(at) for stage in stages) or 1.0
    room = canvas.width - head - 8 - 8 - PERCENT - 4
    was = -inf
    for k, (stage, value) in enumerate(zip(stages, values, strict=True)):
        change = "" if k == 0 else _change(was, value)
        style = "model" if k == 0 or abs(value - was) < SAME else "sure" if value > was else "final"
        bar = canvas.bar(stage.prob(at) / most, room, style) if room >= 2 else ""
        logprob = "none" if isinf(value) else f"{value + 0:.2f}"
        label = left(cut(one_line(stage.label, canvas), head, canvas), head)
        lines.append(f"{label} {logprob:>8} {change:>8} {right(percent_of(stage.prob(at)), PERCENT)} {bar}")
        was = value
    return lines


def _change(was: float, now: float) -> str:
    if isinf(was) and isinf(now):
        return ""
    if isinf(now):
        return "removed"
    return "back" if isinf(was) else f"{round(now - was, 2) + 0:+.2f}"
