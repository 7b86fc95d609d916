"""Terminal output -> an SVG picture of it. In: text with SGR colours on stdin. Out: SVG on stdout. Knows no Fanlight.

fanlight generate "..." --explain --color always | python docs/terminal_svg.py > docs/explain.svg
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 16
PAPER, INK = "#16181d", "#d7dae0"
SGR = re.compile(r"\x1b\[([0-9;]*)m")


@dataclass(frozen=True)
class Style:
    """What an SGR sequence sets."""

    colour: str = INK
    bold: bool = False
    dim: bool = False
    reverse: bool = False


def colour_256(n: int) -> str:
    """The xterm palette from 16 up: a 6 x 6 x 6 cube, then greys."""
    if n >= 232:
        return "#" + f"{8 + 10 * (n - 232):02x}" * 3
    levels = (0, 95, 135, 175, 215, 255)
    n -= 16
    return f"#{levels[n // 36]:02x}{levels[n // 6 % 6]:02x}{levels[n % 6]:02x}"


def apply(style: Style, codes: str) -> Style:
    """The style after one SGR sequence."""
    numbers = [int(code) for code in (codes or "0").split(";")]
    if numbers[:2] == [38, 5]:
        return replace(style, colour=colour_256(numbers[2]))
    for number in numbers:
        style = {
            0: Style(),
            1: replace(style, bold=True),
            2: replace(style, dim=True),
            7: replace(style, reverse=True),
        }[number]
    return style


def draw(text: str) -> str:
    """The picture of a text."""
    boxes, words, style = [], [], Style()
    lines = text.rstrip("\n").split("\n")
    n_columns = 0
    for row, line in enumerate(lines):
        column, y = 0, MARGIN + row * LINE_HEIGHT
        for i, part in enumerate(SGR.split(line)):
            if i % 2:
                style = apply(style, part)
                continue
            if not part:
                continue
            width = sum(2 if east_asian_width(c) in "WF" else 1 for c in part)
            x, wide = MARGIN + column * CELL_WIDTH, width * CELL_WIDTH
            if style.reverse:
                boxes.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{LINE_HEIGHT}" fill="{style.colour}"/>'
                )
            if part.strip():
                fill = PAPER if style.reverse else style.colour
                extra = ' font-weight="bold"' if style.bold else ""
                extra += ' opacity="0.6"' if style.dim else ""
                words.append(
                    f'<text x="{x:.1f}" y="{y + 13.5}" textLength="{wide:.1f}" fill="{fill}"{extra}>{escape(part)}</text>'
                )
            column += width
        n_columns = max(n_columns, column)
    width, height = 2 * MARGIN + n_columns * CELL_WIDTH, 2 * MARGIN + len(lines) * LINE_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">'
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>{"".join(boxes)}'
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve" '
        f'lengthAdjust="spacingAndGlyphs">{"".join(words)}</g></svg>\n'
    )


if __name__ == "__main__":
    sys.stdout.write(draw(sys.stdin.read()))
