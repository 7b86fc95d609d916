"""`fanlight compare` and `fanlight sweep` with a fake model: what goes where, and what is refused before a model is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run, fake_model
from fanlight.cli import main
from fanlight.cli.sweep import progress_text
from fanlight.comparing.journal import read_rows

COMPARE = ["compare", "abc", "--with", "greedy", "--with", "hot@temperature=1.5,top_p=0.9", "-n", "5", "--seed", "3"]


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are there, whatever else is."""
    for name in ("compare", "sweep"):
        monkeypatch.setitem(main.COMMANDS, name, (name, "what it does"))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("abc\nde\n")
    return str(path)


def sweep_words(prompts: str, out: Path, *more: str) -> list[str]:
    words = ["sweep", prompts, "--grid", "temperature=0.5,1", "--grid", "top_k=3,9", "-n", "4", "--seed", "3"]
    return [*words, "-o", str(out), *more]


def test_texts_and_measures_go_to_standard_output_and_the_rest_to_standard_error(run: Run) -> None:
    done = run(*COMPARE, "--samples", "2")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "sample 2 of 2" in done.out
    assert "perplexity" in done.out
    assert "Self-BLEU" in done.out
    assert "hot  temperature 1.5, top_p 0.9" in done.out
    notes = done.err.splitlines()
    assert notes[0] == "note: one text each of greedy: nothing is drawn there, 2 samples would be the same"
    assert notes[1] == "note: tokens are drawn (do_sample), because temperature is set: hot"
    assert notes[-1].startswith("[3 texts in one batch: 15 tokens in ")
    assert notes[-1].endswith("| seed 3]")


def test_json_has_every_text_and_its_settings(run: Run) -> None:
    done = run(*COMPARE, "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    greedy, hot = found["variants"]
    assert hot["config"]["temperature"] == 1.5
    alone = fake_model().generate("abc", do_sample=True, temperature=1.5, top_p=0.9, max_new_tokens=5, seed=3)
    assert hot["texts"][0]["ids"] == list(alone.ids)
    assert greedy["texts"][0]["ids"] == list(fake_model().generate("abc", max_new_tokens=5).ids)
    assert found["notes"]


def test_pages_and_pictures_are_written(run: Run, tmp_path: Path) -> None:
    page, picture = tmp_path / "c.html", tmp_path / "c.png"
    done = run(*COMPARE, "--html", str(page), "--picture", str(picture), "--dark")
    assert done.code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"[{page} written]" in done.err


def test_common_flags_count_for_all_settings_and_base_is_those_alone(run: Run) -> None:
    done = run("compare", "abc", "--with", "base", "--with", "top_k=2", "--temperature", "0.8", "-n", "2", "--json")
    base, other = json.loads(done.out)["variants"]
    assert base["config"]["temperature"] == other["config"]["temperature"] == 0.8
    assert base["draws"]
    assert base["options"] == {"top_k": 50}


def test_a_chat_is_compared_in_the_models_template(run: Run) -> None:
    done = run("compare", "hi", "--chat", "--with", "greedy", "-n", "1", "--json")
    found = json.loads(done.out)
    assert found["prompt"] == "hi"
    assert bytes(found["prompt_ids"]) == b"user: hi\n"


def test_the_prompt_may_come_from_standard_input(run: Run) -> None:
    done = run("compare", "-", "--with", "greedy", "-n", "1", "--json", stdin=b"abc\n")
    assert json.loads(done.out)["prompt"] == "abc"


def test_settings_are_explained(run: Run) -> None:
    done = run("compare", "abc", "--with", "greedy", "--with", "creative", "--explain-settings")
    assert done.out.count("--- ") == 2
    assert "preset creative" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a setting is missing"),
        (["--with", "creativ"], "did you mean 'creative'"),
        (["--with", "temperature=hot"], "temperature takes a number"),
        (["--with", "greedy", "--samples", "0"], "--samples must be a whole number from 1"),
        (["--with", "greedy", "--with", "greedy"], "two settings are called"),
        (["--with", "greedy", "--html", "c.txt"], "--html takes a file that ends in"),
        (["--with", "greedy", "--picture", "c.bmp"], "--picture takes a file that ends in"),
        (["--with", "greedy", "--dark"], "--dark is for --picture"),
        (["--with", "greedy", "--num-return-sequences", "2", "--do-sample"], "samples says how many"),
        (["--with", "greedy", "--order", "top_p", "--processors", "top_p"], "are the same"),
        (["--with", "num_beams=4,penalty_alpha=0.6"], "cannot be combined"),
    ],
)
def test_mistakes_show_before_a_model_is_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setattr("fanlight.cli.compare.load_model", lambda *_: pytest.fail("a model was read"))
    done = run("compare", "abc", *words)
    assert done.code == 2
    assert message in done.error


def test_help_tells_the_grammar(run: Run) -> None:
    for command in ("compare", "sweep"):
        done = run(command, "--help")
        assert done.code == 0
        assert "--samples N" in done.out
    assert "preset:creative" in run("compare", "--help").out


def test_a_sweep_is_made_resumed_and_drawn(run: Run, tmp_path: Path, prompts: str) -> None:
    out, picture = tmp_path / "s.jsonl", tmp_path / "f.png"
    done = run(*sweep_words(prompts, out, "--samples", "2", "--picture", str(picture)))
    assert done.code == 0
    assert "▸" in done.out
    assert done.out.count("temperature=") == 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(read_rows(out))) == 16
    assert f"all texts in {out}" in done.err
    again = run(*sweep_words(prompts, out, "--samples", "2", "--resume"))
    assert again.out == done.out
    assert "[0 texts in" in again.err
    assert "16 were there" in again.err
    other = run(*sweep_words(prompts, out, "--samples", "3", "--resume"))
    assert other.code == 2
    assert "samples was 2 when it was begun, and is 3 now" in other.error
    anew = run(*sweep_words(prompts, out, "--samples", "3", "--overwrite"))
    assert anew.code == 0
    assert len(list(read_rows(out))) == 24


def test_a_sweep_in_which_a_prompt_fails_says_so_and_has_an_exit_code_of_its_own(run: Run, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "s.jsonl"
    prompts.write_text("abc\n" + "x" * 99 + "\n")
    for more in ([], ["--resume"]):
        done = run(*sweep_words(str(prompts), out, *more))
        assert done.code == 3
        assert "means over 1 of 2 prompts" in done.out
        assert f"note: 4 of 8 texts failed, their errors are in {out}; the first: " in done.err
        assert "context window" in done.err
    found = json.loads(run(*sweep_words(str(prompts), out, "--resume", "--json")).out)
    assert (found["n_failed"], found["points"][0]["n_prompts"]) == (4, 1)
    assert "context window" in found["first_error"]


def test_a_sweep_in_which_all_fails_is_the_same_error_when_resumed(run: Run, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "s.jsonl"
    prompts.write_text("x" * 99 + "\n")
    first = run(*sweep_words(str(prompts), out))
    again = run(*sweep_words(str(prompts), out, "--resume"))
    assert (first.code, again.code) == (2, 2)
    assert first.out == again.out == ""
    assert "context window" in first.err
    assert first.err.splitlines()[-1] == again.err.splitlines()[-1]


def test_a_sweep_as_json(run: Run, tmp_path: Path, prompts: str) -> None:
    done = run(*sweep_words(prompts, tmp_path / "s.jsonl", "--json", "--diversity", "distinct-1"))
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["diversity"] == "distinct_1"
    assert len(found["points"]) == 4
    assert any(point["on_frontier"] for point in found["points"])


def test_ctrl_c_keeps_what_was_made_and_says_how_to_go_on(
    run: Run, tmp_path: Path, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "s.jsonl", fake_model()
    each = model.generate_each

    def interrupted(jobs: object, *, max_batch: int = 16) -> object:
        for i, outcome in enumerate(each(jobs, max_batch=max_batch)):  # type: ignore[arg-type]
            if i == 3:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(model, "generate_each", interrupted)
    done = run(*sweep_words(prompts, out), model=model)
    assert done.code == 130
    assert "--resume goes on" in done.error
    assert len(list(read_rows(out))) == 3
    assert "[5 texts in" in run(*sweep_words(prompts, out, "--resume")).err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words[:1] + words[2:], "one file of prompts is expected"),
        (lambda words: [w for w in words if not w.startswith(("--grid", "temp", "top_k"))], "the grid is missing"),
        (lambda words: [*words, "--grid", "temprature=1"], "did you mean 'temperature'"),
        (lambda words: words[:-2], "-o FILE.jsonl is missing"),
        (lambda words: [*words[:-1], "no/such/s.jsonl"], "there is no folder"),
        (lambda words: [*words, "--resume", "--overwrite"], "exclude each other"),
        (lambda words: [*words, "--diversity", "self-bleu"], "--samples of at least 2"),
        (lambda words: [words[0], "none.txt", *words[2:]], "none.txt: cannot be read"),
        (lambda words: [*words, "--picture", "x.gif"], "--picture takes a file"),
    ],
)
def test_mistakes_of_a_sweep(run: Run, tmp_path: Path, prompts: str, change: object, message: str) -> None:
    out = tmp_path / "s.jsonl"
    done = run(*change(sweep_words(prompts, out)))  # type: ignore[operator]
    assert done.code == 2
    assert message in done.error
    assert not out.exists()


def test_a_file_that_is_there_is_refused_before_a_model_is_read(run: Run, tmp_path: Path, prompts: str) -> None:
    out = tmp_path / "s.jsonl"
    out.write_text("mine")
    done = run(*sweep_words(prompts, out))
    assert done.code == 2
    assert "--resume goes on with it, --overwrite begins anew" in done.error
    assert out.read_text() == "mine"


def test_progress_counts_what_this_run_made() -> None:
    assert progress_text(36, 144, 820, 36, 10.0) == "36 of 144 texts (25%), 82 tok/s, 0:30 left"
    assert progress_text(100, 1144, 0, 0, 0.0) == "100 of 1,144 texts (9%)"
    assert progress_text(101, 5101, 10, 1, 2.0).endswith("2:46:40 left")
