"""The desk of a job on Ray: which chunk is where, who died with it, and what is to be sent again. In: calls. Out: plain data.

One of it lives beside the driver; the driver puts chunks, the reader takes them into the stream, workers say what they begin.
Plain bookkeeping: it knows no Ray, no model and no clock of its own (times are arguments), so that it can be tested alone.

A chunk may come to workers more than once, because its worker died, or because nobody can tell whether it did. It is computed
by one at a time: who receives it while another living worker holds it lets it go.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_DEATHS_TOGETHER = 2
"""Deaths of workers with a chunk, after which its rows run one at a time, so that the row which kills is found."""
MAX_DEATHS_ALONE = 2
"""Deaths of workers with one row and nothing else, after which the row gets an error."""
RESEND_SECONDS = 5.0
"""How long a chunk may be with nobody before it is sent again; twice as long after every time."""
FINISHED_SECONDS = 60.0
"""The same of a chunk that is computed and has not come to the driver."""
MAX_RESEND_SECONDS = 300.0


class Entry(NamedTuple):
    """What the reader puts into the stream at one place. rows None: the chunk is done, and the place stays empty."""

    chunk: int
    rows: bytes | None


class RowState(NamedTuple):
    """What to do with a row that runs alone: compute it, if there is no result yet and it has not killed too many."""

    result: bytes | None
    n_deaths: int


class Trouble(NamedTuple):
    """A worker that cannot work at all, for want of a model or of the right Fanlight."""

    node: str
    kind: str
    """Name of the error's class."""
    message: str


class Report(NamedTuple):
    """What the driver wants to know from time to time."""

    trouble: Trouble | None
    n_workers: int
    """Workers that have started and are alive."""
    n_deaths: int
    """Workers that died so far."""


@dataclass(slots=True)
class _Worker:
    """One life of one actor."""

    actor: str
    node: str
    alive: bool = True


@dataclass(slots=True)
class _Chunk:
    """A chunk that was put and not delivered yet."""

    rows: bytes
    holder: str | None = None
    """The life that has it."""
    begun: bool = False
    finished: bool = False
    """Computed by the holder; the result is on its way."""
    row: int | None = None
    """The row that runs alone."""
    deaths: int = 0
    deaths_alone: dict[int, int] = field(default_factory=dict)
    results: dict[int, bytes] = field(default_factory=dict)
    """Of rows that ran alone, so that the next death does not cost them."""
    sent_at: float | None = None
    """When it was last put into the stream; None: it waits for it."""
    patience: float = RESEND_SECONDS


class Desk:
    """See the module. Not thread-safe: one thread calls it, that of its actor."""

    def __init__(self) -> None:
        """Empty and open."""
        self._chunks: dict[int, _Chunk] = {}
        self._queue: deque[int] = deque()
        self._log = array("q")  # chunk at each place of the stream: a reader that starts again reads the same
        self._workers: dict[str, _Worker] = {}
        self._lives: dict[str, str] = {}  # actor -> its present life
        self._trouble: Trouble | None = None
        self._n_deaths = 0
        self._is_suspicious = False
        self._closed = False

    # -- the driver ---------------------------------------------------------------------------------------------------

    def put(self, chunk: int, rows: bytes) -> None:
        """A new chunk for the stream."""
        self._chunks[chunk] = _Chunk(rows)
        self._queue.append(chunk)

    def deliver(self, chunk: int) -> None:
        """The driver has the chunk's results; nothing of it is kept."""
        self._chunks.pop(chunk, None)

    def suspect(self) -> None:
        """Something was lost: from now on, what is with nobody for long is sent again. Before that, it only waits for its turn."""
        self._is_suspicious = True

    def close(self) -> None:
        """No chunk follows: the stream ends behind what was put."""
        self._closed = True

    def tend(self, dead_nodes: frozenset[str], now: float) -> Report:
        """Look after what was sent. now: seconds of any clock that goes forward."""
        for life, worker in self._workers.items():
            if worker.node in dead_nodes:
                self._bury(life)
        if self._is_suspicious:
            waiting = set(self._queue)
            for number, chunk in self._chunks.items():
                is_lost = chunk.holder is None or chunk.finished
                if not is_lost or chunk.sent_at is None or number in waiting:
                    continue
                if now - chunk.sent_at > chunk.patience:
                    chunk.patience = min(2 * chunk.patience, MAX_RESEND_SECONDS)
                    chunk.sent_at = None
                    self._queue.append(number)
        self._workers = {life: w for life, w in self._workers.items() if w.alive}
        return Report(self._trouble, len(self._workers), self._n_deaths)

    # -- the reader ---------------------------------------------------------------------------------------------------

    def entry(self, place: int, now: float) -> Entry | None:
        """What stands at a place of the stream; None: nothing yet, or, if `is_at_end`, nothing more."""
        if place == len(self._log):
            while self._queue and self._queue[0] not in self._chunks:
                self._queue.popleft()  # delivered while it waited to be sent again
            if not self._queue:
                return None
            self._log.append(self._queue.popleft())
        number = self._log[place]
        chunk = self._chunks.get(number)
        if chunk is None:
            return Entry(number, None)
        chunk.sent_at = now
        return Entry(number, chunk.rows)

    def is_at_end(self, place: int) -> bool:
        """Whether the stream ends before this place."""
        return self._closed and place == len(self._log)

    # -- workers ------------------------------------------------------------------------------------------------------

    def enter(self, actor: str, life: str, node: str) -> None:
        """A worker starts. Ray starts an actor again that died: so its former life is over."""
        former = self._lives.get(actor)
        if former is not None:
            self._bury(former)
        self._lives[actor] = life
        self._workers[life] = _Worker(actor, node)

    def refuse(self, node: str, kind: str, message: str) -> None:
        """A worker cannot start, and no other try would help."""
        self._trouble = self._trouble or Trouble(node, kind, message)

    def receive(self, chunk: int, life: str) -> bool:
        """Whether this worker is to compute the chunk that came to it."""
        found = self._chunks.get(chunk)
        if found is None or not self._is_alive(life):  # one on a node that was given up may yet be heard
            return False
        if found.holder is not None and not found.finished and self._is_alive(found.holder):
            return False
        found.holder, found.begun, found.finished, found.row = life, False, False, None
        return True

    def begin(self, chunk: int, life: str) -> bool:
        """A worker's model begins with the chunk. Whether its rows must run one at a time."""
        found = self._held(chunk, life)
        if found is None:
            return False
        found.begun = True
        return found.deaths >= MAX_DEATHS_TOGETHER

    def begin_row(self, chunk: int, position: int, life: str) -> RowState:
        """A worker is about to run this row of the chunk and nothing else."""
        found = self._held(chunk, life)
        if found is None:
            return RowState(None, 0)
        state = RowState(found.results.get(position), found.deaths_alone.get(position, 0))
        is_due = state.result is None and state.n_deaths < MAX_DEATHS_ALONE
        found.row = position if is_due else None
        return state

    def end_row(self, chunk: int, position: int, life: str, result: bytes) -> None:
        """The row is done."""
        found = self._held(chunk, life)
        if found is not None:
            found.results[position] = result
            found.row = None

    def finish(self, chunk: int, life: str, now: float) -> None:
        """The chunk is computed, and its results go into the stream."""
        found = self._held(chunk, life)
        if found is not None:
            found.finished, found.row, found.sent_at = True, None, now
            found.patience = max(found.patience, FINISHED_SECONDS)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _held(self, chunk: int, life: str) -> _Chunk | None:
        """The chunk, if it is still this worker's."""
        found = self._chunks.get(chunk)
        return found if found is not None and found.holder == life else None

    def _is_alive(self, life: str) -> bool:
        worker = self._workers.get(life)
        return worker is not None and worker.alive

    def _bury(self, life: str) -> None:
        worker = self._workers.get(life)
        if worker is None or not worker.alive:
            return
        worker.alive = False
        self._n_deaths += 1
        self.suspect()
        for chunk in self._chunks.values():
            if chunk.holder != life:
                continue
            if chunk.row is not None:
                chunk.deaths_alone[chunk.row] = chunk.deaths_alone.get(chunk.row, 0) + 1
            elif chunk.begun and not chunk.finished:
                chunk.deaths += 1
            chunk.holder, chunk.begun, chunk.finished, chunk.row = None, False, False, None
            chunk.patience = RESEND_SECONDS
