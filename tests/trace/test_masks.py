"""Masks of attention: who may look where, and what softmax makes of it."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.masks import BLOCKED, KINDS, mask, masked, may_see, softmax


def test_a_causal_mask_lets_every_position_see_itself_and_what_came_before() -> None:
    seen = may_see(7, "causal")
    assert [[j <= i for j in range(7)] for i in range(7)] == seen.tolist()


def test_a_bidirectional_mask_lets_everything_through() -> None:
    assert mask(5, "bidirectional").tolist() == [[0.0] * 5] * 5


@pytest.mark.parametrize("window", [1, 2, 3, 7, 31])
def test_a_sliding_window_sees_as_many_positions_as_it_says(window: int) -> None:
    seen = may_see(7, "sliding window", window)
    assert seen.sum(1).tolist() == [min(i + 1, window) for i in range(7)]
    assert all(seen[i, i] for i in range(7))
    assert not np.triu(seen, 1).any()


@pytest.mark.parametrize("window", [0, 1, 3, 5])
def test_the_kernels_attention_is_softmax_of_masked_scores(window: int) -> None:
    from fanlight.kernels import reference as ops

    n, dim = 5, 7
    rng = np.random.default_rng(window)
    q, k = rng.normal(0, 1, (2, n, dim)).astype(np.float32)
    x = np.concatenate(
        [q, k, np.eye(n, dim, dtype=np.float32)], axis=1
    )  # values: one-hot, so that the result is the weights
    pool = ops.kv_pool(1, 1, dim, "F32")
    batch = pool.batch([[pool.allocate()]], [0], [n])
    stored = ops.store_kv(ops.tensor(x.tobytes(), x.shape[1]), batch, 0, None)
    found = ops.attention(stored, batch, 0, 1.0, window=window).numpy()[:, :n]
    kind = "sliding window" if window else "causal"
    np.testing.assert_allclose(found, softmax(masked(q @ k.T, kind, window)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_weights_are_exactly_zero_and_the_others_sum_to_one(kind: str, dtype: type) -> None:
    scores = np.random.default_rng(3).normal(0, 30, (11, 11)).astype(dtype)
    seen = may_see(11, kind, 4)
    weights = softmax(masked(scores, kind, 4))
    assert (weights[~seen] == 0).all()
    assert (weights[seen] > 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    for i in range(11):  # as if only what is seen were there
        row = np.exp(scores[i, seen[i]].astype(float) - scores[i, seen[i]].max())
        np.testing.assert_allclose(weights[i, seen[i]], row / row.sum(), rtol=1e-6)


def test_the_large_negative_number_gives_what_minus_infinity_gives() -> None:
    scores = np.random.default_rng(5).normal(0, 4, (9, 9))
    finite, infinite = (softmax(masked(scores, "causal", blocked=blocked)) for blocked in (BLOCKED, -inf))
    np.testing.assert_allclose(finite, infinite, rtol=1e-12)
    assert np.isnan(softmax([[-inf]])).all()
    assert softmax([[BLOCKED]]) == 1.0


def test_scores_are_not_written_to() -> None:
    scores = np.zeros((3, 3))
    masked(scores, "causal")
    assert not scores.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: may_see(0), "1 or more: got 0"),
        (lambda: may_see(True), "1 or more: got True"),
        (lambda: mask(3, "casual"), "a mask is causal, bidirectional, sliding window: got 'casual'"),
        (lambda: mask(3, "sliding window"), "window=0"),
        (lambda: masked([[1.0, 2.0]]), r"a row for each query and a column for each key: got \(1, 2\)"),
        (lambda: masked(np.zeros((0, 0))), "must be a square"),
        (lambda: masked([["a"]]), "a square of numbers: got list"),
        (lambda: masked([[inf]]), "NaN or infinite"),
        (lambda: softmax([[np.nan]]), "NaN"),
    ],
)
def test_what_is_no_mask_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(OptionError, match=message):
        make()
