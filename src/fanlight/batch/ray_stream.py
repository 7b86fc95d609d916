"""Chunks -> Ray Data -> their results: the desk's actor, the reader, the pool of workers, and the thread that takes results.

In: chunks that the driver puts, packed rows each. Out: (chunk, packed results), in any order. Knows no model and no file.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from fanlight.batch.ray_cluster import Pool
from fanlight.batch.ray_desk import Desk, Entry, Report
from fanlight.batch.ray_worker import RayWorker, Setup, row_table

if TYPE_CHECKING:
    import pyarrow as pa

CALLS = 4
"""Chunks at one worker. Its engine takes two batches of rows at a time: two chunks, one that is next, and one on its way."""
WAIT_SECONDS = 5.0
LOOK_SECONDS = 30.0
CLOSE_SECONDS = 10.0
NODE_LABEL = "ray.io/node-id"
NOTHING_YET, AT_END = "nothing yet", "at end"


class DeskActor(Desk):
    """The desk as an actor: all calls run on one event loop, one at a time; only the reader's waits."""

    def __init__(self) -> None:
        """Made by Ray, on the driver's machine."""
        super().__init__()
        self._changed = asyncio.Event()
        self._actors: dict[str, Any] = {}

    async def take(self, place: int) -> Entry | str:
        """What stands at a place of the stream: waits for it a while."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    found = self.entry(place, time.monotonic())
                    if found is not None:
                        return found
                    if self.is_at_end(place):
                        return AT_END
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return NOTHING_YET

    async def put(self, chunk: int, rows: bytes) -> None:  # type: ignore[override]
        """See `Desk`; so for the others."""
        super().put(chunk, rows)
        self._changed.set()

    async def close(self) -> None:  # type: ignore[override]
        """See `Desk`."""
        super().close()
        self._changed.set()

    async def look(self, dead_nodes: frozenset[str]) -> Report:
        """`tend`, by this machine's clock."""
        report = self.tend(dead_nodes, time.monotonic())
        self._changed.set()
        return report

    async def finished(self, chunk: int, life: str) -> None:
        """`finish`, by this machine's clock."""
        self.finish(chunk, life, time.monotonic())

    async def introduce(self, actor: str, handle: Any) -> None:
        """A handle of the worker, so that the driver can end one that waits for a machine."""
        self._actors[actor] = handle

    async def handles(self) -> list[Any]:
        """Of all workers that ever started."""
        return list(self._actors.values())


class Stream:
    """A job's way through Ray Data, from its first chunk to its end."""

    def __init__(self, pool: Pool, setup: Setup) -> None:
        """Starts everything; the workers read their model meanwhile. Errors: whatever Ray raises if the desk cannot start."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._ray = ray
        self.desk: Any = (
            ray.remote(DeskActor).options(num_cpus=0, scheduling_strategy=here, max_concurrency=1000).remote()
        )
        ray.get(self.desk.look.remote(frozenset()))
        self._blocks: SimpleQueue[Any] = SimpleQueue()  # references; what ended the stream last
        self._open: list[Any] = []
        self.error: BaseException | None = None
        self.is_over = False
        self._thread = threading.Thread(
            target=self._follow, args=(dataset(self.desk, pool, setup),), name="fanlight-ray", daemon=True
        )
        self._thread.start()

    def put(self, chunk: int, rows: bytes) -> None:
        """Send a chunk."""
        self.desk.put.remote(chunk, rows)

    def deliver(self, chunk: int) -> None:
        """The chunk's results are there."""
        self.desk.deliver.remote(chunk)

    def look(self, dead_nodes: frozenset[str]) -> Report:
        """How the workers are. Errors: Ray's, if the desk is gone."""
        report: Report = self._ray.get(self.desk.look.remote(dead_nodes), timeout=LOOK_SECONDS)
        return report

    def results(self, timeout: float) -> Iterator[tuple[int, bytes]]:
        """Chunks that are done, as far as they came within this time."""
        self._collect(timeout if not self._open else min(timeout, 0.05))
        if not self._open:
            return
        ready, self._open = self._ray.wait(
            self._open, num_returns=len(self._open), timeout=0 if len(self._open) > 1 else timeout, fetch_local=True
        )
        for ref in ready:
            try:
                table = self._ray.get(ref)
            except self._ray.exceptions.RayError:  # lost with its machine
                self.desk.suspect.remote()
                continue
            yield from self._rows(table)

    def _collect(self, timeout: float) -> None:
        with suppress(Empty):
            self._open.append(self._blocks.get(timeout=timeout))
            while True:
                self._open.append(self._blocks.get_nowait())

    def _rows(self, table: pa.Table) -> Iterator[tuple[int, bytes]]:
        if "results" not in table.column_names:  # an empty block has no columns
            return
        for chunk, results in zip(table.column("chunk").to_pylist(), table.column("results").to_pylist(), strict=True):
            if results is not None:
                yield chunk, results

    def _follow(self, made: Any) -> None:
        """Take references to blocks as they come, until the stream ends."""
        try:
            for bundle in made.iter_internal_ref_bundles():
                for ref in bundle.block_refs:
                    self._blocks.put(ref)
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True

    def close(self) -> None:
        """End the stream, and with it the workers, those too that wait for a machine."""
        ray = self._ray
        with suppress(Exception):
            ray.get(self.desk.close.remote(), timeout=CLOSE_SECONDS)
            self._thread.join(1.0)
            if self._thread.is_alive():
                for handle in ray.get(self.desk.handles.remote(), timeout=CLOSE_SECONDS):
                    ray.kill(handle)
                self._thread.join(CLOSE_SECONDS)
        with suppress(Exception):
            ray.kill(self.desk)


def dataset(desk: Any, pool: Pool, setup: Setup) -> Any:
    """The stream: one endless read beside the driver, and a pool of actors."""
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    here = ray.get_runtime_context().get_node_id()
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # a block for each chunk, at once: none waits until many megabytes are together
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1  # a long text is no hang
    context.max_errored_blocks = 0
    context.enable_auto_log_stats = False

    class Chunks(Datasource):  # type: ignore[misc]
        """What the driver puts on the desk; its one read task runs on the driver's machine and dies with it."""

        def get_read_tasks(self, *_args: object, **_options: object) -> list[ReadTask]:
            """One."""
            return [ReadTask(lambda: chunks(desk), BlockMetadata(None, None, None, None))]

        def estimate_inmemory_data_size(self) -> int | None:
            """Not known before the driver has read its rows."""
            return None

    with DataContext.current(context):
        read = ray.data.read_datasource(
            Chunks(), num_cpus=0, concurrency=1, override_num_blocks=1, label_selector={NODE_LABEL: here}
        )
        return read.map_batches(
            RayWorker,
            fn_constructor_args=(desk, setup),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pool.n_cpus,
            compute=ActorPoolStrategy(
                size=pool.n_workers,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
        )


def chunks(desk: Any) -> Iterator[pa.Table]:
    """The stream from its beginning, a table a chunk; what is done already is an empty place, if it is read a second time."""
    import ray

    place = 0
    while True:
        found = ray.get(desk.take.remote(place))
        if found == AT_END:
            return
        if found != NOTHING_YET:
            yield row_table(*found)
            place += 1
