"""One next token under several settings, side by side. In: records of the same logits, a label, a Canvas. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.views.terminal import Canvas, Label, left, percent, right

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord

RANK, NAME, PERCENT, GAP = 4, 16, 6, 2
NARROWEST, WIDEST = 9, 26  # columns of one setting


class Column(NamedTuple):
    """One setting: what stands above it, the record, and how few tokens hold 90 % of the probability if that was counted."""

    title: str
    record: StepRecord
    n_for_90: int | None = None


def next_table(settings: Sequence[Column], label: Label, canvas: Canvas, *, option: str, rows: int) -> str:
    """Rows: the most probable tokens. Columns: their probability under each setting, all bars to one scale.

    option: what the settings differ in. Those that do not fit beside each other follow in further tables.
    """
    room = canvas.width - RANK - NAME - GAP
    fit = min(len(settings), max(1, room // (NARROWEST + GAP)))
    width = min(WIDEST, room // fit - GAP)
    scale = max((c.final_prob for column in settings for c in column.record.candidates[:rows]), default=1.0) or 1.0
    draw = _Table(label, canvas, option, rows, width, scale)
    blocks = [draw.block(settings[i : i + fit]) for i in range(0, len(settings), fit)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


class _Table(NamedTuple):
    label: Label
    canvas: Canvas
    option: str
    rows: int
    width: int
    scale: float
    """The probability that fills a bar."""

    def block(self, shown: Sequence[Column]) -> list[str]:
        candidates = [column.record.candidates[: self.rows] for column in shown]
        records = [column.record for column in shown]
        lines = [
            self.line("", self.option, [left(column.title.rjust(PERCENT), self.width) for column in shown], "bold")
        ]
        for i, candidate in enumerate(candidates[0]):
            cells = [self.cell(column[i].final_prob) for column in candidates]
            lines.append(self.line(str(i + 1), self.canvas.label(self.label(candidate.id), NAME), cells))
        n_others = records[0].raw.n_kept - len(candidates[0])
        if n_others > 0:
            sums = [sum(c.final_prob for c in column) for column in candidates]
            n_shown = [sum(c.final_prob > 0 for c in column) for column in candidates]
            rest = [
                percent(max(0.0, 1 - found)) if record.n_kept > n else "cut"
                for found, n, record in zip(sums, n_shown, records, strict=True)
            ]
            lines.append(self.facts(f"{n_others:,} others", rest))
        lines.append("")
        lines.append(self.facts("entropy, nats", [f"{record.final_entropy:.2f}" for record in records]))
        if any(record.n_kept < record.raw.n_kept for record in records):
            lines.append(self.facts("tokens left", [f"{record.n_kept:,}" for record in records]))
        counts = [f"{column.n_for_90:,}" for column in shown if column.n_for_90 is not None]
        if len(counts) == len(shown):
            lines.append(self.facts("tokens for 90%", counts))
        return lines

    def line(self, number: str, name: str, cells: Sequence[str], style: str = "") -> str:
        text = f"{right(number, RANK - 1)} {left(name, NAME + GAP)}{(' ' * GAP).join(cells)}"
        return self.canvas.paint(text, style) if style else text

    def facts(self, name: str, values: Sequence[str]) -> str:
        return self.line("", name, [left(right(value, PERCENT), self.width) for value in values], "dim")

    def cell(self, prob: float) -> str:
        if prob == 0:
            return self.canvas.paint(left(right("cut", PERCENT), self.width), "cut")
        bar = self.width - PERCENT - 1
        number = right(percent(prob), PERCENT)
        return f"{number} {self.canvas.bar(prob / self.scale, bar, 'final')}" if bar >= 2 else left(number, self.width)
