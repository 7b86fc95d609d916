"""A StepRecord as a window: what the model said on the left, the tokens in the middle, what was drawn from on the right.

In: records, a label for tokens, a Canvas. Out: lines of text. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, isinf
from typing import TYPE_CHECKING

from fanlight.views.terminal import HEAT, Canvas, Label, columns, heat, left, percent, right, visible

if TYPE_CHECKING:
    from fanlight.trace.records import Candidate, ProcessorEffect, StepRecord

INDENT = 5
NAME = 16  # columns of a token's label
PERCENT = 6
SMALLEST = 0.0005
"""Candidates below this on both sides are counted among the others."""


def heading(canvas: Canvas, *, two_sided: bool) -> str:
    """The line above the first window: what its sides are."""
    if not two_sided:
        return canvas.paint(" " * INDENT + left("  token", NAME + 3) + "probability", "dim")
    side = PERCENT + 1 + _fan(canvas)
    line = f"{right('what the model says', side)} {'token':^{NAME}} after the settings"
    return canvas.paint(" " * INDENT + line, "dim")


def step_window(record: StepRecord, label: Label, canvas: Canvas, *, index: int, rows: int) -> str:
    """One step: a line of facts, up to `rows` candidates, what each processor did. No newline at the end."""
    shown = _shown(record, rows)
    lines = [_facts(record, label, canvas, index)]
    if record.effects:
        lines += [_pane(record, candidate, label, canvas) for candidate in shown]
        lines += _others_pane(record, shown, canvas)
        lines += [_effect(effect, canvas) for effect in record.effects]
    else:
        lines += [_bar(candidate, candidate.id == record.id, label, canvas) for candidate in shown]
        lines += _others_bar(record, shown, canvas)
    if record.stop is not None:
        lines.append(" " * INDENT + canvas.paint("ends here: ", "dim") + canvas.plain(visible(record.stop.detail)))
    return "\n".join(line.rstrip() for line in lines)


def colored_text(pieces: Iterable[tuple[str, float]], canvas: Canvas) -> str:
    """Pieces of text, each in the colour of its probability. Plain text where there is no colour."""
    painted = []
    for text, prob in pieces:
        lines = visible(text).split("\n")
        painted.append("\n".join(canvas.paint(line, heat(prob)) for line in lines))
    return "".join(painted)


def legend(canvas: Canvas) -> str:
    """What the colours of `colored_text` mean; "" where there is no colour."""
    if not canvas.color:
        return ""
    names = [f"{low:.0%} and more" if low else f"less than {HEAT[-2][0]:.0%}" for low, _ in HEAT]
    marks = "  ".join(canvas.paint(name, style) for name, (_, style) in zip(names, HEAT, strict=True))
    return canvas.paint("the model's own probability: ", "dim") + marks


def closing(records: Sequence[StepRecord], label: Label, canvas: Canvas) -> str:
    """What stands out in a text: its perplexity, the least expected token, the step with the widest choice."""
    if not records:
        return ""
    perplexity = exp(-sum(record.raw_logprob for record in records) / len(records))
    rare = min(range(len(records)), key=lambda i: records[i].raw_logprob)
    wide = max(range(len(records)), key=lambda i: records[i].raw_entropy)
    facts = (
        f"perplexity {perplexity:.2f}",
        f"least expected {canvas.label(label(records[rare].id), NAME)} "
        f"({percent(exp(records[rare].raw_logprob))}, step {rare + 1})",
        f"widest choice at step {wide + 1}",
    )
    return canvas.paint(canvas.plain(" · ").join(facts), "dim")


def _facts(record: StepRecord, label: Label, canvas: Canvas, index: int) -> str:
    name = canvas.label(label(record.id), 30)
    name = canvas.paint(f" {name} ", "chosen") if canvas.color else f"[{name}]"
    raw, final = exp(record.raw_logprob), exp(record.final_logprob)
    prob = canvas.paint(percent(raw), heat(raw))
    rank = f"rank {record.raw_rank + 1}"
    entropy = f"entropy {record.raw_entropy:.2f}"
    end = [f"end of text {percent(record.eos_prob)}"] if record.eos_prob >= SMALLEST else []
    if record.effects:
        arrow = canvas.plain(" → ")
        prob += arrow + canvas.paint(percent(final), "final")
        entropy += f"{arrow}{record.final_entropy:.2f}"
        if record.final_rank != record.raw_rank:
            rank += f"{arrow}{record.final_rank + 1}"
    dot = canvas.paint(canvas.plain(" · "), "dim")
    number = canvas.paint(right(str(index + 1), INDENT - 2), "bold")
    return f"{number}  {name}  {dot.join((prob, rank, entropy + ' nats', *end))}"


def _shown(record: StepRecord, rows: int) -> list[Candidate]:
    """The most probable ones, as long as there is something to see, and the chosen one."""
    found = [c for c in record.candidates if c.id == record.id or max(c.raw_prob, c.final_prob) >= SMALLEST]
    if any(c.id == record.id for c in found[:rows]):
        return found[:rows]
    return [*found[: max(0, rows - 1)], *(c for c in found if c.id == record.id)]


def _others(record: StepRecord, shown: Sequence[Candidate]) -> tuple[int, float, int, float]:
    """Tokens not shown, and their probability: raw, then final."""
    n_final = record.n_kept - sum(c.final_prob > 0 for c in shown)
    raw = max(0.0, 1 - sum(c.raw_prob for c in shown))
    final = max(0.0, 1 - sum(c.final_prob for c in shown)) if n_final > 0 else 0.0
    return record.raw.n_kept - len(shown), raw, n_final, final


# -- one-sided: no processor ran ---------------------------------------------------------------------------------------


def _bar(candidate: Candidate, is_chosen: bool, label: Label, canvas: Canvas) -> str:
    name = left(canvas.label(label(candidate.id), NAME), NAME)
    mark = canvas.paint(canvas.plain("▸ "), "final") if is_chosen else "  "
    if is_chosen:
        return _bar_line(mark + canvas.paint(name, "bold"), candidate.raw_prob, canvas, "final")
    return _bar_line(mark + name, candidate.raw_prob, canvas, "model")


def _bar_line(name: str, prob: float, canvas: Canvas, style: str) -> str:
    bar = canvas.bar(prob, canvas.width - INDENT - NAME - PERCENT - 5, style)
    return f"{' ' * INDENT}{name} {right(percent(prob), PERCENT)}  {bar}"


def _others_bar(record: StepRecord, shown: Sequence[Candidate], canvas: Canvas) -> list[str]:
    n, prob, _, _ = _others(record, shown)
    if n <= 0:
        return []
    return [_bar_line("  " + canvas.paint(left(_count(n, "other"), NAME), "dim"), prob, canvas, "others")]


# -- two-sided: raw and final ------------------------------------------------------------------------------------------


def _fan(canvas: Canvas) -> int:
    """Columns of the bars on either side."""
    return max(8, (canvas.width - INDENT - NAME - 2 * PERCENT - 4) // 2)


def _pane(record: StepRecord, candidate: Candidate, label: Label, canvas: Canvas) -> str:
    is_chosen = candidate.id == record.id
    name = canvas.label(label(candidate.id), NAME - 2)
    if is_chosen:
        name = canvas.plain(f"▸{name}◂")
    name = _centred(name, "bold" if is_chosen else "", canvas)
    at = record.candidate_ids.index(candidate.id)
    removal = record.removal(candidate.id) if isinf(record.final_logits[at]) else None
    cut_by = None
    if removal is not None:  # the rule with its numbers, where there is room for it
        cut_by = removal.rule if len(removal.rule) <= _fan(canvas) - 3 else removal.label
    return _pane_line(name, candidate.raw_prob, candidate.final_prob, cut_by, canvas)


def _pane_line(
    name: str, raw: float, final: float, cut_by: str | None, canvas: Canvas, style: str | None = None
) -> str:
    fan = _fan(canvas)
    line = f"{canvas.bar_left(raw, fan, style or 'model')} {right(percent(raw), PERCENT)} {name} "
    if cut_by is not None:
        return " " * INDENT + line + canvas.paint(canvas.plain(f"╌╌ {cut_by}"), "cut")
    return f"{' ' * INDENT}{line}{left(percent(final), PERCENT)} {canvas.bar(final, fan, style or 'final')}"


def _others_pane(record: StepRecord, shown: Sequence[Candidate], canvas: Canvas) -> list[str]:
    n_raw, raw, n_final, final = _others(record, shown)
    if n_raw <= 0:
        return []
    name = _centred(_count(n_raw, "other"), "dim", canvas)
    if n_final <= 0:
        return [_pane_line(name, raw, 0.0, "all cut", canvas, "others")]
    return [_pane_line(name, raw, final, None, canvas, "others")]


def _effect(effect: ProcessorEffect, canvas: Canvas) -> str:
    kept = cut = ""
    if effect.removes or effect.n_kept < effect.n_before:
        kept = (
            f"{effect.n_kept:,} of {effect.n_before:,} left"
            if effect.n_kept < effect.n_before
            else f"all {effect.n_kept:,} left"
        )
        cut = f"cuts {percent(effect.removed_prob)}" if effect.n_kept < effect.n_before else ""
    entropy = canvas.plain(f"entropy {effect.before.entropy:.2f} → {effect.entropy_after:.2f}")
    return " " * INDENT + canvas.paint(f"{left(effect.label, 24)}{left(kept, 20)}{left(cut, 13)}{entropy}", "dim")


def _centred(name: str, style: str, canvas: Canvas) -> str:
    blank = NAME - columns(name)
    painted = canvas.paint(name, style) if style else name
    return " " * (blank // 2) + painted + " " * (blank - blank // 2)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("s" if n != 1 else "")
