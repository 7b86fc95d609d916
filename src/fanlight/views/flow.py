"""Styled text in a column of a terminal: wrapped, padded, never wider than it may be. In: pieces of text. Knows no record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple
from unicodedata import category, combining

from fanlight.views.terminal import Canvas, columns, visible

TAB = "    "
_JOINERS = "\u200c\u200d"  # letters and pictures need them; other signs without a width may turn a line around


class Piece(NamedTuple):
    """Text in one style; "": none."""

    text: str
    style: str = ""


class _Cell(NamedTuple):
    text: str
    width: int
    style: str


def flow(pieces: Iterable[Piece], width: int, canvas: Canvas) -> list[str]:
    """Lines of exactly `width` columns: broken at newlines, at blanks where there are any, within a word where there are none."""
    return [_painted(line, width, canvas) for line in _lines(_cells(pieces, canvas), width)]


def beside(blocks: Sequence[Sequence[str]], widths: Sequence[int], canvas: Canvas) -> list[str]:
    """Blocks of lines as columns, a rule between them; the shorter ones are filled up with blanks."""
    rule = canvas.paint(" │ " if canvas.unicode else " | ", "dim")
    rows = zip_longest(*blocks)
    return [
        rule.join(" " * width if cell is None else cell for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _cells(pieces: Iterable[Piece], canvas: Canvas) -> list[_Cell]:
    cells: list[_Cell] = []
    for text, style in pieces:
        for c in canvas.plain(visible(text)).replace("\t", TAB):
            if c in _JOINERS or combining(c) or category(c) in ("Mn", "Me"):
                if cells and cells[-1].text != "\n":
                    cells[-1] = cells[-1]._replace(text=cells[-1].text + c)
                continue
            shown = c.encode("unicode_escape").decode("ascii") if category(c) == "Cf" else c
            cells += [_Cell(part, columns(part), style) for part in shown]
    return cells


def _lines(cells: Sequence[_Cell], width: int) -> list[list[_Cell]]:
    lines: list[list[_Cell]] = [[]]
    used = 0
    for cell in cells:
        if cell.text == "\n":
            lines.append([])
            used = 0
            continue
        if used + cell.width > width:
            if cell.text == " ":  # the break stands for it
                lines.append([])
                used = 0
                continue
            line = lines[-1]
            blank = next((i for i in reversed(range(len(line))) if line[i].text == " "), None)
            moved = line[blank + 1 :] if blank is not None else []
            lines[-1] = line[:blank] if blank is not None else line
            lines.append(moved)
            used = sum(c.width for c in moved)
            if used + cell.width > width:  # a word as long as a line, before a sign of two columns
                lines.append([])
                used = 0
        lines[-1].append(cell)
        used += cell.width
    return lines


def _painted(line: Sequence[_Cell], width: int, canvas: Canvas) -> str:
    text = ""
    for style, cells in groupby(line, key=lambda cell: cell.style):
        run = "".join(cell.text for cell in cells)
        text += canvas.paint(run, style) if style else run
    return text + " " * (width - sum(cell.width for cell in line))
