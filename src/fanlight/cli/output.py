"""Where a command writes and reads: text on standard output, notes on standard error, a prompt from standard input.

Knows whether a terminal, a pipe or nothing is there, and what may be shown on it. Knows no model.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from fanlight.errors import FanlightError, OptionError

if TYPE_CHECKING:
    from fanlight.views.terminal import Canvas

COLORS = ("auto", "always", "never")
DEFAULT_WIDTH, MAX_WIDTH, MIN_WIDTH = 80, 100, 60
BOM = b"\xef\xbb\xbf"


class OutputError(Exception):
    """Standard output does not take what is written."""


class Output:
    """Text to standard output, each piece at once; notes and errors to standard error, a line each."""

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        """None: the stream is closed, as `>&-` leaves it."""
        self._out, self._err = out, err
        self.color = "auto"
        self.is_terminal = _is_terminal(out)
        self.is_unicode = (getattr(out, "encoding", None) or "").lower().startswith("utf")
        self.notes: list[str] | None = None
        """Where notes are collected instead of being printed."""
        self._mid_line = False
        for stream in (out, err):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # an encoding without a character must not end a text

    @property
    def canvas(self) -> Canvas:
        """What pictures on standard output are drawn on."""
        from fanlight.views.terminal import Canvas

        return Canvas(width=self._width(), color=self._has_color(), unicode=self.is_unicode)

    def write(self, text: str) -> None:
        """To standard output, as it is. Errors: OutputError; BrokenPipeError if nobody reads any more."""
        if self._out is None:
            raise OutputError("standard output is closed")
        if text:
            self._mid_line = not text.endswith("\n")  # first: Ctrl-C may come right after the text is out
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write the output: {error.strerror or error}") from error

    def write_text(self, text: str, style: str = "") -> None:
        """A model's or a user's text: on a terminal, control characters are written out and do nothing."""
        if not text:
            return
        if self.is_terminal:
            from fanlight.views.terminal import visible

            text = visible(text)
        self.write(self.canvas.paint(text, style) if style else text)
        self._mid_line = not text.endswith("\n")  # whatever the paint ends with

    def line(self, text: str = "") -> None:
        """A line to standard output."""
        self.write(text + "\n")

    def end_line(self) -> None:
        """A newline, unless the last thing written was one."""
        if self._mid_line:
            self.write("\n")

    def note(self, text: str) -> None:
        """Something worth knowing that is no error."""
        if self.notes is not None:
            self.notes.append(text)
        else:
            self._say(f"note: {text}")

    def summary(self, text: str) -> None:
        """How it went, after the text."""
        self._say(text, dim=True)

    def error(self, text: str) -> None:
        """Why it did not work."""
        self._say(f"fanlight: {text}")

    def _say(self, text: str, *, dim: bool = False) -> None:
        line = "".join(
            c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text
        )
        if self._err is None:
            return
        if dim and self._has_color() and _is_terminal(self._err):
            line = f"\x1b[2m{line}\x1b[0m"
        try:
            if self._mid_line and self.is_terminal and _is_terminal(self._err) and self._out is not None:
                self._out.write("\n")  # not in the middle of the text
                self._out.flush()
                self._mid_line = False
            self._err.write(line + "\n")
            self._err.flush()
        except (OSError, ValueError):
            pass  # nobody can be told

    def _has_color(self) -> bool:
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
            return True
        return self.is_terminal and os.environ.get("TERM") != "dumb"

    def _width(self) -> int:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns) > 0:
            width = int(columns)
        elif self.is_terminal and self._out is not None:
            width = _columns(self._out)
        else:
            width = DEFAULT_WIDTH
        return max(MIN_WIDTH, min(MAX_WIDTH, width))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _columns(terminal: TextIO) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def read_prompt(words: list[str], output: Output, usage: str) -> str:
    """The one PROMPT among the words; "-" reads standard input, whose last newline does not count.

    Errors: OptionError; FanlightError for bytes that are not UTF-8, with the place of the first.
    """
    if not words:
        raise OptionError(f"the prompt is missing: give a text in quotes, or - to read standard input; usage: {usage}")
    if len(words) > 1:
        raise OptionError(
            f"one prompt is expected, {len(words)} were given, the second being {words[1]!r}; put the prompt in quotes"
        )
    if words[0] != "-":
        return decode_utf8(os.fsencode(words[0]), "the prompt")
    stdin: Any = sys.stdin
    if stdin is None:
        raise OptionError("the prompt is to be read from standard input, which is closed")
    if stdin.isatty():
        output.note("reading the prompt from the terminal; Ctrl-D on a line of its own ends it")
    try:
        data: bytes = stdin.buffer.read()
    except OSError as error:
        raise OptionError(f"standard input cannot be read: {error.strerror or error}") from None
    if data.startswith(BOM):
        output.note("standard input begins with a byte-order mark, which is left out")
    text = decode_utf8(data, "standard input").removeprefix("\ufeff")
    return text.removesuffix("\n").removesuffix("\r")


def decode_utf8(data: bytes, where: str) -> str:
    """Text, or a FanlightError that names the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FanlightError(
            f"{where} is not valid UTF-8: byte {data[error.start]:#04x} at offset {error.start} of {len(data)}; "
            "convert it first, as with: iconv -t UTF-8"
        ) from None
