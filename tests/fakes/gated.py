"""A fake decoder whose passes wait to be let through, so that a test says what happens between them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from fakes.decoder import FakeDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 60.0


class GatedDecoder(FakeDecoder):
    """Every pass says that it has begun, and waits for `let`."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._begun, self._let = threading.Semaphore(0), threading.Semaphore(0)
        self.is_open = False

    def forward(self, *args: Any) -> Any:
        """See Decoder."""
        self._begun.release()
        if not self.is_open and not self._let.acquire(timeout=PATIENCE_SECONDS):
            raise AssertionError("no one let the pass through")
        return super().forward(*args)

    def arrive(self) -> None:
        """Wait until the next pass has begun."""
        assert self._begun.acquire(timeout=PATIENCE_SECONDS), "no pass begins"

    def let(self) -> None:
        """Let the pass that has begun through, and wait for the one after it."""
        self._let.release()
        self.arrive()

    def open(self) -> None:
        """Let all through from now on."""
        self.is_open = True
        self._let.release(1)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """What another thread is about to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)
