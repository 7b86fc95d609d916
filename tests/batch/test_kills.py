"""A job that is killed at any byte, and gone on with, gives the output of one that was not: no row lost, none twice."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch.fake import SLOW, TOO_LONG, FakeModel, results, write_rows
from fanlight.batch import JobOptions, Row, Worker, run_job, run_rows, writing
from fanlight.batch import ordering as ordering_module
from fanlight.batch.columns import pyarrow
from fanlight.batch.ordering import Bits, InOrder
from fanlight.batch.writing import Appender, Unbroken

CHANGES = ("replace", "ftruncate")
"""Calls that change files in one go; a kill comes before or after them."""


class Killed(BaseException):
    """The process is gone."""


class KilledAt:
    """`os`, until so many bytes were written; then nothing is written any more, whoever asks."""

    def __init__(self, n_bytes: int) -> None:
        self.left = n_bytes

    def __getattr__(self, name: str) -> Any:
        if name not in CHANGES:
            return getattr(os, name)

        def change(*args: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return getattr(os, name)(*args)

        return change

    def write(self, fd: int, data: Any) -> int:
        n_bytes = os.write(fd, bytes(data)[: max(0, self.left)])
        self.left -= len(data)
        if n_bytes < len(data):
            raise Killed
        return n_bytes


@contextmanager
def killed_at(n_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fake = KilledAt(n_bytes)
        for module in (writing, ordering_module):
            patch.setattr(module, "os", fake)
        yield


def job_rows(n_rows: int) -> list[Any]:
    rows: list[Any] = [{"prompt": f"p{i}", "id": f"x{i}"} for i in range(n_rows)]
    for i, row in {2: {"prompt": SLOW}, 5: "{broken", 6: {"prompt": TOO_LONG}, 9: ""}.items():
        if i < n_rows - 1:
            rows[i] = row
    return rows


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.sampled_from([1, 7, 31]),
    max_batch=st.sampled_from([1, 3, 16]),
    kills=st.lists(st.integers(0, 5000), min_size=1, max_size=4),
    in_order=st.booleans(),
    ending=st.sampled_from([".jsonl", ".jsonl", ".jsonl.gz", ".parquet"]),
    dead_bytes=st.sampled_from([0, 300, 1 << 20]),
)
@example(n_rows=31, max_batch=16, kills=[1200, 900, 700, 300], in_order=True, ending=".jsonl", dead_bytes=0)
def test_kills_lose_and_repeat_nothing(
    n_rows: int, max_batch: int, kills: list[int], in_order: bool, ending: str, dead_bytes: int
) -> None:
    asked: dict[str, Any] = {"do_sample": True, "seed": 5, "max_batch": max_batch, "in_order": in_order}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering_module, "DEAD_BYTES", dead_bytes)
        source = write_rows(Path(folder) / "rows.jsonl", job_rows(n_rows))
        whole, target = Path(folder) / "whole.jsonl", Path(folder) / f"out{ending}"
        run_job(FakeModel(0), source, whole, **asked)
        for i, n_bytes in enumerate(kills):
            with killed_at(n_bytes), suppress(Killed):
                run_job(FakeModel(i, slow_for=9), source, target, resume=True, **asked)
        run_job(FakeModel(99), source, target, resume=True, **asked)
        found, expected = rows_of(target), results(whole)
        if in_order:
            assert found == expected
            assert ending != ".jsonl" or target.read_bytes() == whole.read_bytes()
        else:
            assert sorted(found, key=by_index) == sorted(expected, key=by_index)
        assert sorted(path.name for path in Path(folder).glob("out*")) == [target.name, f"{target.name}.job.json"]


def by_index(row: dict[str, Any]) -> int:
    index: int = row["index"]
    return index


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        pq = pyarrow("pyarrow.parquet")
        found = pq.read_table(path).to_pylist()
        return [{k: v for k, v in row.items() if v is not None or k == "id"} for row in found]
    if path.suffix == ".gz":
        import gzip

        path.with_suffix(".plain").write_bytes(gzip.decompress(path.read_bytes()))
        found = results(path.with_suffix(".plain"))
        path.with_suffix(".plain").unlink()
        return found
    return results(path)


def test_results_that_waited_for_their_turn_are_not_computed_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows", [{"prompt": SLOW}, *({"prompt": f"p{i}"} for i in range(31))])
    target = tmp_path / "out.jsonl"
    n_ended = 0

    def start(base: Any) -> Any:
        def rows_until_killed(rows: Iterator[Row]) -> Iterator[Any]:
            nonlocal n_ended
            for row, result in Worker(FakeModel(slow_for=99), base, 4).run(rows):
                if n_ended == 20:
                    raise Killed
                n_ended += 1
                yield row, result

        return rows_until_killed

    with pytest.raises(Killed):
        run_rows(start, source, target, {}, options=JobOptions())
    assert results(target) == []  # the first row has not ended
    model = FakeModel()
    resumed = run_rows(lambda base: Worker(model, base, 4).run, source, target, {}, options=JobOptions(resume=True))
    assert resumed.progress.n_before == 20
    assert model.n_begun == 12
    assert [row["index"] for row in results(target)] == list(range(32))


def test_a_stale_file_of_waiting_results_is_not_taken_twice(tmp_path: Path) -> None:
    lines = [f'{{"index": {i}}}\n'.encode() for i in range(4)]
    (tmp_path / "ahead").write_bytes(lines[1] + lines[3] + lines[3] + b'{"ind')
    done = Bits()
    for i in (0, 1):
        done.add(i)
    journal = Appender(tmp_path / "journal")
    sink = InOrder(journal, tmp_path / "ahead", done)
    assert sink.n_ahead == 1
    assert [sink.expect(2), sink.expect(3)] == [True, False]
    sink.put(2, lines[2])
    sink.close()
    journal.close()
    assert (tmp_path / "journal").read_bytes() == lines[2] + lines[3]
    assert not (tmp_path / "ahead").exists()


def test_the_file_of_waiting_results_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering_module, "DEAD_BYTES", 1000)
    journal = Appender(tmp_path / "journal")
    sink = InOrder(journal, tmp_path / "ahead", Bits())
    lines = [f'{{"index": {i}}}\n'.encode() for i in range(1001)]
    sizes = []
    for i in range(0, 1000, 2):  # always one ahead
        sink.expect(i)
        sink.expect(i + 1)
        sink.put(i + 1, lines[i + 1])
        sink.put(i, lines[i])
        sizes.append((tmp_path / "ahead").stat().st_size)
    sink.close()
    journal.close()
    assert (tmp_path / "journal").read_bytes() == b"".join(lines[:1000])
    assert max(sizes) < 1100


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_a_result_is_written_counts_when_it_is_written() -> None:
    steps = []

    def write() -> None:
        with Unbroken():
            signal.raise_signal(signal.SIGINT)
            steps.append("written")
        steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert steps == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_leaves_what_is_done_and_ends_what_is_on_its_way(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows", job_rows(31))
    target, whole = tmp_path / "out.jsonl.gz", tmp_path / "whole.jsonl.gz"
    model = FakeModel()
    ended = SimpleNamespace(closed=False)
    inner = model.generate_each

    def watched(*args: Any, **options: Any) -> Iterator[Any]:
        try:
            yield from inner(*args, **options)
        except GeneratorExit:
            ended.closed = True
            raise

    model.generate_each = watched  # type: ignore[method-assign]

    def interrupt(progress: Any) -> None:
        if progress.n_done == 11:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_job(model, source, target, max_batch=2, on_progress=interrupt)
    assert ended.closed
    assert not target.exists()
    assert run_job(FakeModel(), source, target, resume=True).progress.n_before == 11
    run_job(FakeModel(), source, whole)
    assert target.read_bytes() == whole.read_bytes()
