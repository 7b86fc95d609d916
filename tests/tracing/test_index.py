"""A folder of traces answers questions; it stays up to date, reads only, and no bad file or question breaks it."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.traces import a_branch, a_trace, replace_header
from fanlight.errors import OptionError, TraceError
from fanlight.tracing.columns import Steps
from fanlight.tracing.files import save_trace
from fanlight.tracing.index import NAME, STEP, TRACE, StepRow, TraceIndex, TraceRow
from fanlight.tracing.trace import Trace

PLAIN = dict.fromkeys(("lens", "attention", "contributions", "norms", "timings"), False)


def made() -> list[Trace]:
    first = a_trace(n_steps=13, n_vocab=101, guesses=True)
    sure = a_trace(n_steps=5, seed=8, settings={"do_sample": False}, **PLAIN, is_given=True, complete=False)
    return [first, sure, a_branch(first, 3), a_trace(n_steps=0, seed=2**64 - 1, **PLAIN, text="\ud800")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for trace in made():
        save_trace(trace, folder)
    return folder


@pytest.fixture
def index(runs: Path) -> Iterator[TraceIndex]:
    with TraceIndex(runs) as found:
        yield found


def test_the_steps_for_which_an_expression_is_true(index: TraceIndex) -> None:
    found = index.steps("entropy > 2 and rank > 0")
    expected = [
        (trace.id, i)
        for trace in made()
        for i, record in enumerate(trace.steps)
        if record.raw_entropy > 2 and record.raw_rank > 0
    ]
    assert sorted((row.trace, row.step) for row in found) == sorted(expected)
    assert expected


def test_a_row_says_what_its_record_says(index: TraceIndex) -> None:
    trace = made()[0]
    for row, record in zip(index.steps(f"trace = '{trace.id}'", order="step"), trace.steps, strict=True):
        guess = record.guess
        assert row == StepRow(
            trace=trace.id,
            file=f"{trace.id}.safetensors",
            step=row.step,
            token=trace.token_text(record.id),
            token_id=record.id,
            position=record.position,
            raw_prob=pytest.approx(math.exp(record.raw_logprob)),
            final_prob=pytest.approx(math.exp(record.final_logprob)),
            surprise=-record.raw_logprob,
            rank=record.raw_rank,
            final_rank=record.final_rank,
            entropy=record.raw_entropy,
            final_entropy=record.final_entropy,
            margin=record.margin,
            n_kept=record.n_kept,
            eos_prob=record.eos_prob,
            tail_prob=pytest.approx(record.tail_prob, abs=1e-12),
            drafter=guess.drafter if guess else None,
            guess_right=int(guess.right) if guess else None,
        )
        assert index.open(row).id == trace.id


def test_a_trace_says_what_its_header_says(index: TraceIndex) -> None:
    by_id = {row.id: row for row in index.traces()}
    for trace in made():
        row, header = by_id[trace.id], trace.header
        assert (row.model, row.prompt, row.stop) == (header.origin.model, header.prompt, header.stop.reason.value)
        assert (row.n_prompt, row.n_steps, row.seed) == (len(trace.prompt_ids), trace.n_steps, header.seed)
        assert (row.complete, row.is_given, row.settings) == (header.complete, header.is_given, header.settings)
        assert (row.parent, row.parent_step) == (
            (header.parent.id, header.parent.step) if header.parent else (None, None)
        )
        assert row.looks == ", ".join(trace.has)
        if trace.n_steps:
            surprises = -Steps.of(trace.steps).column("raw_logprob")
            assert row.mean_surprise == pytest.approx(surprises.mean())
            assert row.perplexity == pytest.approx(math.exp(surprises.mean()))
            assert row.first_share == sum(record.raw_rank == 0 for record in trace.steps) / trace.n_steps
        else:
            assert row.mean_surprise is row.perplexity is row.mean_entropy is row.first_share is None
    assert by_id[made()[3].id].text == "?"  # no Unicode, so that no table can hold it
    assert len(index) == 4


def test_rows_have_the_names_that_can_be_asked_for() -> None:
    assert StepRow._fields == tuple(STEP)
    assert TraceRow._fields == tuple(TRACE)


def test_steps_can_be_asked_for_by_their_trace(index: TraceIndex) -> None:
    first, sure, branch, _ = made()
    assert len(index.steps("settings ->> 'top_p' < 0.95 and n_steps = 13")) == 13
    assert {row.trace for row in index.steps("not complete")} == {sure.id}
    assert [row.step for row in index.steps(f"parent = '{first.id}' and step >= parent_step")] == [
        *range(3, branch.n_steps)
    ]


def test_order_and_limit(index: TraceIndex) -> None:
    top = index.steps(order="surprise desc", limit=3)
    every = sorted((row.surprise for row in index.steps()), reverse=True)
    assert [row.surprise for row in top] == every[:3]
    assert index.steps("rank >= 0", limit=0) == []
    assert [(row.file, row.step) for row in index.steps()] == sorted((row.file, row.step) for row in index.steps())


def test_sql_for_what_no_expression_says(index: TraceIndex) -> None:
    answer = index.sql("SELECT stop, count(*) AS n FROM traces WHERE n_steps > ? GROUP BY stop", [0])
    assert answer == (("stop", "n"), [("max_new_tokens", 3)])
    assert index.sql("SELECT key FROM traces, json_each(settings) WHERE n_steps = 5").rows == [("do_sample",)]
    assert index.sql(
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t LIMIT 5) SELECT sum(n) FROM t"
    ).rows == [(15,)]


def test_a_trace_opens_by_id_and_by_file(index: TraceIndex) -> None:
    trace = made()[1]
    assert index.open(trace.id).ids == index.open(f"{trace.id}.safetensors").ids == trace.ids
    assert index.open(index.traces("n_steps = 5")[0]).ids == trace.ids
    with pytest.raises(OptionError, match="no trace 'nope'; it has 4"):
        index.open("nope")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("entrpy > 4", r"no such column: entrpy; there is trace, file, step, token, .*entropy.*model"),
        ("entropy >", r"syntax error; there is trace"),
        ("rank > 0; DELETE FROM traces", "syntax error"),
        ("1) OR (SELECT load_extension('x')", "can only be read"),
        ("rank > ?", "bindings|binding"),
        ("token like '" + "%a" * 2000 + "'", "LIKE or GLOB pattern too complex"),
    ],
)
def test_a_wrong_expression_names_the_columns(expression: str, message: str, index: TraceIndex) -> None:
    with pytest.raises(OptionError, match=message):
        index.steps(expression)
    assert len(index) == 4


@pytest.mark.parametrize("bad", [-1, 1.5, True, "3"])
def test_a_limit_is_a_whole_number(bad: object, index: TraceIndex) -> None:
    with pytest.raises(OptionError, match="limit must be a whole number from 0"):
        index.steps(limit=bad)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a condition must be text"):
        index.steps(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM traces",
        "INSERT INTO step_rows DEFAULT VALUES",
        "UPDATE traces SET text = ''",
        "DROP TABLE traces",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "ATTACH 'other.sqlite' AS other",
        "DETACH main",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "VACUUM INTO 'copy.sqlite'",
        "SELECT load_extension('evil')",
        "BEGIN",
        "REINDEX",
    ],
)
def test_nothing_can_be_written(query: str, index: TraceIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"an index can only be read|no such"):
        index.sql(query)
    assert (len(index), list(tmp_path.iterdir())) == (4, [])


def test_one_question_at_a_time(index: TraceIndex) -> None:
    with pytest.raises(OptionError, match="more than one statement"):
        index.sql("SELECT 1; SELECT 2")
    with pytest.raises(OptionError, match="more than one statement"):
        index.steps(order="step; DELETE FROM traces --")


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT count(*) FROM steps a, steps b, steps c, steps d, steps e, steps f",
    ],
)
def test_a_question_without_an_end_is_stopped(query: str, runs: Path) -> None:
    with TraceIndex(runs, max_seconds=0.2) as index:
        start = time.monotonic()
        with pytest.raises(OptionError, match=r"took longer than 0.2 s, and was stopped"):
            index.sql(query)
        assert time.monotonic() - start < 5
        assert len(index) == 4


def test_no_question_takes_all_memory(index: TraceIndex) -> None:
    with pytest.raises(OptionError, match="too big"):
        index.sql("SELECT length(zeroblob(1000000000))")
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t LIMIT 1000002) SELECT n FROM t"
    with pytest.raises(OptionError, match="more than 1,000,000 rows; ask for fewer"):
        index.sql(endless)


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.text("entropy>0123456789 ()'\"-;,selctfromandor*"))
def test_any_text_is_an_answer_or_an_error(text: str, runs: Path) -> None:
    with TraceIndex(runs, max_seconds=2) as index:
        for ask in (index.steps, index.traces, index.sql):
            try:
                ask(text)
            except OptionError as error:
                assert "\n" not in str(error)  # noqa: PT017


# -- staying up to date -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    for path in runs.glob("*.safetensors"):
        shutil.copy2(path, tmp_path)
    return tmp_path


def test_new_changed_and_removed_files(folder: Path) -> None:
    with TraceIndex(folder) as index:
        files = [row.file for row in index.traces()]
        (folder / files[0]).unlink()
        save_trace(a_trace(n_steps=2, **PLAIN), folder / files[1])
        save_trace(replace_header(made()[0], id="new"), folder)
        index.refresh()
        assert {row.file for row in index.traces()} == {*files[1:], "new.safetensors"}
        assert index.traces(f"file = '{files[1]}'")[0].n_steps == 2
        assert len(index.steps(f"file = '{files[1]}'")) == 2
        assert index.steps(f"file = '{files[0]}'") == []


def test_what_is_known_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TraceIndex(folder).close()
    monkeypatch.setattr("fanlight.tracing.index.open_trace", None)
    with TraceIndex(folder) as index:
        assert len(index) == 4


def test_a_damaged_file_is_named_and_passed_over(folder: Path) -> None:
    raw = (folder / f"{made()[0].id}.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(raw[:-9])
    (folder / "empty.safetensors").write_bytes(b"")
    middle = bytearray(raw)
    middle[raw.index(b"raw_entropy")] ^= 1
    (folder / "flipped.safetensors").write_bytes(middle)
    (folder / "other.txt").write_text("no trace")
    (folder / "run.safetensors.part-1-0").write_text("being written")
    (folder / "folder.safetensors").mkdir()
    with TraceIndex(folder) as index:
        assert list(index.problems) == ["cut.safetensors", "empty.safetensors", "flipped.safetensors"]
        assert "cut.safetensors" in index.problems["cut.safetensors"]
        assert (len(index), index.note) == (4, "")
        (folder / "cut.safetensors").write_bytes(raw)
        index.refresh()
        assert (list(index.problems), len(index)) == (["empty.safetensors", "flipped.safetensors"], 5)


def test_a_folder_that_cannot_be_written_has_its_index_in_memory(folder: Path) -> None:
    (folder / NAME).mkdir()
    with TraceIndex(folder) as index:
        assert "cannot be written" in index.note
        assert len(index.steps("rank >= 0")) == len(index.steps())
        assert len(index) == 4


@pytest.mark.parametrize("content", [b"no database" * 100, b"", None])
def test_an_index_that_is_damaged_is_made_anew(content: bytes | None, folder: Path) -> None:
    TraceIndex(folder).close()
    path = folder / NAME
    if content is None:
        raw = bytearray(path.read_bytes())
        raw[4096:] = os.urandom(len(raw) - 4096)
        path.write_bytes(raw)
    else:
        path.write_bytes(content)
    with TraceIndex(folder) as index:
        assert (len(index), index.note) == (4, "")
        assert index.steps("surprise > 0")


def test_an_index_with_other_tables_is_made_anew(folder: Path) -> None:
    with TraceIndex(folder) as index:
        expected = index.traces()
    base = sqlite3.connect(folder / NAME)
    base.execute("CREATE TRIGGER sly AFTER DELETE ON traces BEGIN DELETE FROM files; END")
    base.execute("UPDATE traces SET text = 'lies'")
    base.commit()
    base.close()
    with TraceIndex(folder) as index:
        assert index.traces() == expected


def test_several_may_ask_at_the_same_time(folder: Path) -> None:
    found: list[int] = []

    def ask() -> None:
        with TraceIndex(folder) as index:
            found.extend(len(index.steps("rank >= 0")) for _ in range(3))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="expected a folder of traces, found nothing at this path"):
        TraceIndex(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="expected a folder of traces, found a file"):
        TraceIndex(tmp_path / "file")


def test_an_empty_folder(tmp_path: Path) -> None:
    with TraceIndex(tmp_path) as index:
        assert (len(index), index.steps(), index.traces(), index.problems) == (0, [], [], {})
        assert repr(index) == f"TraceIndex({str(tmp_path)!r})"


def test_a_thousand_traces_are_no_long_wait(tmp_path: Path) -> None:
    """Forty of a hundred steps, in seconds of the processor: of a thousand, less than 20 s; a question less than 1 s."""
    trace = a_trace(n_steps=100, n_vocab=1000, candidates=20, **PLAIN)
    for i in range(40):
        save_trace(replace_header(trace, id=f"run{i}"), tmp_path)
    start = time.process_time()
    index = TraceIndex(tmp_path)
    made_at = time.process_time()
    found = index.steps("entropy > 2 and rank > 0")
    asked_at = time.process_time()
    assert len(found) > 1000
    assert made_at - start < 20 * 40 / 1000
    assert asked_at - made_at < 1 * 40 / 1000
    index.close()
