"""Token healing: the text goes on exactly where the prompt ends, by tokens that begin with what was taken off it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import config_of, engine_of, generate
from fanlight.decoding.constraints import Vocabulary
from fanlight.decoding.healing import Healing, heal
from fanlight.engine.loop import Engine
from fanlight.errors import OptionError
from fanlight.kernels import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops

OPS: Ops = reference  # type: ignore[assignment]
WORDS = (
    *(b"the", b" the", b" t", b" ", b"t", b"he", b"ther", b"h", b"e", b"r", b"th", b"http", b"://", b":", b"//"),
    *(b"\xc3", b"\xa9", b"\xc3\xa9", b"<s>", b"</s>", b""),
)
SPECIAL, END = WORDS.index(b"<s>"), WORDS.index(b"</s>")
VOCABULARY = Vocabulary(WORDS, frozenset({SPECIAL, END}), (END,))
N = len(WORDS)
ORDINARY = [token for token, word in enumerate(WORDS) if word and token not in (SPECIAL, END)]


def ids(*words: bytes) -> tuple[int, ...]:
    return tuple(map(WORDS.index, words))


def engine(wanted: Sequence[int] = (), seed: int = 0, **options: Any) -> Engine:
    """Logits that favour these tokens in turn, so far as the filter lets them."""

    def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
        logits = hashed_logits([seed, *history], N)
        for i, token in enumerate(wanted):
            logits[token] += 40 - i
        return logits

    return engine_of(FakeDecoder(logits_of=logits_of, n_vocab=N), vocabulary=VOCABULARY, **options)


def prefixes_stay(prefix: bytes) -> list[int]:
    """The definition: tokens that the prefix begins with, or that begin with it."""
    return [token for token in ORDINARY if prefix.startswith(WORDS[token]) or WORDS[token].startswith(prefix)]


@settings(max_examples=150, deadline=None)
@given(
    prompt=st.lists(st.sampled_from(ORDINARY), min_size=2, max_size=4),
    seed=st.integers(0, 999),
    sampled=st.booleans(),
)
def test_the_text_continues_the_prompt_exactly(prompt: list[int], seed: int, sampled: bool) -> None:
    """What prompt and new tokens spell begins with what the prompt spelled; the text is the rest."""
    options: dict[str, Any] = {"token_healing": True, "ignore_eos": True, "max_new_tokens": 6}
    if sampled:
        options |= {"do_sample": True, "top_k": 0, "seed": seed, "temperature": 2.0}
    (found,) = generate(engine(seed=seed), prompt, options)
    given_text = b"".join(WORDS[token] for token in prompt)
    healed, _, healing = heal(tuple(prompt), VOCABULARY, OPS)
    new = [token for token in found.ids if token is not None]
    spelled = b"".join(WORDS[token] for token in (*healed, *new))
    assert spelled.startswith(given_text)
    rest = spelled[len(given_text) :].decode("utf-8", errors="replace")
    special = {"<s>", "</s>"}
    if not special & {WORDS[token].decode("utf-8", errors="replace") for token in new}:
        assert found.text == rest
    if healing is not None:
        assert len(healed) == len(prompt) - 1
        missing = given_text[len(b"".join(WORDS[token] for token in healed)) :]
        for token in new:
            assert not missing or token in prefixes_stay(missing)
            missing = missing[len(WORDS[token]) :]
    else:
        assert healed == tuple(prompt)


@pytest.mark.parametrize("prefix", [b" t", b"t", b":", b"th", b" the", b"ther", b"http"])
def test_only_tokens_stay_that_go_on_with_the_bytes_taken_off(prefix: bytes) -> None:
    healing = Healing(prefix, 2, VOCABULARY, OPS)
    row = np.linspace(-3, 3, N, dtype=np.float32)
    kept = healing((5, 6), OPS.tensor(row.tobytes(), N)).numpy()[0]
    assert np.flatnonzero(kept > -np.inf).tolist() == prefixes_stay(prefix)
    assert sorted(healing.allowed((5, 6)) or []) == prefixes_stay(prefix)
    assert healing.allowed((5, 6, *ids(prefix))) is None


def test_a_longer_token_takes_the_place_of_a_shorter_one() -> None:
    (found,) = generate(engine(ids(b"://")), ids(b"http", b":"), {"token_healing": True, "max_new_tokens": 1})
    assert found.ids == [*ids(b"://")]
    assert found.text == "//"


def test_what_was_taken_off_may_come_back_in_pieces() -> None:
    prompt = ids(b"e", b"the")
    (found,) = generate(engine(ids(b"t", b"he", b"r")), prompt, {"token_healing": True, "max_new_tokens": 3})
    assert found.ids == [*ids(b"t", b"he", b"t")]
    assert found.text == "t"


@pytest.mark.parametrize(
    "prompt",
    [ids(b"t"), ids(b"http", b"<s>"), ids(b"http", b"\xc3"), ids(b"http", b"ther"), ids(b"t", b"")],
    ids=["one token", "special", "part of a character", "nothing longer", "no text"],
)
def test_a_prompt_without_anything_to_heal_stays_as_it_is(prompt: tuple[int, ...]) -> None:
    assert heal(prompt, VOCABULARY, OPS) == (prompt, "", None)
    one = engine()
    options = {"ignore_eos": True}
    assert generate(one, prompt, {**options, "token_healing": True}) == generate(one, prompt, options)


def test_an_id_beyond_the_vocabulary_is_left_alone() -> None:
    assert heal((3, N + 5), VOCABULARY, OPS) == ((3, N + 5), "", None)


def test_the_prompt_of_the_request_is_what_is_left_of_it() -> None:
    one = engine()
    request = one.submit(ids(b"http", b":"), None)
    assert request.prompt_ids == ids(b"http", b":")

    healed = one.submit(ids(b"http", b":"), config_of({"token_healing": True}))
    assert healed.prompt_ids == ids(b"http")
    for each in (request, healed):
        one.cancel(each)
    one.run()


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 3},
        {"prompt_lookup_num_tokens": 4},
        {"assistant_early_exit": 1},
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
        {"guidance_scale": 1.5},
    ],
    ids=str,
)
def test_every_strategy_heals(options: dict[str, Any]) -> None:
    for outcome in generate(engine(), ids(b"e", b" t"), {"token_healing": True, "ignore_eos": True, **options}):
        new = [token for token in outcome.ids if token is not None]
        assert b"".join(WORDS[token] for token in new).startswith(b" t")


def test_speculation_after_healing_gives_the_same_text() -> None:
    options = {"token_healing": True, "ignore_eos": True, "max_new_tokens": 20}
    for seed in range(20):
        expected = generate(engine(seed=seed), ids(b"e", b" t", b" ", b"t"), options)
        for drafter in ({"prompt_lookup_num_tokens": 4}, {"assistant_early_exit": 2}):
            assert generate(engine(seed=seed), ids(b"e", b" t", b" ", b"t"), {**options, **drafter}) == expected


def test_healing_needs_the_texts_of_tokens() -> None:
    bare = Engine(FakeDecoder(n_vocab=N))

    with pytest.raises(OptionError, match="token_healing needs the tokens' texts: give the engine a vocabulary"):
        bare.submit((1, 2), config_of({"token_healing": True}))


def test_healing_and_a_grammar_are_refused_together() -> None:

    one = engine()
    with pytest.raises(OptionError, match="token_healing cannot be combined with regex: the text would begin within"):
        one.submit(ids(b"http", b":"), config_of({"token_healing": True, "regex": "a+"}))
    assert not one.has_work
