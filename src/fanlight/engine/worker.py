"""The engine's thread: notes in, events into boxes. Knows neither who submits nor who reads.

It sleeps when there is no work. What others may know of the engine it writes down, under a lock, after every pass.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from fanlight.engine.ticket import Arrival, Box, Cancel, wake
from fanlight.errors import FanlightError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.engine.loop import Engine
    from fanlight.engine.request import StepEvent

LATELY_SECONDS = 10.0
ADMITTED_PER_PASS = 64
"""Requests that the others wait for to be taken in: each costs a fraction of a millisecond."""
EXIT_SECONDS = 2.0
"""What the end of the process waits for a pass to end; one that takes longer is left to the system."""


class Stats(NamedTuple):
    """What a service is doing. As of the engine's last pass, but for those that came since, which are in n_waiting."""

    n_running: int
    """Requests of which something is computed."""
    n_waiting: int
    """Requests of which nothing is computed yet; those whose settings are being checked count too."""
    n_done: int
    """Requests that ended, in whatever way, since the service began."""
    n_tokens: int
    """New tokens of all requests since the service began."""
    tokens_per_second: float
    """Of the last ten seconds, or of the service's life if that is shorter; time without work counts."""
    n_pages: int
    """Pages of the engine's own cache that are in use, the beginnings that it keeps included."""


class Worker:
    """The engine's thread, and what others may know of it. Holds no Service and no Ticket, so that dropping those is noticed."""

    def __init__(self, engine: Engine, max_waiting: int | None) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self.mail: SimpleQueue[Arrival | Cancel | None] = SimpleQueue()  # None: look up
        self._process = os.getpid()
        # Held for what follows, up to the blank line. One thread may take it twice, because a destructor may run anywhere.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closed = self._cancelling = False
        self._death: BaseException | None = None
        self._n_places = 0  # taken by requests that are not in the engine yet
        self._n_waiting = self._n_running = self._n_done = self._n_tokens = self._n_pages = 0
        self._started = 0.0
        self._lately: deque[tuple[float, int]] = deque()  # passes of the last seconds: when, how many tokens
        self._n_lately = 0

        self._arrivals: deque[Arrival] = deque()  # the engine's thread alone, as what follows
        self._boxes: dict[int, Box] = {}  # by request, until its last event
        self._n_failed = 0  # passes in a row that raised; each of them ends a request at least

    # -- for any thread -------------------------------------------------------------------------------------------------

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child, where the thread is not, and a lock may be held for ever."""
        return os.getpid() != self._process

    def refusal(self) -> FanlightError | None:
        """Why no request is taken."""
        if self.is_elsewhere:
            return FanlightError(
                f"this service belongs to process {self._process}, its thread did not come along into the forked process "
                f"{os.getpid()}: make an engine and a Service there"
            )
        if self._death is not None:
            return self._death_notice()
        if self._closed:
            return FanlightError("the service is closed: it takes no more requests; make another one")
        return None

    def check_process(self) -> None:
        """Raise in a forked child."""
        refusal = self.refusal() if self.is_elsewhere else None
        if refusal is not None:
            raise refusal

    def check_thread(self) -> None:
        """Raise in the engine's thread, which would wait for itself."""
        if threading.current_thread() is self._thread:
            raise FanlightError(
                "a function that the engine calls waits for a request of the same engine, which waits for the function: "
                "ask for it beforehand, or in another engine"
            )

    def take_place(self, box: Box) -> None:
        """Count a request that comes. Raises QueueFull."""
        self._check_open()  # in a forked child, nobody would ever unlock
        with self._lock:
            self._check_open()
            n = self._n_places + self._n_waiting
            if self.max_waiting is not None and n >= self.max_waiting:
                raise QueueFull(
                    f"the queue is full: {n} requests wait, at most {self.max_waiting} may; ask again later"
                )
            self._n_places += 1
            box.has_place = True

    def leave_place(self, box: Box) -> None:
        """Take it from the count again; once."""
        with self._lock:
            self._n_places -= box.has_place
            box.has_place = False

    def send(self, arrival: Arrival) -> None:
        """Hand a request to the engine's thread, which starts with the first one."""
        with self._lock:
            self._check_open()  # again: what comes after the closing would not be read
            if self._thread is None:
                self._start()
            self.mail.put(arrival)

    def end(self, *, cancel: bool) -> None:
        """Take no more requests; the thread ends when it has no work, or with the pass it is in."""
        if not self.is_elsewhere:
            with self._lock:
                self._closed = True
                self._cancelling |= cancel
            self.mail.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and not self.is_elsewhere:
            thread.join(timeout)

    def stats(self) -> Stats:
        """See Service."""
        self.check_process()
        with self._lock:
            self._count_tokens(0)
            life = min(LATELY_SECONDS, time.monotonic() - self._started)
            return Stats(
                n_running=self._n_running,
                n_waiting=self._n_places + self._n_waiting,
                n_done=self._n_done,
                n_tokens=self._n_tokens,
                tokens_per_second=self._n_lately / life if self._n_lately else 0.0,
                n_pages=self._n_pages,
            )

    def _check_open(self) -> None:
        refusal = self.refusal()
        if refusal is not None:
            raise refusal

    def _start(self) -> None:
        _watch_exit()
        _workers.add(self)
        self._started = time.monotonic()
        thread = threading.Thread(target=self._run, name="fanlight-engine", daemon=True)
        thread.start()
        self._thread = thread

    def _death_notice(self) -> FanlightError:
        error = FanlightError(f"the engine's thread has ended: {self._death!r}; make an engine and a Service anew")
        error.__cause__ = self._death
        return error

    def _count_tokens(self, n: int) -> None:
        """Add the tokens of a pass, and forget those of long ago. With the lock."""
        now, lately = time.monotonic(), self._lately
        if n:
            lately.append((now, n))
            self._n_lately += n
            self._n_tokens += n
        while lately and lately[0][0] < now - LATELY_SECONDS:
            self._n_lately -= lately.popleft()[1]

    # -- the engine's thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._die(error)

    def _serve(self) -> None:
        while True:
            self._read_mail()
            if not self._n_failed:  # failures are handed out by the next pass that succeeds: nobody new until then
                self._admit()
            if self._cancelling:
                for box in self._boxes.values():
                    self._cancel(box)
            if self.engine.has_work:
                self._pass()
            else:
                self._give_up_lost()
                if self._closed and not self._arrivals and self.mail.empty():
                    return

    def _pass(self) -> None:
        try:
            events = self.engine.step()
        except Exception:  # those in the pass hear of it by their events
            self._n_failed += 1
            if self._n_failed > len(self._boxes):
                raise
            return
        self._n_failed = 0
        self._deliver(events)

    def _read_mail(self) -> None:
        """The notes that are there; if there is nothing else to do, wait for one."""
        must_wait = not self.engine.has_work and not self._arrivals and not (self._closed and self.mail.empty())
        for _ in range(max(self.mail.qsize(), must_wait)):  # not those that come meanwhile: they might never end
            note = self.mail.get()
            if isinstance(note, Arrival):
                self._arrivals.append(note)
            elif note is not None:
                self._cancel(note.box)

    def _cancel(self, box: Box) -> None:
        """One that is not admitted yet is looked at again when it is."""
        if box.request is not None:
            self.engine.cancel(box.request)

    def _admit(self) -> None:
        if not self._arrivals:
            return
        arrived = []
        for _ in range(min(len(self._arrivals), ADMITTED_PER_PASS)):
            box, ready = self._arrivals.popleft()
            arrived.append(box)
            try:
                request = self.engine.admit(ready)
            except Exception as error:
                wake(box.fail(_as_ours(error)))
                continue
            self._boxes[request.id] = box
            box.begin(request)
            if box.is_cancelled:
                self._cancel(box)
        with self._lock:
            for box in arrived:
                self.leave_place(box)
            self._look_at_engine()

    def _deliver(self, events: Sequence[StepEvent]) -> None:
        parcels = [(self._boxes[event.request_id], event) for event in events if event.request_id in self._boxes]
        with self._lock:  # before anybody hears of it, so that what they ask then is answered rightly
            for _, event in parcels:
                if event.ends_request:
                    del self._boxes[event.request_id]
                    self._n_done += 1
            self._count_tokens(sum(event.id is not None for _, event in parcels))
            self._look_at_engine()
        waiting = {future: box for box, event in parcels for future in box.put(event)}
        for future in wake(waiting):  # its loop is closed, and its coroutine will never be heard of again
            box = waiting[future]
            box.close()
            self._cancel(box)

    def _look_at_engine(self) -> None:
        """What is known of the engine outside its thread. With the lock."""
        self._n_waiting = self.engine.n_waiting
        self._n_running = len(self._boxes) - self._n_waiting
        self._n_pages = self.engine.cache.pool.n_pages

    def _give_up_lost(self) -> None:
        """A request that is neither waiting nor running would never end: there is none, unless a fault of ours lost it."""
        self._n_failed = 0
        while self._boxes:
            _, box = self._boxes.popitem()
            self._n_done += 1
            self._cancel(box)
            wake(box.fail(FanlightError("the engine has lost this request by a fault of fanlight; ask for it again")))

    def _die(self, error: BaseException) -> None:
        """Tell everybody, and give back what can be given back."""
        with self._lock:
            self._death, self._closed = error, True  # from here on, nothing is sent
        boxes = [*self._boxes.values(), *(arrival.box for arrival in self._arrivals)]
        with suppress(Empty):
            while True:
                note = self.mail.get_nowait()
                boxes += [note.box] if isinstance(note, Arrival) else []
        with self._lock:
            self._n_waiting = self._n_running = 0
        for box in boxes:
            self.leave_place(box)
            with suppress(Exception):  # the engine may be in any state
                self._cancel(box)
            wake(box.fail(self._death_notice()))


def _as_ours(error: Exception) -> FanlightError:
    if isinstance(error, FanlightError):
        return error
    ours = FanlightError(f"the request could not begin, by a fault of fanlight: {error!r}")
    ours.__cause__ = error
    return ours


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@cache
def _watch_exit() -> None:
    """From the first thread on, so that this comes before what ends the threads of the kernels."""
    atexit.register(_end_all)


def _end_all() -> None:
    """A thread that runs Python while the interpreter goes down is asked to end before, and given a moment."""
    workers, deadline = list(_workers), time.monotonic() + EXIT_SECONDS
    for worker in workers:
        worker.end(cancel=True)
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
