"""One request as its caller holds it: a Ticket, and the box that the engine's thread puts its events in. Knows no engine.

Nobody waits for a consumer: what it has not read yet waits in the box, which holds no more than the request's own length.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanlight.engine.request import StepEvent
from fanlight.errors import FanlightError

if TYPE_CHECKING:
    from queue import SimpleQueue
    from types import TracebackType

    from fanlight.engine.loop import Ready
    from fanlight.engine.request import Request


class Box:
    """Where the engine's thread puts the events of one request. Does not know its ticket, so that dropping that is noticed."""

    __slots__ = (
        "changed",
        "events",
        "failure",
        "futures",
        "has_place",
        "is_cancelled",
        "is_closed",
        "is_over",
        "request",
    )

    def __init__(self) -> None:
        self.changed = threading.Condition()  # one thread may take its lock twice: a destructor may run anywhere
        self.events: deque[StepEvent] = deque()
        self.futures: list[asyncio.Future[None]] = []
        """Of coroutines that wait for news."""
        self.request: Request | None = None
        self.failure: FanlightError | None = None
        """What is raised after the last event."""
        self.has_place = False
        """Whether it counts among those that have come and are not in the engine."""
        self.is_cancelled = False
        self.is_over = False
        """Whether nothing more will come."""
        self.is_closed = False
        """Whether nobody will take anything more."""

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to say. With the lock, as all that follow."""
        return bool(self.events) or self.is_over or self.is_closed

    def take(self) -> StepEvent | None:
        """The next event, None after the last. Raises the request's error."""
        if self.is_closed:
            return None
        event = self.events.popleft() if self.events else None
        if event is None or event.ends_request:
            self.is_closed = True
        error = self.failure if event is None else event.error
        if error is not None:
            raise error
        return event

    def put(self, event: StepEvent) -> list[asyncio.Future[None]]:
        """Add an event; who is to be woken, besides the threads."""
        with self.changed:
            self.is_over = event.ends_request
            if not self.is_closed:
                self.events.append(event)
            return self._news()

    def begin(self, request: Request) -> None:
        """The engine has taken it in."""
        with self.changed:
            self.request = request
            self.changed.notify_all()

    def fail(self, error: FanlightError) -> list[asyncio.Future[None]]:
        """End without an event; who is to be woken."""
        with self.changed:
            self.failure, self.is_over = error, True
            return self._news()

    def close(self) -> list[asyncio.Future[None]]:
        """Forget what has not been taken; who is to be woken."""
        with self.changed:
            self.is_closed = True
            self.events.clear()
            return self._news()

    def _news(self) -> list[asyncio.Future[None]]:
        self.changed.notify_all()
        futures, self.futures = self.futures, []
        return futures


class Arrival(NamedTuple):
    """A note to the engine's thread: a request that has come."""

    box: Box
    ready: Ready


class Cancel(NamedTuple):
    """A note to the engine's thread: nobody wants this any more."""

    box: Box


class Desk(Protocol):
    """Where notes to the engine's thread are left."""

    mail: SimpleQueue[Arrival | Cancel | None]

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child, where the thread is not, and a lock may be held for ever."""

    def check_process(self) -> None:
        """Raise in a forked child."""

    def check_thread(self) -> None:
        """Raise in the engine's thread, which would wait for itself."""


class Ticket(Iterator[StepEvent], AsyncIterator[StepEvent]):
    """One request's events, for `for` and for `async for`, each as soon as it is there.

    An event with an error is raised. Closing the ticket, leaving its `with` block, or dropping it ends the request; so does an
    exception in the middle of a wait: Ctrl-C, or the cancellation of the task. Its memory is free after the pass that runs.
    """

    def __init__(self, owner: object, desk: Desk, box: Box) -> None:
        """Made by `Service.submit`. owner: what must not be dropped before this is."""
        self._owner, self._desk, self._box = owner, desk, box  # the owner lives as long as a ticket of it

    @property
    def request(self) -> Request:
        """The request as the engine has it, with its seed. Waits until the engine has taken it in, between two passes.

        Raises FanlightError if it never did.
        """
        box, desk = self._box, self._desk
        desk.check_process()
        with box.changed:
            while box.request is None and not (box.is_over or box.is_closed):
                desk.check_thread()
                box.changed.wait()
            if box.request is None:
                raise box.failure or FanlightError("this request ended before the engine took it in")
            return box.request

    def __iter__(self) -> Ticket:
        return self

    def __next__(self) -> StepEvent:
        box, desk = self._box, self._desk
        try:
            desk.check_process()
            with box.changed:
                while not box.has_news:
                    desk.check_thread()
                    box.changed.wait()
                event = box.take()
        except BaseException:
            self.close()
            raise
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> Ticket:
        return self

    async def __anext__(self) -> StepEvent:
        box, loop = self._box, asyncio.get_running_loop()
        try:
            self._desk.check_process()
            while True:
                with box.changed:
                    if box.has_news:
                        event = box.take()
                        break
                    news = loop.create_future()
                    box.futures.append(news)
                await news
        except BaseException:
            self.close()
            raise
        if event is None:
            raise StopAsyncIteration
        return event

    def cancel(self) -> None:
        """End the request; from any thread. What was decided before still comes, then a last event that says so.

        Nothing happens if it has ended.
        """
        if not self._box.is_over:
            self._box.is_cancelled = True
            self._desk.mail.put(Cancel(self._box))

    def close(self) -> None:
        """End the request if it has not ended, and hear no more of it; from any thread, any number of times."""
        if not self._desk.is_elsewhere:
            self._abandon()
            wake(self._box.close())

    def _abandon(self) -> None:
        """Takes no lock: whoever drops a ticket may be anywhere, even in the engine's thread."""
        box = self._box
        if not box.is_closed and not box.is_over:
            box.is_cancelled = True
            self._desk.mail.put(Cancel(box))
        box.is_closed = True

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Ticket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._abandon()


def wake(futures: Iterable[asyncio.Future[None]]) -> list[asyncio.Future[None]]:
    """Let coroutines go on, with one call for each loop; returns those whose loop is closed."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in futures:
        loops.setdefault(future.get_loop(), []).append(future)
    lost = []
    for loop, mine in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:
            lost += mine
    return lost


def _resolve(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
