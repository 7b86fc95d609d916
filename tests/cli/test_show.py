"""`fanlight show`: every view as text, as a picture, from a prompt and from a kept run; on the default model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import fanlight
from cli.conftest import Run, fake_model
from fanlight.cli.options import help_text
from fanlight.cli.show import COMMAND, VIEWS

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model

PROMPT = "The cat sat on the"
PNG, SVG, PDF = b"\x89PNG\r\n", b"<?xml", b"%PDF"
WORDS = {
    "mask": [PROMPT],
    "attention": [PROMPT, "--layer", "3"],
    "next": [PROMPT],
    "temperature": [PROMPT],
    "filters": [PROMPT, "-n", "5"],
    "waterfall": [PROMPT, "-n", "3", "--do-sample", "--seed", "3", "--top-p", "0.9", "--step", "-1"],
    "ribbon": [PROMPT, "-n", "7", "--alternatives", "2"],
    "eos": [PROMPT, "-n", "7"],
    "lens": [PROMPT, "-n", "3"],
    "contributions": [PROMPT, "-n", "3", "--step", "2"],
    "fan": [PROMPT, "--width", "2", "--depth", "2"],
    "beams": [PROMPT, "-n", "3"],
    "branches": ["--trace", "RUN"],
    "track": [PROMPT, "-n", "7", "--token", " not the"],
    "stack": [],
}
SAYS = {
    "mask": "sliding window",
    "attention": "Layer 3: mean weight",
    "next": "tokens hold 80%",
    "temperature": "T=0.7",
    "filters": "uncertain: entropy",
    "waterfall": "after 2 processors",
    "ribbon": "surprise, nats",
    "eos": "cut off by max_new_tokens=7",
    "lens": "of 3 tokens are settled",
    "contributions": "feed-forward",
    "fan": "After 'The cat sat on the'",
    "beams": "Beam search",
    "branches": "1 run and 1 branch",
    "track": "over 7 steps",
    "stack": "30 blocks",
}


@pytest.fixture(scope="module")
def kept(smollm: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.safetensors with lens, attention and contributions; plain.safetensors, a branch of it."""
    folder = tmp_path_factory.mktemp("runs")
    looks = fanlight.TraceOptions(
        path=folder / "run.safetensors", lens=2, attention=[0, -1], contributions=True, queries="all"
    )
    trace = smollm.generate(PROMPT, max_new_tokens=6, do_sample=True, seed=3, top_p=0.9, trace=looks).trace
    assert trace is not None
    trace.branch(smollm, 2, token=" not", trace=folder / "plain.safetensors")
    return folder


def test_every_view_is_tried() -> None:
    assert set(WORDS) == set(SAYS) == set(VIEWS)
    assert len(VIEWS) == 15


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_as_text_says_what_is_seen_and_fits_the_terminal(run: Run, smollm: Model, kept: Path, view: str) -> None:
    words = [str(kept / "run.safetensors") if word == "RUN" else word for word in WORDS[view]]
    done = run("show", view, *words, model=smollm)
    assert (done.code, done.err) == (0, "")
    assert SAYS[view] in " ".join(done.out.split())
    assert "\x1b" not in done.out
    assert max(map(len, done.out.split("\n"))) <= 100


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mask"], "of 121 pairs"),
        (["attention", "--layer", "-1", "--head", "2"], "Layer 29, head 2"),
        (["next", "--step", "1"], "tokens hold 80%"),
        (["temperature", "--step", "-1", "--temperatures", "0.5,2"], "T=2"),
        (["filters", "--top-k", "3"], "top_k"),
        (["waterfall", "--step", "4"], "after 2 processors"),
        (["ribbon", "--by", "entropy"], "entropy, nats"),
        (["eos"], "of 6"),
        (["lens", "--what", "rank"], "6 tokens"),
        (["contributions"], "6"),
        (["fan", "--step", "2", "--depth", "1"], "After 'The cat sat on the"),
        (["track", "--token", " not the", "--exact"], "over 6 steps"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_view_of_a_kept_run(run: Run, smollm: Model, kept: Path, words: list[str], says: str) -> None:
    done = run("show", *words, "--trace", str(kept / "run.safetensors"), model=smollm)
    assert (done.code, done.err) == (0, "")
    assert says in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("view", "name", "begins"),
    [("ribbon", "a.png", PNG), ("eos", "a.svg", SVG), ("lens", "a.pdf", PDF), ("ribbon", "a.HTML", b"<!doctype html>")],
)
def test_a_picture_is_of_the_kind_that_its_name_says(
    run: Run, kept: Path, tmp_path: Path, view: str, name: str, begins: bytes
) -> None:
    file = tmp_path / name
    done = run("show", view, "--trace", str(kept / "run.safetensors"), "-o", str(file))
    assert (done.code, done.out, done.error) == (0, "", f"[{file} written]")
    assert file.read_bytes().startswith(begins)


def test_a_dark_picture_is_another_one(run: Run, kept: Path, tmp_path: Path) -> None:
    for words in ([], ["--dark"]):
        name = str(tmp_path / f"{len(words)}.png")
        assert run("show", "eos", "--trace", str(kept / "run.safetensors"), "-o", name, *words).code == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def test_the_filters_that_are_shown_are_none_of_the_text(run: Run, smollm: Model) -> None:
    done = run("show", "filters", PROMPT, "-n", "3", "--top-k", "2", "--top-p", "0.5", model=smollm)
    assert (done.code, done.err) == (0, "")  # no note that top_k has no effect
    assert "top_k" in done.out
    assert "min_p" not in done.out


def test_a_model_that_is_not_needed_is_said(run: Run, kept: Path) -> None:
    done = run("show", "eos", "--trace", str(kept / "run.safetensors"), "--model", "nope")
    assert done.code == 0
    assert done.error == "note: --model had no effect: this picture needs the trace alone"


def test_settings_without_effect_are_said(run: Run, smollm: Model) -> None:
    done = run("show", "eos", PROMPT, "-n", "2", "--top-p", "0.5", model=smollm)
    assert done.error == "note: top_p has no effect: do_sample is false (add --do-sample)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a view is missing; there is mask, attention, next"),
        (["maks"], "no view 'maks'; did you mean 'mask'?"),
        (["lens"], "this picture needs a PROMPT, or --trace FILE"),
        (["lens", "a", "b"], "one prompt is expected, 2 were given"),
        (["lens", "abc", "--trace", "RUN"], "give a PROMPT or --trace FILE, not both"),
        (["lens", "--trace", "PLAIN"], "has no lens; record it: fanlight generate PROMPT --look lens"),
        (["attention", "--trace", "PLAIN"], "has no attention; record it"),
        (["attention", "--trace", "RUN", "--layer", "7"], "layer 7 was not recorded"),
        (["attention", "--trace", "RUN", "--head", "2"], "--head 2 is of one layer: give --layer N with it"),
        (["attention", "--trace", "RUN", "--token", "sat"], "give --encoder with them"),
        (["attention", "abc", "--encoder", "--layer", "1"], "leave --layer and --head out"),
        (["next", "abc", "--step", "1"], "--step is of a kept run"),
        (["next", "--trace", "RUN", "--step", "6"], "there is no step 6; the trace has 6, from 0 to 5"),
        (["next", "abc", "--layer", "1"], "--layer is not of show next, but of attention"),
        (["next", "abc", "--seed", "1"], "--seed is not of show next, but of attention, filters"),
        (["fan", "abc", "--step", "1"], "--step is of a kept run"),
        (["temperature", "abc", "--temperatures", "warm"], "--temperatures takes numbers with commas between"),
        (["waterfall", "--trace", "RUN", "--token", " zzz"], "step 0 recorded no token ' zzz'"),
        (["eos", "--trace", "RUN", "--do-sample"], "--do-sample is for a PROMPT: a kept run has its own settings"),
        (["eos", "--trace", "nope"], "nope: expected a trace"),
        (["eos", "--trace", "FOLDER"], "found a folder; see what is in it: fanlight trace list"),
        (["eos", "--trace", "RUN", "-o", "x.gif"], "--output takes a file that ends in .png, .svg, .pdf"),
        (["lens", "--trace", "RUN", "-o", "x.html"], "--output takes a file that ends in .png, .svg, .pdf: got"),
        (["ribbon", "--trace", "RUN", "-o", "/nope/x.html"], "/nope/x.html: cannot be written"),
        (["eos", "--trace", "RUN", "-o", "/nope/x.png"], "/nope/x.png: cannot be written"),
        (["ribbon", "--trace", "RUN", "-o", "x.html", "--dark"], "--dark is for a picture"),
        (["mask", "--dark"], "--dark is for a picture: give -o FILE.png with it"),
        (["mask", "abc", "--size", "4"], "--size is of a mask without a text"),
        (["stack", "abc"], "stack takes no PROMPT, found 'abc'"),
        (["branches"], "branches are of kept runs"),
        (["beams", "--trace", "RUN"], "was no search"),
        (["track", "abc"], "what is to be tracked is missing"),
    ],
)
def test_a_mistake_is_one_line(run: Run, kept: Path, words: list[str], message: str) -> None:
    names = {"RUN": str(kept / "run.safetensors"), "PLAIN": str(kept / "plain.safetensors"), "FOLDER": str(kept)}
    done = run("show", *(names.get(word, word) for word in words), model=fake_model())
    assert (done.code, done.out) == (2, "")
    assert message in done.error


def test_a_text_without_a_token_has_no_step_to_show(run: Run, smollm: Model) -> None:
    for view in ("lens", "waterfall", "filters"):
        done = run("show", view, PROMPT, "-n", "0", model=smollm)
        assert done.code == 2
        assert "the text has no token" in done.error


@pytest.mark.parametrize("view", VIEWS)
def test_the_help_of_a_view_is_its_own_with_examples_and_fits(run: Run, view: str) -> None:
    done = run("show", view, "--help")
    assert done.out == help_text(COMMAND.parts[view])
    assert done.out.startswith(f"usage: fanlight show {view} ")
    assert f"  fanlight show {view}" in done.out
    assert max(map(len, done.out.split("\n"))) <= 120
    assert {option.name for option in COMMAND.parts[view].options} <= {option.name for option in COMMAND.options}
    assert ("--layer" in done.out) == (view == "attention")
    assert bool(re.search(r"^ +--trace FILE", done.out, re.MULTILINE)) == (view != "stack")
