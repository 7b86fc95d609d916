"""Grammars together with strategies: texts fit, and what a grammar leaves no choice about is guessed."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import BYTES, config_of, engine_of, generate, guesses, outcomes, run
from fanlight.decoding.constraints import Vocabulary
from fanlight.engine.loop import Engine
from fanlight.engine.request import Helpers
from fanlight.errors import ConstraintError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

PROMPT = (256, 104)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ada", "alan"]}, "born": {"type": "integer", "minimum": 1800, "maximum": 1999}},
    "required": ["name", "born"],
    "additionalProperties": False,
}
CONSTRAINTS = st.sampled_from(
    [
        {"regex": r"(ab|cd){2,3}-[0-9]{2}"},
        {"choice": ["yes", "no", "yesterday", "nonetheless"]},
        {"json_schema": SCHEMA},
        {"grammar": 'start: "<" WORD ">" \nWORD: /[a-c]{1,3}/'},
    ]
)
STRATEGIES = st.sampled_from(
    [
        {},
        {"do_sample": True, "top_k": 0, "seed": 2},
        {"do_sample": True, "top_k": 0, "seed": 5, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"num_beams": 3, "do_sample": True, "seed": 1},
        {"penalty_alpha": 0.6, "top_k": 3},
        {"guidance_scale": 1.5},
    ]
)


def engine(seed: int = 0, **options: Any) -> Engine:
    decoder = FakeDecoder(logits_of=lambda history: hashed_logits([seed, *history]), n_ctx=99)
    return engine_of(decoder, **options)


def fits(options: dict[str, Any], text: str) -> bool:
    if "regex" in options:
        return re.fullmatch(options["regex"], text) is not None
    if "choice" in options:
        return text in options["choice"]
    if "json_schema" in options:
        found = json.loads(text)
        return set(found) == {"name", "born"} and found["name"] in ("ada", "alan") and 1800 <= found["born"] <= 1999
    return re.fullmatch("<[a-c]{1,3}>", text) is not None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), constraint=CONSTRAINTS, strategy=STRATEGIES)
def test_every_strategy_writes_texts_that_fit(seed: int, constraint: dict[str, Any], strategy: dict[str, Any]) -> None:
    """Schemas let white space go on for ever: what was cut off by the length is not judged."""
    for outcome in generate(engine(seed), PROMPT, {**constraint, **strategy, "max_new_tokens": 60}):
        if outcome.stop.startswith("stopped by end-of-sequence"):
            assert fits(constraint, outcome.text)
        else:
            assert "json_schema" in constraint


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    constraint=CONSTRAINTS,
    drafter=st.sampled_from(
        [
            {},
            {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
            {"assistant_early_exit": 1, "assistant_confidence_threshold": 0.0},
            {"assistant": True, "assistant_confidence_threshold": 0.0},
        ]
    ),
    strategy=st.sampled_from([{}, {"do_sample": True, "top_k": 0, "seed": 2}, {"guidance_scale": 2.0}]),
    n_new=st.sampled_from([1, 3, 60]),
)
def test_guesses_of_the_grammar_change_no_text(
    seed: int, constraint: dict[str, Any], drafter: dict[str, Any], strategy: dict[str, Any], n_new: int
) -> None:
    """Against decisions one by one, with the grammar as a processor and nobody who guesses."""
    options = {**constraint, **strategy, "max_new_tokens": n_new}
    expected = _one_by_one(engine(seed), options)
    more = dict(drafter)
    other = FakeDecoder(logits_of=lambda history: hashed_logits([seed, 1, *history]), n_ctx=99)
    helpers = Helpers(assistant=other) if more.pop("assistant", False) else Helpers()
    events = run(engine(seed), PROMPT, {**options, **more}, helpers)
    assert outcomes(events) == expected
    assert all(guess.right for guess in guesses(events) if guess.drafter == "forced")


def _one_by_one(one: Engine, options: dict[str, Any]) -> Any:
    from fanlight.decoding.strategies import drafts

    kept = drafts.Forced.guess
    drafts.Forced.guess = lambda self, ids, settings, room: _nothing()  # type: ignore[method-assign, assignment]
    try:
        events = run(one, PROMPT, options)
    finally:
        drafts.Forced.guess = kept  # type: ignore[method-assign]
    assert not guesses(events)
    return outcomes(events)


def _nothing() -> Any:
    yield from ()
    return []


def test_what_a_grammar_leaves_no_choice_about_costs_no_pass_of_its_own() -> None:
    one = engine()
    assert isinstance(one.decoder, FakeDecoder)
    events = run(one, PROMPT, {"choice": ["incontrovertible", "internationalism"], "max_new_tokens": 30})
    text = outcomes(events)[0].text
    assert text in ("incontrovertible", "internationalism")
    found = guesses(events)
    assert {guess.drafter for guess in found} == {"forced"}
    assert len(found) == len(text) - 2  # the first letter comes of the prompt's pass, the third is a choice
    assert len(one.decoder.passes) < 6


def test_beams_find_the_best_text_that_fits() -> None:
    """All texts of a small language, by brute force."""
    words = ["".join(letters) for n in (1, 2, 3) for letters in product("abc", repeat=n)]
    for seed in range(8):

        def logits_of(history: Sequence[int], seed: int = seed) -> NDArray[np.float32]:
            return hashed_logits([seed, *history], 258, 0.3)

        def logprob(ids: Sequence[int], logits_of: Any = logits_of) -> float:
            import numpy as np

            total = 0.0
            for i, token in enumerate(ids):
                row = logits_of((*PROMPT, *ids[:i])).astype(np.float64)
                total += row[token] - np.log(np.exp(row).sum())
            return total

        one = engine_of(FakeDecoder(logits_of=logits_of, n_ctx=99))
        options = {"choice": words, "num_beams": 64, "length_penalty": 0.0, "max_new_tokens": 9}
        (found,) = generate(one, PROMPT, options)
        best = max(words, key=lambda word: logprob([*word.encode(), 257]))
        assert found.text == best
        assert found.score == pytest.approx(logprob([*best.encode(), 257]), abs=1e-3)


PIECES = Vocabulary((b"a", b"b", b"c", b"</s>"), frozenset({3}), (3,))
DEAD_END = 'start: "a" "b" "x" | "a" "c"'


def test_a_beam_in_a_dead_end_goes_and_the_others_go_on() -> None:
    """No token spells the x after ab: beams that begin so end, unless the mask has known it before."""
    decoder = FakeDecoder(logits_of=lambda history: hashed_logits(history, 4), n_vocab=4)
    one = engine_of(decoder, vocabulary=PIECES)
    (found,) = generate(one, (0,), {"grammar": DEAD_END, "num_beams": 2, "max_new_tokens": 5})
    assert found.text == "ac"


def test_a_dead_end_is_an_error_of_its_own_request() -> None:
    decoder = FakeDecoder(logits_of=lambda history: hashed_logits(history, 4), n_vocab=4)
    one = engine_of(decoder, vocabulary=PIECES)
    bad = one.submit((0,), config_of({"grammar": 'start: "a" "b" "x"', "max_new_tokens": 5}))
    good = one.submit((0,), config_of({"regex": "a[bc]", "max_new_tokens": 5}))
    events = one.run()
    (failure,) = [event.error for event in events if event.request_id == bad.id and event.error]
    assert isinstance(failure, ConstraintError)
    assert outcomes([event for event in events if event.request_id == good.id])[0].text in ("ab", "ac")
    assert one.cache.pool.n_pages == 0


def test_an_assistant_in_a_dead_end_does_not_end_the_text() -> None:
    """It would go where no token follows; the model itself does not."""

    def towards(letter: int) -> Any:
        def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
            logits = hashed_logits(history, 4, 0.1)
            logits[letter] += 20
            return logits

        return logits_of

    helpers = Helpers(assistant=FakeDecoder(logits_of=towards(1), n_vocab=4))
    one = engine_of(FakeDecoder(logits_of=towards(2), n_vocab=4), vocabulary=PIECES)
    options = {"grammar": DEAD_END, "max_new_tokens": 5, "assistant_confidence_threshold": 0.0}
    assert generate(one, (0,), options, helpers)[0].text == "ac"


def test_a_grammar_needs_the_texts_of_tokens() -> None:
    with pytest.raises(OptionError, match="regex needs the tokens' texts: give the engine a vocabulary"):
        Engine(FakeDecoder(), eos_ids=(257,)).submit(PROMPT, config_of({"regex": "a"}))


def test_a_grammar_that_does_not_compile_is_refused_at_once() -> None:
    one = engine_of(FakeDecoder(), vocabulary=BYTES)
    with pytest.raises(OptionError, match="regex"):
        one.submit(PROMPT, config_of({"regex": "a("}))
    assert not one.has_work
