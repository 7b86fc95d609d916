"""How far a batch is, on standard error: a bar that is drawn again in its place, or a line now and then.

In: Progress. Out: text. Knows no file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    from fanlight.batch import Progress

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
BAR_CELLS = 24
DEFAULT_COLUMNS = 80
MIN_SECONDS_FOR_RATE = 1.0


def progress_text(progress: Progress, columns: int | None = None) -> str:
    """How far it is, how fast, how long yet. columns: of the terminal, for which there is a bar."""
    share = progress.n_done / max(1, progress.n_rows)
    parts = [f"{progress.n_done:,}/{progress.n_rows:,} rows"]
    n_new_rows = progress.n_done - progress.n_before
    if progress.seconds > MIN_SECONDS_FOR_RATE and n_new_rows:
        parts.append(f"{progress.n_new_tokens / progress.seconds:,.0f} tok/s")
        if progress.n_done < progress.n_rows:
            left = (progress.n_rows - progress.n_done) * progress.seconds / n_new_rows
            parts.append(f"{clock(left)} left")
    if progress.n_failed:
        parts.append(f"{progress.n_failed:,} failed")
    if columns is None:
        return f"{share:4.0%} | {' | '.join(parts)}"
    filled = min(BAR_CELLS, int(share * BAR_CELLS))
    bar = f"[{'#' * filled}{'-' * (BAR_CELLS - filled)}] "
    text = " | ".join(parts)
    return (bar + text if len(bar + text) < columns else text)[: columns - 1]


def clock(seconds: float) -> str:
    """Hours, if there are any, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressView:
    """Call it with each Progress. On leaving the context the bar is wiped out."""

    def __init__(self, terminal: TextIO | None, say: Callable[[str], None], *, quiet: bool = False) -> None:
        """terminal: where the bar is drawn; None: lines go to `say` instead. quiet: nothing is shown."""
        self._terminal, self._say, self._quiet = terminal, say, quiet
        self._shown_at = time.monotonic() if terminal is None else -REDRAW_SECONDS
        self._is_shown = False
        self.last: Progress | None = None
        """How far it was when it was last called."""

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        if self._quiet:
            return
        now = time.monotonic()
        if self._terminal is None:
            if now - self._shown_at >= LINE_SECONDS:
                self._shown_at = now
                self._say(progress_text(progress))
        elif now - self._shown_at >= REDRAW_SECONDS or progress.n_done >= progress.n_rows:
            self._shown_at = now
            self._draw("\r" + progress_text(progress, _columns(self._terminal)) + "\x1b[K")
            self._is_shown = True

    def wipe(self) -> None:
        """Take the bar away; the next call draws it again."""
        if self._is_shown:
            self._is_shown = False
            self._draw("\r\x1b[K")

    def _draw(self, text: str) -> None:
        try:
            assert self._terminal is not None
            self._terminal.write(text)
            self._terminal.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone; the job is not


def _columns(terminal: TextIO) -> int:
    try:
        return max(20, os.get_terminal_size(terminal.fileno()).columns or DEFAULT_COLUMNS)
    except (OSError, ValueError):
        return DEFAULT_COLUMNS
