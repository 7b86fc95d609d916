"""Drawn tokens have the exact distribution, by chi-square over many seeds; and the test would notice if they had not."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.rows import BOTH, INF, NATIVE, around, softmax
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.step import StepSettings, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops

ROW = np.array([2.0, 1.7, 1.2, 0.4, 0.3, 0.0, -0.5, -1.5, -3.0, -INF, -6.0], np.float32)
N = 20_000
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.6},
    {"top_k": 5},
    {"top_p": 0.83, "temperature": 0.8},
    {"min_p": 0.07, "repetition_penalty": 1.4},
    {"typical_p": 0.7, "frequency_penalty": 0.5},
    {"smoothing_factor": 0.4, "top_n_sigma": 1.5},
]


def chi_square_limit(freedom: int) -> float:
    """What chance exceeds once in a hundred thousand draws. Source: Wilson and Hilferty 1931."""
    return freedom * (1 - 2 / (9 * freedom) + 4.265 * math.sqrt(2 / (9 * freedom))) ** 3


def misfit(counts: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    """Chi-square over its limit: above 1 the counts are not draws from p. Tokens that hardly come count as one."""
    assert (counts[p == 0] == 0).all()
    rare = p * counts.sum() < 10
    seen = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(p[~rare], p[rare].sum()) * counts.sum()
    seen, expected = seen[expected > 0], expected[expected > 0]
    return float(((seen - expected) ** 2 / expected).sum()) / chi_square_limit(max(len(seen) - 1, 1))


def drawn(options: dict[str, Any], ops: Ops, seeds: range, place: Callable[[int], tuple[int, list[int]]]) -> Any:
    """(how often each token came, its exact probability). place: number of the draw -> (seed, ids)."""
    config = GenerationConfig.from_options({"do_sample": True, "top_k": None, "candidates": 0} | options)
    settings = StepSettings.of(replace(config, output_scores=True), around(ops, n_vocab=len(ROW)))
    row = ops.tensor(ROW, len(ROW))
    counts = np.zeros(len(ROW), np.int64)
    probs = None
    for i in seeds:
        seed, ids = place(i)
        decision = decide(ids, row, replace(settings, seed=seed))
        counts[decision.choice.id] += 1
        if probs is None:
            assert decision.final is not None
            probs = softmax(decision.final.numpy()[0])
    return counts, probs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tokens_are_drawn_as_often_as_they_are_probable(options: dict[str, Any]) -> None:
    counts, probs = drawn(options, NATIVE, range(N), lambda i: (i, [0, 3, 3]))
    assert misfit(counts, probs) < 1


def test_the_reference_draws_the_same() -> None:
    for ops in BOTH:
        counts, probs = drawn({"top_k": 5}, ops, range(3000), lambda i: (i, [1]))
        assert misfit(counts, probs) < 1
        assert counts.tolist() == drawn({"top_k": 5}, BOTH[0], range(3000), lambda i: (i, [1]))[0].tolist()


def test_positions_are_as_good_as_seeds() -> None:
    ids = [0] * N
    counts, probs = drawn({}, NATIVE, range(1, 4000), lambda i: (12345, ids[:i]))
    assert misfit(counts, probs) < 1


def test_neighbours_in_position_are_independent() -> None:
    config = GenerationConfig(do_sample=True, top_k=None, candidates=0)
    settings = StepSettings.of(config, around(NATIVE, n_vocab=len(ROW)))
    row = NATIVE.tensor(ROW, len(ROW))
    pairs = np.zeros((len(ROW), len(ROW)), np.int64)
    for seed in range(8000):
        first, second = (decide(ids, row, replace(settings, seed=seed)).choice.id for ids in ([0], [0, 0]))
        pairs[first, second] += 1
    p = softmax(ROW)
    assert misfit(pairs.ravel(), np.outer(p, p).ravel()) < 1


BROKEN: dict[str, Callable[[Any, int, int], tuple[int, float]]] = {
    "the noise has the wrong key": lambda row, seed, position: NATIVE.gumbel_argmax(row, seed % 7, position),
    "the noise is too narrow": lambda row, seed, position: NATIVE.gumbel_argmax(
        NATIVE.temperature(row, 0.9), seed, position
    ),
    "there is no noise": lambda row, seed, position: (NATIVE.argmax(row), 0.0),
    "a filter came after the draw": lambda row, seed, position: NATIVE.gumbel_argmax(
        NATIVE.top_k(row, 6), seed, position
    ),
    "the noise is uniform": lambda row, seed, position: _uniform_argmax(row, seed, position),
}


def _uniform_argmax(row: Any, seed: int, position: int) -> tuple[int, float]:
    noise = np.array(NATIVE.gumbel(seed, position, range(len(ROW))))
    scores = row.numpy()[0] + np.exp(-np.exp(-noise))
    return int(scores.argmax()), float(scores.max())


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_draw_would_be_noticed(fault: str) -> None:
    names = ("tensor", "stats", "top", "gather", "rank", "temperature", "argmax")
    broken: Any = SimpleNamespace(**{name: getattr(NATIVE, name) for name in names}, gumbel_argmax=BROKEN[fault])
    counts, probs = drawn({}, broken, range(N), lambda i: (i, [0, 3, 3]))
    assert misfit(counts, probs) > 1
