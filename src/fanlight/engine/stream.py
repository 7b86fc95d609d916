"""One request of an engine as its caller holds it. Stepping for it advances all others too. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fanlight.engine.request import StepEvent

if TYPE_CHECKING:
    from collections import deque
    from types import TracebackType

    from fanlight.engine.loop import Engine
    from fanlight.engine.request import Request


class EventStream(Iterator[StepEvent]):
    """One request's events. Closing it, leaving its `with` block or dropping it ends the request."""

    def __init__(self, engine: Engine, request: Request, events: deque[StepEvent]) -> None:
        self.request = request
        self._engine = engine
        self._events = events
        self._open = True

    def __next__(self) -> StepEvent:
        try:
            while self._open and not self._events:
                self._step()
        except BaseException:
            self.close()
            raise
        if not self._open:
            raise StopIteration
        event = self._events.popleft()
        if event.ends_request:
            self.close()
        if event.error is not None:
            raise event.error
        return event

    def _step(self) -> None:
        engine = self._engine
        try:
            if not engine.step() and not self._events:
                assert engine.has_work, "a request that has not ended is neither waiting nor running"
        except Exception:  # of a pass, whose requests have ended with an error each
            engine.collect()
            if self._events or not engine.is_live(self.request):
                raise

    def close(self, then: Callable[[], None] = lambda: None) -> None:
        """End the request if it has not ended; from any thread, and again. then: called once that is done."""
        was_open, self._open = self._open, False
        if was_open:
            self._engine.drop(self.request, then)
        else:
            then()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
