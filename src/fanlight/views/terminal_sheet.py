"""What the larger pictures in a terminal share: headings that wrap, lines that fit, grounds, charts. In: words and numbers.

A sheet is a heading, its facts and lines of columns. Grounds are those of the pictures in files, from nothing to much, in all the
colours that a terminal says it has, else in its 256. Where there is no colour, marks or shades say the same. Knows no record and
no model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log10
from unicodedata import category

from fanlight.errors import OptionError
from fanlight.views.ribbon_colors import RGB, ink_on
from fanlight.views.terminal import Canvas, columns, percent, right
from fanlight.views.terminal_ribbon import ASCII_MARKS, MARKS, nearest

ESCAPES = re.compile(r"(\x1b\[[0-9;]*m)")
SEQUENTIAL: dict[bool, tuple[RGB, ...]] = {
    False: ((246, 246, 238), (191, 224, 204), (99, 177, 192), (42, 108, 156), (18, 41, 77)),
    True: ((28, 33, 39), (31, 75, 105), (47, 138, 154), (147, 205, 159), (250, 244, 184)),
}
"""On light and on dark ground: those of `axes.sequential`."""
DIVERGING: dict[bool, tuple[RGB, ...]] = {
    False: ((10, 67, 119), (90, 163, 212), (243, 243, 240), (232, 154, 82), (150, 58, 0)),
    True: ((154, 210, 255), (47, 122, 178), (31, 36, 42), (189, 103, 27), (255, 196, 127)),
}
"""Below nothing and above it: those of `axes.diverging`."""
GREY: dict[bool, RGB] = {False: (205, 207, 210), True: (78, 82, 88)}
"""Where there can be nothing."""
SHADES, ASCII_SHADES = " ░▒▓█", " .:-=+*#%@"
LEVELS, ASCII_LEVELS = " ▁▂▃▄▅▆▇█", " .:#"
POWER_LINES, POWER_LEAD = 6, 9  # lines of a chart of powers of ten, columns before it
LOWEST_POWER = -12
"""At its bottom, however small all is."""
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Kinds of signs that could move what stands beside them: they are written out."""
_ASCII = {"\u00d7": "x", "●": "@", "○": "o", "■": "#", "≤": "<=", "≥": ">=", "√": "sqrt", "∞": "inf"}
_TREE = {"├": "|", "└": "`", "│": "|"}


# -- words -----------------------------------------------------------------------------------------------------------------


def plain(text: str, canvas: Canvas) -> str:
    """Words of our own: signs that the place cannot show in ASCII."""
    if canvas.unicode:
        return text
    for sign, stand_in in (_ASCII | _TREE).items():
        text = text.replace(sign, stand_in)
    return canvas.plain(text)


def one_line(text: str, canvas: Canvas) -> str:
    """Words of a model or a user on one line, with nothing in them that a terminal obeys."""
    return canvas.plain("".join(_spelled(c) if category(c) in UNSAFE else c for c in text))


def _spelled(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


def name_of(text: str, width: int, canvas: Canvas) -> str:
    """A token's label in at most so many columns, "…" for what is left out."""
    return cut(one_line(text, canvas), width, canvas)


def cut(text: str, width: int, canvas: Canvas) -> str:
    """The beginning of a line without colours, in at most so many columns."""
    if columns(text) <= width:
        return text
    dots = canvas.plain("…")
    dots = dots if len(dots) < width else ""
    return _start(text, width - len(dots)) + dots


def _start(text: str, width: int) -> str:
    for i, c in enumerate(text):
        width -= columns(c)
        if width < 0:
            return text[:i]
    return text


def ending_of(text: str, width: int, canvas: Canvas) -> str:
    """The end of a text on one line, in quotes, in at most so many columns. Blanks that it ends in can be seen."""
    ending = text[len(text.rstrip()) :].replace(" ", "␣")
    said = one_line(" ".join(text.split()) + ending, canvas)
    dots = canvas.plain("…")
    if columns(said) + 2 <= width:
        return f"'{said}'"
    room, at = width - 2 - len(dots), len(said)
    while at and (room := room - columns(said[at - 1])) >= 0:
        at -= 1
    return f"'{dots}{said[at:]}'"


def after(context: str, canvas: Canvas) -> str:
    """ "after 'The cat sat on the': ", for headings; "" of no text."""
    return f"after {ending_of(context, min(48, max(12, canvas.width - 10)), canvas)}: " if context else ""


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of at most so many columns, broken at blanks where there are any."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if columns(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        while columns(word) > width and len(word) > 1:
            part = _start(word, width) or word[0]
            yield part
            word = word[len(part) :]
        line = word
    yield line


def count(n: int, what: str) -> str:
    """ "1 token", "49,152 tokens"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def short_percent(prob: float) -> str:
    """In at most four columns: "100%", "29%", "2.5%", ".04%", "<.1%" for what is less."""
    if prob <= 0:
        return "0%"
    if prob >= 0.0995:
        return f"{prob:.0%}"
    if prob >= 0.00095:
        return f"{prob:.1%}"
    return f".{round(prob * 1e4):02d}%" if prob >= 0.00005 else "<.1%"


def small_percent(prob: float) -> str:
    """As everywhere, but small ones with one digit: "0.004%", "3e-06%"."""
    return f"{prob * 100:.1g}%" if 0 < prob < 0.0001 else percent_of(prob)


def percent_of(prob: float) -> str:
    """As `percent`, of a number that rounding may have taken beyond 1."""
    return percent(min(1.0, prob))


# -- lines -----------------------------------------------------------------------------------------------------------------


def sheet(canvas: Canvas, title: str, facts: Sequence[str], lines: Sequence[str]) -> str:
    """The heading and what stands below it; a line that is too wide is cut, which no line of words should need."""
    head = [canvas.paint(line, "bold") for line in wrapped(plain(title, canvas), canvas.width)]
    for fact in facts:
        head += [canvas.paint(line, "dim") for line in wrapped(plain(fact, canvas), canvas.width)] if fact else []
    return "\n".join(fitted(line.rstrip(" "), canvas).rstrip(" ") for line in (*head, "", *lines)).rstrip("\n")


def width_of(line: str) -> int:
    """Columns of a line with its colours."""
    return columns(ESCAPES.sub("", line))


def fitted(line: str, canvas: Canvas) -> str:
    """A line with its colours, in at most the canvas' columns."""
    if width_of(line) <= canvas.width:
        return line
    room, kept, is_painted = canvas.width, "", False
    for part in ESCAPES.split(line):
        if part.startswith("\x1b"):
            kept, is_painted = kept + part, part != "\x1b[0m"
            continue
        start = _start(part, room)
        kept, room = kept + start, room - columns(start)
        if start != part:
            break
    return kept + ("\x1b[0m" if is_painted else "")


def padded(line: str, width: int) -> str:
    """A line with its colours, filled up with blanks to so many columns."""
    return line + " " * (width - width_of(line))


def beside(blocks: Sequence[Sequence[str]], gap: int) -> list[str]:
    """Blocks of lines beside each other."""
    widths = [max(map(width_of, block), default=0) for block in blocks]
    tall = max(map(len, blocks), default=0)
    rows = ([block[i] if i < len(block) else "" for block in blocks] for i in range(tall))
    return [
        (" " * gap).join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def bands(widths: Sequence[int], room: int) -> list[range]:
    """Columns of these widths in so many tables, one below the other, that each fits; a column alone may not."""
    found, start, used = [], 0, 0
    for i, width in enumerate(widths):
        if i > start and used + width > room:
            found.append(range(start, i))
            start, used = i, 0
        used += width
    return [*found, range(start, len(widths))]


def ruler(numbers: Sequence[int], cell: int) -> str:
    """Numbers above cells of that many columns, at their right ends: all, or each 2nd, 5th, 10th, ... number."""
    longest = max((len(str(number)) for number in numbers), default=1)
    every = next(k * 10**tens for tens in range(9) for k in (1, 2, 5) if k * 10**tens * cell > longest)
    line = ""
    for i, number in enumerate(numbers):
        said = str(number)
        start = (i + 1) * cell - len(said)
        if number % every == 0 and start >= len(line) + (1 if line else 0):
            line = line.ljust(start) + said
    return line


# -- marks -----------------------------------------------------------------------------------------------------------------


def mark(share: float, canvas: Canvas) -> str:
    """One to eight eighths of a block, or 1 to 8; a blank of nothing."""
    marks = MARKS if canvas.unicode else ASCII_MARKS
    return marks[max(1, min(8, round(share * 8)))] if share > 0 else " "


def shade(share: float, canvas: Canvas) -> str:
    """A sign that is the darker, the larger the share."""
    signs = SHADES if canvas.unicode else ASCII_SHADES
    return signs[min(len(signs) - 1, int(share * (len(signs) - 1) + 0.5))]


def chart(shares: Sequence[float | None], height: int, canvas: Canvas) -> list[str]:
    """Columns that grow upwards, the top line first. Of more than 0 something always shows; None: a gap."""
    signs = LEVELS if canvas.unicode else ASCII_LEVELS
    per = len(signs) - 1
    whole = [0 if not share else max(1, round(min(1.0, share) * height * per)) for share in shares]
    return ["".join(signs[min(per, max(0, level - row * per))] for level in whole) for row in reversed(range(height))]


def pooled(values: Sequence[float], n: int) -> list[float]:
    """At most n values: the largest of each group of neighbours."""
    return [max(values[i] for i in group) for group in groups(len(values), min(n, len(values)))]


def groups(size: int, n: int) -> list[range]:
    """The numbers below `size` in n groups of neighbours."""
    return [range(size * i // n, size * (i + 1) // n) for i in range(n)]


def highest_power(probs: Sequence[float]) -> int:
    """The power of ten at the top of a `power_chart` that shows the largest of these."""
    return min(0, max(LOWEST_POWER + POWER_LINES, ceil(log10(max([*probs, 1e-300])) - 1e-9)))


def power_chart(
    probs: Sequence[float], top: int, style: str, canvas: Canvas, *, bounds: Sequence[bool] | None = None
) -> list[str]:
    """Probabilities over steps: columns up to 10^top, each line a power of ten; steps below them. 0: a gap.

    Steps that have no room of their own share a column, which has the largest. bounds: of each step, whether its probability is
    only the most that it can be, which has a lighter texture.
    """
    bottom = top - POWER_LINES
    shown = pooled(probs, max(1, canvas.width - POWER_LEAD - 1))
    shares = [
        None if prob <= 0 else max(1e-9, (log10(max(prob, 10.0**bottom)) - bottom) / POWER_LINES) for prob in shown
    ]
    drawn = chart(shares, POWER_LINES, canvas)
    if bounds is not None:
        at = [max(group, key=lambda i: probs[i]) for group in groups(len(probs), len(shown))]
        drawn = [
            "".join(_lighter(c, canvas) if bounds[i] else c for c, i in zip(line, at, strict=True)) for line in drawn
        ]
    rows = [
        f"{canvas.paint(right(_power(bottom + i), POWER_LEAD), 'dim')} {canvas.paint(line.rstrip(), style)}"
        for i, line in zip(range(POWER_LINES, 0, -1), drawn, strict=True)
    ]
    last = str(len(probs) - 1)
    ends = "0" if len(shown) <= len(last) + 1 else f"0{last:>{len(shown) - 1}}"
    return [*rows, canvas.paint(f"{right('step', POWER_LEAD)} {ends}", "dim")]


def _lighter(sign: str, canvas: Canvas) -> str:
    return " " if sign == " " else "░" if canvas.unicode else "-"


def _power(power: int) -> str:
    return f"{10.0 ** (power + 2):g}%"


# -- grounds ---------------------------------------------------------------------------------------------------------------


class Brush:
    """Grounds by share, on a canvas: in colour, or none."""

    def __init__(self, canvas: Canvas, environ: Mapping[str, str] | None = None) -> None:
        around = os.environ if environ is None else environ
        ground = around.get("COLORFGBG", "").rpartition(";")[2]
        self.canvas = canvas
        self.is_dark = not (ground.isdecimal() and int(ground) in (7, *range(9, 16)))
        self._is_true = around.get("COLORTERM", "").lower() in ("truecolor", "24bit")

    def much(self, text: str, share: float) -> str:
        """On the ground of a share, 0..1."""
        return self._ground(text, between(SEQUENTIAL[self.is_dark], share))

    def signed(self, text: str, share: float) -> str:
        """On the ground of a share, -1..1; 0 is nothing."""
        return self._ground(text, between(DIVERGING[self.is_dark], (share + 1) / 2))

    def halves(self, upper: float, lower: float) -> str:
        """One cell that shows two shares, one above the other; less than 0: neither much nor nothing, but grey."""
        stops, grey = SEQUENTIAL[self.is_dark], GREY[self.is_dark]
        over, under = (between(stops, share) if share >= 0 else grey for share in (upper, lower))
        return f"\x1b[{self._code(38, over)};{self._code(48, under)}m▀\x1b[0m"

    def _ground(self, text: str, rgb: RGB) -> str:
        if not self.canvas.color or not text:
            return text
        return f"\x1b[{self._code(48, rgb)};{self._code(38, ink_on(rgb))}m{text}\x1b[0m"

    def _code(self, plane: int, rgb: RGB) -> str:
        return f"{plane};2;{rgb[0]};{rgb[1]};{rgb[2]}" if self._is_true else f"{plane};5;{nearest(rgb)}"


def between(stops: Sequence[RGB], share: float) -> RGB:
    """The colour at a share of the way over some stops; beyond it, at its ends."""
    place = min(1.0, max(0.0, share)) * (len(stops) - 1)
    at = min(int(place), len(stops) - 2)
    low, high = stops[at], stops[at + 1]
    r, g, b = (round(a + (place - at) * (z - a)) for a, z in zip(low, high, strict=True))
    return r, g, b


def scale_of(shares: Sequence[tuple[str, float]], brush: Brush) -> str:
    """What grounds mean: some values on theirs; without colour, their marks."""
    if brush.canvas.color:
        return " ".join(brush.much(f" {name} ", share) for name, share in shares)
    return "  ".join(f"{name} {mark(share, brush.canvas).strip() or 'none'}" for name, share in shares)


# -- checks ----------------------------------------------------------------------------------------------------------------


def among(what: str, number: int, recorded: Sequence[int]) -> int:
    """The place of a number among those recorded, counted from the end if negative. Errors: OptionError."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise OptionError(f"a {what} is a whole number: got {number!r:.80}")
    wanted = recorded[number] if -len(recorded) <= number < 0 else number
    if wanted not in recorded:
        there = ", ".join(map(str, recorded)) if len(recorded) <= 8 else f"{recorded[0]} to {recorded[-1]}"
        raise OptionError(f"{what} {number} was not recorded; there is {there}")
    return list(recorded).index(wanted)


def at_least_one(name: str, n: int, most: int) -> int:
    """A number of rows. Errors: OptionError."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most:
        raise OptionError(f"{name} is how many tokens to show, from 1 to {most}: got {n!r:.80}")
    return n
