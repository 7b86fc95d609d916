"""Beams that are drawn: without replacement, and without temperature the same as those that are the best."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import engine_of, generate, run, search_of, small_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.engine.loop import Engine

N_VOCAB = 7
CHI_SQUARE_9999 = {5: 25.75, 20: 52.39}  # by degrees of freedom: one in 10,000 lies beyond
DRAWN = {"do_sample": True, "top_k": 0}


def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
    return hashed_logits([20, *history], N_VOCAB, 0.4)


def softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(row.astype(np.float64) - row.max())
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def engine() -> Engine:
    return engine_of(FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB), vocabulary=small_vocabulary(N_VOCAB, 6))


def test_the_first_tokens_are_drawn_without_replacement() -> None:
    """Pairs of beams after one token, over many seeds, against the exact distribution."""
    n, one = 4000, engine()
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1, "candidates": 0, **DRAWN}
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(n):
        pair = generate(one, (1, 2), {**options, "seed": seed})
        counts[tuple(sorted(outcome.ids[0] or 0 for outcome in pair))] += 1
    p = softmax(logits_of((1, 2)))
    expected: Counter[tuple[int, ...]] = Counter()
    for a, b in permutations(range(N_VOCAB), 2):
        expected[tuple(sorted((a, b)))] += p[a] * p[b] / (1 - p[a])
    assert set(counts) <= set(expected)
    chi_square = sum((counts[pair] - n * share) ** 2 / (n * share) for pair, share in expected.items())
    assert min(expected.values()) * n > 5
    assert chi_square < CHI_SQUARE_9999[len(expected) - 1]


def test_the_second_tokens_are_drawn_by_the_scores_of_the_whole_texts() -> None:
    """How often the most probable continuation of all beams is drawn first, against its probability."""
    n, one = 1500, engine()
    options = {"num_beams": 2, "max_new_tokens": 2, "ignore_eos": True, "candidates": 1, **DRAWN}
    hits, expected, variance = 0, 0.0, 0.0
    for seed in range(n):
        search = search_of(run(one, (1, 2), {**options, "seed": seed}))
        going = [node for node in search.nodes if node.depth == 1 and node.fate == "kept"]
        first = next(node for node in search.nodes if node.depth == 2)
        scores = {}
        for node in going:
            for token, p in enumerate(softmax(logits_of((1, 2, node.id)))):
                scores[node.id, token] = node.score + np.log(p)
        total = sum(np.exp(list(scores.values())))
        likeliest = max(scores, key=scores.__getitem__)
        p = np.exp(scores[likeliest]) / total
        hits += (search.nodes[first.parent].id, first.id) == likeliest
        expected += p
        variance += p * (1 - p)
    assert abs(hits - expected) < 4 * variance**0.5


@pytest.mark.parametrize("prompt", [(1,), (4, 4, 2), (0, 1, 2, 3, 4)])
def test_without_temperature_it_is_beam_search(prompt: tuple[int, ...]) -> None:
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6, "candidates": 0}
    best = generate(engine(), prompt, options)
    cold = 1e-5
    drawn = generate(engine(), prompt, {**options, **DRAWN, "temperature": cold, "seed": 3})
    assert [outcome.ids for outcome in drawn] == [outcome.ids for outcome in best]
    assert [(outcome.score or 0) * cold for outcome in drawn] == pytest.approx([o.score for o in best], abs=1e-4)
    zero = generate(engine(), prompt, {**options, **DRAWN, "temperature": 0})
    assert zero == best


def test_a_seed_draws_the_same_beams_and_another_one_others() -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 8, **DRAWN}
    first, again, other = (generate(engine(), (3, 1), {**options, "seed": seed}) for seed in (5, 5, 6))
    assert first == again
    assert [outcome.ids for outcome in first] != [outcome.ids for outcome in other]


def test_filters_limit_what_is_drawn() -> None:
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3, "do_sample": True, "top_k": 2}
    for seed in range(30):
        for outcome in generate(engine(), (1, 2), {**options, "seed": seed, "candidates": 0, "ignore_eos": True}):
            ids = [token or 0 for token in outcome.ids]
            for i, token in enumerate(ids):
                row = logits_of((1, 2, *ids[:i]))
                assert (row > row[token]).sum() < 2
