"""What runs on a machine of the cluster: one model, one engine, and the chunks that Ray Data brings. In: a chunk. Out: its results.

Ray Data calls a worker from several threads at once, a chunk each, so that the next chunk is there before the last one ends. All of
them go into one `Worker.run`, so that rows of several chunks share the model's passes, and the batch does not run dry between two
chunks. After a worker died twice with a chunk, its rows run one at a time, so that the row which kills its process is known: that
row gets an error, and the others their texts.

Knows no file and no cluster; Ray only where it asks the desk (`RayDesk`) and where tables come and go (`RayWorker`).
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fanlight.batch.ray_desk import MAX_DEATHS_ALONE, RowState
from fanlight.batch.rows import Row, StepJson, error_of
from fanlight.batch.worker import BatchModel, Worker
from fanlight.errors import FanlightError

if TYPE_CHECKING:
    import pyarrow as pa

Result = dict[str, Any]
Load = Callable[..., BatchModel]
"""load(threads=4) -> a model. Sent to the workers, so it must be something that pickle can carry."""


class Setup(NamedTuple):
    """What a worker needs to know; sent to each."""

    load: Load
    threads: int
    base: Mapping[str, Any]
    max_batch: int
    steps: StepJson | None
    version: str
    """The driver's Fanlight."""
    folder: str
    """Where the driver runs: what relative paths start from."""
    environment: Mapping[str, str]
    """Variables that say which model is meant, and how it is computed."""


class AsksDesk(Protocol):
    """What the engine's thread asks: see `ray_desk.Desk`."""

    def begin(self, chunk: int) -> bool:
        """Whether the chunk's rows must run one at a time."""

    def begin_row(self, chunk: int, position: int) -> RowState:
        """What is known of a row that is to run alone."""

    def end_row(self, chunk: int, position: int, result: bytes) -> None:
        """Its result."""


class RunsRows(Protocol):
    """What of a `Worker` the engine's thread needs."""

    def run(self, rows: Iterator[Row]) -> Iterator[tuple[Row, Result]]:
        """Rows, each with its result, as they end."""


class _Ticket:
    """A chunk on its way through the engine."""

    __slots__ = ("chunk", "done", "error", "results", "rows")

    def __init__(self, chunk: int, rows: Sequence[Row]) -> None:
        self.chunk, self.rows = chunk, rows
        self.results: dict[int, Result] = {}  # by position in the chunk
        self.error: BaseException | None = None
        self.done = threading.Event()

    def put(self, position: int, result: Result) -> None:
        self.results[position] = result
        if len(self.results) == len(self.rows):
            self.done.set()


class EngineThread:
    """The one thread that runs the model, for callers in many."""

    def __init__(self, worker: RunsRows, desk: AsksDesk) -> None:
        """Starts the thread, which ends with the process."""
        self._worker, self._desk = worker, desk
        self._queue: SimpleQueue[_Ticket] = SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[_Ticket] = set()
        self._broken: BaseException | None = None
        threading.Thread(target=self._loop, name="fanlight-engine", daemon=True).start()

    def compute(self, chunk: int, rows: Sequence[Row]) -> list[Result]:
        """The chunk's results, in its order. Errors: whatever the model raised that is no row's own."""
        if not rows:
            return []
        ticket = _Ticket(chunk, rows)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._open.add(ticket)
        self._queue.put(ticket)
        ticket.done.wait()
        with self._lock:
            self._open.discard(ticket)
        if ticket.error is not None:
            raise ticket.error
        return [ticket.results[position] for position in range(len(rows))]

    def _loop(self) -> None:
        try:
            first, is_alone = self._take(self._queue.get())
            while True:
                if is_alone:
                    self._run_alone(first)
                    following = None
                else:
                    following = self._run_together(first)
                first, is_alone = following or self._take(self._queue.get())
        except BaseException as error:
            with self._lock:
                self._broken = error
                for ticket in self._open:
                    ticket.error = error
                    ticket.done.set()

    def _take(self, ticket: _Ticket) -> tuple[_Ticket, bool]:
        return ticket, self._desk.begin(ticket.chunk)

    def _run_together(self, first: _Ticket) -> tuple[_Ticket, bool] | None:
        """Run the chunk and all that come meanwhile, in one batch; a chunk that must run alone, if one came."""
        places: dict[int, tuple[_Ticket, int]] = {}  # row's index -> where its result goes
        stopped_by: tuple[_Ticket, bool] | None = None

        def rows() -> Iterator[Row]:
            nonlocal stopped_by
            ticket = first
            while True:
                for position, row in enumerate(ticket.rows):
                    places[row.index] = ticket, position
                    yield row
                try:
                    ticket, is_alone = self._take(self._queue.get_nowait())
                except Empty:  # what runs is brought to its end; nothing waits for it
                    return
                if is_alone:
                    stopped_by = ticket, True
                    return

        for row, result in self._worker.run(rows()):
            ticket, position = places.pop(row.index)
            ticket.put(position, result)
        return stopped_by

    def _run_alone(self, ticket: _Ticket) -> None:
        """Run the rows one at a time, each announced, so that a death is one row's; what was done before a death is kept."""
        for position, row in enumerate(ticket.rows):
            state = self._desk.begin_row(ticket.chunk, position)
            if state.result is not None:
                ticket.put(position, pickle.loads(state.result))
            elif state.n_deaths >= MAX_DEATHS_ALONE:
                ticket.put(position, error_of(row.index, row.id, killer(state.n_deaths), row.metadata))
            else:
                for _, result in self._worker.run(iter([row])):
                    self._desk.end_row(ticket.chunk, position, pickle.dumps(result))
                    ticket.put(position, result)


def killer(n_deaths: int) -> FanlightError:
    """What is said of a row whose worker died each time it was tried."""
    return FanlightError(
        f"the worker's process died each of the {n_deaths} times that this row ran, with nothing beside it; "
        "out of memory is the usual cause: a shorter prompt, a smaller n_ctx or more memory for a worker may help"
    )


# -- on Ray ------------------------------------------------------------------------------------------------------------


class RayDesk:
    """The desk, as one life of a worker asks it: each call is answered before the next."""

    def __init__(self, handle: Any, life: str) -> None:
        """handle: of the desk's actor."""
        self._handle, self.life = handle, life

    def _ask(self, method: str, *args: object) -> Any:
        import ray

        return ray.get(getattr(self._handle, method).remote(*args))

    def enter(self, actor: str, node: str, handle: Any) -> None:
        """See `Desk`; so for the others."""
        self._ask("introduce", actor, handle)
        self._ask("enter", actor, self.life, node)

    def refuse(self, node: str, kind: str, message: str) -> None:
        """See `Desk`."""
        self._ask("refuse", node, kind, message)

    def receive(self, chunk: int) -> bool:
        """See `Desk`."""
        return bool(self._ask("receive", chunk, self.life))

    def begin(self, chunk: int) -> bool:
        """See `Desk`."""
        return bool(self._ask("begin", chunk, self.life))

    def begin_row(self, chunk: int, position: int) -> RowState:
        """See `Desk`."""
        return RowState(*self._ask("begin_row", chunk, position, self.life))

    def end_row(self, chunk: int, position: int, result: bytes) -> None:
        """See `Desk`."""
        self._ask("end_row", chunk, position, self.life, result)

    def finish(self, chunk: int) -> None:
        """See `Desk`."""
        self._ask("finished", chunk, self.life)


class RayWorker:
    """The class that `Dataset.map_batches` makes one of in every actor: it reads the model once."""

    def __init__(self, desk: Any, setup: Setup) -> None:
        """desk: the handle of its actor. A model that cannot be read is told to the desk, and the job ends with it."""
        import uuid

        import ray

        where = ray.get_runtime_context()
        self._desk = RayDesk(desk, uuid.uuid4().hex)
        self._desk.enter(where.get_actor_id(), where.get_node_id(), where.current_actor)
        try:
            adopt(setup)
            worker = made_worker(setup)
        except (FanlightError, ImportError, OSError) as error:
            self._desk.refuse(ray.util.get_node_ip_address(), type(error).__name__, str(error))
            raise
        self._engine = EngineThread(worker, self._desk)

    def __call__(self, table: pa.Table) -> pa.Table:
        """{"chunk", "rows"} -> {"chunk", "results"}, which is null where nothing was to do."""
        chunks = table.column("chunk").to_pylist()
        found = [
            self._compute(chunk, rows) for chunk, rows in zip(chunks, table.column("rows").to_pylist(), strict=True)
        ]
        return result_table(chunks, found)

    def _compute(self, chunk: int, rows: bytes | None) -> bytes | None:
        if rows is None or not self._desk.receive(chunk):
            return None
        results = self._engine.compute(chunk, pickle.loads(rows))
        packed = pickle.dumps(results)
        self._desk.finish(chunk)
        return packed


def adopt(setup: Setup) -> None:
    """Make this process look at names as the driver does; a folder that is not here is left out."""
    os.environ.update(setup.environment)
    with suppress(OSError):
        os.chdir(setup.folder)


def made_worker(setup: Setup) -> Worker:
    """The model read, in a Worker. Errors: as loading; FanlightError if this machine has another Fanlight than the driver."""
    from fanlight import __version__

    if __version__ != setup.version:
        raise FanlightError(
            f"Fanlight {__version__} is installed here, and {setup.version} where the job was started; install the same on both"
        )
    model = setup.load(threads=setup.threads)
    return Worker(model, setup.base, setup.max_batch, steps=setup.steps)


def row_table(chunk: int, rows: bytes | None) -> pa.Table:
    """One chunk as Ray Data carries it: rows stay packed, since a column of Arrow has one type and settings have many."""
    import pyarrow as pa

    return pa.table({"chunk": pa.array([chunk], pa.int64()), "rows": pa.array([rows], pa.large_binary())})


def result_table(chunks: Sequence[int], results: Sequence[bytes | None]) -> pa.Table:
    """Chunks and their packed results."""
    import pyarrow as pa

    return pa.table({"chunk": pa.array(chunks, pa.int64()), "results": pa.array(results, pa.large_binary())})
