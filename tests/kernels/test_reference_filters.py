"""The filters and changes of a logits row, against definitions in plain Python."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.kernels import reference as ops
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

INF = math.inf

# few distinct values, so that ties are common; some tokens removed already
LOGITS = st.lists(st.sampled_from([-INF, -3.5, -1.0, -0.0, 0.0, 0.25, 1.0, 2.5, 6.0]), min_size=1, max_size=33).filter(
    lambda row: max(row) > -INF
)
SHARES = st.floats(0.01, 0.99)
MIN_KEEP = st.integers(1, 9)


def tensor(logits: Iterable[float]) -> Tensor:
    return Tensor(np.array([list(logits)], np.float32))


def values(row: Tensor) -> list[float]:
    listed: list[float] = row.numpy()[0].tolist()
    return listed


def left(row: Tensor) -> set[int]:
    return {token for token, x in enumerate(values(row)) if x > -INF}


def order(logits: list[float]) -> list[int]:
    return sorted((i for i, x in enumerate(logits) if x > -INF), key=lambda token: (-logits[token], token))


def probabilities(logits: list[float]) -> list[float]:
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / math.fsum(weights) for w in weights]


@given(LOGITS, st.sampled_from([-INF, -3.5, -1.1, 0.0, 0.3, 6.0, 7.0, INF]), MIN_KEEP)
def test_keep_above_falls_back_to_the_first_tokens(logits: list[float], limit: float, min_keep: int) -> None:
    reached = [i for i in order(logits) if logits[i] >= limit]
    kept = left(ops.keep_above(tensor(logits), limit, min_keep))
    assert kept == set(reached if len(reached) >= min_keep else order(logits)[:min_keep])


@given(LOGITS, st.sampled_from([-INF, -3.5, -1.1, 0.0, 0.3, 6.0, 7.0, INF]))
def test_drop_above_leaves_the_last_of_those_that_reach_the_limit(logits: list[float], limit: float) -> None:
    reached = [i for i in order(logits) if logits[i] >= limit]
    assert left(ops.drop_above(tensor(logits), limit)) == set(order(logits)) - set(reached[:-1])


@given(LOGITS, SHARES, MIN_KEEP)
def test_top_p_keeps_min_keep_tokens(logits: list[float], p: float, min_keep: int) -> None:
    alone = left(ops.top_p(tensor(logits), p))
    assert left(ops.top_p(tensor(logits), p, min_keep)) == alone | set(order(logits)[:min_keep])


@given(LOGITS, SHARES, MIN_KEEP)
def test_typical_p_keeps_the_nearest_to_the_entropy(logits: list[float], mass: float, min_keep: int) -> None:
    p = probabilities(logits)
    entropy = -math.fsum(x * math.log(x) for x in p if x)
    distances = {i: round(abs(-math.log(p[i]) - entropy), 9) for i in order(logits)}
    near = sorted(distances, key=lambda i: (distances[i], i))
    count = next(n for n in range(1, len(near) + 1) if math.fsum(p[i] for i in near[:n]) >= mass - 1e-9)
    if abs(math.fsum(p[i] for i in near[:count]) - mass) > 1e-6:
        kept = left(ops.typical_p(tensor(logits), mass, min_keep))
        wanted = set(near[: max(count, min_keep)])
        assert len(kept) == len(wanted)
        assert sorted(distances[i] for i in kept) == sorted(distances[i] for i in wanted)  # two may be equally far


def test_typical_p_may_remove_the_most_probable_token() -> None:
    assert 0 not in left(ops.typical_p(tensor([3.0, *[0.0] * 40]), 0.2))
    assert left(ops.typical_p(tensor([1.0] * 4), 0.5)) == {0, 1}


@given(LOGITS, SHARES, MIN_KEEP)
def test_tail_free_cuts_where_the_curvature_is_spent(logits: list[float], z: float, min_keep: int) -> None:
    first = order(logits)
    p = [probabilities(logits)[i] for i in first]
    curvature = [abs(p[i] - 2 * p[i + 1] + p[i + 2]) for i in range(len(p) - 2)]
    total = math.fsum(curvature)
    count = len(p)
    spent = 0.0
    for i, c in enumerate(curvature):
        spent += c / total if total > 1e-6 else 1 / len(curvature)
        if abs(spent - z) < 1e-9:
            return  # the last bit of a sum decides
        if spent > z and i >= min_keep:
            count = i
            break
    assert left(ops.tail_free(tensor(logits), z, min_keep)) == set(first[:count])


@given(LOGITS, SHARES, MIN_KEEP)
def test_top_h_bounds_the_sum_of_entropy_terms(logits: list[float], h: float, min_keep: int) -> None:
    first = order(logits)
    terms = [-p * math.log(p) for p in (probabilities(logits)[i] for i in first)]
    bound = h * math.fsum(terms)
    sums = [math.fsum(terms[: n + 1]) for n in range(len(terms))]
    if min(abs(s - bound) for s in sums) > 1e-9:
        count = max(min_keep, sum(s <= bound for s in sums))
        assert left(ops.top_h(tensor(logits), h, min_keep)) == set(first[:count])


def test_top_h_looks_at_a_hundred_tokens() -> None:
    row = tensor(np.linspace(0, 1, 258))
    assert len(left(ops.top_h(row, 1.0))) == 100
    assert len(left(ops.top_h(row, 0.2, 130))) == 130


@given(LOGITS)
def test_a_share_of_one_removes_nothing(logits: list[float]) -> None:
    for op in (ops.top_p, ops.typical_p, ops.tail_free):
        assert values(op(tensor(logits), 1.0)) == logits


def test_asked_for_tokens_keep_their_logits() -> None:
    row = tensor([1.0, 5.0, -INF, 2.0, 0.5])
    assert left(ops.keep(row, [3, 0, 2, 3])) == {0, 3}
    assert values(ops.mask(row, bytes([0b01001, 0, 0, 0]))) == [1.0, -INF, -INF, 2.0, -INF]
    assert values(ops.bias_mask(row, bytes([0b00110, 0, 0, 0]), 1.5)) == [1.0, 6.5, -INF, 2.0, 0.5]


def test_a_bias_adds_up_and_brings_nothing_back() -> None:
    row = tensor([1.0, 5.0, -INF, 2.0])
    assert values(ops.bias(row, [1, 0, 1, 2], [0.5, -INF, 1.0, 100.0])) == [-INF, 6.5, -INF, 2.0]


@given(LOGITS)
def test_log_softmax_holds_the_logarithms_of_the_probabilities(logits: list[float]) -> None:
    got = values(ops.log_softmax(tensor(logits)))
    for x, p in zip(got, probabilities(logits), strict=True):
        assert x == (pytest.approx(math.log(p), abs=1e-6) if p else -INF)


@given(LOGITS, st.floats(-1, 2))
def test_near_target_is_highest_at_the_target(logits: list[float], target: float) -> None:
    got = values(ops.near_target(tensor(logits), target))
    for x, p in zip(got, probabilities(logits), strict=True):
        d = abs(p - target) / 0.3
        assert x == (pytest.approx(5 - 10 * d * d / (1 + d), abs=1e-5) if p else -INF)


@given(LOGITS, st.floats(0.01, 3), st.floats(0.5, 4))
def test_smooth_bends_around_the_largest_logit(logits: list[float], factor: float, curve: float) -> None:
    got = values(ops.smooth(tensor(logits), factor, curve))
    for x, smoothed in zip(logits, got, strict=True):
        d = x - max(logits)
        expected = (
            -factor * (3 - curve) / 2 * d**2 + factor * (curve - 1) / 2 * d**3 + max(logits) if x > -INF else -INF
        )
        assert smoothed == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_blend_needs_both() -> None:
    a, b = tensor([1.0, 2.0, -INF, 4.0]), tensor([10.0, -INF, 3.0, 0.0])
    assert values(ops.blend(a, b, 1.5, -0.5)) == [-3.5, -INF, -INF, 6.0]
    assert values(ops.blend(a, b, 0.0, 1.0)) == [10.0, -INF, -INF, 0.0]


@given(LOGITS)
def test_the_deviation_is_that_of_the_tokens_left(logits: list[float]) -> None:
    kept = [x for x in logits if x > -INF]
    mean = math.fsum(kept) / len(kept)
    expected = math.sqrt(math.fsum((x - mean) ** 2 for x in kept) / len(kept))
    assert ops.deviation(tensor(logits)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "op",
    [
        lambda row: ops.keep_above(row, 3.0),
        lambda row: ops.drop_above(row, 1.5),
        lambda row: ops.typical_p(row, 0.1),
        lambda row: ops.top_h(row, 0.1),
        lambda row: ops.keep(row, [1]),
        lambda row: ops.mask(row, bytes(4)),
        lambda row: ops.bias(row, [1], [2.0]),
        lambda row: ops.bias_mask(row, b"\xff" * 4, 2.0),
        lambda row: ops.log_softmax(row),
        lambda row: ops.blend(row, row, 2.0, -0.5),
        lambda row: ops.smooth(row, 0.5),
        lambda row: ops.near_target(row, 0.5),
    ],
)
def test_ops_do_not_write_to_their_input(op: Callable[[Tensor], Tensor]) -> None:
    row = tensor([1.0, 5.0, 2.0])
    assert values(op(row)) != [1, 5, 2]
    assert values(row) == [1, 5, 2]


def test_draws_without_replacement_are_the_largest_sums() -> None:
    logits = [0.5, -INF, 2.0, 1.0, -1.0, 3.0, 0.0]
    noise = ops.gumbel(9, 5, range(7))
    scores = {i: logits[i] + noise[i] for i in order(logits)}
    best = sorted(scores, key=lambda i: -scores[i])
    assert ops.gumbel_top(tensor(logits), 9, 5, 4) == (best[:4], [scores[i] for i in best[:4]])
    assert ops.gumbel_top(tensor(logits), 9, 5, 40)[0] == best


def test_draws_without_replacement_have_the_right_probabilities() -> None:
    """The second draw follows the softmax without the first: P(i, j) = p_i p_j / (1 - p_i). Source: Kool et al. 2019."""
    logits = [1.0, 0.0, -0.5, 0.7]
    p = probabilities(logits)
    n = 12000
    counts = np.zeros((4, 4))
    for seed in range(n):
        first, second = ops.gumbel_top(tensor(logits), seed, 3, 2)[0]
        counts[first, second] += 1
    expected = np.array([[0 if i == j else n * p[i] * p[j] / (1 - p[i]) for j in range(4)] for i in range(4)])
    off = expected > 0
    assert ((counts[off] - expected[off]) ** 2 / expected[off]).sum() < 52  # 11 degrees of freedom: once in a million
