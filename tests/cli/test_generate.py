"""`fanlight generate` with a fake model: what goes where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fanlight
from cli.conftest import Run, fake_model
from fakes.decoder import scripted_logits
from fanlight.decoding.config import GenerationConfig
from fanlight.views.terminal import visible


def scripted(text: str, prompt: str = "abc") -> Any:
    return fake_model(logits_of=scripted_logits(len(prompt.encode()), [*list(text.encode()), 257]))


def strictly(text: str) -> Any:
    """JSON without the extensions that Python reads."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_pipe_gets_the_new_text_and_a_newline(run: Run) -> None:
    done = run("generate", "abc", model=scripted("hé!"))
    assert (done.code, done.out) == (0, "hé!\n")
    assert re.fullmatch(
        r"\[stopped by end-of-sequence token <eos> after 5 tokens \| 5 tokens \| prefill 3 at \d+ tok/s \| decode at \d+ tok/s\]",
        done.error,
    )


def test_a_text_that_ends_its_line_gets_no_second_newline(run: Run) -> None:
    assert run("generate", "abc", model=scripted("x\n")).out == "x\n"


def test_echo_puts_the_prompt_first(run: Run) -> None:
    assert run("generate", "abc", "--echo", model=scripted("def")).out == "abcdef\n"
    long = "a" * 3000
    echoed = run("generate", long, "--echo", "-n", "1", model=fake_model(n_ctx=4000)).out
    assert echoed.startswith("[...] aaa")
    assert len(echoed) < 2100


@pytest.mark.parametrize("stdin", [b"abc", b"abc\n", b"abc\r\n", b"\xef\xbb\xbfabc\n"])
def test_a_dash_reads_standard_input_without_its_last_newline(run: Run, stdin: bytes) -> None:
    done = run("generate", "-", "--json", "-n", "1", stdin=stdin)
    found = strictly(done.out)
    assert found["prompt"] == "abc"
    assert found["prompt_ids"] == list(b"abc")
    assert bool(found["notes"]) == (stdin[0] == 0xEF)


def test_a_newline_inside_standard_input_stays(run: Run) -> None:
    assert strictly(run("generate", "-", "--json", "-n", "1", stdin=b"a\n\n").out)["prompt"] == "a\n"


def test_json_is_strict_and_complete(run: Run) -> None:
    options = ["--do-sample", "--top-k", "5", "--top-p", "0.8", "--seed", "7", "-n", "4", "--repetition-penalty", "1.3"]
    done = run("generate", "abc", "--json", *options)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    found = strictly(done.out)
    config = GenerationConfig(do_sample=True, top_k=5, top_p=0.8, seed=7, max_new_tokens=4, repetition_penalty=1.3)
    expected = fake_model().generate("abc", config)
    assert found["text"] == expected.text
    assert found["ids"] == list(expected.ids)
    assert found["stop"] == {
        "reason": "max_new_tokens",
        "detail": "cut off by max_new_tokens=4 at the end of a sentence",
        "token": None,
        "string": None,
    }
    assert found["seed"] == 7
    assert found["config"]["top_k"] == 5
    assert found["config"].keys() == expected.config.values().keys()
    assert set(found["timings"]) == {"load_seconds", "prefill_seconds", "decode_seconds"}
    assert len(found["steps"]) == 4
    step, record = found["steps"][2], expected.steps[2].record
    assert step["index"] == 2
    assert [c["id"] for c in step["candidates"]] == [c.id for c in record.candidates]
    assert step["raw_prob"] == next(c.raw_prob for c in record.candidates if c.id == record.id)
    assert [effect["label"] for effect in step["effects"]] == ["repetition_penalty(1.3)", "top_k(5)", "top_p(0.8)"]
    assert [effect["n_kept"] for effect in step["effects"]][:2] == [258, 5]
    removed = [i for i, logit in enumerate(record.effects[-1].logits) if logit == -inf]
    assert removed
    assert all(step["candidates"][i]["final_logit"] is None for i in removed)
    assert all(step["candidates"][i]["final_prob"] == 0 for i in removed)


def test_json_holds_the_notes_and_nothing_is_on_standard_error(run: Run) -> None:
    done = run("generate", "", "--json", "-n", "1", "--temperature", "0.5")
    assert done.err == ""
    notes = strictly(done.out)["notes"]
    assert any("temperature has no effect" in note for note in notes)
    assert any("the prompt is empty" in note for note in notes)


def test_json_without_records(run: Run) -> None:
    steps = strictly(run("generate", "abc", "--json", "-n", "2", "--candidates", "0").out)["steps"]
    assert [set(step) for step in steps] == [{"index", "id", "token", "text"}] * 2


def test_explain_shows_every_token_its_rivals_and_the_processors(run: Run) -> None:
    words = ["--do-sample", "--temperature", "0.8", "--top-k", "5", "--seed", "3", "-n", "3"]
    done = run("generate", "abc", "--explain", *words)
    expected = fake_model().generate(
        "abc", do_sample=True, temperature=0.8, top_k=5, seed=3, max_new_tokens=3, candidates=6
    )
    assert done.code == 0
    assert "what the model says" in done.out
    assert done.out.count("temperature(0.8)") == 3
    assert done.out.count("5 of 258 left") == 3
    assert "╌╌ top_k=5: rank 6" in done.out
    assert "ends here: cut off by max_new_tokens=3" in done.out
    assert visible(expected.text) in done.out
    assert "perplexity" in done.out
    assert "seed 3" in done.err
    assert "\x1b" not in done.out
    for step in expected.steps:
        assert f"{step.index + 1}  [" in done.out
        for candidate in step.record.candidates[:3]:
            assert fake_model().tokenizer.token_label(candidate.id) in done.out


def test_explain_shows_as_many_candidates_as_asked(run: Run) -> None:
    few = run("generate", "abc", "--explain", "-n", "1", "--candidates", "2").out
    many = run("generate", "abc", "--explain", "-n", "1", "--candidates", "9").out
    assert (few.count("█"), few.count(" others")) != (many.count("█"), 0)
    assert "256 others" in few
    assert "249 others" in many


def test_explain_paints_where_colour_is_wanted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in run("generate", "abc", "--explain", "-n", "1", "--color", "always").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("generate", "abc", "--explain", "-n", "1").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("generate", "abc", "--explain", "-n", "1").out


@pytest.mark.parametrize("mode", [[], ["--explain"], ["--json"]])
def test_looking_changes_nothing(run: Run, mode: list[str]) -> None:
    words = ["--do-sample", "--seed", "11", "-n", "12", "--top-p", "0.9"]
    expected = fake_model().generate("abc", do_sample=True, seed=11, max_new_tokens=12, top_p=0.9).text
    out = run("generate", "abc", *words, *mode).out
    if mode == ["--explain"]:
        assert visible(expected) in out
    else:
        assert (strictly(out)["text"] if mode == ["--json"] else out) == expected + "\n" * (mode == [])


def test_nothing_to_generate(run: Run) -> None:
    done = run("generate", "abc", "-n", "0")
    assert (done.code, done.out) == (0, "")
    assert done.error == "[cut off by max_new_tokens=0 | 0 tokens]"
    assert run("generate", "abc", "-n", "0", "--explain").code == 0
    assert strictly(run("generate", "abc", "-n", "0", "--json").out)["ids"] == []


def test_an_empty_prompt_starts_from_bos_and_says_so(run: Run) -> None:
    done = run("generate", "", "-n", "1")
    assert done.code == 0
    assert "note: the prompt is empty: starting from <bos>\n" in done.err


def test_ignored_settings_are_said_with_what_to_do(run: Run) -> None:
    err = run("generate", "abc", "-n", "1", "--top-p", "0.5", "--candidates", "3").err
    assert "note: top_p has no effect: do_sample is false (add --do-sample)\n" in err
    assert "note: candidates has no effect without --explain, --json or --trace\n" in err


def test_a_warning_of_the_tokenizer_is_a_note(run: Run) -> None:
    import warnings

    model = fake_model()
    encode: Callable[..., list[int]] = model.tokenizer.encode

    def warning_encode(text: str, **options: bool) -> list[int]:
        warnings.warn("this model's vocabulary cannot write U+0001: left out of the prompt", stacklevel=2)
        return encode(text, **options)

    model.tokenizer.encode = warning_encode  # type: ignore[method-assign]
    done = run("generate", "abc", "-n", "1", model=model)
    assert done.err.startswith("note: this model's vocabulary cannot write U+0001: left out of the prompt\n")
    assert done.err.count("\n") == 2


def test_ctrl_c_keeps_what_there_is(run: Run) -> None:
    def interrupted(history: Any) -> Any:
        if len(history) == 6:
            raise KeyboardInterrupt
        return scripted_logits(3, list(b"xyzxyz"))(history)

    for mode in ([], ["--explain"], ["--json"]):
        done = run("generate", "abc", *mode, model=fake_model(logits_of=interrupted))
        assert done.code == 130
        assert "xyz" in done.out
        assert done.out.endswith("\n")
        assert "Traceback" not in done.err
        if mode == ["--json"]:
            assert strictly(done.out)["stop"]["reason"] == "cancelled"
        else:
            assert "stopped by Ctrl-C | 3 tokens" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", "1.5"], "top_p must be above 0 and at most 1: got 1.5"),
        (["--temprature", "1"], "unknown option --temprature; did you mean --temperature?"),
        (["--max-new-tokens", "-1"], "max_new_tokens must be an integer of at least 0, or None: got -1"),
        (["--stop-strings", ""], "stop_strings must be a string or several, none of them empty"),
        (["--eos-token-id", "258"], "eos_token_id: id 258 is not in the model's vocabulary, 0 to 257"),
        (["--explain", "--json"], "--explain and --json exclude each other"),
        (["--explain", "--candidates", "0"], "--candidates must be at least 1"),
        (["def"], "one prompt is expected, 2 were given, the second being 'def'; put the prompt in quotes"),
    ],
)
def test_mistakes_end_with_2_and_one_line(run: Run, words: list[str], message: str) -> None:
    done = run("generate", "abc", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.error


def test_ctrl_c_before_the_first_token_is_quiet(run: Run) -> None:
    def interrupted(history: Any) -> Any:
        raise KeyboardInterrupt

    done = run("next", "abc", model=fake_model(logits_of=interrupted))
    assert (done.code, done.out, done.err) == (130, "", "")
    model = fake_model(logits_of=interrupted)
    assert run("generate", "abc", model=model).error == "[stopped by Ctrl-C | 0 tokens]"


def test_a_prompt_longer_than_the_window_is_told_with_both_numbers(run: Run) -> None:
    done = run("generate", "a" * 65)
    assert done.code == 2
    assert done.error == "fanlight: the prompt has 65 tokens, the context window holds 64; shorten the prompt"


def test_a_prompt_that_is_not_utf8_is_told_with_the_place(run: Run) -> None:
    done = run("generate", "-", stdin=b"ab\xff")
    assert done.code == 2
    assert "standard input is not valid UTF-8: byte 0xff at offset 2 of 3" in done.error
    assert "the prompt is not valid UTF-8: byte 0xff at offset 1" in run("generate", "a\udcff").error


def test_a_missing_prompt(run: Run) -> None:
    assert "the prompt is missing" in run("generate").error


def test_logits_that_are_damaged_end_with_1(run: Run) -> None:
    def damaged(history: Any) -> Any:
        logits = scripted_logits(3, b"xyz")(history)
        return logits if len(history) < 5 else np.full_like(logits, np.nan)

    done = run("generate", "abc", model=fake_model(logits_of=damaged))
    assert done.code == 1
    assert done.out == "xy\n"
    assert "position 5" in done.error


def test_a_fault_of_ours_is_one_line_and_a_traceback_only_on_demand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model()
    model.decoder.fail_at = 1  # type: ignore[attr-defined]
    done = run("generate", "abc", model=model)
    assert done.code == 1
    assert "a fault of fanlight" in done.error
    assert "RuntimeError: the fake decoder fails as told" in done.error
    assert "FANLIGHT_DEBUG=1" in done.error
    monkeypatch.setenv("FANLIGHT_DEBUG", "1")
    model.decoder.passes.clear()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="as told"):
        run("generate", "abc", model=model)


def test_no_model_installed_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from fanlight import sources
    from fanlight.cli.main import main

    monkeypatch.delenv("FANLIGHT_MODEL", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    assert main(["generate", "abc"]) == 2
    assert (
        capsys.readouterr().err == f"fanlight: no model is installed; get the default one with: {sources.GET_DEFAULT}\n"
    )


def test_a_missing_or_damaged_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fanlight.cli.main import main

    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
    for path in (tmp_path / "none.gguf", tmp_path / "bad.gguf", tmp_path):
        assert main(["generate", "abc", "--model", str(path)]) == 2
        found = capsys.readouterr()
        assert found.out == ""
        assert found.err.startswith("fanlight: ")
        assert str(path) in found.err
        assert found.err.count("\n") == 1


def test_the_version_and_the_overview(run: Run) -> None:
    assert run("--version").out == f"fanlight {fanlight.__version__}\n"
    assert run("generate", "--version").out == f"fanlight {fanlight.__version__}\n"
    overview = run("--help")
    assert overview.code == 0
    assert overview.out == run("help").out
    for command in ("generate", "chat", "next", "inspect", "bench"):
        assert re.search(rf"^  {command} ", overview.out, re.MULTILINE)
        page = run(command, "--nonsense", "--help")  # help first, whatever else is there
        assert page.code == 0
        assert page.out.startswith(f"usage: fanlight {command}")
        assert run("help", command).out == page.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "a command is missing: generate, chat, next, show, trace, report, score, compare, sweep, batch, detect, "
            "inspect, models, pull, export, verify, "
            "bench",
        ),
        (["genrate"], "unknown command 'genrate'; did you mean 'generate'?"),
        (["gen"], "unknown command 'gen'; did you mean 'generate'?"),
        (["xyzzy"], "unknown command 'xyzzy'; there are generate,"),
        (["The future"], 'a command comes first: fanlight generate "The future"'),
        (["--temperature", "1"], "options follow the command, as in: fanlight generate --temperature"),
        (["chat", "hello"], "chat takes options only, found 'hello'"),
    ],
)
def test_a_command_that_does_not_exist(run: Run, words: list[str], message: str) -> None:
    done = run(*words)
    assert done.code == 2
    assert message in done.error
