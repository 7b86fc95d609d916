"""Several texts, the best of them, votes, helpers and forms through the Python API, on the default model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fanlight import GenerationConfig, StopReason
from fanlight.errors import NumericError, OptionError

if TYPE_CHECKING:
    from fanlight import Model

PROMPT = "The future of artificial intelligence is"
DRAWN: dict[str, Any] = {"do_sample": True, "seed": 5, "max_new_tokens": 12}


def test_every_text_of_a_request_is_what_its_seed_gives_alone(smollm: Model) -> None:
    out = smollm.generate(PROMPT, num_return_sequences=3, **DRAWN)
    assert [text.seed for text in out.all] == [(5 + i * 0x9E3779B97F4A7C15) % 2**48 for i in range(3)]
    assert {text.request_seed for text in out.all} == {5}
    for text in out.all:
        alone = smollm.generate(PROMPT, **(DRAWN | {"seed": text.seed}))
        assert (alone.ids, alone.text, alone.stop) == (text.ids, text.text, text.stop)
        assert [step.record for step in alone.steps] == [step.record for step in text.steps]


def test_the_best_of_several_has_the_highest_log_probability_a_token(smollm: Model) -> None:
    best = smollm.generate(PROMPT, best_of=5, **DRAWN)
    every = smollm.generate(PROMPT, num_return_sequences=5, **DRAWN).all
    scores = [sum(step.record.raw_logprob for step in text.steps) / len(text.steps) for text in every]
    assert best.ids == every[scores.index(max(scores))].ids
    assert best.score == pytest.approx(max(scores), abs=1e-4)
    ranked = smollm.generate(PROMPT, best_of=5, num_return_sequences=2, **DRAWN).all
    assert [text.score for text in ranked] == pytest.approx(sorted(scores, reverse=True)[:2], abs=1e-4)


def test_the_most_frequent_answer_wins(smollm: Model) -> None:
    out = smollm.generate("2 + 2 =", best_of=6, num_return_sequences=6, vote_pattern=r"(\d)", top_k=3, **DRAWN)
    found = [re.findall(r"(\d)", text.text) for text in out.all]
    assert [text.answer for text in out.all] == [numbers[-1] if numbers else None for numbers in found]
    votes = [text.votes or 0 for text in out.all]
    assert votes == sorted(votes, reverse=True)
    assert votes[0] == sum(text.answer == out.answer for text in out.all)


def test_a_pattern_that_is_none_is_refused(smollm: Model) -> None:
    with pytest.raises(OptionError, match=r"vote_pattern must be a regular expression.*got '\('"):
        smollm.generate(PROMPT, best_of=2, vote_pattern="(", **DRAWN)


def test_an_assistant_changes_no_token(smollm: Model) -> None:
    plain = smollm.generate(PROMPT, **DRAWN)
    out = smollm.generate(PROMPT, assistant=smollm, **DRAWN)
    assert out.ids == plain.ids
    assert [replace(step.record, guess=None) for step in out.steps] == [step.record for step in plain.steps]
    assert out.speculation is not None
    assert out.speculation.share == 1  # it is the same model, under the same noise
    assert out.speculation.tokens_per_pass > 1
    assert plain.speculation is None


def test_what_is_no_model_of_this_vocabulary_cannot_help(smollm: Model) -> None:
    from api.conftest import other_vocabulary

    with pytest.raises(OptionError, match="assistant must be a model"):
        smollm.generate(PROMPT, assistant="small")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"amateur: .* has another vocabulary than"):
        smollm.generate(PROMPT, amateur=other_vocabulary())


def test_a_negative_prompt_as_text_is_that_of_its_ids(smollm: Model) -> None:
    options: dict[str, Any] = {"guidance_scale": 2.0, "max_new_tokens": 8}
    words = smollm.generate(PROMPT, negative_prompt="The past is", **options)
    ids = smollm.generate(PROMPT, negative_prompt_ids=smollm.tokenizer.encode("The past is"), **options)
    assert words.ids == ids.ids
    assert words.ids != smollm.generate(PROMPT, **options).ids


def test_json_of_a_schema_is_read_back(smollm: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    drawn: dict[str, Any] = {"do_sample": True, "seed": 2, "temperature": 1.3, "max_new_tokens": 80}
    for options in (drawn, {"max_new_tokens": 80}, {"num_beams": 3, "max_new_tokens": 80}):
        out = smollm.generate("A person as JSON: ", json_schema=schema, **options)
        found = json.loads(out.text)
        assert out.stop.reason is StopReason.EOS
        assert found.keys() == {"name", "age"}
        assert len(found["name"]) <= 12


def test_what_a_grammar_leaves_no_choice_about_is_guessed(smollm: Model) -> None:
    out = smollm.generate("It is", choice=[" a very particular place to be in", " elsewhere"], max_new_tokens=20)
    assert out.text in (" a very particular place to be in", " elsewhere")
    assert out.speculation is not None
    assert out.speculation.n_right > 0
    assert {step.decision.guess.drafter for step in out.steps if step.decision.guess} == {"forced"}


def test_the_record_tells_what_the_form_removed(smollm: Model) -> None:
    out = smollm.generate("The answer is", choice=[" yes", " no"], max_new_tokens=5)
    effect = out.steps[0].record.effects[0]
    assert effect.label.startswith("choice(")
    assert effect.removes
    assert effect.n_kept < 20
    assert 0 < effect.removed_prob < 1
    removed = [candidate for candidate in out.steps[0].candidates if candidate.removal is not None]
    assert removed
    assert all(str(candidate.removal).startswith("choice(") for candidate in removed)


def test_a_form_that_a_forbidden_token_makes_impossible_is_an_error_and_no_nan(smollm: Model) -> None:
    ids = smollm.tokenizer.encode("x")
    with pytest.raises(NumericError, match="no token is left"):
        smollm.generate("a", regex="x", suppress_tokens=ids, max_new_tokens=4)


def test_a_healed_prompt_goes_on_as_if_it_had_not_been_cut(smollm: Model) -> None:
    plain = smollm.generate("The capital of Fra", max_new_tokens=1)
    out = smollm.generate("The capital of Fra", token_healing=True, max_new_tokens=1)
    assert out.text == "nce"
    assert plain.text != "nce"


def test_settings_know_where_they_came_from(smollm: Model) -> None:
    config = smollm.settings(preset="balanced", top_p=0.5)
    origins = {setting.name: setting.origin for setting in config.explain().chosen}
    assert origins["temperature"] == "preset balanced"
    assert origins["top_p"] == "call"
    assert smollm.generate(PROMPT, preset="greedy", max_new_tokens=2).config == GenerationConfig(max_new_tokens=2)
