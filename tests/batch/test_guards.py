"""What a job may not touch: its input, whatever it is called, and the files of a job that another command is at."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.fake import FakeModel, results, write_rows
from fanlight.batch import JobOptions, Progress, Worker, run_job, run_rows, writing
from fanlight.errors import OptionError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """30 rows, one of them wrong, and a blank line."""
    rows: list[Any] = [{"prompt": f"p{i}", "max_new_tokens": i + 1} for i in range(31)]
    rows[17] = {"prompt": "x", "temperature": "hot"}
    rows[19] = ""
    return write_rows(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name.removeprefix(target.name) for path in target.parent.glob(f"{target.name}*"))


def test_the_input_is_never_written_over(source: Path) -> None:
    before = source.read_bytes()
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OptionError, match="is the input too"):
            run_job(FakeModel(), source, source, **how)
    assert source.read_bytes() == before


@pytest.mark.parametrize("ending", ["", ".rows.jsonl", ".ahead", ".job.json", ".ahead.new", ".job.json.new", ".new"])
def test_an_input_that_is_a_file_of_the_job_is_never_written_over(source: Path, ending: str) -> None:
    target = source.with_name("z.parquet")
    mine = source.rename(source.with_name(target.name + ending))
    before = mine.read_bytes()
    link = source.with_name("link.jsonl")
    link.symlink_to(mine)
    for name in (mine, link):
        with pytest.raises(OptionError, match="is the input too"):
            run_job(FakeModel(), name, target, overwrite=True)
    assert mine.read_bytes() == before


def test_standard_input_that_is_the_output_is_never_written_over(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source.read_bytes()
    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(OptionError, match="is the input too"):
            run_job(FakeModel(), "-", source, overwrite=True)
    assert source.read_bytes() == before


def test_two_jobs_at_one_output_are_refused(source: Path, target: Path) -> None:
    said = []

    def meddle(progress: Progress) -> None:
        if progress.n_done == 3 and not said:
            for how in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(OptionError, match="another fanlight batch is writing to it") as caught:
                    run_job(FakeModel(), source, target, **how)
                said.append(str(caught.value))

    run_job(FakeModel(), source, target, on_progress=meddle)
    assert len(said) == 2
    assert len(results(target)) == 30


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_command_that_is_refused_changes_nothing(source: Path, tmp_path: Path, name: str) -> None:
    """Whatever the second one asks for: it loads no model, and the first one's files stay as they are."""
    target = tmp_path / name
    run_job(FakeModel(), source, target, limit=5)
    seen = 0

    def no_model(base: Any) -> Any:
        raise AssertionError("loaded")

    def meddle(progress: Progress) -> None:
        nonlocal seen
        before = {path: path.read_bytes() for path in target.parent.glob("out*")}
        for options in (JobOptions(resume=True, limit=7), JobOptions(overwrite=True), JobOptions(resume=True)):
            with pytest.raises(OptionError, match="another fanlight batch is writing to it"):
                run_rows(no_model, source, target, {}, model={"model": "fake"}, options=options)
        assert {path: path.read_bytes() for path in target.parent.glob("out*")} == before
        seen += 1

    run_job(FakeModel(), source, target, resume=True, on_progress=meddle)
    assert seen > 20


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("how", [{}, {"resume": True}])
def test_results_that_another_command_finishes_meanwhile_are_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: dict[str, Any]
) -> None:
    """The other one begins when this one has looked for an output, and ends before it goes on."""
    target, lock = tmp_path / name, fcntl.flock
    began: list[int] = []

    def slow(fd: int, kind: int) -> None:
        if not began:
            began.append(1)
            run_job(FakeModel(1), source, target, max_new_tokens=5)
        lock(fd, kind)

    monkeypatch.setattr(fcntl, "flock", slow)
    if how:
        again = FakeModel(2)
        assert run_job(again, source, target, max_new_tokens=5, **how).progress.n_before == 30
        assert again.n_begun == 0
    else:
        with pytest.raises(OptionError, match="exists; --resume goes on with it"):
            run_job(FakeModel(2), source, target, max_new_tokens=5)
    monkeypatch.undo()
    alone = tmp_path / f"alone-{name}"
    run_job(FakeModel(3), source, alone, max_new_tokens=5)
    assert target.read_bytes() == alone.read_bytes()
    assert leftovers(target) == ["", ".job.json"]


def test_another_command_is_refused_while_a_model_is_loaded(source: Path, target: Path) -> None:
    hows: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}]

    def start(base: Any) -> Any:
        for options in hows:
            with pytest.raises(OptionError, match="another fanlight batch is writing to it"):
                run_job(FakeModel(), source, target, **options)
        return Worker(FakeModel(), base).run

    assert run_rows(start, source, target, {}).progress.n_done == 30


def test_an_empty_file_that_a_kill_left_is_no_output(source: Path, tmp_path: Path) -> None:
    hows: list[dict[str, Any]] = [{}, {"resume": True}]
    for name in ("out.jsonl", "out.jsonl.gz.rows.jsonl"):
        (tmp_path / name).touch()
        for how in hows:
            target = tmp_path / name.removesuffix(".rows.jsonl")
            assert run_job(FakeModel(), source, target, **how).progress.n_before == (30 if how else 0)


def test_nothing_is_added_behind_half_a_line(tmp_path: Path) -> None:
    file = writing.Appender(tmp_path / "lines")
    file.append(b"first\n")
    with pytest.MonkeyPatch.context() as patch:
        parts = [b"sec"]

        def write(fd: int, data: Any) -> int:
            if not parts:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(fd, parts.pop())

        def truncate(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        changes: list[dict[str, Any]] = [{}, {"ftruncate": truncate}]
        for change in changes:  # the second cannot be undone at once
            parts[:] = [b"sec"]
            patch.setattr(writing, "os", SimpleNamespace(**{**vars(os), "write": write, **change}))
            with pytest.raises(OSError, match="No space left"):
                file.append(b"second\n")
            assert file.path.read_bytes() == (b"first\nsec" if change else b"first\n")
    assert file.append(b"third\n") == 6
    file.close()
    assert file.path.read_bytes() == b"first\nthird\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_an_output_that_cannot_be_written_is_named(source: Path, name: str) -> None:
    with pytest.raises(OSError, match=name) as caught:
        run_job(FakeModel(), source, f"/proc/{name}")
    assert caught.value.filename == f"/proc/{name}"
