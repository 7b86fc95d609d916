"""Guessing ahead changes the time and nothing else: the same tokens, texts, ends and records, whoever guesses, however wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import config_of, engine_of, generate, guesses, nearly, outcomes, repeating, run, small_vocabulary
from fanlight.decoding.strategies.drafts import PromptLookup
from fanlight.engine.request import Helpers
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.engine.loop import Engine

N_CTX = 26
N_VOCAB, END = 9, 8
LETTERS = small_vocabulary(N_VOCAB, END)
DRAFTERS: list[dict[str, Any]] = [
    {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 1},
    {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 3},
    {"prompt_lookup_num_tokens": 40},
    {"assistant_early_exit": 1, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 4},
    {"assistant_early_exit": 2, "num_assistant_tokens_schedule": "heuristic"},
    {"assistant": 1, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 5},
    {"assistant": 2, "num_assistant_tokens_schedule": "heuristic", "num_assistant_tokens": 2},
    {"assistant": 3},  # the model itself
    {"assistant": 4, "assistant_confidence_threshold": 0.0},  # whose window is shorter
]
PROMPTS = st.lists(st.integers(0, N_VOCAB - 2), min_size=1, max_size=12)
SETTINGS = st.fixed_dictionaries(
    {"max_new_tokens": st.sampled_from([0, 1, 2, 9, 40]), "seed": st.integers(0, 5)},
    optional={
        "do_sample": st.just(True),
        "temperature": st.sampled_from([0, 0.4, 1.5]),
        "top_p": st.sampled_from([0.6, 0.95]),
        "top_k": st.sampled_from([0, 3]),
        "repetition_penalty": st.sampled_from([1.2]),
        "frequency_penalty": st.sampled_from([0.3]),
        "no_repeat_ngram_size": st.sampled_from([3, 4]),
        "dry_multiplier": st.sampled_from([0.5]),
        "mirostat": st.sampled_from([1, 2]),
        "mirostat_tau": st.sampled_from([1.0, 2.0]),
        "adaptive_target": st.sampled_from([0.3]),
        "stop_strings": st.sampled_from(["ab", ("c", "dd"), ("abcabcabc", "e")]),
        "ignore_eos": st.booleans(),
        "loop_repeats": st.sampled_from([3]),
        "min_new_tokens": st.sampled_from([4]),
        "max_length": st.sampled_from([14]),
        "use_cache": st.just(False),
        "guidance_scale": st.sampled_from([1.5]),
        "num_return_sequences": st.sampled_from([1, 1, 3]),
        "forced_eos_token_id": st.just(END),
    },
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_cache_bytes": st.sampled_from([700, 900]),
        "prefill_chunk": st.sampled_from([1, 3, 8]),
        "max_batch": st.sampled_from([1, 2]),
    },
)


def sound(options: dict[str, Any]) -> dict[str, Any]:
    """The same without what contradicts itself."""
    if not options.get("do_sample") or options.get("temperature") == 0:
        options = {**options, "num_return_sequences": 1}
    if options.get("max_new_tokens") == 0:
        options = {name: value for name, value in options.items() if name != "forced_eos_token_id"}
    return options


def decoder_of(order: int, seed: int, n_ctx: int = N_CTX, page_tokens: int = 4) -> FakeDecoder:
    logits = repeating(order, N_VOCAB, seed)
    return FakeDecoder(logits_of=logits, n_vocab=N_VOCAB, n_ctx=n_ctx, page_tokens=page_tokens)


def engine(order: int = 2, seed: int = 0, **limits: Any) -> Engine:
    return engine_of(decoder_of(order, seed), vocabulary=LETTERS, **limits)


def helpers_of(one: Engine, drafter: dict[str, Any]) -> tuple[dict[str, Any], Helpers]:
    """Its options, and its model if it has one."""
    options = dict(drafter)
    kind = options.pop("assistant", 0)
    main = one.decoder
    assert isinstance(main, FakeDecoder)
    if not kind:
        return options, Helpers()
    if kind == 3:
        return options, Helpers(assistant=main)
    near = nearly(main.logits_of, N_VOCAB, 0.4 if kind == 1 else 1.5)
    n_ctx = 7 if kind == 4 else 40
    return options, Helpers(assistant=FakeDecoder(logits_of=near, n_vocab=N_VOCAB, n_ctx=n_ctx, page_tokens=3))


@settings(max_examples=300, deadline=None)
@given(
    order=st.sampled_from([1, 2, 30]),
    seed=st.integers(0, 99),
    prompt=PROMPTS,
    options=SETTINGS.map(sound),
    drafter=st.sampled_from(DRAFTERS),
    limits=LIMITS,
)
def test_a_text_is_the_same_whoever_guesses(
    order: int, seed: int, prompt: list[int], options: dict[str, Any], drafter: dict[str, Any], limits: dict[str, int]
) -> None:
    expected = generate(engine(order, seed), prompt, options)
    one = engine(order, seed, **limits)
    more, helpers = helpers_of(one, drafter)
    events = run(one, prompt, {**options, **more}, helpers)
    assert outcomes(events) == expected


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 99),
    requests=st.lists(
        st.tuples(PROMPTS, SETTINGS.map(sound), st.sampled_from([{}, *DRAFTERS])), min_size=2, max_size=5
    ),
    limits=LIMITS,
    delays=st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_a_batch_of_requests_that_guess_in_their_own_ways(
    seed: int,
    requests: list[tuple[list[int], dict[str, Any], dict[str, Any]]],
    limits: dict[str, int],
    delays: list[int],
) -> None:
    one = engine(2, seed, **limits)
    events, submitted = [], []
    for (prompt, options, drafter), delay in zip(requests, delays, strict=False):
        for _ in range(delay):
            events += one.step()
        more, helpers = helpers_of(one, drafter)
        submitted.append(one.submit(prompt, config_of({**options, **more}), helpers))
    events += one.run()
    for request, (prompt, options, _) in zip(submitted, requests, strict=True):
        mine = [event for event in events if event.request_id == request.id]
        assert outcomes(mine) == generate(engine(2, seed), prompt, options)
    for lane in one._lanes.values():
        assert lane.cache.pool.n_pages == 0


@pytest.mark.parametrize("drafter", DRAFTERS[:8], ids=str)
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 1, "top_k": 0}], ids=["greedy", "sampled"])
def test_guesses_save_passes(drafter: dict[str, Any], options: dict[str, Any]) -> None:
    """And each says what it guessed, and whether that was right."""
    passes = []
    for guess in ({}, drafter):
        one = engine_of(decoder_of(1, 3, n_ctx=99), vocabulary=LETTERS)
        more, helpers = helpers_of(one, guess)
        events = run(one, [1, 2], {"max_new_tokens": 60, "ignore_eos": True, **options, **more}, helpers)
        assert isinstance(one.decoder, FakeDecoder)
        passes.append(sum(1 for _, rows in one.decoder.passes if rows))
    if (
        "assistant_early_exit" not in drafter and drafter.get("assistant") != 3
    ):  # whose guesses are passes of the model too
        assert passes[1] < passes[0]
    found = guesses(events)
    assert found
    by_index = {event.index: event for event in events}
    for event in by_index.values():
        decision = event.decision
        if decision is not None and decision.guess is not None:
            assert decision.guess.right == (decision.guess.id == event.id)
            assert decision.record is not None
            assert decision.record.guess == decision.guess
    kind = (
        "assistant"
        if "assistant" in drafter
        else "early_exit"
        if "assistant_early_exit" in drafter
        else "prompt_lookup"
    )
    assert {guess.drafter for guess in found} == {kind}
    assert any(guess.right for guess in found)


def test_a_model_that_guesses_for_itself_is_always_right() -> None:
    """Under the noise of the same position, a sampled text too."""
    for options in ({}, {"do_sample": True, "seed": 4, "top_p": 0.9}):
        one = engine(30, 5)
        more, helpers = helpers_of(one, {"assistant": 3, "assistant_confidence_threshold": 0.0})
        events = run(one, [1, 2], {"max_new_tokens": 20, "ignore_eos": True, **options, **more}, helpers)
        assert all(guess.right for guess in guesses(events))
        assert len(guesses(events)) > 15


def test_an_assistant_goes_on_from_the_text_after_a_wrong_guess() -> None:
    """It knows all but every fifth token, and what follows those it knows again."""
    known = hashed_logits

    def forgetful(history: Sequence[int]) -> NDArray[np.float32]:
        logits = known(history, N_VOCAB)
        return -logits if len(history) % 5 == 0 else logits

    helpers = Helpers(assistant=FakeDecoder(logits_of=forgetful, n_vocab=N_VOCAB))
    one = engine_of(FakeDecoder(n_vocab=N_VOCAB), vocabulary=LETTERS)
    options = {"assistant_confidence_threshold": 0.0, "max_new_tokens": 40, "ignore_eos": True}
    for event in run(one, [1, 2], options, helpers):
        assert event.decision is not None
        guess = event.decision.guess
        if guess is not None:
            assert guess.right == ((event.index + 2) % 5 != 0)


@pytest.mark.parametrize("n_prompt", range(1, 9))
@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_guesses_stop_where_the_window_is_full(n_prompt: int, drafter: dict[str, Any]) -> None:
    prompt = [1, 2, 3, 1, 2, 3, 1, 2][:n_prompt]
    options = {"max_new_tokens": None, "ignore_eos": True}

    def one() -> Engine:
        return engine_of(decoder_of(1, 3, n_ctx=8), vocabulary=LETTERS)

    (expected,) = generate(one(), prompt, options)
    assert len(expected.ids) == 9 - n_prompt
    last = one()
    more, helpers = helpers_of(last, drafter)
    assert generate(last, prompt, {**options, **more}, helpers) == [expected]


def failing(error: Exception) -> Any:
    """A processor that raises on ids that the text itself never comes to."""
    seen: set[tuple[int, ...]] = set()

    def careful(ids: tuple[int, ...], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(ids) > 3 and ids[-1] != (ids[-2] + 1) % N_VOCAB:
            raise error
        seen.add(ids)
        return logits

    return careful


def counting(history: Sequence[int]) -> NDArray[np.float32]:
    logits = hashed_logits(history, N_VOCAB, 0.1)
    logits[(history[-1] + 1) % N_VOCAB] = 20
    return logits


@pytest.mark.parametrize("error", [ValueError("no"), OptionError("no")], ids=["any", "own"])
@pytest.mark.parametrize("kind", ["assistant", "early_exit"])
def test_what_goes_wrong_on_the_way_of_a_guess_does_not_end_the_text(kind: str, error: Exception) -> None:
    decoder = FakeDecoder(logits_of=counting, n_vocab=N_VOCAB, n_ctx=N_CTX, early_spread=40.0)
    one = engine_of(decoder, vocabulary=LETTERS)
    confused = FakeDecoder(logits_of=lambda ids: hashed_logits(ids, N_VOCAB, 9.0), n_vocab=N_VOCAB, n_ctx=N_CTX)
    options: dict[str, Any] = {
        "assistant_confidence_threshold": 0.0,
        "processors": [failing(error)],
        "ignore_eos": True,
    }
    helpers = Helpers(assistant=confused) if kind == "assistant" else Helpers()
    if kind == "early_exit":
        options["assistant_early_exit"] = 1
    (found,) = generate(one, [1, 2], options, helpers)
    assert found.ids == [(3 + i) % N_VOCAB for i in range(12)]


def test_an_assistant_whose_logits_are_damaged_does_not_end_the_text() -> None:
    def damaged(history: Sequence[int]) -> NDArray[np.float32]:
        logits = counting(history)
        if len(history) > 4:
            logits[0] = np.nan
        return logits

    one = engine_of(FakeDecoder(logits_of=counting, n_vocab=N_VOCAB, n_ctx=N_CTX), vocabulary=LETTERS)
    helpers = Helpers(assistant=FakeDecoder(logits_of=damaged, n_vocab=N_VOCAB, n_ctx=N_CTX))
    (found,) = generate(one, [1, 2], {"ignore_eos": True}, helpers)
    assert found.ids == [(3 + i) % N_VOCAB for i in range(12)]


@given(
    ids=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    n_gram=st.integers(1, 4),
    n_tokens=st.integers(1, 6),
    cuts=st.lists(st.integers(1, 9), max_size=6),
    room=st.integers(1, 5),
)
def test_lookup_finds_what_followed_the_longest_match_that_came_last(
    ids: list[int], n_gram: int, n_tokens: int, cuts: list[int], room: int
) -> None:
    """However the text grew."""
    lookup = PromptLookup(n_tokens, n_gram, lambda: 8)
    for cut in cuts:
        list(lookup.guess(ids[:cut], None, room))  # type: ignore[arg-type, call-overload]
    steps = lookup.guess(ids, None, room)  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as returned:
        next(steps)
    expected: list[int] = []
    for n in range(min(n_gram, len(ids) - 1), 0, -1):
        ends = [end for end in range(n, len(ids)) if ids[end - n : end] == ids[len(ids) - n :]]
        if ends:
            longest = {1: 1, 2: 3, 3: 5, 4: 7}[n]  # with shares of 0.3, 0.6, 0.75 and 0.85, a pass that costs 8 rows
            expected = ids[ends[-1] : ends[-1] + min(room, n_tokens, longest)]
            break
    assert returned.value.value == expected


def lookup_lengths(lookup: PromptLookup, outcomes: Sequence[int]) -> list[int]:
    """How long its guesses are, if of each so many are right."""
    lengths = []
    for n_right in outcomes:
        with pytest.raises(StopIteration) as returned:
            next(lookup.guess([1, *range(2, 40), 1], None, 99))  # type: ignore[arg-type]
        n = len(returned.value.value)
        lengths.append(n)
        if n:
            lookup.learn([], n, min(n, n_right))
    return lengths


def test_a_lookup_guesses_more_after_success_and_less_after_failure() -> None:
    lengths = lookup_lengths(PromptLookup(9, 1, lambda: 8), [99] * 20 + [0] * 40)
    assert lengths[0] == 1
    assert lengths[:20] == sorted(lengths[:20])
    assert lengths[20] == 9
    assert lengths[20:30] == sorted(lengths[20:30], reverse=True)
    assert 0 in lengths[24:]
    assert 1 in lengths[lengths.index(0, 20) :], "it looks again, now and then"


def test_a_lookup_guesses_less_the_less_a_pass_costs() -> None:
    costs = (100, 8, 1, 0)
    first = [lookup_lengths(PromptLookup(99, 1, lambda cost=cost: cost), [0])[0] for cost in costs]  # type: ignore[misc]
    assert first == [3, 1, 0, 0]
    sure = [lookup_lengths(PromptLookup(99, 1, lambda cost=cost: cost), [99] * 60)[-1] for cost in costs]  # type: ignore[misc]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] > 20
    assert sure[-1] == 0


@pytest.mark.parametrize(("right", "n"), [(0.85, 4), (0.75, 3)])
def test_a_guess_gives_the_most_tokens_for_its_rows(right: float, n: int) -> None:
    """Against every other length."""

    def rate(length: int) -> float:
        return sum(right**i for i in range(length + 1)) / (8 + 1 + length)

    ids = [*range(10, 10 + n), *range(30, 70), *range(10, 10 + n)]
    with pytest.raises(StopIteration) as returned:
        next(PromptLookup(40, n, lambda: 8).guess(ids, None, 99))  # type: ignore[arg-type]
    assert len(returned.value.value) == max(range(41), key=rate)
