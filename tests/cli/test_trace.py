"""`fanlight trace`: kept runs, looked at, asked, written again, branched; on the default model."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import fanlight
from cli.conftest import Run
from fanlight.cli.options import help_text
from fanlight.cli.trace import ACTIONS, COMMAND
from fanlight.cli.trace_list import tree
from fanlight.tracing.index import TraceIndex
from fanlight.tracing.trace import Trace
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model

PROMPT = "The cat sat on the"
SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 3, "top_p": 0.9, "max_new_tokens": 11}


@pytest.fixture(scope="module")
def kept(smollm: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.safetensors, greedy with a lens; drawn.safetensors; its branch, and the branch of that."""
    folder = tmp_path_factory.mktemp("runs")
    options = fanlight.TraceOptions(path=folder / "run.safetensors", lens=2)
    smollm.generate(PROMPT, max_new_tokens=7, trace=options)
    drawn = smollm.generate(PROMPT, trace=folder / "drawn.safetensors", **SAMPLED).trace
    assert drawn is not None
    first = drawn.branch(smollm, 4, token=" not", trace=folder / "a-branch.safetensors")
    first.branch(smollm, 6, trace=folder / "b-branch.safetensors", top_p=0.5, seed=8)
    return folder


@pytest.fixture
def own(kept: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which the test may change."""
    return shutil.copytree(kept, tmp_path / "own")


# -- show ----------------------------------------------------------------------------------------------------------------


def test_show_says_what_it_is_and_marks_the_text_without_colour(run: Run, kept: Path) -> None:
    trace = fanlight.open_trace(kept / "run.safetensors")
    done = run("trace", "show", str(kept / "run.safetensors"))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"trace     {trace.id}, ")
    assert f"prompt    '{PROMPT}' (5 tokens)" in done.out
    assert f"perplexity {trace.perplexity:.2f}; ranks 1: 7" in done.out
    assert f"fanlight show lens --trace {kept / 'run.safetensors'}" in done.out
    assert "seed" not in done.out  # nothing was drawn
    assert (PROMPT + trace.text).split("\n")[0] in done.out
    assert "\x1b" not in done.out
    assert re.search("[▁▂▃▄▅▆▇█]", done.out)


def test_show_of_a_branch_names_its_parent_and_the_steps_count_from_0(run: Run, kept: Path) -> None:
    trace = fanlight.open_trace(kept / "a-branch.safetensors")
    out = run("trace", "show", str(kept / "a-branch.safetensors")).out
    parent = fanlight.open_trace(kept / "drawn.safetensors")
    assert f"branch    of {parent.id} at step 4: token ' not'" in out
    rare = min(range(trace.n_steps), key=lambda i: trace.steps[i].raw_logprob)
    assert f"at step {rare} (" in out
    assert "seed 3" in out


def test_show_in_colour_has_grounds(run: Run, kept: Path) -> None:
    assert "\x1b[48;" in run("trace", "show", str(kept / "run.safetensors"), "--color", "always").out


def test_an_incomplete_trace_says_so_first(run: Run, kept: Path, tmp_path: Path) -> None:
    fanlight.open_trace(kept / "run.safetensors").marked("the disk was full").save(tmp_path / "cut.safetensors")
    done = run("trace", "show", str(tmp_path / "cut.safetensors"))
    assert done.out.startswith("INCOMPLETE: the disk was full\n")
    assert "incomplete" in run("trace", "list", str(tmp_path)).out


@pytest.mark.parametrize(("step", "number"), [("5", 5), ("-1", 10)])
def test_show_of_a_step_has_its_number_as_it_was_asked_for(run: Run, kept: Path, step: str, number: int) -> None:
    trace = fanlight.open_trace(kept / "drawn.safetensors")
    out = run("trace", "show", str(kept / "drawn.safetensors"), "--step", step, "--rows", "3").out
    assert out.startswith(f"step {number} of 11 (0 to 10), after ")
    label = trace.token_label(trace.ids[number])
    assert re.search(rf"(?m)^ +{number}  \[{re.escape(label)}\]", out)
    assert "top_p(0.9)" in out
    assert sum(re.search(r"\d%", line) is not None and "cuts" not in line for line in out.split("\n")[3:]) == 4


# -- list ----------------------------------------------------------------------------------------------------------------


def test_list_draws_branches_beneath_what_they_left(run: Run, kept: Path) -> None:
    done = run("trace", "list", str(kept))
    assert done.code == 0
    rows = done.out.split("\n")
    assert [row.split("  ")[0] for row in rows[1:3]] == ["drawn.safetensors", "└ a-branch.safetensors"]
    assert rows[3].startswith("  └ b-branch.safetensors")
    assert rows[4].startswith("run.safetensors")
    assert rows[2].endswith("step 4: token ' not'")
    assert rows[3].endswith("step 6: top_p=0.5, seed=8")
    assert rows[4].endswith(PROMPT)
    assert done.err == "[4 rows]\n"


def test_a_branch_whose_parent_is_not_there_names_it(run: Run, own: Path) -> None:
    parent = fanlight.open_trace(own / "drawn.safetensors").id
    (own / "drawn.safetensors").unlink()
    rows = run("trace", "list", str(own)).out.split("\n")
    assert rows[1].startswith("a-branch.safetensors")
    assert rows[1].endswith(f"of {parent}, step 4: token ' not'")


def test_damaged_files_that_are_each_others_parents_are_listed_once_each(kept: Path) -> None:
    with TraceIndex(kept) as index:
        rows = index.traces()
    ring = [replace_row(row, parent=rows[(i + 1) % len(rows)].id) for i, row in enumerate(rows)]
    assert sorted(row.file for row, _ in tree(ring)) == sorted(row.file for row in rows)


def replace_row(row: Any, **values: Any) -> Any:
    return row._replace(**values)


def test_list_answers_the_question_of_the_steps(run: Run, kept: Path) -> None:
    done = run("trace", "list", str(kept), "--where", "entropy > 4 and rank > 0", "--limit", "100")
    expected = [
        (path.name, i, trace.token_label(record.id))
        for path in sorted(kept.glob("*.safetensors"))
        for trace in [fanlight.open_trace(path)]
        for i, record in enumerate(trace.steps)
        if record.raw_entropy > 4 and record.raw_rank > 0
    ]
    assert expected
    assert [(row.split()[0], int(row.split()[1]), row.split()[2]) for row in done.out.split("\n")[1:-1]] == expected
    assert done.err == f"[{len(expected)} rows]\n"


def test_list_says_if_there_are_more_steps(run: Run, kept: Path) -> None:
    done = run("trace", "list", str(kept), "--steps", "--limit", "3", "--order-by", "surprise DESC")
    assert done.out.count("\n") == 4
    assert done.error == "[3 rows; there are more: --limit 30]"
    values = [float(row.split()[-1]) for row in done.out.split("\n")[1:-1]]
    assert values == sorted(values, reverse=True)


def test_list_as_json_has_every_column(run: Run, kept: Path) -> None:
    done = run("trace", "list", str(kept), "--traces", "parent IS NULL", "--json")
    found = json.loads(done.out)
    assert [row["file"] for row in found] == ["drawn.safetensors", "run.safetensors"]
    assert found[0]["settings"]["top_p"] == 0.9
    assert found[1]["looks"] == "lens"
    steps = json.loads(run("trace", "list", str(kept), "--where", "step = 0", "--json").out)
    assert len(steps) == 4
    assert {"token", "surprise", "margin", "guess_right"} <= set(steps[0])
    assert steps[0]["token"].startswith(" ")  # as it is, not as a label


def test_list_with_sql(run: Run, kept: Path) -> None:
    done = run("trace", "list", str(kept), "--sql", "SELECT count(*) AS n, sum(n_steps) AS total FROM traces")
    assert [row.split() for row in done.out.split("\n")[:2]] == [["n", "total"], ["4", "40"]]


def test_a_folder_with_damaged_files_lists_the_others_and_names_them(run: Run, own: Path) -> None:
    whole = (own / "run.safetensors").read_bytes()
    (own / "run.safetensors").write_bytes(whole[: len(whole) // 2])
    done = run("trace", "list", str(own))
    assert done.code == 0
    assert done.out.count("\n") == 4
    assert re.search(r"note: left out: .*run.safetensors: .* the file is damaged", done.err)


def test_an_empty_folder_says_how_to_keep_a_trace(run: Run, tmp_path: Path) -> None:
    assert "no trace is in it; fanlight generate PROMPT --trace" in run("trace", "list", str(tmp_path)).err


# -- export, diff --------------------------------------------------------------------------------------------------------


def test_export_writes_what_the_name_or_the_kind_says(run: Run, kept: Path, tmp_path: Path) -> None:
    file = str(kept / "drawn.safetensors")
    assert run("trace", "export", file, str(tmp_path / "a.json")).error == f"[{tmp_path / 'a.json'} written: 11 steps]"
    assert json.loads((tmp_path / "a.json").read_text())["header"]["text"] == fanlight.open_trace(file).text
    assert run("trace", "export", file, str(tmp_path / "a"), "--kind", "csv").code == 0
    with (tmp_path / "a").open(newline="") as opened:
        assert len([*csv.DictReader(opened)]) == 11


def test_diff_tells_where_texts_part_and_its_exit_code_whether_something_differs(run: Run, kept: Path) -> None:
    drawn, branch = str(kept / "drawn.safetensors"), str(kept / "a-branch.safetensors")
    same = run("trace", "diff", drawn, drawn)
    assert (same.code, same.err) == (0, "")
    assert "The same tokens to the end." in same.out
    other = run("trace", "diff", drawn, branch)
    assert other.code == 1
    assert "step 4 differs" in other.out


# -- again ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "drawn", "a-branch", "b-branch"])
def test_replay_of_a_run_and_of_its_branches_gives_the_same(run: Run, smollm: Model, kept: Path, name: str) -> None:
    done = run("trace", "replay", str(kept / f"{name}.safetensors"), model=smollm)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("the same: all ")


def test_replay_of_what_differs_has_an_exit_code(run: Run, smollm: Model, kept: Path, tmp_path: Path) -> None:
    trace = fanlight.open_trace(kept / "drawn.safetensors")
    other = replace(trace.header, seed=4)
    changed = Trace(
        other,
        prompt_ids=trace.prompt_ids,
        ids=trace.ids,
        pieces=trace.pieces,
        vocabulary=trace.vocabulary,
        steps=lambda: trace.steps,
        looks={},
    )
    changed.save(tmp_path / "other.safetensors")
    done = run("trace", "replay", str(tmp_path / "other.safetensors"), model=smollm)
    assert done.code == 1
    assert "not the same: step " in done.out


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fanlight.load(tiny.write_folder(tmp_path_factory.mktemp("other") / "tiny", tiny.llama()))


def test_another_model_is_refused_and_both_are_named(run: Run, other: Model, kept: Path, tmp_path: Path) -> None:
    for words in (
        ["trace", "replay", str(kept / "run.safetensors")],
        [
            "trace",
            "branch",
            str(kept / "run.safetensors"),
            "--step",
            "1",
            "--token",
            " a",
            "-o",
            str(tmp_path / "x.safetensors"),
        ],
        ["show", "next", "--trace", str(kept / "run.safetensors")],
    ):
        done = run(*words, model=other)
        assert done.code == 2
        assert "the trace was made by SmolLM2" in done.error
        assert "this model is tiny" in done.error
    assert not (tmp_path / "x.safetensors").exists()


def test_what_if_takes_settings_presets_and_files(run: Run, kept: Path, tmp_path: Path) -> None:
    file = str(kept / "drawn.safetensors")
    done = run("trace", "what-if", file, "--top-k", "1")
    assert (done.code, done.err) == (0, "")
    assert "top_k 50 -> 1" in done.out
    assert "the texts part at step" in done.out
    (tmp_path / "mild.json").write_text('{"top_k": 1}')
    assert run("trace", "what-if", file, "--settings", str(tmp_path / "mild.json")).out == done.out
    assert "temperature 1.0 ->" in run("trace", "what-if", file, "--preset", "creative").out
    assert "the text stays the same" in run("trace", "what-if", file, "--top-p", "0.9").out


def test_a_branch_lies_beside_its_parent_and_does_not_replace_another(run: Run, smollm: Model, own: Path) -> None:
    file = str(own / "drawn.safetensors")
    for n, token in ((1, " dog"), (2, " bird")):
        done = run("trace", "branch", file, "--step", "-3", "--token", token, model=smollm)
        assert done.code == 0
        path = own / f"drawn.branch-{n}.safetensors"
        found = fanlight.open_trace(path)
        assert done.out == found.text + "\n"
        assert found.header.parent is not None
        assert (found.header.parent.step, found.header.parent.change) == (8, f"token {token!r}")
        assert f"from step 8: token {token!r}]" in done.err
        assert f"[trace {path}: {found.n_steps} steps, " in done.err


def test_a_branch_with_other_settings_and_a_look_inside(run: Run, smollm: Model, own: Path) -> None:
    words = ["--step", "2", "--top-p", "0.3", "-n", "5", "-o", str(own / "c.safetensors"), "--look", "norms"]
    assert run("trace", "branch", str(own / "drawn.safetensors"), *words, model=smollm).code == 0
    found = fanlight.open_trace(own / "c.safetensors")
    assert (found.n_steps, found.has, found.header.settings["top_p"]) == (5, ("norms",), 0.3)


def test_track_has_a_row_for_each_step_and_the_model_makes_it_exact(run: Run, smollm: Model, kept: Path) -> None:
    file = str(kept / "drawn.safetensors")
    stored = run("trace", "track", file, "--token", " cat")
    assert stored.code == 0
    assert "not stored at" in " ".join(stored.out.split())
    exact = run("trace", "track", file, "--token", " not the", "--exact", model=smollm)
    assert exact.code == 0
    assert "not stored" not in exact.out
    assert len(re.findall(r"(?m)^ +\d+  ", exact.out[exact.out.index("every step") :])) == 11


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "an action is missing; there is show, list, export, diff, replay, what-if, branch, track"),
        (["shw", "RUN"], "no action 'shw'; did you mean 'show'?"),
        (["show"], "show takes one file, found nothing; usage: fanlight trace show FILE"),
        (["diff", "RUN"], "diff takes 2 files, found 1"),
        (["list"], "list takes one folder, found nothing"),
        (["show", "nope"], "nope: expected a trace"),
        (["show", "FOLDER"], "found a folder; see what is in it: fanlight trace list"),
        (["show", "RUN", "--step", "7"], "there is no step 7; the trace has 7, from 0 to 6"),
        (["show", "RUN", "--rows", "3"], "--rows is of a step: give --step N with it"),
        (["show", "RUN", "--step", "1", "--rows", "0"], "--rows must be at least 1: got 0"),
        (["show", "RUN", "--step", "1", "--by", "rank"], "--by is of the text"),
        (["show", "RUN", "--top-p", "0.5"], "--top-p is not of trace show, but of what-if, branch"),
        (["list", "RUN"], "expected a folder of traces, found a file"),
        (["list", "FOLDER", "--where", "entrpy > 4"], "no such column: entrpy; there is trace, file, step"),
        (["list", "FOLDER", "--sql", "DROP TABLE traces"], "an index can only be read"),
        (["list", "FOLDER", "--sql", "SELECT 1", "--limit", "3"], "--order-by and --limit are not for --sql"),
        (["list", "FOLDER", "--where", "1", "--traces", "1"], "--where and --traces are questions of their own"),
        (["list", "FOLDER", "--limit", "0"], "--limit must be at least 1: got 0"),
        (["export", "RUN", "x.txt"], "expected a name that ends in .json, .csv or .parquet"),
        (["export", "RUN", "/nope/x.json"], "/nope/x.json: cannot be written"),
        (["what-if", "RUN"], "other settings are missing"),
        (["what-if", "RUN", "--num-beams", "3"], "num_beams=3 cannot be decided from a trace"),
        (["branch", "RUN", "--token", " a"], "the step is missing at which the branch leaves"),
        (["branch", "RUN", "--step", "3"], "a branch needs another token or other settings"),
        (["branch", "RUN", "--step", "7", "--token", " a"], "there is no step 7"),
        (
            ["branch", "RUN", "--step", "3", "--token", " a", "-o", "/nope/x.safetensors"],
            "the folder /nope does not exist",
        ),
        (["branch", "RUN", "--step", "3", "--token", " a", "-o", "x.html"], "x.html: a trace is kept as .safetensors"),
        (["track", "RUN"], "what is to be tracked is missing"),
        (["track", "RUN", "--token", " purple elephant"], "--exact"),
    ],
)
def test_a_mistake_is_one_line(run: Run, kept: Path, words: list[str], message: str) -> None:
    names = {"RUN": str(kept / "run.safetensors"), "FOLDER": str(kept)}
    done = run("trace", *(names.get(word, word) for word in words))
    assert (done.code, done.out) == (2, "")
    assert message in done.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "the file is damaged"),
        (lambda data: data[:-40] + bytes(40), "the file is damaged"),
        (lambda data: b"", "found an empty file"),
        (lambda data: b"hello", "expected a trace"),
        (
            lambda data: data.replace(b'"version":"1"', b'"version":"7"'),
            "a trace of version 7; this Fanlight reads version 1",
        ),
    ],
    ids=["half", "end", "empty", "foreign", "newer"],
)
def test_a_file_that_is_no_whole_trace_is_refused(
    run: Run, kept: Path, tmp_path: Path, change: Any, message: str
) -> None:
    data = (kept / "run.safetensors").read_bytes()
    assert change(data) != data
    (tmp_path / "x.safetensors").write_bytes(change(data))
    done = run("trace", "show", str(tmp_path / "x.safetensors"))
    assert (done.code, done.out) == (2, "")
    assert message in done.error


@pytest.mark.parametrize("name", ACTIONS)
def test_the_help_of_an_action_is_its_own_with_examples_and_fits(run: Run, name: str) -> None:
    done = run("trace", name, "--help")
    assert done.out == help_text(COMMAND.parts[name]) == run("help", "trace", name).out
    assert done.out.startswith(f"usage: fanlight trace {name} ")
    assert f"  fanlight trace {name} " in done.out
    assert max(map(len, done.out.split("\n"))) <= 120
    known = {option.name for option in COMMAND.options}
    assert {option.name for option in COMMAND.parts[name].options} <= known
    assert ("--top-p" in done.out) == (name in ("what-if", "branch"))
