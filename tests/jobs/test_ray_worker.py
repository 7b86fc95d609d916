"""The engine's thread of a worker on Ray, with fakes: chunks share passes, one that kills runs row by row, faults reach all."""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.batch.ray_desk import MAX_DEATHS_ALONE, RowState
from fanlight.batch.ray_worker import EngineThread, Setup, adopt, made_worker
from fanlight.batch.rows import Row
from fanlight.errors import FanlightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class FakeDesk:
    """alone: chunks that run row by row. states: what is known of rows, by (chunk, position)."""

    def __init__(self, alone: Sequence[int] = (), states: dict[tuple[int, int], RowState] | None = None) -> None:
        self.alone, self.states = alone, states or {}
        self.ended: list[tuple[int, int, Any]] = []

    def begin(self, chunk: int) -> bool:
        return chunk in self.alone

    def begin_row(self, chunk: int, position: int) -> RowState:
        return self.states.get((chunk, position), RowState(None, 0))

    def end_row(self, chunk: int, position: int, result: bytes) -> None:
        self.ended.append((chunk, position, pickle.loads(result)))


class FakeWorker:
    """Two rows in a pass, the later ended first; the first pass waits until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs: list[list[int]] = []
        self.has_begun, self.may_go = threading.Event(), threading.Event()
        self.error = error

    def run(self, rows: Iterator[Row]) -> Iterator[tuple[Row, dict[str, Any]]]:
        taken: list[int] = []
        self.runs.append(taken)
        while True:
            together = []
            for row in rows:
                together.append(row)
                taken.append(row.index)
                if len(together) == 2:
                    break
            if not together:
                return
            self.has_begun.set()
            assert self.may_go.wait(10)
            if self.error is not None:
                raise self.error
            yield from ((row, {"index": row.index}) for row in reversed(together))


def rows_from(first: int, count: int) -> list[Row]:
    return [Row(index, str(index), "x", {}, {"m": index}) for index in range(first, first + count)]


def started(engine: EngineThread, chunk: int, rows: list[Row], into: dict[int, Any]) -> threading.Thread:
    """A caller in a thread of its own, whose results or error go into a table."""

    def call() -> None:
        try:
            into[chunk] = engine.compute(chunk, rows)
        except Exception as error:
            into[chunk] = error

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def indexes(results: Any) -> list[int]:
    return [result["index"] for result in results]


def in_three_calls(worker: FakeWorker, desk: FakeDesk) -> dict[int, Any]:
    """Chunks 0, 1 and 2 of 3, 1 and 3 rows; the latter two come while the first is being computed."""
    engine = EngineThread(worker, desk)
    found: dict[int, Any] = {}
    threads = [started(engine, 0, rows_from(0, 3), found)]
    assert worker.has_begun.wait(10)
    for chunk, rows in ((1, rows_from(3, 1)), (2, rows_from(4, 3))):
        threads.append(started(engine, chunk, rows, found))
        while engine._queue.qsize() < chunk:
            pass
    worker.may_go.set()
    for thread in threads:
        thread.join(10)
    return found


def test_chunks_that_come_meanwhile_join_the_run_and_each_has_its_results_in_its_order() -> None:
    worker = FakeWorker()
    found = in_three_calls(worker, FakeDesk())
    assert worker.runs == [[0, 1, 2, 3, 4, 5, 6]]
    assert {chunk: indexes(results) for chunk, results in found.items()} == {0: [0, 1, 2], 1: [3], 2: [4, 5, 6]}


def test_a_chunk_that_killed_runs_row_by_row_with_nothing_beside_it() -> None:
    worker, desk = FakeWorker(), FakeDesk(alone=[1, 2])
    found = in_three_calls(worker, desk)
    assert worker.runs == [[0, 1, 2], [3], [4], [5], [6]]
    assert indexes(found[2]) == [4, 5, 6]
    assert desk.ended == [(1, 0, {"index": 3}), *((2, i, {"index": 4 + i}) for i in range(3))]


def test_a_row_that_killed_too_often_is_an_error_and_a_known_result_is_not_computed_again() -> None:
    states = {(2, 0): RowState(pickle.dumps({"index": 4, "known": True}), 0), (2, 1): RowState(None, MAX_DEATHS_ALONE)}
    worker = FakeWorker()
    found = in_three_calls(worker, FakeDesk(alone=[2], states=states))
    assert worker.runs == [[0, 1, 2, 3], [6]]
    known, killer, last = found[2]
    assert (known, last) == ({"index": 4, "known": True}, {"index": 6})
    assert (killer["id"], killer["metadata"], killer["error"]["type"]) == ("5", {"m": 5}, "FanlightError")
    assert f"died each of the {MAX_DEATHS_ALONE} times" in killer["error"]["message"]


def test_a_fault_of_the_model_reaches_every_caller_and_those_that_come_later() -> None:
    worker = FakeWorker(RuntimeError("out of order"))
    engine = EngineThread(worker, FakeDesk())
    found: dict[int, Any] = {}
    threads = [started(engine, chunk, rows_from(chunk, 1), found) for chunk in range(3)]
    worker.may_go.set()
    for thread in threads:
        thread.join(10)
    assert [str(found[chunk]) for chunk in range(3)] == ["out of order"] * 3
    with pytest.raises(RuntimeError, match="out of order"):
        engine.compute(3, rows_from(3, 1))


def test_an_empty_chunk_needs_no_engine() -> None:
    worker = FakeWorker()
    assert EngineThread(worker, FakeDesk()).compute(0, []) == []
    assert worker.runs == []


def setup_with(**changes: Any) -> Setup:
    def load(*, threads: int) -> Any:
        raise AssertionError("the model is read")

    own = {"load": load, "threads": 1, "base": {}, "max_batch": 3, "steps": None, "version": "0.0.0", "folder": "/"}
    return Setup(**{**own, "environment": {}, **changes})


def test_another_fanlight_than_the_drivers_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(
        FanlightError, match=r"is installed here, and 0\.0\.0 where the job was started; install the same"
    ):
        made_worker(setup_with())


def test_a_worker_sees_relative_paths_and_variables_as_the_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("FANLIGHT_MODEL", "mine")
    monkeypatch.chdir("/")
    adopt(setup_with(folder=str(tmp_path), environment={"FANLIGHT_MODEL": "the driver's"}))
    assert (os.getcwd(), os.environ["FANLIGHT_MODEL"]) == (str(tmp_path), "the driver's")
    adopt(setup_with(folder=str(tmp_path / "missing")))
    assert os.getcwd() == str(tmp_path)
