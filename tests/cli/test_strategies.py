"""Settings by preset and file, several texts, searches, forms and watermarks from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cli.conftest import Run, fake_model, fanlight_process
from fakes.decoder import scripted_logits

if TYPE_CHECKING:
    from pathlib import Path


def test_the_table_of_settings_tells_where_each_came_from(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("top_k = 7\nmin_p = 0.1\n")
    done = run("generate", "--explain-settings", "--preset", "creative", "--settings", str(file), "--min-p", "0.2")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith("  ")}
    assert done.code == 0
    assert rows["temperature"] == ["1.1", "preset", "creative"]
    assert rows["top_k"] == ["7", str(file)]
    assert rows["min_p"] == ["0.2", "call"]
    assert rows["typical_p"] == ["1.0", "default"]


def test_a_setting_without_effect_is_marked_in_the_table(run: Run) -> None:
    done = run("generate", "--explain-settings", "--top-p", "0.5")
    (row,) = [line for line in done.out.splitlines() if line.startswith("  top_p ")]
    assert row.endswith("call  (no effect: do_sample is false)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected settings as JSON"),
        ("[1]", "expected an object of settings, found a list"),
        ('{"top_pp": 1}', "unknown option 'top_pp'; did you mean 'top_p'?"),
        ('{"top_p": 2}', "top_p must be above 0 and at most 1: got 2"),
    ],
)
def test_a_faulty_file_of_settings_is_named(run: Run, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "my.json"
    file.write_text(content)
    done = run("generate", "abc", "--settings", str(file))
    assert done.code == 2
    assert str(file) in done.error
    assert said in done.error


def test_the_order_can_be_typed(run: Run) -> None:
    order = ("--do-sample", "--top-k", "9", "--temperature", "0.5")
    found = json.loads(
        run("generate", "abc", "-n", "1", "--json", "--seed", "1", *order, "--order", "top_k;temperature").out
    )
    assert [effect["label"] for effect in found["steps"][0]["effects"]] == ["top_k(9)", "temperature(0.5)"]
    done = run("generate", "abc", *order, "--order", "top_k,temprature")
    assert done.code == 2
    assert "unknown processor 'temprature'; did you mean 'temperature'?" in done.err


def test_several_texts_come_with_their_ends(run: Run) -> None:
    done = run("generate", "abc", "--do-sample", "--seed", "1", "-n", "3", "--num-return-sequences", "2")
    assert done.code == 0
    assert "--- 1 of 2" in done.err
    assert "--- 2 of 2" in done.err
    found = json.loads(
        run("generate", "abc", "--do-sample", "--seed", "1", "-n", "3", "--num-return-sequences", "2", "--json").out
    )
    assert len(found["others"]) == 1
    assert len(found["others"][0]["steps"]) == 3
    refused = run("generate", "abc", "--do-sample", "--num-return-sequences", "2", "--explain")
    assert "--explain shows one text" in refused.error


def test_a_search_leaves_its_tree_in_the_json(run: Run) -> None:
    found = json.loads(run("generate", "abc", "--num-beams", "3", "-n", "4", "--ignore-eos", "--json").out)
    nodes, (last,) = found["search"]["nodes"], found["search"]["returned"]
    path = []
    while last >= 0:
        path.append(nodes[last]["id"])
        last = nodes[last]["parent"]
    assert path[::-1] == found["ids"]
    assert {node["fate"] for node in nodes} == {"kept", "pruned", "finished", "returned"}


def test_guesses_are_counted(run: Run) -> None:
    words = ("generate", "abcabc", "--prompt-lookup-num-tokens", "4", "-n", "9")
    model = fake_model(logits_of=scripted_logits(6, b"abc"))
    done = run(*words, model=model)
    assert done.out == "abcabcabc\n"
    assert "guesses right" in done.err
    found = json.loads(run(*words, "--json", model=fake_model(logits_of=scripted_logits(6, b"abc"))).out)
    assert found["speculation"]["n_right"] > 3
    assert any(step.get("guess", {}).get("right") for step in found["steps"])


def test_a_form_and_its_errors(run: Run) -> None:
    done = run("generate", "abc", "--choice", "yes", "--choice", "no")
    assert done.out.strip() in ("yes", "no")
    assert "stopped by end-of-sequence token" in done.err
    assert run("generate", "abc", "--regex", "(").code == 2
    both = run("generate", "abc", "--regex", "a", "--choice", "b")
    assert both.error == "fanlight: regex and choice both say what the text may be: choose one"


def test_a_watermark_is_found_where_it_is(run: Run) -> None:
    mark = ("--watermarking-config", '{"bias": 6.0}')
    text = ("generate", "abc", "--do-sample", "--seed", "3", "-n", "55", "--ignore-eos", "--top-k", "0", "--json")
    marked, plain = json.loads(run(*text, *mark).out), json.loads(run(*text).out)
    model = fake_model()
    config = {"bias": 6.0}
    assert model.detect_watermark(marked["ids"], config).is_watermarked
    assert not model.detect_watermark(plain["ids"], config).is_watermarked
    done = run("detect", "some text that nobody has marked", *mark)
    assert done.code == 0
    assert done.out.startswith("no watermark found: z = ")
    assert "--watermarking-config is missing" in run("detect", "abc").error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--num-beams", "3", "--loop-repeats", "2"), "loop_repeats cannot be combined with num_beams=3"),
        (("--num-beams", "2", "--num-return-sequences", "3"), "num_return_sequences=3 is more than num_beams=2"),
        (("--num-return-sequences", "3"), "num_return_sequences=3 needs do_sample or num_beams"),
        (("--penalty-alpha", "0.5", "--do-sample"), "set do_sample to false"),
        (("--top-k", "-1"), "top_k must be an integer of at least 0"),
        (("--typical-p", "1.5"), "typical_p must be above 0 and at most 1: got 1.5"),
        (("--bad-words-ids", "[[999]]"), "bad_words_ids: id 999 is not in the model's vocabulary, 0 to 257"),
        (("--preset", "creativ"), "--preset can be greedy, precise"),
        (("--logit-bias", "{"), "--logit-bias takes JSON: got '{'"),
        (("--repetition-penalty", "0"), "repetition_penalty must be between 1e-06 and 1e+06: got 0"),
        (("--repeat-penalty", "1.1"), "did you mean --repetition-penalty?"),
    ],
)
def test_mistakes_are_answered_with_the_name_the_value_and_the_range(
    run: Run, words: tuple[str, ...], said: str
) -> None:
    done = run("generate", "abc", *words)
    assert done.code == 2
    assert said in done.error


def test_the_default_model_in_a_process_of_its_own() -> None:
    words = (
        "generate",
        "The capital of France is",
        "--preset",
        "precise",
        "--seed",
        "2",
        "-n",
        "6",
        "--regex",
        r" [A-Z][a-z]+\.",
    )
    done = fanlight_process(*words)
    assert done.out == " Paris.\n"
    assert "stopped by end-of-sequence token <|im_end|>" in done.err
