"""`fanlight batch`: what goes where, what is said, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.conftest import COMMAND, Run, environment, fake_model
from fanlight.batch import Progress, run_job
from fanlight.batch.rows import row_seed
from fanlight.cli.batch_progress import ProgressView, clock, progress_text

if TYPE_CHECKING:
    from fanlight import Model

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals are POSIX")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rows.jsonl of three rows in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write(
        tmp_path / "rows.jsonl", {"prompt": "abc"}, {"prompt": "de", "id": "b", "max_new_tokens": 2}, {"prompt": "f"}
    )


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.usefixtures("rows")
def test_every_row_has_the_text_that_generate_gives(run: Run) -> None:
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "--do-sample", "--seed", "7", "-n", "5")
    assert (done.code, done.out) == (0, "")
    assert done.error.startswith("[3 rows in out.jsonl | 12 tokens at ")
    assert done.error.endswith(" s | seed 7]")
    model = fake_model()
    for row, (prompt, n, name) in zip(
        found("out.jsonl"), [("abc", 5, "0"), ("de", 2, "b"), ("f", 5, "2")], strict=True
    ):
        alone = model.generate(prompt, do_sample=True, seed=row_seed(7, name), max_new_tokens=n)
        assert (row["id"], row["text"], row["seed"]) == (name, alone.text, alone.seed)


@pytest.mark.usefixtures("rows")
def test_steps_hold_the_account_as_generate_json_has_it(run: Run) -> None:
    run("batch", "rows.jsonl", "-o", "out.jsonl", "-n", "3", "--steps", "--echo")
    alone = json.loads(run("generate", "abc", "-n", "3", "--json").out)
    first = found("out.jsonl")[0]
    assert first["steps"] == alone["steps"]
    assert len(first["steps"][0]["candidates"]) == 20
    assert first["prompt"] == "abc"
    assert first["stop"] == alone["stop"]


def test_failed_rows_are_said_and_the_exit_code_is_3(run: Run, rows: Path) -> None:
    write(rows, {"prompt": "abc"}, {"prompt": "x", "id": "typo", "temprature": 1}, {"prompt": "x" * 99})
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "-n", "1")
    assert done.code == 3
    note, closing = done.err.splitlines()
    assert note == (
        "note: 2 rows failed, their errors are in their results; line 2 ('typo'): unknown key 'temprature'; "
        "did you mean 'temperature'?; line 3: the prompt has 99 tokens, the context window holds 64; shorten the prompt"
    )
    assert closing.startswith("[3 rows in out.jsonl, 2 of them failed | 1 tokens at ")
    assert run("batch", "rows.jsonl", "-o", "out.jsonl", "-n", "1", "--resume", "--quiet").code == 3


def test_a_row_that_asks_for_more_than_the_window_ends_where_it_is_full(run: Run, rows: Path) -> None:
    write(rows, {"prompt": "x" * 60, "max_new_tokens": 1000, "ignore_eos": True})
    assert run("batch", "rows.jsonl", "-o", "out.jsonl").code == 0
    assert found("out.jsonl")[0]["stop"]["reason"] == "context_window"


def test_a_finished_archive_keeps_its_exit_code(run: Run, rows: Path) -> None:
    write(rows, {"prompt": "abc"}, {"prompt": "x", "preset": ["creative"]}, {"prompt": "x" * 99})
    words = ("batch", "rows.jsonl", "-o", "out.jsonl.gz", "-n", "1")
    first, again = run(*words), run(*words, "--resume")
    assert "line 2: preset must be a name, one of greedy, " in first.err
    assert (first.code, again.code) == (3, 3)
    assert again.error == "[3 rows in out.jsonl.gz, 2 of them failed | nothing was left to do]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the file of rows is missing: a .jsonl, .jsonl.gz or .parquet file, or - for standard input; usage: "),
        (["a.jsonl", "b.jsonl"], "one file of rows is expected, 2 were given, the second being 'b.jsonl'"),
        (["rows.jsonl"], "-o is missing: where results go, as in: fanlight batch rows.jsonl -o results.jsonl"),
        (["none.jsonl", "-o", "out.jsonl"], "none.jsonl: No such file or directory"),
        (["rows.jsonl", "-o", "out.csv"], "out.csv: expected an output that ends in .jsonl, .jsonl.gz or .parquet"),
        (["rows.jsonl", "-o", "rows.jsonl"], "rows.jsonl: is the input too; write to another file"),
        (["rows.jsonl", "-o", "out.jsonl", "--top-p", "7"], "top_p must be above 0 and at most 1: got 7.0"),
        (["rows.jsonl", "-o", "out.jsonl", "--max-batch", "0"], "max_batch must be a whole number from 1: got 0"),
        (["rows.jsonl", "-o", "out.jsonl", "--output-logits"], "output_logits keeps arrays"),
        (["rows.jsonl", "-o", "out.jsonl", "--resume", "--overwrite"], "resume and overwrite exclude each other"),
        (["rows.jsonl", "-o", "out.jsonl", "--ray-actors", "2"], "--ray-actors needs --ray ADDRESS or --ray local"),
        (["rows.jsonl", "-o", "out.jsonl", "--ray", "local", "--threads", "1"], "--threads is of this machine alone"),
        (["rows.jsonl", "-o", "out.jsonl", "--reusme"], "unknown option --reusme; did you mean --resume?"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_a_mistake_is_one_line_and_writes_nothing(run: Run, words: list[str], said: str) -> None:
    done = run("batch", *words)
    assert done.code == 2
    assert done.error.startswith(f"fanlight: {said}")
    assert os.listdir() == ["rows.jsonl"]


@pytest.mark.usefixtures("rows")
def test_an_output_that_exists_needs_resume_or_overwrite(run: Run) -> None:
    assert run("batch", "rows.jsonl", "-o", "out.jsonl", "--limit", "2").code == 0
    done = run("batch", "rows.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error) == (
        2,
        "fanlight: out.jsonl: exists; --resume goes on with it, --overwrite replaces it",
    )
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "--resume", "--top-k", "3")
    assert done.error.startswith("fanlight: out.jsonl is of another job: top_k was not set, is 3;")
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "--resume")
    assert done.error.startswith("[3 rows in out.jsonl | 2 were there before | ")
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "--resume")
    assert (done.code, done.error) == (0, "[3 rows in out.jsonl | nothing was left to do]")
    assert run("batch", "rows.jsonl", "-o", "out.jsonl", "--overwrite", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("rows")
def test_rows_come_from_standard_input_and_settings_from_a_file(run: Run) -> None:
    Path("my.toml").write_text("max_new_tokens = 3\n")
    for how in (["--settings", "my.toml"], ["-n", "3"]):
        done = run("batch", "-", "-o", f"out{len(how[0])}.jsonl", *how, "--quiet", stdin=b'{"prompt": "abc"}\n')
        assert (done.code, done.err) == (0, "")
    assert found("out10.jsonl") == found("out2.jsonl")
    assert found("out2.jsonl")[0]["n_new_tokens"] == 3


@pytest.mark.usefixtures("rows")
def test_settings_without_effect_are_said_once(run: Run) -> None:
    done = run("batch", "rows.jsonl", "-o", "out.jsonl", "--top-p", "0.5", "--seed", "3", "--quiet")
    assert done.error == "note: top_p has no effect: do_sample is false (add --do-sample), unless a row changes that"
    assert all("notes" not in row for row in found("out.jsonl"))
    assert "max_new_tokens" in run("batch", "--explain-settings").out


def test_help_tells_the_form_of_a_row_and_the_exit_codes(run: Run) -> None:
    page = run("batch", "--help").out
    assert '{"prompt": "Once upon a time"}' in page
    assert "Exit code: 0; 3 if rows failed" in page
    assert "--resume" in page
    assert "--top-p" in page


# -- how far it is -----------------------------------------------------------------------------------------------------

HALFWAY = Progress(
    n_rows=4000,
    n_done=1500,
    n_before=500,
    n_failed=3,
    n_prompt_tokens=9,
    n_new_tokens=20_000,
    n_reused=1,
    n_computed=2,
    seconds=100,
)


def test_progress_tells_rows_speed_time_left_and_failures() -> None:
    line = " 38% | 1,500/4,000 rows | 200 tok/s | 4:10 left | 3 failed"
    assert progress_text(HALFWAY) == line
    assert progress_text(HALFWAY, 100) == "[#########---------------] " + line[7:]
    assert progress_text(HALFWAY, 60) == line[7:]  # no room for the bar
    assert progress_text(HALFWAY, 20) == "1,500/4,000 rows | "
    assert progress_text(HALFWAY._replace(seconds=0.5, n_failed=0)) == " 38% | 1,500/4,000 rows"
    assert progress_text(HALFWAY._replace(n_done=4000)).count("left") == 0


def test_time_left_has_hours_if_there_are_any() -> None:
    assert [clock(s) for s in (0, 59.6, 61, 3600, 360_000)] == ["0:00", "1:00", "1:01", "1:00:00", "100:00:00"]


def test_without_a_terminal_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    times, said = iter((0, 0, 1, 9, 11, 12, 22)), []
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    with ProgressView(None, said.append) as view:
        for n_done in range(501, 507):
            view(HALFWAY._replace(n_done=n_done))
    assert [line.split(" | ")[1] for line in said] == ["504/4,000 rows", "506/4,000 rows"]
    assert view.last == HALFWAY._replace(n_done=506)


@posix
def test_a_terminal_gets_a_bar_that_is_wiped_out(rows: Path) -> None:
    import pty

    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "batch", str(rows), "-o", "out.jsonl", "-n", "3"], stderr=slave, cwd=rows.parent, env=environment()
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 1000):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.wait(timeout=60) == 0
    os.close(master)
    text = shown.decode()
    assert "\r[------------------------] 0/3 rows\x1b[K" in text
    assert "\r[########################] 3/3 rows" in text
    assert text.rpartition("\r\x1b[K")[2].startswith("[3 rows in out.jsonl | 8 tokens")


# -- its end -----------------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_job_that_is_stopped_goes_on_where_it_ended(rows: Path, kind: signal.Signals, smollm: Model) -> None:
    write(rows, *({"prompt": f"Number {i} is", "max_new_tokens": 1 + i % 5} for i in range(70)))
    words = [*COMMAND, "batch", "rows.jsonl", "-o", "out.jsonl", "--do-sample", "--seed", "3", "--max-batch", "4"]
    how: dict[str, Any] = {"cwd": rows.parent, "env": environment(), "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **how) as process:
        deadline = time.monotonic() + 60
        while not (Path("out.jsonl").exists() and Path("out.jsonl").stat().st_size > 1500):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(kind)
        err = process.communicate(timeout=30)[1].decode()
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert err.startswith("[stopped by Ctrl-C: ")
        assert err.endswith(" of 70 rows are done and kept; the same command with --resume goes on with the rest]\n")
        assert err.count("\n") == 1
    else:
        assert (process.returncode, err) == (-signal.SIGKILL, "")
    assert Path("out.jsonl").read_bytes().count(b"\n") < 70
    done = subprocess.run([*words, "--resume"], check=True, timeout=60, **how)
    assert b" were there before | " in done.stderr
    run_job(smollm, rows, "whole.jsonl", do_sample=True, seed=3)
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
