"""What pictures in a terminal are drawn with: paint, bars, numbers, columns. Knows no record and no model.

Everything here works in three degrees: colour, plain Unicode, plain ASCII.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

Label = Callable[[int], str]
"""A token as one visible word, as `Tokenizer.token_label` writes it."""

# Middle tones, readable on dark and on light ground.
STYLES = {
    "bold": "1",
    "dim": "2",
    "chosen": "1;7",
    "model": "38;5;68",
    "final": "38;5;172",
    "cut": "38;5;131",
    "others": "38;5;245",
    "sure": "38;5;71",
    "likely": "38;5;143",
    "open": "38;5;173",
    "rare": "38;5;168",
}
HEAT = ((0.5, "sure"), (0.2, "likely"), (0.05, "open"), (0.0, "rare"))
"""A probability of at least this has that style."""

_EIGHTHS = " ▏▎▍▌▋▊▉"  # a cell filled from the left, in eighths
_FULL = "█"
_ASCII = {"␣": "_", "→": "->", "…": "...", "·": "|", "▸": ">", "◂": "<", "╌": "-", "─": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What the place where a picture is shown can show."""

    width: int = 80
    color: bool = False
    unicode: bool = True

    def paint(self, text: str, style: str) -> str:
        """The text in one of STYLES, if there is colour."""
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.color and text else text

    def plain(self, text: str) -> str:
        """The text with what the place cannot show written in ASCII."""
        if self.unicode:
            return text
        for sign, stand_in in _ASCII.items():
            text = text.replace(sign, stand_in)
        return text.encode("ascii", errors="backslashreplace").decode("ascii")

    def label(self, text: str, width: int) -> str:
        """A token's label, cut to `width` columns."""
        text = self.plain(text)
        if columns(text) <= width:
            return text
        dots = self.plain("…")
        room, kept = width - len(dots), ""
        for c in text:
            room -= columns(c)
            if room < 0:
                break
            kept += c
        return kept + dots

    def bar(self, share: float, width: int, style: str) -> str:
        """A bar that grows to the right: `share` (0..1) of `width` columns, padded with blanks. More than 0 always shows.

        The style "others" stands for many tokens, and has a lighter texture.
        """
        if style == "others" or not self.unicode:
            full, edge = _parts(share, width, 1), ""
        else:
            full, rest = divmod(_parts(share, width, 8), 8)
            edge = _EIGHTHS[rest] if rest else ""
        return self.paint(self._texture(style) * full + edge, style) + " " * (width - full - len(edge))

    def bar_left(self, share: float, width: int, style: str) -> str:
        """The same, growing to the left."""
        if style == "others" or not self.unicode:
            full, edge = _parts(share, width, 1), ""
        elif self.color:  # no sign is filled from the right in eighths, but one filled from the left can be inverted
            full, rest = divmod(_parts(share, width, 8), 8)
            edge = f"\x1b[7m{self.paint(_EIGHTHS[8 - rest], style)}" if rest else ""
            return " " * (width - full - bool(rest)) + edge + self.paint(_FULL * full, style)
        else:
            full, rest = divmod(_parts(share, width, 2), 2)
            edge = "▐" if rest else ""
        return " " * (width - full - len(edge)) + self.paint(edge + self._texture(style) * full, style)

    def _texture(self, style: str) -> str:
        if style == "others":
            return "░" if self.unicode else "."
        return _FULL if self.unicode else "#"


def _parts(share: float, width: int, per_cell: int) -> int:
    whole = min(1.0, share) * width * per_cell
    return max(1, round(whole)) if share > 0 else 0


def columns(text: str) -> int:
    """How many columns a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def left(text: str, width: int) -> str:
    """Padded to the right."""
    return text + " " * (width - columns(text))


def right(text: str, width: int) -> str:
    """Padded to the left."""
    return " " * (width - columns(text)) + text


def percent(prob: float) -> str:
    """At most six columns: "28.6%", "0.43%", "<0.01%"."""
    if prob <= 0:
        return "0%"
    if prob >= 1:
        return "100%"
    if prob < 0.0001:
        return "<0.01%"
    if prob > 0.9995:
        return ">99.9%"
    return f"{prob:.2%}" if prob < 0.00995 else f"{prob:.1%}"


def heat(prob: float) -> str:
    """The style of a probability."""
    return next(style for low, style in HEAT if prob >= low)


def visible(text: str) -> str:
    """Text from a model or a user that is safe to send to a terminal: control characters are written out.

    Newlines and tabs stay. Otherwise a text could move the cursor, change the title, or paint over what is there.
    """
    return text.translate(_CONTROLS)


_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}
