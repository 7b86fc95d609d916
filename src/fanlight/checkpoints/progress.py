"""Bytes that have arrived -> one line on a terminal, drawn again in its place. Knows no network and no file."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import TextIO

REDRAW_SECONDS = 0.1
BAR_CELLS = 24
MIN_SECONDS_FOR_RATE, MIN_BYTES_FOR_RATE = 0.5, 100_000
DEFAULT_COLUMNS = 80


class ProgressLine:
    """Call it with (file, bytes here, bytes in all). On leaving the context the line is wiped out."""

    def __init__(self, terminal: TextIO, name: str) -> None:
        self._terminal, self._name = terminal, name
        self._started, self._drawn = time.monotonic(), 0.0
        self._first = -1
        self._is_shown = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._say("\r\x1b[K")

    def __call__(self, file: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first, self._started = done, now
        if now - self._drawn >= REDRAW_SECONDS or done >= total:
            self._drawn = now
            self._say("\r" + self.text(file, done, total, now - self._started) + "\x1b[K")

    def text(self, file: str, done: int, total: int, seconds: float) -> str:
        """The line, no wider than the terminal."""
        share = done / total if total > 0 else 0.0
        filled = min(BAR_CELLS, int(share * BAR_CELLS))
        arrived = done - self._first
        rate = arrived / seconds if seconds > MIN_SECONDS_FOR_RATE and arrived > MIN_BYTES_FOR_RATE else 0.0
        left = f", {_clock((total - done) / rate)} left" if rate > 0 else ""
        speed = f"  {rate / 1e6:.1f} MB/s{left}" if rate > 0 else ""
        line = f"{self._name} [{'#' * filled}{'-' * (BAR_CELLS - filled)}] {done / 1e6:.1f} of {total / 1e6:.1f} MB{speed}  {file}"
        safe = "".join(c if c.isprintable() else "?" for c in line)
        return safe[: self._columns() - 1]

    def _columns(self) -> int:
        try:
            return max(20, os.get_terminal_size(self._terminal.fileno()).columns or DEFAULT_COLUMNS)
        except (OSError, ValueError):
            return DEFAULT_COLUMNS

    def _say(self, text: str) -> None:
        try:
            self._terminal.write(text)
            self._terminal.flush()
            self._is_shown = True
        except (OSError, ValueError):
            pass  # the terminal is gone; the download is not


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(min(seconds, 359999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
