"""The waterfall in a terminal: probabilities after each processor, and why a token is gone."""

from __future__ import annotations

import re
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.traces import some_records
from fanlight.errors import OptionError
from fanlight.views.terminal import Canvas, percent
from fanlight.views.terminal_waterfall import waterfall_text
from fanlight.views.waterfall import stages_of
from views.records import label, record
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, said, unbroken

MANY = {
    "do_sample": True, "repetition_penalty": 1.3, "temperature": 0.8, "top_k": 9, "top_p": 0.7, "min_p": 0.1,
    "typical_p": 0.9, "epsilon_cutoff": 0.01, "frequency_penalty": 0.2, "no_repeat_ngram_size": 3,
}  # fmt: skip


@pytest.mark.parametrize("canvas", CANVASES)
def test_it_fits_with_many_processors_and_with_none(canvas: Canvas) -> None:
    for settings in (MANY, {"do_sample": False}):
        for found in some_records(3, settings=settings):
            for token in (None, found.candidate_ids[-1]):
                check(waterfall_text(found, label, canvas, token=token, context="on the mat"), canvas)


@anything
@given(st.lists(LABELS, min_size=33, max_size=33), SIZES)
def test_it_fits_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    (found,) = some_records(1, settings=MANY)
    check(waterfall_text(found, labels.__getitem__, canvas, token=found.candidate_ids[2], context=labels[0]), canvas)


def test_each_column_has_the_probabilities_after_its_processor() -> None:
    (found,) = some_records(1, settings={"do_sample": True, "temperature": 0.6, "top_p": 0.8}, n_vocab=33)
    text = lines(waterfall_text(found, label, Canvas(width=120)))
    stages = stages_of(found)
    for at, token in enumerate(found.candidate_ids):
        words = next(line for line in text if re.match(rf"(\u25b8|  )\s*{label(token)} ", line)).split()
        words = words[words.index(label(token)) + 1 :]
        for stage, word in zip(stages, words, strict=False):
            assert word == (percent(stage.prob(at)) if stage.prob(at) else "\u00d7")
    entropies = next(line for line in text if line.strip().startswith("entropy")).split()[2:]
    assert entropies == [f"{stage.entropy:.2f}" for stage in stages]


def test_a_removed_token_has_a_cross_once_and_its_rule_in_words() -> None:
    after = ((0.5, 0.3, 0.2, 0.0), (0.625, 0.375, 0.0, 0.0))
    found = record(
        (0.4, 0.3, 0.2, 0.1), shown=4, effects=[("top_k(3)", True, after[0]), ("top_p(0.7)", True, after[1])]
    )
    text = said(waterfall_text(found, label, Canvas(width=80)))
    row = next(line for line in text.split("\n") if label(3) in line)
    assert row.split() == [label(3), "10.0%", "\u00d7"]
    gone = text.split("why they were removed\n")[1]
    assert f"{label(2)}: " in gone
    assert f"{label(3)}: " in gone
    assert found.removals()[3].rule in gone


def test_a_tokens_way_adds_up() -> None:
    (found,) = some_records(1, settings={"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.2})
    token = found.candidate_ids[1]
    text = said(waterfall_text(found, label, Canvas(width=80), token=token))
    way = [line.split() for line in text.split("prob\n")[-1].split("\n")]
    logprobs = found.logprobs(token)
    assert [float(line[1]) for line in way] == [round(logprob, 2) + 0 for logprob in logprobs]
    for line, was, now in zip(way[1:], logprobs[:-1], logprobs[1:], strict=True):
        assert line[2] == f"{round(now - was, 2) + 0:+.2f}"
    assert f"{percent(exp(logprobs[-1]))} at the end" in unbroken(text)


def test_the_chosen_token_is_shown_however_few_there_are_and_others_are_refused() -> None:
    found = record((0.4, 0.3, 0.2, 0.1), chosen=3, shown=3)
    text = said(waterfall_text(found, label, Canvas(width=80), n=1, context="a b"))
    assert text.startswith(f"after 'a b': {label(3)} was chosen at 10.0%; no processor ran")
    assert f"\u25b8 {label(3)}" in text
    assert label(0) not in text
    with pytest.raises(OptionError, match="token 17 is not among the 4 candidates"):
        waterfall_text(found, label, Canvas(), token=17)
    with pytest.raises(OptionError, match="how many tokens"):
        waterfall_text(found, label, Canvas(), n=0)
