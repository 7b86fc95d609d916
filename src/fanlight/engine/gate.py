"""Who may touch an engine: one at a time. In: requests that nobody wants any more, from anywhere. Knows no scheduling."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from fanlight.engine.request import Request


class Gate:
    """A `with` block around everything that changes an engine; a thread that is in may come in again.

    Requests are dropped in other threads, and in destructors, which may run in the middle of anything. Those are noted, and seen to
    when nothing goes on.
    """

    def __init__(self, see_to: Callable[[Request], None]) -> None:
        """see_to: the engine's method that ends a request. An engine that nobody holds is gone at once, with its memory."""
        self._see_to = WeakMethod(see_to)
        self._lock, self._depth = RLock(), 0
        self.leaving: deque[tuple[Request, Callable[[], None]]] = deque()
        """Noted, and not seen to."""

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        self._lock.release()
        if self.leaving:
            self._let_leave()

    def leave(self, request: Request, then: Callable[[], None]) -> None:
        """Have a request ended, now or after what goes on. then: called after that."""
        self.leaving.append((request, then))
        self._let_leave()

    def _let_leave(self) -> None:
        while self.leaving and self._lock.acquire(blocking=False):  # who holds it comes here afterwards
            done = []
            try:
                if self._depth:
                    return
                self._depth += 1
                try:
                    while self.leaving:
                        request, then = self.leaving.popleft()
                        done.append(then)
                        see_to = self._see_to()
                        if see_to is not None:
                            see_to(request)
                finally:
                    self._depth -= 1
            finally:
                self._lock.release()
            for then in done:
                then()
