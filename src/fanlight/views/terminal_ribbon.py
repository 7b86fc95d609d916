"""The generated text in a terminal, each token on a coloured ground, other tokens beneath. In: a Trace. Knows no model.

Where there is no colour, a line of marks beneath says the same: one to eight eighths of a block, or 1 to 8 in ASCII.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.views.ribbon_colors import RGB, Measure, color, ink_on, measure
from fanlight.views.terminal import Canvas, columns, left, percent, visible

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

PLAIN_BELOW = 0.03
"""A smaller share of the scale has no ground of its own."""
MARKS, ASCII_MARKS = " ▁▂▃▄▅▆▇█", " 12345678"
MOST_ALTERNATIVES, NAME = 9, 14
CUBE = (0, 95, 135, 175, 215, 255)
"""What a component of the 6 x 6 x 6 colours of a terminal can be."""


class Cell(NamedTuple):
    """A token, or the part of one that stands on a line."""

    text: str
    share: float | None
    """Of the scale; None: a token of the prompt."""
    others: tuple[str, ...] = ()
    """What stands beneath."""

    @property
    def width(self) -> int:
        """Columns; with other tokens beneath, a gap after it too."""
        return max(columns(self.text), *(columns(other) for other in self.others), 0) + (1 if self.others else 0)


def ribbon_text(
    trace: Trace,
    canvas: Canvas,
    *,
    by: str = "surprise",
    alternatives: int = 0,
    dark: bool | None = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Lines of text; no newline at the end.

    alternatives: so many other candidates beneath each token, the most probable first. dark: the terminal's ground; None: what
    COLORFGBG says, else dark. environ: instead of the process's. Errors: OptionError.
    """
    if (
        isinstance(alternatives, bool)
        or not isinstance(alternatives, int)
        or not 0 <= alternatives <= MOST_ALTERNATIVES
    ):
        raise OptionError(f"alternatives must be from 0 to {MOST_ALTERNATIVES}: got {alternatives!r:.80}")
    found, around = measure(by), os.environ if environ is None else environ
    is_dark = _is_dark(around) if dark is None else dark
    brush = _Brush(canvas, is_dark, is_true=around.get("COLORTERM", "").lower() in ("truecolor", "24bit"))
    lines = [_legend(found, brush, canvas), ""]
    for line in _lines(_cells(trace, found, alternatives, canvas), canvas.width):
        lines += _drawn(line, alternatives, brush, canvas)
    if not trace.header.complete:
        lines += ["", canvas.plain(f"incomplete: {visible(trace.header.problem or 'the run was cut off')}")]
    return "\n".join(lines)


def _is_dark(environ: Mapping[str, str]) -> bool:
    ground = environ.get("COLORFGBG", "").rpartition(";")[2]
    return not (ground.isdecimal() and int(ground) in (7, *range(9, 16)))


# -- paint -----------------------------------------------------------------------------------------------------------------


class _Brush:
    def __init__(self, canvas: Canvas, dark: bool, is_true: bool) -> None:
        self.canvas, self.dark, self.is_true = canvas, dark, is_true

    def ground(self, text: str, share: float | None) -> str:
        """The text on the ground of a share."""
        if not self.canvas.color or not text:
            return text
        if share is None:
            return self.canvas.paint(text, "dim")
        if share < PLAIN_BELOW:
            return text
        ground = color(share, dark=self.dark)
        ink = ink_on(ground)
        return f"\x1b[{self._code(48, ground)};{self._code(38, ink)}m{text}\x1b[0m"

    def _code(self, plane: int, rgb: RGB) -> str:
        if self.is_true:
            return f"{plane};2;{rgb[0]};{rgb[1]};{rgb[2]}"
        return f"{plane};5;{nearest(rgb)}"


def nearest(rgb: RGB) -> int:
    """The number, among a terminal's 256 colours, that is nearest: of the colour cube or of the greys."""
    r, g, b = (min(range(6), key=lambda i: abs(CUBE[i] - part)) for part in rgb)
    cube = (CUBE[r], CUBE[g], CUBE[b])
    grey = min(range(24), key=lambda i: abs(8 + 10 * i - sum(rgb) / 3))
    level = 8 + 10 * grey
    if sum((level - part) ** 2 for part in rgb) < sum((a - part) ** 2 for a, part in zip(cube, rgb, strict=True)):
        return 232 + grey
    return 16 + 36 * r + 6 * g + b


def _legend(found: Measure, brush: _Brush, canvas: Canvas) -> str:
    head = f"{found.name}, {found.unit}: "
    if canvas.color:
        marks = " ".join(brush.ground(f" {tick:g} ", found.share(tick)) for tick in found.ticks)
        return canvas.paint(head, "dim") + marks
    return head + "  ".join(f"{tick:g} {_mark(found.share(tick), canvas).strip() or 'none'}" for tick in found.ticks)


def _mark(share: float | None, canvas: Canvas) -> str:
    marks = MARKS if canvas.unicode else ASCII_MARKS
    return " " if share is None or share < PLAIN_BELOW else marks[max(1, round(share * 8))]


# -- layout ----------------------------------------------------------------------------------------------------------------


def _cells(trace: Trace, found: Measure, alternatives: int, canvas: Canvas) -> Iterator[Cell]:
    """Tokens, cut at their line ends; a cell "\n" breaks the line."""
    prompt = trace.header.prompt or "".join(trace.token_text(token) for token in trace.prompt_ids)
    yield from _parts(_shown(prompt, canvas), None, ())
    for piece, record in zip(trace.pieces, trace.steps, strict=False):
        others = _others(trace, record, alternatives, canvas)
        said = _shown(piece, canvas) if piece else canvas.label(trace.token_label(record.id), NAME)
        yield from _parts(said, found.share(found.value(record)), others)


def _shown(text: str, canvas: Canvas) -> str:
    return canvas.plain(visible(text)).replace("\t", "    ")


def _parts(text: str, share: float | None, others: tuple[str, ...]) -> Iterator[Cell]:
    sign = others or share is not None
    for i, part in enumerate(text.split("\n")):
        if i:
            yield Cell("\n", None)
        if part and share is None:
            yield from (Cell(word, None) for word in _words(part))
        elif part or (sign and i == 0):
            yield Cell(part or " ", share, others if i == 0 else ())


def _words(text: str) -> Iterator[str]:
    """Each with the blanks before it."""
    start = 0
    for i in range(1, len(text)):
        if text[i] == " " and text[i - 1] != " ":
            yield text[start:i]
            start = i
    yield text[start:]


def _others(trace: Trace, record: StepRecord, n: int, canvas: Canvas) -> tuple[str, ...]:
    if not n:
        return ()
    best = sorted((c for c in record.candidates if c.id != record.id), key=lambda c: (-c.raw_prob, c.id))[:n]
    names = [f"{canvas.label(trace.token_label(c.id), NAME)} {percent(c.raw_prob)}" for c in best]
    return tuple(names + [""] * (n - len(names)))


def _lines(cells: Iterator[Cell], width: int) -> Iterator[list[Cell]]:
    """Broken at line ends, and before a token that begins a word where a line is full."""
    line: list[Cell] = []
    for cell in cells:
        if cell.text == "\n":
            yield line
            line = []
            continue
        for part in _cut(cell, width):
            if line and _width(line) + part.width > width:
                moved = _begun_word(line, part, width)
                yield line[: len(line) - len(moved)]
                line = moved
            line.append(part)
    if line:
        yield line


def _width(line: Sequence[Cell]) -> int:
    return sum(cell.width for cell in line)


def _begun_word(line: Sequence[Cell], part: Cell, width: int) -> list[Cell]:
    """The end of a line that goes with the next token; empty if that begins a word, or the word began with the line."""
    if part.text.startswith(" "):
        return []
    start = next((i for i in reversed(range(1, len(line))) if line[i].text.startswith(" ")), len(line))
    moved = list(line[start:])
    return moved if _width(moved) + part.width <= width else []


def _cut(cell: Cell, width: int) -> Iterator[Cell]:
    """A token that is wider than a line, in parts that are not."""
    if columns(cell.text) <= width:
        yield cell
        return
    part, used = "", 0
    for c in cell.text:
        if used + columns(c) > width:
            yield Cell(part, cell.share)
            part, used = "", 0
        part, used = part + c, used + columns(c)
    yield Cell(part, cell.share, cell.others)


def _drawn(line: Sequence[Cell], alternatives: int, brush: _Brush, canvas: Canvas) -> Iterator[str]:
    gaps = [" " * (cell.width - columns(cell.text)) for cell in line]
    yield "".join(brush.ground(cell.text, cell.share) + gap for cell, gap in zip(line, gaps, strict=True)).rstrip(" ")
    if not canvas.color:
        marks = (_mark(cell.share, canvas) * columns(cell.text) + gap for cell, gap in zip(line, gaps, strict=True))
        under = "".join(marks).rstrip()
        if under:
            yield under
    for k in range(alternatives):
        rest = "".join(left(cell.others[k] if cell.others else "", cell.width) for cell in line).rstrip()
        if rest:
            yield canvas.paint(rest, "dim")
    if alternatives:
        yield ""
