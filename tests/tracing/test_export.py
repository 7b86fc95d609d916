"""Traces as JSON, CSV and Parquet: everything is in them, other programs read them, they are written whole."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from fakes.traces import a_trace, some_records
from fanlight.cli.as_json import record_json
from fanlight.errors import MissingExtra, OptionError, TraceError
from fanlight.tracing import export
from fanlight.tracing.export import export_trace, json_parts
from fanlight.tracing.files import open_trace, save_trace
from fanlight.tracing.rows import ROW
from fanlight.tracing.trace import LOOKS, Trace


def exported(trace: Trace, path: Path) -> Path:
    export_trace(trace, path)
    return path


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("n_steps", [0, 1, 13])
def test_json_holds_everything(n_steps: int, tmp_path: Path) -> None:
    trace = a_trace(n_steps=n_steps, search=True, guesses=True)
    text = exported(trace, tmp_path / "run.json").read_text("ascii")
    found = json.loads(text, parse_constant=no_constant)
    assert found["header"] == json.loads(json.dumps(trace.header.json()))
    assert (found["prompt_ids"], found["ids"], found["pieces"]) == ([*trace.prompt_ids], [*trace.ids], [*trace.pieces])
    assert found["tokens"] == {str(token): trace.token_text(token) for token in trace.vocabulary}
    assert len(found["steps"]) == n_steps
    for i, (step, record) in enumerate(zip(found["steps"], trace.steps, strict=True)):
        assert (step["index"], step["id"], step["text"]) == (i, record.id, trace.pieces[i])
        assert step["token"] == trace.token_text(record.id)
        expected = record_json(record, [trace.token_text(token) for token in record.candidate_ids])
        for candidate in expected["candidates"]:
            removal = record.removal(candidate["id"])
            candidate |= {"removed_by": removal.label, "rule": removal.rule} if removal else {}
        assert {name: step[name] for name in expected} == expected
        assert ("guess" in step) == (record.guess is not None)
        assert ("stop" in step) == (i == n_steps - 1)
    assert len(found["search"]["nodes"]) == len(trace.search.nodes)  # type: ignore[union-attr]
    for name in LOOKS:
        for field, value in found[name].items():
            expected = np.asarray(getattr(getattr(trace, name), field))
            np.testing.assert_array_equal(np.array(value, expected.dtype).ravel(), expected.ravel())


def test_json_has_no_infinity(tmp_path: Path) -> None:
    trace = a_trace(settings={"do_sample": True, "top_k": 2}, score=-math.inf)
    trace.lens.logprobs[0, 0, 0] = -math.inf  # type: ignore[union-attr]
    assert any(math.isinf(logit) for record in trace.steps for logit in record.final_logits)
    found = json.loads(exported(trace, tmp_path / "run.json").read_bytes(), parse_constant=no_constant)
    assert found["lens"]["logprobs"][0][0][0] is None
    assert found["header"]["score"] == "-inf"
    assert None in [candidate["final_logit"] for candidate in found["steps"][0]["candidates"]]


def test_json_comes_in_parts() -> None:
    parts = list(json_parts(a_trace(n_steps=5)))
    assert len(parts) > 10
    assert json.loads("".join(parts))["format"] == "fanlight.trace"


def test_csv_has_a_row_a_step(tmp_path: Path) -> None:
    trace = a_trace(n_steps=40, guesses=True)
    raw = exported(trace, tmp_path / "run.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")))
    assert list(rows[0]) == list(ROW)
    assert len(rows) == 40
    for i, (row, record) in enumerate(zip(rows, trace.steps, strict=True)):
        assert row["token"] == trace.token_text(record.id)
        assert (row["step"], row["token_id"], row["rank"]) == (str(i), str(record.id), str(record.raw_rank))
        assert float(row["surprise"]) == -record.raw_logprob
        assert row["drafter"] == (record.guess.drafter if record.guess else "")
    texts = {row["token"] for row in rows}
    assert any("\n" in text for text in texts)
    assert any(not text.isascii() for text in texts)
    outside = b"".join(raw.split(b'"')[::2])  # of quoted fields
    assert outside.count(b"\n") == outside.count(b"\r\n") == 41


def test_what_a_step_has_not_is_empty_in_csv(tmp_path: Path) -> None:
    trace = a_trace(settings={"do_sample": True, "top_k": 1})
    row = next(csv.DictReader(exported(trace, tmp_path / "run.csv").open(encoding="utf-8", newline="")))
    assert trace.steps[0].margin is None
    assert row["margin"] == row["drafter"] == row["guess_right"] == ""


@pytest.mark.parametrize("n_steps", [0, 1, 13])
def test_parquet_has_candidates_as_lists(n_steps: int, tmp_path: Path) -> None:
    made = some_records(n_steps, guesses=True)
    made = [record if i % 5 else _bare(record) for i, record in enumerate(made)]
    trace = a_trace(records=made)
    table = pyarrow.parquet.read_table(exported(trace, tmp_path / "run.parquet"))
    assert json.loads(table.schema.metadata[b"fanlight.trace"])["id"] == trace.id
    rows = table.to_pylist()
    assert len(rows) == n_steps
    for row, record in zip(rows, made, strict=True):
        assert (row["token"], row["token_id"]) == (trace.token_text(record.id), record.id)
        assert row["candidate_ids"] == list(record.candidate_ids)
        assert row["candidate_tokens"] == [trace.token_text(token) for token in record.candidate_ids]
        assert row["candidate_raw_logits"] == list(record.raw_logits)
        assert row["candidate_final_logits"] == list(record.final_logits)
        assert row["candidate_noise"] == (list(record.noise) if record.noise else [None] * len(record.candidate_ids))
        assert row["processors"] == [effect.label for effect in record.effects]
        assert row["processor_n_kept"] == [effect.n_kept for effect in record.effects]
        assert (row["margin"], row["drafter"]) == (record.margin, record.guess.drafter if record.guess else None)


def _bare(record: Any) -> Any:
    from dataclasses import replace

    return replace(record, effects=(), noise=None, lead=None, margin=None)


def test_a_file_on_disk_exports_as_the_trace_does(tmp_path: Path) -> None:
    trace = a_trace(search=True)
    again = open_trace(save_trace(trace, tmp_path / "run.safetensors"))
    for ending in ("csv", "parquet"):
        one, other = (exported(t, tmp_path / f"{i}.{ending}").read_bytes() for i, t in enumerate((trace, again)))
        assert one == other
    assert json.loads("".join(json_parts(trace))) == json.loads("".join(json_parts(again)))


def test_the_kind_is_the_ending_unless_it_is_given(tmp_path: Path) -> None:
    export_trace(a_trace(), tmp_path / "run.txt", "csv")
    assert (tmp_path / "run.txt").read_text(encoding="utf-8").startswith("step,token,")
    export_trace(a_trace(), tmp_path / "RUN.JSON")
    for name, found in (("run.xlsx", "'xlsx'"), ("run", "'no ending'")):
        with pytest.raises(OptionError, match=rf"expected a name that ends in .json, .csv or .parquet, found {found}"):
            export_trace(a_trace(), tmp_path / name)
    with pytest.raises(OptionError, match="kind must be json, csv, parquet: got 'xml'"):
        export_trace(a_trace(), tmp_path / "run.json", "xml")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fanlight\[batch\]'"):
        export_trace(a_trace(), tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_what_was_there_stays_if_the_disk_is_full(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"run.{ending}"
    path.write_text("mine")

    def full(_: Trace) -> Any:
        def write(file: Any) -> None:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return write

    monkeypatch.setitem(export._WRITERS, ending, full)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="No space left on device"):
        export_trace(a_trace(), path)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("mine", [path])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written"):
        export_trace(a_trace(), tmp_path / "none" / "run.csv")
