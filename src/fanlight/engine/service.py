"""An engine with a thread of its own, which any thread and any asyncio loop may ask. In: prompts. Out: Tickets, of StepEvents.

    with Service(model.engine()) as service:
        ticket = service.submit(prompt_ids, config)
        for event in ticket: ...            # or, in a coroutine: async for event in ticket: ...

What a request gives is what it gives alone. Knows no model and no text, and nothing of how the engine schedules.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from fanlight.engine.ticket import Arrival, Box, Ticket
from fanlight.engine.worker import Stats, Worker
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from fanlight.decoding.config import GenerationConfig
    from fanlight.engine.loop import Engine
    from fanlight.engine.request import Helpers

__all__ = ["Service", "Stats", "Ticket"]


class Service:
    """The thread-safe front of an engine, which belongs to it from now on.

    The thread starts with the first request and sleeps while there is none. A Service that is dropped when nobody holds a ticket
    of it any more ends; so does one at the end of the process. A forked child cannot use its parent's: it makes one of its own.
    """

    def __init__(self, engine: Engine, *, max_waiting: int | None = 256) -> None:
        """max_waiting: how many requests may wait, nothing of them computed yet; None: any number. Errors: OptionError."""
        if max_waiting is not None and (
            not isinstance(max_waiting, int) or isinstance(max_waiting, bool) or max_waiting < 1
        ):
            raise OptionError(f"max_waiting must be at least 1, or None for no limit: got {max_waiting}")
        self._engine = engine
        self._worker = Worker(engine, max_waiting)
        weakref.finalize(self, Worker.end, self._worker, cancel=True).atexit = False

    def submit(
        self,
        prompt_ids: Iterable[int],
        config: GenerationConfig | None = None,
        helpers: Helpers | None = None,
        *,
        priority: int = 0,
        given: Iterable[int] | None = None,
    ) -> Ticket:
        """Queue a request; from any thread. Arguments and errors are those of Engine.prepare, which runs here, in the caller's
        thread: where a grammar is compiled that takes time, a coroutine calls `await asyncio.to_thread(service.submit, ...)`.

        Also raises QueueFull, and FanlightError if the service is closed.
        """
        box = Box()
        self._worker.take_place(box)
        try:
            ready = self._engine.prepare(prompt_ids, config, helpers, priority=priority, given=given)
            ticket = Ticket(self, self._worker, box)
            self._worker.send(Arrival(box, ready))
        except BaseException:
            self._worker.leave_place(box)
            raise
        return ticket

    def close(self, *, wait: bool = True) -> None:
        """Take no more requests, and end the thread. From any thread, any number of times.

        wait: let those that wait and run finish, and return when they have. Otherwise they are cancelled, and the thread ends
        after the pass it is in; a second `close()` waits for that.
        """
        self._worker.end(cancel=not wait)
        if wait:
            self._worker.join()

    @property
    def is_open(self) -> bool:
        """Whether requests are taken: not closed, the thread not dead, and not in a forked child of the process it began in."""
        return self._worker.refusal() is None

    def stats(self) -> Stats:
        """Numbers of the moment; from any thread, at the cost of a few additions."""
        return self._worker.stats()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=False) if error is not None else None
        self.close()
