"""An engine that waits for the next call, with what the last one computed. Knows no model and no text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanlight.engine.loop import Engine


class Spare:
    """One engine at most: of several calls at a time, those that come later have a new one each."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        """make: a new engine. It is called once at the beginning, so that its errors show."""
        self._make = make
        self._lock = RLock()  # a destructor that leaves an engine may run anywhere
        self.idle: Engine | None = make()

    def take(self, max_batch: int) -> Engine:
        """An engine for the caller alone, until `leave`."""
        with self._lock:
            engine, self.idle = self.idle, None
        engine = engine or self._make()
        engine.scheduler.max_batch = max_batch
        return engine

    def leave(self, engine: Engine) -> None:
        """Give it back. Of two, the one that knows more beginnings is kept; one with a request on its way is not."""
        if not engine.is_idle:
            return
        engine.drop_helpers()
        with self._lock:
            if self.idle is None or self.idle.cache.n_kept < engine.cache.n_kept:
                self.idle = engine

    @contextmanager
    def taken(self, max_batch: int) -> Iterator[Engine]:
        """`take` and `leave`."""
        engine = self.take(max_batch)
        try:
            yield engine
        finally:
            self.leave(engine)
