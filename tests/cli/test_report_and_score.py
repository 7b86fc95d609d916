"""`fanlight report` and `fanlight score`, on the default model."""

from __future__ import annotations

import json
from math import exp
from typing import TYPE_CHECKING

import pytest

import fanlight
from cli.conftest import Run

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model

TEXT = "The cat sat on the mat."


@pytest.fixture
def file(smollm: Model, tmp_path: Path) -> Path:
    """A kept run."""
    smollm.generate("The cat", max_new_tokens=4, trace=tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


# -- report --------------------------------------------------------------------------------------------------------------


def test_a_report_lies_beside_its_trace_or_where_it_is_asked_for(run: Run, file: Path) -> None:
    done = run("report", str(file))
    page = file.with_suffix(".html")
    assert (done.code, done.out) == (0, "")
    assert done.error.startswith(f"[{page} written, ")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    other = file.parent / "other.HTM"
    assert run("report", str(file), "-o", str(other), "--by", "rank").code == 0
    assert other.stat().st_size > 1000
    assert other.read_bytes() != page.read_bytes()


def test_a_report_of_an_incomplete_trace_says_so(run: Run, file: Path) -> None:
    fanlight.open_trace(file).marked("the disk was full").save(file)
    done = run("report", str(file))
    assert done.code == 0
    assert "note: the trace is incomplete: the disk was full\n" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one trace's file is expected, found none; usage: fanlight report TRACE"),
        (["FILE", "FILE"], "one trace's file is expected, found 2"),
        (["nope"], "nope: expected a trace"),
        (["FILE", "-o", "x.txt"], "--output takes a file that ends in .html, .htm: got 'x.txt'"),
        (["FILE", "-o", "/nope/x.html"], "/nope/x.html: cannot be written"),
        (["FILE", "--by", "size"], "--by can be surprise, rank, entropy, margin: got 'size'"),
    ],
)
def test_mistakes_with_a_report(run: Run, file: Path, words: list[str], message: str) -> None:
    done = run("report", *(str(file) if word == "FILE" else word for word in words))
    assert (done.code, done.out) == (2, "")
    assert message in done.error


# -- score ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["never", "always"])
def test_a_score_has_the_text_its_perplexity_and_a_row_for_each_kind_of_rank(
    run: Run, smollm: Model, color: str
) -> None:
    done = run("score", TEXT, "--color", color, model=smollm)
    trace = smollm.score(TEXT)
    assert (done.code, done.err) == (0, "")
    assert f"perplexity {trace.perplexity:.2f}, " in done.out
    assert f"over {trace.n_steps} tokens" in done.out
    rows = done.out[done.out.index("rank of the token") :].split("\n")[1:6]
    assert [(row.split()[0], int(row.split()[1])) for row in rows] == list(trace.rank_histogram().items())
    assert ("\x1b[" in done.out) == (color == "always")


def test_a_score_as_json_is_the_account_of_every_token(run: Run, smollm: Model) -> None:
    done = run("score", "-", "--prompt", "The capital of France is", "--json", stdin=b" Paris.\n", model=smollm)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    trace = smollm.score(" Paris.", prompt="The capital of France is")
    assert (found["text"], found["n_tokens"]) == (" Paris.", 2)
    assert [token["token"] for token in found["tokens"]] == [" Paris", "."]
    assert [token["logprob"] for token in found["tokens"]] == [record.raw_logprob for record in trace.steps]
    assert found["perplexity"] == pytest.approx(exp(-found["logprob"] / 2))
    assert found["trace"] is None


def test_a_score_is_kept_with_a_look_inside(run: Run, smollm: Model, tmp_path: Path) -> None:
    file = tmp_path / "score.safetensors"
    done = run("score", TEXT, "--trace", str(file), "--look", "lens=2", model=smollm)
    assert done.code == 0
    assert f"[trace {file}: 6 steps, " in done.error
    trace = fanlight.open_trace(file)
    assert trace.header.is_given
    assert trace.lens is not None
    assert trace.lens.ids.shape[2] == 2
    assert "given, not written by the model" in run("trace", "show", str(file)).out
    assert "scored" in run("trace", "list", str(tmp_path)).out
    assert run("trace", "replay", str(file), model=smollm).code == 0


def test_a_text_of_one_token_says_why_nothing_is_scored(run: Run, smollm: Model) -> None:
    done = run("score", "Hi", model=smollm)
    assert done.code == 0
    assert done.error.startswith("note: nothing is scored: the first token has nothing before it")
    assert json.loads(run("score", "Hi", "--json", model=smollm).out)["perplexity"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the prompt is missing"),
        (["a", "--look", "lens"], "give --trace FILE with them"),
        (["a", "--trace", "x.json"], "x.json: a trace is kept as .safetensors, or in a folder (runs/)"),
        (["a", "--trace", "/nope/x.safetensors"], "the folder /nope does not exist"),
        (["a", "--json", "--by", "rank"], "--by is of the coloured text"),
        (["a", "--top-p", "7"], "top_p must be above 0 and at most 1: got 7.0"),
    ],
)
def test_mistakes_with_a_score(run: Run, words: list[str], message: str) -> None:
    done = run("score", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.error
