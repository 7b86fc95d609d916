"""Settings of different rooms together, on the default model: none makes another fail, lie, or hang."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanlight import GenerationConfig
from fanlight.errors import FanlightError, NumericError, OptionError

if TYPE_CHECKING:
    from fanlight import Model

PROMPT = "The capital of France is"


@pytest.mark.parametrize("contrast", [{"dola_layers": "low"}, {"amateur": True}, {"guidance_scale": 1.7}], ids=str)
@pytest.mark.parametrize(
    ("ban", "pattern"),
    [
        ({"json_schema": {"type": "integer"}}, r"-?\d+"),
        ({"regex": r" [a-z]{3,9}!"}, r" [a-z]{3,9}!"),
        ({"no_repeat_ngram_size": 1, "max_new_tokens": 30}, r"(?s).+"),
        ({"min_new_tokens": 20, "max_new_tokens": 22}, r"(?s).+"),
    ],
    ids=str,
)
def test_contrasts_choose_among_what_bans_leave(
    smollm: Model, contrast: dict[str, Any], ban: dict[str, Any], pattern: str
) -> None:
    helpers = {"amateur": smollm} if contrast.get("amateur") else contrast
    out = smollm.generate(PROMPT, **({"max_new_tokens": 24} | helpers | ban))
    assert re.fullmatch(pattern, out.text)


def test_the_whole_vocabulary_is_recorded_and_explained_in_time(smollm: Model) -> None:
    started = time.monotonic()
    out = smollm.generate(PROMPT, candidates=-1, do_sample=True, seed=1, top_p=0.9, max_new_tokens=1)
    candidates = out.steps[0].candidates
    assert len(candidates) == 49152
    assert sum(candidate.removal is None for candidate in candidates) == out.steps[0].record.n_kept
    assert time.monotonic() - started < 20  # it took minutes when every token counted those before it anew


def test_damaged_rows_are_an_error_for_beams_too_looked_at_or_not(smollm: Model) -> None:
    def damaged(ids: Any, logits: Any) -> Any:
        logits[5] = np.nan
        return logits

    for candidates in (0, 5):
        with pytest.raises(NumericError, match="NaN"):
            smollm.generate(PROMPT, processors=[damaged], num_beams=2, candidates=candidates, max_new_tokens=3)


def test_records_of_beams_hold_the_logits_of_the_model(smollm: Model) -> None:
    beams = smollm.generate(PROMPT, num_beams=2, max_new_tokens=3).steps[0].record
    greedy = smollm.generate(PROMPT, max_new_tokens=1).steps[0].record
    assert beams.raw_logits == greedy.raw_logits
    assert beams.effects[0].label == "log_softmax"
    drawn = smollm.generate(PROMPT, num_beams=2, do_sample=True, seed=1, max_new_tokens=3).steps[1].record
    assert drawn.noise is not None
    assert drawn.runner_up is not None


@pytest.mark.parametrize("without", [{"ignore_eos": True}, {"eos_token_id": ()}])
def test_a_form_needs_an_end(smollm: Model, without: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="cannot be combined with regex: a text of a form ends where the form does"):
        smollm.generate("x", regex="ab", **without)


def test_a_form_ends_with_the_end_that_is_asked_for(smollm: Model) -> None:
    out = smollm.generate("x", regex="ab", eos_token_id=28, max_new_tokens=8)
    assert out.text == "ab"
    assert out.ids[-1] == 28


@pytest.mark.parametrize("huge", [{"top_k": 10**30}, {"min_tokens_to_keep": 10**30, "top_p": 0.5}])
def test_numbers_beyond_the_vocabulary_keep_all(smollm: Model, huge: dict[str, int]) -> None:
    drawn: dict[str, Any] = {"do_sample": True, "seed": 3, "max_new_tokens": 5}
    assert smollm.generate(PROMPT, **drawn, **huge).ids == smollm.generate(PROMPT, **drawn, top_k=0).ids


def test_what_was_not_kept_is_said(smollm: Model) -> None:
    with pytest.raises(FanlightError, match="a search keeps none"):
        _ = smollm.generate(PROMPT, num_beams=2, output_hidden_states=True, max_new_tokens=2).hidden_states
    with pytest.raises(FanlightError, match="the text has no token"):
        _ = smollm.generate(PROMPT, max_new_tokens=0, output_logits=True).logits


def test_a_text_that_has_begun_is_better_than_none(smollm: Model) -> None:
    stream = smollm.stream(PROMPT, best_of=3, do_sample=True, seed=1)
    first = next(stream)
    stream.close()
    assert stream.result().text == first.text != ""


def test_one_choice_heeds_forms_and_refuses_what_needs_a_text(smollm: Model) -> None:
    (step,) = smollm.next_token(PROMPT, [GenerationConfig(regex="a+")])
    assert set(step.token) == {"a"}
    for options in ({"num_beams": 2}, {"token_healing": True}, {"penalty_alpha": 0.5}, {"guidance_scale": 2.0}):
        with pytest.raises(OptionError, match="use generate"):
            smollm.next_token(PROMPT, [GenerationConfig(**options)])


def test_mass_is_accounted_whatever_removed_it(smollm: Model) -> None:
    def no_paris(ids: Any, logits: Any) -> Any:
        logits[smollm.tokenizer.encode(" Paris")] = -np.inf
        return logits

    (effect,) = smollm.generate(PROMPT, processors=[no_paris], max_new_tokens=1).steps[0].record.effects
    assert effect.n_before - effect.n_kept == 1
    assert 0.5 < effect.removed_prob < 1  # that of " Paris"
    step = smollm.generate(PROMPT, dola_layers="low", max_new_tokens=1).steps[0]
    assert step.record.effects[0].removed_prob == pytest.approx(
        1 - sum(c.raw_prob for c in step.candidates if c.removal is None), abs=1e-4
    )
    gone = next(candidate for candidate in step.candidates if candidate.removal is not None)
    assert "is implausible beside the largest" in str(gone.removal)


def test_a_dead_end_names_who_took_the_last_token(smollm: Model) -> None:
    order = {"processors": ["top_k", "no_repeat_ngram_size"], "top_k": 1, "no_repeat_ngram_size": 1}
    with pytest.raises(NumericError, match=r"no token is left after no_repeat_ngram_size\(1\)"):
        smollm.generate(PROMPT, do_sample=True, seed=3, max_new_tokens=40, **order)
    with pytest.raises(NumericError, match=r"no token is left after choice\(a\)"):
        smollm.generate(PROMPT, choice=["a"], min_new_tokens=5)


def test_large_bans_cost_one_pass(smollm: Model) -> None:
    banned = [token for token in range(49152) if token % 7]
    out = smollm.generate(PROMPT, suppress_tokens=banned, max_new_tokens=4)
    assert all(token % 7 == 0 for token in out.ids)
    assert out.steps[0].record.effects[0].n_kept == 49152 - len(banned)


def test_settings_that_a_preset_leaves_idle_are_not_blamed_on_the_caller(smollm: Model) -> None:
    out = smollm.generate(PROMPT, guidance_scale=1.5, negative_prompt="The past", max_new_tokens=1)
    assert out.notes == ()
    out = smollm.generate(PROMPT, do_sample=True, mirostat=2, max_new_tokens=1)
    assert out.notes == ()
    (row,) = [setting for setting in out.config.explain() if setting.name == "top_k"]
    assert row.no_effect == "mirostat makes its own cut"


def test_json_of_a_drawn_search_is_strict(smollm: Model) -> None:
    from fanlight.cli.as_json import dumps, generation_json

    out = smollm.generate(PROMPT, num_beams=3, do_sample=True, seed=2, num_return_sequences=2, max_new_tokens=4)
    found = json.loads(dumps(generation_json(out, model="m", prompt=PROMPT, load_seconds=0.0)))
    assert found["steps"][0]["candidates"][0]["noise"] is not None
    assert abs(sum(found["steps"][0]["effects"][-1]["probs"])) <= 1.0001
