"""A sweep: every point, prompt and sample once, whatever is killed when; measures as those of the texts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from math import exp, log
from pathlib import Path
from typing import Any

import pytest

import fanlight
from cli.conftest import environment, fake_model
from fanlight.comparing.journal import Journal, read_head, read_rows
from fanlight.comparing.measures import distinct, self_bleu
from fanlight.comparing.prompts import Prompt, read_prompts, take_prompts
from fanlight.comparing.sweep import read_grid, sweep
from fanlight.comparing.sweep_records import Measured, Sweep, Tally
from fanlight.errors import ContextOverflow, OptionError

PROMPTS = ["abc", "de", "fghij"]
GRID = {"temperature": [0.5, 1.0], "top_k": [3, 0, 9]}


def swept(out: Path | None = None, **options: Any) -> Sweep:
    given = {"samples": 2, "seed": 5, "max_new_tokens": 6, **options}
    return sweep(fake_model(), given.pop("prompts", PROMPTS), given.pop("grid", GRID), out=out, **given)


def rows_of(path: Path) -> dict[tuple[int, str, int], dict[str, Any]]:
    rows = list(read_rows(path))
    found = {(row["point"], row["prompt"], row["sample"]): row for row in rows}
    assert len(found) == len(rows), "a text is there twice"
    return found


def test_every_point_prompt_and_sample_is_there_once_and_comes_alone_too(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    found = swept(out)
    rows = rows_of(out)
    assert set(rows) == {(p, str(i), s) for p in range(6) for i in (1, 2, 3) for s in range(2)}
    assert found.n_texts == found.n_new == 36
    points = [(0.5, 3), (0.5, 0), (0.5, 9), (1.0, 3), (1.0, 0), (1.0, 9)]
    for (point, prompt, _), row in rows.items():
        temperature, top_k = points[point]
        alone = fake_model().generate(
            PROMPTS[int(prompt) - 1],
            do_sample=True,
            temperature=temperature,
            top_k=top_k,
            max_new_tokens=6,
            seed=row["seed"],
        )
        assert row["ids"] == list(alone.ids)
        assert row["text"] == alone.text
    assert len({row["seed"] for row in rows.values()}) == 2  # the same noise for all


def test_measures_are_those_of_the_texts(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    found = swept(out)
    rows = rows_of(out)
    groups = [[rows[4, str(i), s] for s in range(2)] for i in (1, 2, 3)]
    written = [[row["ids"][:-1] if row["ended_by_token"] else row["ids"] for row in group] for group in groups]
    point = found.points[4]
    nats = [-sum(row["logprob"] for row in group) / sum(row["n_tokens"] for row in group) for group in groups]
    assert point.log_perplexity is not None
    assert point.log_perplexity.mean == pytest.approx(sum(nats) / 3)
    assert point.log_perplexity.n == 3
    assert point.perplexity == pytest.approx(exp(sum(nats) / 3))
    assert point.self_bleu is not None
    assert point.self_bleu.mean == pytest.approx(sum(self_bleu(texts) or 0 for texts in written) / 3)
    assert point.distinct[1] is not None
    assert point.distinct[1].mean == pytest.approx(sum(distinct(texts, 2) or 0 for texts in written) / 3)
    assert sum(point.stops.values()) == point.n_texts == 6


def test_the_same_sweep_has_the_same_measures_bit_for_bit_in_any_batch() -> None:
    assert swept().points == swept(max_batch=1).points == swept(max_batch=3).points


@pytest.mark.parametrize("cut", [0, 1, 400, 1500, 2500, 4000, -1, -7])
def test_a_file_cut_off_anywhere_is_gone_on_with(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "s.jsonl"
    whole = swept(out)
    expected, data = rows_of(out), out.read_bytes()
    out.write_bytes(data[:cut])
    n_left = max(0, out.read_bytes().count(b"\n") - 1)
    again = swept(out, resume=True)
    assert again.n_new == 36 - n_left
    assert rows_of(out) == expected
    assert again.points == whole.points
    assert out.read_bytes().splitlines()[0] == data.splitlines()[0]


def test_a_finished_file_computes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    whole, before = swept(out), out.read_bytes()
    again = swept(out, resume=True, seed=None)
    assert (again.n_new, again.seed, again.points) == (0, whole.seed, whole.points)
    assert out.read_bytes() == before


def test_a_killed_process_loses_and_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    program = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from cli.conftest import fake_model
from fanlight.comparing.sweep import sweep
sweep(fake_model(), {PROMPTS!r}, {GRID!r}, samples=2, seed=5, max_new_tokens=6, out={str(out)!r}, resume=True, max_batch=2,
      progress=lambda done, total, tokens: (print(done, flush=True), time.sleep(0.02)))
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            begun = int(process.stdout.readline())
            for line in process.stdout:
                if int(line) >= begun + 4:
                    break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    n_there = sum(1 for _ in read_rows(out))
    assert 12 <= n_there < 36
    again = swept(out, resume=True)
    assert again.n_new == 36 - n_there
    assert again.points == swept().points
    assert len(rows_of(out)) == 36


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"samples": 3}, "samples"),
        ({"seed": 6}, "seed"),
        ({"grid": {"temperature": [0.5, 1.0], "top_k": [3, 0, 8]}}, "grid"),
        ({"prompts": ["abc", "de", "fghik"]}, "prompts"),
        ({"max_new_tokens": 7}, "settings"),
    ],
)
def test_another_sweep_does_not_go_on_with_a_file(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    out = tmp_path / "s.jsonl"
    swept(out)
    before = out.read_bytes()
    with pytest.raises(OptionError, match=f"{name} was"):
        swept(out, resume=True, **options)
    assert out.read_bytes() == before


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    out.write_text("mine\n")
    with pytest.raises(OptionError, match="is there already"):
        swept(out)
    with pytest.raises(OptionError, match=r"s.jsonl:1: expected a line of JSON"):
        swept(out, resume=True)
    assert out.read_text() == "mine\n"


def test_a_damaged_or_doubled_line_is_an_error_that_says_where(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    swept(out)
    lines = out.read_bytes().splitlines(keepends=True)
    for bad, message in ((b"{]\n", r"s.jsonl:4"), (lines[1], "twice"), (b'{"point": 99}\n', "not of this sweep")):
        out.write_bytes(b"".join([*lines[:3], bad]))
        with pytest.raises(OptionError, match=message):
            swept(out, resume=True)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, {"a": 1}) as journal:
        journal.add({"b": 2})
        program = f"from fanlight.comparing.journal import Journal; Journal({str(path)!r}, {{'a': 1}}, resume=True)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False
        )
        assert "another process writes it" in done.stderr
    with Journal(path, {"a": 1}, resume=True) as journal:
        assert journal.rows == [{"b": 2}]
    assert read_head(path) == {"a": 1}
    assert read_head(tmp_path / "none") is None


def test_a_text_that_fails_is_counted_and_the_others_are_made(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    found = swept(out, prompts=["abc", "x" * 99])  # longer than the window
    assert all((point.n_texts, point.n_failed) == (4, 2) for point in found.points)
    assert all(point.log_perplexity is not None and point.log_perplexity.n == 1 for point in found.points)
    assert "context window" in rows_of(out)[0, "2", 0]["error"]
    assert swept(out, prompts=["abc", "x" * 99], resume=True).points == found.points
    with pytest.raises(ContextOverflow):
        swept(prompts=["x" * 99])


def test_where_all_texts_fail_a_resume_has_the_same_error(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    with pytest.raises(ContextOverflow) as first:
        swept(out, prompts=["x" * 99])
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (len(lines), 5):  # finished, and killed halfway
        out.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(ContextOverflow) as again:
            swept(out, prompts=["x" * 99], resume=True)
        assert str(again.value) == str(first.value)
    assert len(rows_of(out)) == 12


def test_failed_texts_are_said_with_their_number_and_the_first_error(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    found = swept(out, prompts=["abc", "x" * 99, "de"])
    assert (found.n_texts, found.n_failed) == (36, 12)
    assert {point.n_prompts for point in found.points} == {2}
    assert found.first_error is not None
    assert "context window" in found.first_error
    said = f"12 of 36 texts failed, their errors are in {out}; the first: {found.first_error}"
    assert said in found.notes
    again = swept(out, prompts=["abc", "x" * 99, "de"], resume=True)
    assert (again.n_new, again.notes, again.first_error) == (0, found.notes, found.first_error)
    assert swept().first_error is None
    assert not any("failed" in note for note in swept().notes)


def test_what_draws_nothing_is_made_once_and_counts_as_so_many_equal_texts() -> None:
    found = swept(grid={"preset": ["greedy", "creative"]}, samples=3)
    greedy, creative = found.points
    assert (greedy.n_texts, creative.n_texts) == (3, 9)
    assert greedy.self_bleu is not None
    assert greedy.self_bleu.mean == pytest.approx(1)
    assert greedy.diversity("self_bleu") is not None
    assert found.diversity == "self_bleu"
    assert swept(samples=1).diversity == "distinct_2"


def test_nothing_on_the_frontier_is_bettered() -> None:
    found = swept(samples=3)
    for measure in ("self_bleu", "distinct_1", "distinct_3"):
        pairs = [(p.perplexity, p.diversity(measure).mean) for p in found.points]  # type: ignore[union-attr]
        for i, (cost, gain) in enumerate(pairs):
            bettered = any((c, g) != (cost, gain) and c <= cost and g >= gain for c, g in pairs)  # type: ignore[operator]
            assert (i in found.frontier(measure)) == (not bettered)
    with pytest.raises(OptionError, match="diversity can be"):
        found.frontier("distinct_9")


def test_a_sweep_is_plain_data_for_json() -> None:
    data = json.loads(json.dumps(swept().as_dict(), allow_nan=False))
    assert len(data["points"]) == 6
    assert {point["on_frontier"] for point in data["points"]} <= {True, False}
    assert data["points"][0]["options"] == {"temperature": 0.5, "top_k": 3}


def test_a_tally_keeps_no_text_of_a_prompt_that_is_complete() -> None:
    tally = Tally("x", {}, draws=True, samples=2)
    text = Measured((1, 2, 3), 3, 3 * log(0.5), 1.0, "eos")
    for i in range(100):
        tally.add(str(i), text)
        assert len(tally._waiting) == 1
        tally.add(str(i), text)
        assert not tally._waiting
    point = tally.point([str(i) for i in range(100)])
    assert point.perplexity == pytest.approx(2)
    assert point.stops == {"eos": 200}


def test_jobs_are_made_as_they_are_needed() -> None:
    asked: list[str] = []

    class Prompts(list[str]):
        pass

    model = fake_model()
    each = model.generate_each

    def watched(jobs: Any, *, max_batch: int = 16) -> Any:
        def seen() -> Any:
            for job in jobs:
                asked.append(job.key)
                yield job

        for n, outcome in enumerate(each(seen(), max_batch=max_batch), 1):
            assert len(asked) <= n + 2 * max_batch
            yield outcome

    model.generate_each = watched  # type: ignore[method-assign]
    sweep(model, Prompts(["ab"] * 1), {"top_k": list(range(1, 40))}, samples=2, max_new_tokens=2, max_batch=2)
    assert len(asked) == 78


# -- the grid and the prompts --------------------------------------------------------------------------------------------


def test_a_grid_in_words() -> None:
    assert read_grid(["temperature=0.5,1", "top-p=0.9", "preset=hf,creative"]) == {
        "temperature": (0.5, 1.0),
        "top_p": (0.9,),
        "preset": ("hf", "creative"),
    }
    assert read_grid(["processors=[temperature,top_p],[top_p,temperature]"]) == {
        "processors": (("temperature", "top_p"), ("top_p", "temperature"))
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["temperature"], "OPTION=VALUE"),
        (["=1"], "OPTION=VALUE"),
        (["temprature=1"], "did you mean 'temperature'"),
        (["temperature=1,x"], "temperature takes a number"),
        (["temperature=1,1.0"], "a value twice"),
        (["temperature=1", "temperature=2"], "two axes"),
        (["seed=1,2"], "cannot be an axis"),
        (["preset=nope"], "unknown preset"),
        (["top_k=" + ",".join(map(str, range(40))), "top_p=" + ",".join(f"0.{i}1" for i in range(30))], "1200 points"),
        ([], "the grid is a mapping"),
    ],
)
def test_a_grid_that_is_none(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_grid(words)


def test_prompts_from_files(tmp_path: Path) -> None:
    text = tmp_path / "p.txt"
    text.write_bytes("\ufeffone\r\n\n  two \nümlaut".encode())
    assert read_prompts(text) == (Prompt("1", "one"), Prompt("3", "  two "), Prompt("4", "ümlaut"))
    lines = tmp_path / "p.jsonl"
    chat = [{"role": "user", "content": "hi"}]
    lines.write_text(
        "\n".join(json.dumps(row) for row in ("a\nb", {"id": 7, "prompt": "x"}, {"id": "c", "messages": chat}, [1, 2]))
    )
    assert [prompt.id for prompt in read_prompts(lines)] == ["1", "7", "c", "4"]
    assert [prompt.value for prompt in read_prompts(lines)] == ["a\nb", "x", chat, [1, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no prompt"),
        (b'"a"\n{"prompt": 1}', r":2: a prompt must be"),
        (b'{"prompt": "a", "temperature": 1}', "unknown key 'temperature'"),
        (b'{"id": 1}', "either"),
        (b'{"prompt": "a", "messages": []}', "either"),
        (b'{"messages": "a"}', "messages must be a list"),
        (b'{"id": null, "prompt": "a"}', "an id must be"),
        (b'{"id": 2, "prompt": "a"}\n"b"', "two prompts have the id '2'"),
        (b"{", ":1: expected JSON"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'"a"\n[]', ":2: a prompt must be"),
    ],
)
def test_a_broken_file_of_prompts_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_prompts(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


def test_prompts_from_python() -> None:
    assert [prompt.id for prompt in take_prompts(["a", {"id": "x", "prompt": "b"}])] == ["1", "x"]
    for bad in ("a", [], [3.5], ["a", {"id": "1", "prompt": "b"}]):
        with pytest.raises(OptionError):
            take_prompts(bad)


def test_it_runs_on_the_default_model(smollm: fanlight.Model) -> None:
    found = sweep(smollm, ["The sea is"], {"temperature": [0.3, 1.2]}, samples=2, seed=1, max_new_tokens=10, top_k=0)
    cold, hot = found.points
    assert cold.perplexity is not None
    assert hot.perplexity is not None
    assert cold.perplexity < hot.perplexity
