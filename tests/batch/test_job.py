"""A job: every row exactly once, in order or as they come; what it refuses; what a wrong row does to the others."""

from __future__ import annotations

import errno
import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.fake import SLOW, TOO_LONG, FakeModel, results, text_of, write_rows
from fanlight.batch import JobOptions, Progress, Row, Worker, run_job, run_rows, writing
from fanlight.batch.columns import pyarrow
from fanlight.batch.rows import KEYS, row_seed
from fanlight.decoding.config import OPTIONS, GenerationConfig
from fanlight.errors import FanlightError, OptionError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """31 rows, 3 of them wrong in one way each, and a blank line."""
    rows: list[Any] = [{"prompt": f"p{i}", "max_new_tokens": i + 1} for i in range(31)]
    rows[3] = {"prompt": "x", "id": "typo", "temprature": 1, "metadata": 5}
    rows[7] = {"prompt": TOO_LONG}
    rows[11] = "{broken"
    rows[13] = {"messages": [{"role": "user", "content": "hi"}], "id": "chat", "metadata": {"k": 1}}
    rows[17] = {"prompt": "x", "temperature": "hot"}
    rows[19] = ""
    return write_rows(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name.removeprefix(target.name) for path in target.parent.glob(f"{target.name}*"))


def test_results_stand_in_the_order_of_the_rows_and_each_has_its_text_or_its_error(source: Path, target: Path) -> None:
    summary = run_job(FakeModel(3), source, target, max_batch=4, max_new_tokens=9)
    found = results(target)
    assert [row["index"] for row in found] == [i for i in range(31) if i != 19]
    good = GenerationConfig(max_new_tokens=6, candidates=0)
    assert found[5] == {
        "id": "5",
        "index": 5,
        "text": text_of("p5", good),
        "stop": {"reason": "max_new_tokens", "detail": "cut off", "token": None, "string": None},
        "n_new_tokens": 2,
        "n_prompt_tokens": 3,
    }
    by_index = {row["index"]: row for row in found}
    assert by_index[13]["text"] == text_of([{"role": "user", "content": "hi"}], good.replace(max_new_tokens=9))
    assert by_index[13]["metadata"] == {"k": 1}
    assert {i: (row["id"], row["error"]["type"]) for i, row in by_index.items() if "error" in row} == {
        3: ("typo", "OptionError"),
        7: ("7", "ContextOverflow"),
        11: (None, "OptionError"),
        17: ("17", "OptionError"),
    }
    assert by_index[3]["metadata"] == 5
    assert by_index[3]["error"]["message"] == "line 4: unknown key 'temprature'; did you mean 'temperature'?"
    assert by_index[17]["error"]["message"].startswith("line 18: temperature must be 0 (greedy), or")
    progress = summary.progress
    assert (progress.n_rows, progress.n_done, progress.n_before, progress.n_failed) == (30, 30, 0, 4)
    assert (progress.n_new_tokens, progress.n_prompt_tokens) == (26 * 2, 26 * 3)
    assert (progress.n_reused, progress.n_computed) == (26, 52)
    assert len(summary.failures) == 3
    assert leftovers(target) == ["", ".job.json"]


def test_as_they_come_has_the_same_rows_in_another_order(source: Path, target: Path, tmp_path: Path) -> None:
    run_job(FakeModel(3), source, target, max_batch=4)
    other = tmp_path / "other.jsonl"
    run_job(FakeModel(5), source, other, max_batch=4, in_order=False)
    assert sorted(other.read_bytes().splitlines()) == sorted(target.read_bytes().splitlines())
    assert other.read_bytes() != target.read_bytes()


def test_a_text_depends_on_the_jobs_seed_and_the_rows_id_alone(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "id": f"x{i}"} for i in range(9)] + [{"prompt": "a", "id": "own", "seed": 1}]
    texts = []
    for i, order in enumerate((rows, rows[::-1])):
        source, target = write_rows(tmp_path / f"{i}", order), tmp_path / f"out{i}.jsonl"
        run_job(FakeModel(i), source, target, max_batch=2 + i, seed=5, do_sample=True)
        texts.append({row["id"]: (row["text"], row["seed"]) for row in results(target)})
    assert texts[0] == texts[1]
    assert texts[0]["x3"][1] == row_seed(5, "x3")
    assert texts[0]["own"][1] == 1
    assert len({text for text, _ in texts[0].values()}) == 10


def test_rows_may_name_a_preset_over_the_jobs_settings(tmp_path: Path, target: Path) -> None:
    rows = [{"prompt": "a", "preset": "creative", "seed": 4, "temperature": 0.9}, {"prompt": "a", "preset": "creativ"}]
    run_job(FakeModel(), write_rows(tmp_path / "rows", rows), target, preset="precise", max_new_tokens=7)
    found = results(target)
    config = GenerationConfig.preset("precise", max_new_tokens=7).replace(do_sample=True, temperature=0.9, seed=4)
    assert found[0]["text"] == text_of("a", config)
    assert found[1]["error"]["message"] == "line 2: unknown preset 'creativ'; did you mean 'creative'?"


def test_echo_and_usage_are_there_if_they_are_asked_for(tmp_path: Path, target: Path) -> None:
    rows = [{"prompt": "é"}, {"messages": [{"role": "user", "content": "hi"}]}]
    run_job(FakeModel(), write_rows(tmp_path / "rows", rows), target, echo=True, usage=True)
    text, chat = results(target)
    assert list(text)[:4] == ["id", "index", "prompt", "text"]
    assert (text["prompt"], chat["messages"]) == ("é", rows[1]["messages"])
    assert text["usage"] == {"n_reused": 1, "n_computed": 2}


def test_what_a_result_holds_survives_parquet_and_gzip(source: Path, target: Path, tmp_path: Path) -> None:
    pq = pyarrow("pyarrow.parquet")
    run_job(FakeModel(3), source, target)
    packed, table = tmp_path / "out.jsonl.gz", tmp_path / "out.parquet"
    run_job(FakeModel(4), source, packed)
    run_job(FakeModel(5), source, table)
    assert gzip.decompress(packed.read_bytes()) == target.read_bytes()
    assert leftovers(packed) == ["", ".job.json"]
    for row, found in zip(results(target), pq.read_table(table).to_pylist(), strict=True):
        found["metadata"] = None if found["metadata"] is None else json.loads(found["metadata"])
        assert {name: value for name, value in found.items() if value is not None} == {
            name: value for name, value in row.items() if value is not None
        }
    assert leftovers(table) == ["", ".job.json"]


# -- what is there already ---------------------------------------------------------------------------------------------


def test_an_output_that_exists_is_refused_continued_or_replaced(source: Path, target: Path) -> None:
    run_job(FakeModel(3), source, target)
    whole = target.read_bytes()
    with pytest.raises(OptionError, match=r"out.jsonl: exists; --resume goes on with it, --overwrite replaces it"):
        run_job(FakeModel(3), source, target)
    again = FakeModel(3)
    summary = run_job(again, source, target, resume=True)
    assert (again.n_begun, summary.progress.n_before, summary.progress.n_failed) == (0, 30, 4)
    assert target.read_bytes() == whole
    run_job(FakeModel(3), source, target, overwrite=True, max_new_tokens=3)
    assert target.read_bytes() != whole
    with pytest.raises(OptionError, match="resume and overwrite exclude each other"):
        run_job(FakeModel(3), source, target, resume=True, overwrite=True)


def test_resume_begins_a_job_that_has_not_begun(source: Path, target: Path) -> None:
    assert run_job(FakeModel(3), source, target, resume=True).progress.n_before == 0


WRONG: list[Any] = [True, -7, 1.5, 10**400, "x", "", [], [[]], {}, {"a": {"b": []}}, [None], [{"x": 1}], ["x", 2]]


@pytest.mark.parametrize("name", ["preset", *OPTIONS, *KEYS])
def test_a_wrong_type_is_an_error_in_its_row_alone(tmp_path: Path, target: Path, name: str) -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    rows = [{"prompt": "a", name: value} for value in (*WRONG, deep)] + [{"prompt": "good", "id": "good"}]
    source = write_rows(tmp_path / "rows", rows)
    run_job(FakeModel(), source, target)
    found = results(target)
    assert len(found) == len(rows)
    assert "text" in found[-1]
    errors = [row for row in found if "error" in row]
    assert errors or name == "metadata"
    assert [row["error"]["message"].partition(": ")[0] for row in errors] == [
        f"line {row['index'] + 1}" for row in errors
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.5}, "temperature was not set, is 0.5"),
        ({"max_new_tokens": 8}, "max_new_tokens was 9, is 8"),
        ({"preset": "creative"}, 'preset was not set, is "creative"'),
        ({"seed": 2}, "seed was 1, is 2"),
        ({"in_order": False}, 'order was "input", is "as they come"'),
        ({"echo": True}, "echo was false, is true"),
    ],
)
def test_resume_with_other_settings_is_refused_and_says_which(
    source: Path, target: Path, change: dict[str, Any], said: str
) -> None:
    asked: dict[str, Any] = {"seed": 1, "max_new_tokens": 9}
    run_job(FakeModel(), source, target, limit=5, **asked)
    before = target.read_bytes()
    with pytest.raises(OptionError) as caught:
        run_job(FakeModel(), source, target, resume=True, **{**asked, **change})
    assert str(caught.value).startswith(f"{target} is of another job: {said}; use what it was made with")
    assert target.read_bytes() == before


def test_resume_with_another_model_or_input_is_refused(source: Path, target: Path) -> None:
    run_job(FakeModel(), source, target)
    other = FakeModel()
    other.name = "other"
    with pytest.raises(OptionError, match='model was "fake", is "other"'):
        run_job(other, source, target, resume=True)
    text = source.read_text()
    for changed, said in (
        (text.replace("p5", "p6"), "the input's first 30 rows have changed"),
        (text + '{"prompt": "more"}\n', "the input had 30 rows and has more"),
        (text[: text.index('{"prompt": "p30"')], "the input had 30 rows and has fewer"),
    ):
        source.write_text(changed)
        with pytest.raises(OptionError, match=said):
            run_job(FakeModel(), source, target, resume=True)


def test_an_output_of_unknown_origin_is_not_gone_on_with(source: Path, target: Path) -> None:
    target.write_text('{"index": 0}\n')
    with pytest.raises(OptionError, match=r"out.jsonl.job.json, which says what made it, is not beside it"):
        run_job(FakeModel(), source, target, resume=True)
    target.with_name("out.jsonl.job.json").write_text("{}")
    with pytest.raises(OptionError, match=r"out.jsonl.job.json: is not what a job of this version writes"):
        run_job(FakeModel(), source, target, resume=True)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("in_order", [True, False])
def test_a_limited_job_goes_on_to_more_rows(source: Path, tmp_path: Path, name: str, in_order: bool) -> None:
    target = tmp_path / name
    asked: dict[str, Any] = {"seed": 1, "do_sample": True, "in_order": in_order, "max_batch": 3}
    assert run_job(FakeModel(1), source, target, limit=7, **asked).progress.n_rows == 7
    assert run_job(FakeModel(2), source, target, limit=7, resume=True, **asked).progress.n_before == 7
    assert run_job(FakeModel(3), source, target, limit=2, resume=True, **asked).progress.n_before == 7
    last = run_job(FakeModel(4), source, target, resume=True, **asked).progress
    assert (last.n_rows, last.n_done, last.n_before) == (30, 30, 7)
    at_once = tmp_path / f"at-once-{name}"
    run_job(FakeModel(5), source, at_once, **asked)
    if in_order:
        assert target.read_bytes() == at_once.read_bytes()
    assert leftovers(target) == ["", ".job.json"]
    assert run_job(FakeModel(6), source, target, resume=True, **asked).progress.n_before == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:4], b"not mine\n", *lines[4:]], "line 5 is no result of this job, found b'not mine"),
        (lambda lines: [*lines, lines[2]], "holds the row of index 2 twice"),
        (lambda lines: [*lines, b'{"text": "no index"}\n'], "line 8 is no result of this job"),
    ],
)
def test_an_output_that_was_changed_by_hand_is_not_added_to(source: Path, target: Path, change: Any, said: str) -> None:
    run_job(FakeModel(), source, target, limit=7)
    changed = b"".join(change(target.read_bytes().splitlines(keepends=True)))
    target.write_bytes(changed)
    with pytest.raises(FanlightError, match=said):
        run_job(FakeModel(), source, target, resume=True)
    assert target.read_bytes() == changed


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_failed_rows_are_counted_by_a_resume_that_has_nothing_to_do(source: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    first = run_job(FakeModel(), source, target).progress
    again = run_job(FakeModel(), source, target, resume=True).progress
    limited = run_job(FakeModel(), source, target, resume=True, limit=3).progress
    for found in (again, limited):
        assert (found.n_rows, found.n_done, found.n_before) == (30, 30, 30)
        assert found.n_failed == first.n_failed == 4
    assert leftovers(target) == ["", ".job.json"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_smaller_limit_keeps_what_more_rows_need(source: Path, tmp_path: Path, name: str) -> None:
    target, whole = tmp_path / name, tmp_path / "whole.jsonl"

    def stop(progress: Progress) -> None:
        if progress.n_done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(FakeModel(3), source, target, max_batch=8, on_progress=stop)
    run_job(FakeModel(4), source, target, resume=True, limit=5)
    assert run_job(FakeModel(5), source, target, resume=True).progress.n_before >= 9
    run_job(FakeModel(6), source, whole)
    found = gzip.decompress(target.read_bytes()) if name.endswith("gz") else target.read_bytes()
    assert found == whole.read_bytes()
    assert leftovers(target) == ["", ".job.json"]


def test_a_full_disk_is_said_with_the_files_name_and_loses_nothing(source: Path, target: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        left = 1000

        def write(fd: int, data: Any) -> int:
            nonlocal left
            part = bytes(data)[:left]
            left -= len(part)
            if not part:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(fd, part)

        patch.setattr(writing, "os", SimpleNamespace(**{**vars(os), "write": write}))
        with pytest.raises(OSError, match="No space left on device") as caught:
            run_job(FakeModel(), source, target, max_batch=1)
        assert caught.value.filename in (str(target), f"{target}.ahead")
    assert run_job(FakeModel(), source, target, resume=True).progress.n_before > 0
    assert len(results(target)) == 30


# -- mistakes that show before anything is done ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("out.csv", {}, "expected an output that ends in .jsonl, .jsonl.gz or .parquet, found .csv"),
        ("out", {}, "found no ending"),
        ("out.csv.gz", {}, "expected an output that ends in .jsonl, .jsonl.gz or .parquet"),
        ("no/such/out.jsonl", {}, "no/such does not exist; make it first: mkdir -p"),
        ("out.jsonl", {"limit": 0}, "limit must be a whole number from 1: got 0"),
        ("out.jsonl", {"max_batch": 0}, "max_batch must be a whole number from 1: got 0"),
        ("out.jsonl", {"temprature": 1}, "unknown option 'temprature'; did you mean 'temperature'?"),
        ("out.jsonl", {"output_logits": True}, "output_logits keeps arrays"),
    ],
)
def test_a_mistake_leaves_no_file(source: Path, name: str, options: dict[str, Any], said: str) -> None:
    before = sorted(source.parent.iterdir())
    with pytest.raises(OptionError) as caught:
        run_job(FakeModel(), source, source.parent / name, **options)
    assert said in str(caught.value)
    assert sorted(source.parent.iterdir()) == before


def test_a_model_that_cannot_be_loaded_leaves_no_file(source: Path, target: Path) -> None:
    def start(base: Any) -> Any:
        raise FanlightError("no model")

    with pytest.raises(FanlightError, match="no model"):
        run_rows(start, source, target, {})
    assert leftovers(target) == []


def test_no_model_is_loaded_where_no_row_is_left(source: Path, target: Path) -> None:
    def start(base: Any) -> Any:
        raise AssertionError("loaded")

    run_job(FakeModel(), source, target)
    model = {"model": "fake"}
    assert run_rows(start, source, target, {}, model=model, options=JobOptions(resume=True)).progress.n_done == 30


def test_an_input_that_changes_meanwhile_is_noticed(source: Path, target: Path) -> None:
    text = source.read_text()

    def change(progress: Progress) -> None:
        source.write_text(text.replace("p30", "p99"))

    with pytest.raises(FanlightError, match="has changed while it was being read"):
        run_job(FakeModel(), source, target, on_progress=change, max_batch=1)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_slow_row_does_not_let_finished_ones_pile_up(tmp_path: Path, target: Path) -> None:
    rows = [{"prompt": f"p{i}"} for i in range(200)]
    rows[4] = {"prompt": SLOW}
    source = write_rows(tmp_path / "rows", rows)
    model = FakeModel(slow_for=150)
    begun_when_slow_ended = 0

    def run(base: Any) -> Any:
        def rows_of(rows: Iterator[Row]) -> Iterator[Any]:
            nonlocal begun_when_slow_ended
            for row, result in Worker(model, base, 3).run(rows):
                if row.index == 4:
                    begun_when_slow_ended = model.n_begun
                yield row, result

        return rows_of

    run_rows(run, source, target, {}, options=JobOptions(most_ahead=20))
    assert 20 < begun_when_slow_ended <= 4 + 20 + 6 + 1
    assert [row["index"] for row in results(target)] == list(range(200))


def test_thousands_of_wrong_rows_in_a_row_do_not_pile_up(tmp_path: Path, target: Path) -> None:
    rows = [{"prompt": "a", "temperature": "hot"} for _ in range(1000)] + [{"prompt": "b"}]
    run_job(FakeModel(), write_rows(tmp_path / "rows", rows), target)
    found = results(target)
    assert [row["index"] for row in found] == list(range(1001))
    assert [("error" in row) for row in found] == [True] * 1000 + [False]


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def peak(n_rows: int) -> int:
        rows = ({"prompt": f"p{i} " + "word " * 50, "id": f"row-{i}"} for i in range(n_rows))
        source, target = write_rows(tmp_path / f"rows{n_rows}", rows), tmp_path / f"out{n_rows}.jsonl"
        model = FakeModel()
        model.prompts = Forgets()
        tracemalloc.start()
        run_job(model, source, target, echo=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(target.read_bytes().splitlines()) == n_rows
        return found

    peak(10)  # what is imported and made once
    few, many = peak(500), peak(10_000)
    assert many - few < 600_000  # 3 MB of rows; 80 kB are hashes of ids


class Forgets(list[Any]):
    """What is added is not kept."""

    def append(self, item: Any) -> None:
        """Nothing."""
