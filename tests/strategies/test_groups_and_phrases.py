"""Diverse beams and phrases that must come, against plain NumPy searches that compute every row anew, and brute force."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import hashed_logits
from fakes.runs import decoder_of, engine_of, generate, run, search_of, small_vocabulary
from fanlight.decoding.strategies.forced import Progress, allocate
from fanlight.errors import ConstraintError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Texts = list[tuple[float, tuple[int, ...]]]


def world(seed: int, n_vocab: int, spread: float = 1.0) -> tuple[Any, Callable[[Sequence[int]], NDArray[np.float64]]]:
    """A decoder, and log-probabilities after (prompt and) ids."""

    def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
        return hashed_logits([seed, *history], n_vocab, spread)

    def logprobs(ids: Sequence[int]) -> NDArray[np.float64]:
        row = logits_of(ids).astype(np.float64)
        found: NDArray[np.float64] = row - row.max() - np.log(np.exp(row - row.max()).sum())
        return found

    return decoder_of(logits_of, n_vocab), logprobs


def texts_of(events_or_found: list[Any]) -> Texts:
    return [(outcome.score, tuple(outcome.ids)) for outcome in events_or_found]


def assert_same_texts(found: Texts, expected: Texts) -> None:
    assert [ids for _, ids in found] == [ids for _, ids in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


# -- groups ---------------------------------------------------------------------------------------------------------------


def diverse(
    logprobs: Callable[[Sequence[int]], NDArray[np.float64]],
    prompt: tuple[int, ...],
    ends: set[int],
    sizes: tuple[int, int, int],
    penalty: float,
    length_penalty: float,
    early: bool,
) -> Texts:
    """sizes: beams, groups, new tokens."""
    n_beams, n_groups, n_new = sizes
    width = n_beams // n_groups
    going: list[Texts] = [[(0.0, ())] for _ in range(n_groups)]
    ended: list[Texts] = [[] for _ in range(n_groups)]
    over = [False] * n_groups
    for length in range(1, n_new + 1):
        taken: list[int] = []
        for group in range(n_groups):
            if over[group]:
                continue
            every: Texts = []
            for score, text in going[group]:
                row = logprobs((*prompt, *text))
                every += [
                    (score + row[token] - penalty * taken.count(token), (*text, token)) for token in range(len(row))
                ]
            every.sort(reverse=True)
            every = every[: max(2, 1 + len(ends)) * width]
            last = length == n_new
            for score, text in every[:width]:
                if text[-1] in ends or last:
                    ended[group].append((score / length**length_penalty, text))
            ended[group] = sorted(ended[group], reverse=True)[:width]
            going[group] = [item for item in every if item[1][-1] not in ends and not last][:width]
            taken += [text[-1] for _, text in going[group]]
            full = len(ended[group]) == width
            no_better = full and (
                not going[group] or going[group][0][0] / length**length_penalty <= ended[group][-1][0]
            )
            over[group] = last or no_better or (full and early)
    return sorted((item for group in ended for item in group), reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    n_vocab=st.sampled_from([11, 31]),
    groups=st.sampled_from([(4, 2), (6, 3), (6, 2), (3, 3), (2, 2)]),
    penalty=st.sampled_from([0.0, 0.3, 1.5, 20.0]),
    length_penalty=st.sampled_from([0.0, 1.0, 2.0]),
    early=st.booleans(),
    n_new=st.sampled_from([1, 2, 5, 7]),
    n_ends=st.sampled_from([1, 2]),
)
def test_groups_equal_a_plain_diverse_search(
    seed: int,
    n_vocab: int,
    groups: tuple[int, int],
    penalty: float,
    length_penalty: float,
    early: bool,
    n_new: int,
    n_ends: int,
) -> None:
    decoder, logprobs = world(seed, n_vocab)
    ends = tuple(range(3, 3 + n_ends))
    options = {
        "num_beams": groups[0],
        "num_beam_groups": groups[1],
        "num_return_sequences": groups[0],
        "diversity_penalty": penalty,
        "length_penalty": length_penalty,
        "early_stopping": early,
        "max_new_tokens": n_new,
    }
    found = generate(engine_of(decoder, vocabulary=small_vocabulary(n_vocab, *ends)), (1, 0, 2), options)
    expected = diverse(logprobs, (1, 0, 2), set(ends), (*groups, n_new), penalty, length_penalty, early)
    assert_same_texts(texts_of(found), expected)


def test_a_penalty_makes_the_first_tokens_of_groups_differ() -> None:
    decoder, _ = world(5, 11)
    vocabulary = small_vocabulary(11, 3)
    options = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "diversity_penalty": 50.0}
    events = run(engine_of(decoder, vocabulary=vocabulary), (1,), options)
    search = search_of(events)
    firsts = [node.id for node in search.nodes if node.depth == 1 and node.fate == "kept"]
    assert len(firsts) == len(set(firsts)) == 4
    assert search.kind == "diverse beam search"
    assert {node.group for node in search.nodes} == {0, 1, 2, 3}
    effects = [effect.name for effect in events[0].decision.record.effects]  # type: ignore[union-attr]
    assert effects == ["log_softmax", "diversity_penalty"]


# -- phrases --------------------------------------------------------------------------------------------------------------


def phrase(low: int, high: int) -> Any:
    return st.lists(st.lists(st.integers(low, high), min_size=1, max_size=2), min_size=1, max_size=2)


PHRASES = st.tuples(phrase(0, 1), phrase(2, 3)) | st.tuples(phrase(0, 3))  # two never overlap


def holds(text: Sequence[int], phrases: Sequence[Sequence[Sequence[int]]]) -> bool:
    """Whether one alternative of each phrase stands in the text."""
    runs = {tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    return all(any(tuple(alternative) in runs for alternative in phrase) for phrase in phrases)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), phrases=PHRASES, length_penalty=st.sampled_from([0.0, 1.0]))
def test_with_beams_for_all_texts_the_best_that_holds_the_phrases_comes_out(
    seed: int, phrases: tuple[list[list[int]], ...], length_penalty: float
) -> None:
    """Brute force over all texts of 4 tokens, of 4 and an end."""
    n_new, end = 4, 4
    decoder, logprobs = world(seed, 5)
    every: Texts = []
    for length in range(1, n_new + 1):
        for body in product(range(4), repeat=length - 1):
            for last in range(5) if length == n_new else (end,):
                text = (*body, last)
                score = sum(logprobs((2, *text[:i]))[token] for i, token in enumerate(text))
                if holds(text, phrases):
                    every.append((score / length**length_penalty, text))
    options = {
        "num_beams": 400,
        "force_words_ids": list(phrases),
        "max_new_tokens": n_new,
        "length_penalty": length_penalty,
        "early_stopping": "never",
        "candidates": 0,
    }
    (found,) = generate(engine_of(decoder, vocabulary=small_vocabulary(5, end)), (2,), options)
    assert_same_texts(texts_of([found]), [max(every)])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 9999),
    phrases=st.lists(
        st.lists(st.lists(st.integers(0, 28), min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    num_beams=st.sampled_from([2, 3, 7]),
    spare=st.sampled_from([0, 1, 5]),
)
def test_every_text_holds_the_phrases_however_little_room_there_is(
    seed: int, phrases: list[list[list[int]]], num_beams: int, spare: int
) -> None:
    n_vocab, ends = 31, (29, 30)
    decoder, logprobs = world(seed, n_vocab, 2.0)
    needed = sum(min(map(len, phrase)) for phrase in phrases)
    options = {
        "num_beams": num_beams,
        "num_return_sequences": num_beams,
        "force_words_ids": phrases,
        "max_new_tokens": needed + spare,
        "length_penalty": 0.0,
    }
    events = run(engine_of(decoder, vocabulary=small_vocabulary(n_vocab, *ends)), (1, 7), options)
    texts: dict[int, list[int]] = {}
    for event in events:
        if event.id is not None:
            texts.setdefault(event.output, []).append(event.id)
    assert texts[0]
    for output, text in texts.items():
        assert holds(text, phrases)
        score = sum(logprobs((1, 7, *text[:i]))[token] for i, token in enumerate(text))
        last = [event for event in events if event.output == output][-1]
        assert last.score == pytest.approx(score, abs=1e-3)
    assert search_of(events).kind == "constrained beam search"


def test_constraints_are_phrases_too() -> None:
    decoder, _ = world(1, 31, 3.0)
    engine = engine_of(decoder, vocabulary=small_vocabulary(31, 30))
    options = {"num_beams": 3, "max_new_tokens": 9, "candidates": 0}
    plain = generate(engine, (1,), options)[0].ids
    assert 17 not in plain
    for name in ("force_words_ids", "constraints"):
        ids = generate(engine, (1,), {**options, name: [[17, 5]]})[0].ids
        assert holds([token or 0 for token in ids], [[[17, 5]]])


def test_phrases_that_do_not_fit_are_refused_in_words() -> None:
    decoder, _ = world(1, 11)
    engine = engine_of(decoder, vocabulary=small_vocabulary(11, 3))
    options = {"num_beams": 2, "force_words_ids": [[1, 2], [4]], "max_new_tokens": 2}
    with pytest.raises(ConstraintError, match="needs 3 tokens, the length allows 2; raise max_new_tokens"):
        run(engine, (1,), options)
    options = {"num_beams": 2, "force_words_ids": [[4]], "suppress_tokens": [4], "max_new_tokens": 3}
    with pytest.raises(ConstraintError, match=r"force_words_ids: no (text holds|beam has room)"):
        run(engine, (1,), options)
    assert not engine.has_work


@given(
    phrases=st.lists(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=2).map(tuple),
        min_size=1,
        max_size=3,
    ).map(tuple),
    text=st.lists(st.integers(0, 2), max_size=12),
)
def test_progress_knows_what_is_there_and_how_much_is_missing(phrases: Any, text: list[int]) -> None:
    progress = Progress(phrases)
    for n in range(len(text) + 1):
        there = {i for i, phrase in enumerate(phrases) if holds(text[:n], [phrase])}
        assert set(progress.done) == there
        assert progress.is_complete == (len(there) == len(phrases))
        assert (progress.n_missing == 0) == progress.is_complete
        if n < len(text):
            progress = progress.after(text[n])


@given(
    phrase=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    text=st.lists(st.integers(0, 2), max_size=6),
)
def test_what_a_single_phrase_lacks_is_counted_exactly(phrase: Any, text: list[int]) -> None:
    progress = Progress((phrase,))
    for token in text:
        progress = progress.after(token)
    shortest = next(n for n in range(4) for more in product(range(3), repeat=n) if holds([*text, *more], [phrase]))
    assert progress.n_missing == shortest


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 25))
def test_places_are_spread_evenly_over_the_banks(banks: list[int], n: int) -> None:
    chosen = allocate(banks, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(n, len(banks))
    counts = {bank: sum(banks[i] == bank for i in chosen) for bank in set(banks)}
    most = max(counts.values(), default=0)
    for bank, count in counts.items():
        of_bank = [i for i, other in enumerate(banks) if other == bank]
        assert [i for i in chosen if banks[i] == bank] == of_bank[:count]  # the best of each
        assert count == len(of_bank) or count >= most - 1
