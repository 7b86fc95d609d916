"""The batch job on Ray Data: rows -> each with its result, by models on all machines of a cluster. Knows no file, no terminal.

    with RayRows("auto", partial(fanlight.load, "model.gguf")) as ray_rows:
        run_rows(ray_rows.start, "prompts.jsonl", "out.jsonl", {"max_new_tokens": 40})

Rows are packed into chunks; a reader beside the driver streams these into `Dataset.map_batches` over a pool of actors
(`ray_worker.RayWorker`), and their results come back as blocks, a chunk each. Never more than a few chunks a worker are on their
way, so memory does not grow with the job.

Ray starts an actor that died again and repeats its calls, for that actor alone: where it finds no room any more, they would wait
for ever. So a desk (`ray_desk.Desk`) knows who has which chunk, and sends those of the dead into the stream again; what comes
twice is taken once.
"""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple

from fanlight.batch.ray_cluster import Pool, all_nodes, connected, plan_pool
from fanlight.batch.ray_desk import Report, Trouble
from fanlight.batch.ray_stream import CALLS, Stream
from fanlight.batch.ray_worker import Load, Result, Setup
from fanlight.batch.rows import Row, StepJson, fresh_seed
from fanlight.batch.worker import MAX_BATCH
from fanlight.errors import FanlightError

CHUNK_BYTES = 1 << 20
"""A chunk has at most this, or one row."""
MOST_BYTES = 64 << 20
"""On their way, or one row."""
TICK_SECONDS = 0.5
LOOK_SECONDS = 1.0
NO_ROOM_SECONDS = 30.0
"""How long a cluster may be without a node that could hold a worker."""
QUIET_SECONDS = 30.0
"""After which it is said that no worker has started."""


class RayOptions(NamedTuple):
    """How to use a cluster."""

    actors: int | None = None
    """Workers, each with a model. None: as many as fit."""
    cpus: int | None = None
    """Of each worker, and its threads. None: all of a node, or as many as `actors` leave."""
    runtime_env: Mapping[str, Any] | None = None
    """Ray's, for a cluster whose machines do not have the driver's virtual environment."""


class RayRows:
    """A cluster that runs rows. To be closed, or used in a `with` block."""

    def __init__(
        self,
        address: str,
        load: Load,
        *,
        max_batch: int = MAX_BATCH,
        steps: StepJson | None = None,
        options: RayOptions | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """address: `local`, `auto` or host:port. load: called as load(threads=n) by every worker; what it names must be there.

        steps: as of `Worker`. Nothing happens before `start`.
        """
        self._address, self._load, self._max_batch, self._steps = address, load, max_batch, steps
        self._options = options or RayOptions()
        self._note = on_note or (lambda text: None)
        self._stack = ExitStack()

    def __enter__(self) -> RayRows:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and Ray if it was started for this. May be called again."""
        self._stack.close()

    def start(self, base: Mapping[str, Any]) -> Callable[[Iterator[Row]], Iterator[tuple[Row, Result]]]:
        """Find the cluster and start the workers; what runs rows, and may be called again with more of them.

        base: as of `Worker`. Errors: MissingExtra, OptionError, FanlightError.
        """
        from fanlight import __version__

        self.close()
        settings = dict(base)
        if settings.get("seed") is None:
            settings["seed"] = fresh_seed()  # one for all workers
        self._stack.enter_context(connected(self._address, self._options.runtime_env))
        try:
            living, _ = all_nodes()
            pool = plan_pool(living, self._options.actors, self._options.cpus)
            setup = Setup(
                load=self._load,
                threads=pool.n_cpus,
                base=settings,
                max_batch=self._max_batch,
                steps=self._steps,
                version=__version__,
                folder=os.getcwd(),
                environment={name: value for name, value in os.environ.items() if name.startswith("FANLIGHT_")},
            )
            try:
                stream = Stream(pool, setup)
            except Exception as error:
                raise explained(error) from error
            self._stack.callback(stream.close)
        except BaseException:
            self.close()
            raise
        self._note(f"{pool.n_workers} worker{'s' * (pool.n_workers != 1)} of {_cpus(pool.n_cpus)} on Ray")
        return _Driver(stream, pool, self._max_batch, self._note).run


class _Driver:
    """The driver's side of a stream: what is on its way, and how the cluster is."""

    def __init__(self, stream: Stream, pool: Pool, max_batch: int, note: Callable[[str], None]) -> None:
        self._stream, self._pool, self._max_batch, self._note = stream, pool, max_batch, note
        self._most_rows = pool.n_workers * CALLS * max_batch
        self._out: dict[int, tuple[list[Row], int]] = {}  # chunk -> (its rows, bytes)
        self._n_chunks = 0
        self._n_rows_out = 0
        self._n_bytes_out = 0
        self._looked_at = self._room_at = self._started_at = time.monotonic()
        self._has_said_quiet = False
        self._n_deaths = 0

    def run(self, rows: Iterator[Row]) -> Iterator[tuple[Row, Result]]:
        """Each row with its result, as chunks come back; chunks that are still out from an earlier call come too."""
        rows = iter(rows)
        while True:
            self._send(rows)
            if not self._out:
                return
            for chunk, results in self._stream.results(TICK_SECONDS):
                yield from self._received(chunk, results)
            if time.monotonic() - self._looked_at >= LOOK_SECONDS or self._stream.is_over:
                self._look()

    def _send(self, rows: Iterator[Row]) -> None:
        """Fill what is on its way up again, by whole chunks."""
        free = self._most_rows - self._n_rows_out
        if free < self._max_batch or self._n_bytes_out >= MOST_BYTES:
            return
        taken: list[tuple[Row, int]] = []
        n_bytes = self._n_bytes_out
        for row in islice(rows, free - free % self._max_batch):
            size = len(pickle.dumps(row))
            taken.append((row, size))
            n_bytes += size
            if n_bytes >= MOST_BYTES:
                break
        if not taken:
            return
        # a short job is shared by all workers
        most = min(self._max_batch, -(-len(taken) // self._pool.n_workers)) if not self._out else self._max_batch
        chunk: list[Row] = []
        size = 0
        for row, row_bytes in taken:
            if chunk and (len(chunk) >= most or size + row_bytes > CHUNK_BYTES):
                self._put(chunk, size)
                chunk, size = [], 0
            chunk.append(row)
            size += row_bytes
        self._put(chunk, size)

    def _put(self, rows: list[Row], n_bytes: int) -> None:
        number = self._n_chunks
        self._n_chunks += 1
        self._out[number] = rows, n_bytes
        self._n_rows_out += len(rows)
        self._n_bytes_out += n_bytes
        self._stream.put(number, pickle.dumps(rows))

    def _received(self, chunk: int, packed: bytes) -> Iterator[tuple[Row, Result]]:
        rows, n_bytes = self._out.pop(chunk, ([], 0))  # one that came before is not taken again
        if not rows:
            return
        self._n_rows_out -= len(rows)
        self._n_bytes_out -= n_bytes
        self._stream.deliver(chunk)
        yield from zip(rows, pickle.loads(packed), strict=True)

    def _look(self) -> None:
        """Whether workers died, and whether there is hope. Errors: FanlightError."""
        now = self._looked_at = time.monotonic()
        try:
            living, dead = all_nodes()
            report = self._stream.look(dead)
        except Exception as error:
            raise explained(self._stream.error or error) from error
        if report.trouble is not None:
            raise refused(report.trouble)
        if self._stream.is_over:
            ended_by = self._stream.error or FanlightError("the stream ended before all rows were done")
            raise explained(ended_by) from ended_by
        self._say(report, now)
        if any(node.n_cpus >= self._pool.n_cpus for node in living):
            self._room_at = now
        elif now - self._room_at > NO_ROOM_SECONDS:
            raise FanlightError(
                f"the Ray cluster has lost all nodes with {_cpus(self._pool.n_cpus)}, and {self._n_rows_out} rows are not done; "
                "what is done is written: bring nodes back, then go on with --resume"
            )

    def _say(self, report: Report, now: float) -> None:
        if report.n_deaths > self._n_deaths:
            n = report.n_deaths - self._n_deaths
            self._n_deaths = report.n_deaths
            self._note(f"{n} worker{'s' * (n != 1)} died; what {'they' if n != 1 else 'it'} had is computed again")
        if report.n_workers == 0 and not self._has_said_quiet and now - self._started_at > QUIET_SECONDS:
            self._has_said_quiet = True
            self._note(
                f"no worker has started yet: each needs {_cpus(self._pool.n_cpus)} on one node, which other jobs may have"
            )


def _cpus(count: int) -> str:
    return f"{count} CPU{'s' * (count != 1)}"


# -- errors ------------------------------------------------------------------------------------------------------------


def refused(trouble: Trouble) -> FanlightError:
    """A worker's own error, of its own class, and where it was."""
    from fanlight import errors

    kind = getattr(errors, trouble.kind, FanlightError)
    if not (isinstance(kind, type) and issubclass(kind, FanlightError)):
        kind = FanlightError
    is_missing = trouble.kind in ("ModelNotFound", "DownloadError")
    hint = "; every node of the cluster needs the model under this name" if is_missing else ""
    shown = (
        trouble.message
        if kind is not FanlightError or trouble.kind == "FanlightError"
        else f"{trouble.kind}: {trouble.message}"
    )
    return kind(f"worker on {trouble.node}: {shown}{hint}")


def explained(error: BaseException) -> FanlightError:
    """What ended the stream, in a line."""
    if isinstance(error, FanlightError):
        return error
    text = str(error)
    missing = re.search(r"No module named '([\w.]+)'", text)
    if missing is not None:
        return FanlightError(
            f"a worker cannot import {missing.group(1)}: install it on every node of the cluster, in the Python that Ray runs in, "
            "or give a runtime_env that does"
        )
    cause = getattr(error, "cause", None) or error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return FanlightError(
        f"Ray ended the job: {type(cause).__name__}: {last:.500}; what is done is written: mend the cause, then go on with --resume"
    )
