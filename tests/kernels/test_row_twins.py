"""Native ops on one logits row equal the NumPy reference: same tokens kept, same choice, same sums to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.errors import KernelError, NumericError
from fanlight.kernels import native as native_ops
from fanlight.kernels import reference
from kernels.rows import ROWS, both, logits


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_filters_keep_the_same_tokens(native: Any, row: Any) -> None:
    x, xr = both(native, logits(*row))
    for call in (
        *(lambda ops, r, k=k: ops.top_k(r, k) for k in (1, 2, 40, 5003, 10**6)),
        *(lambda ops, r, p=p: ops.top_p(r, p) for p in (1e-9, 0.1, 0.5, 0.93, 1.0)),
        *(lambda ops, r, t=t: ops.temperature(r, t) for t in (0.1, 0.7, 1.3)),
        lambda ops, r: ops.repetition_penalty(r, [0, row[0] - 1, 0, row[0] // 2], 1.3),
    ):
        np.testing.assert_array_equal(call(native, x).numpy(), call(reference, xr).numpy())


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_readings_agree(native: Any, row: Any) -> None:
    x, xr = both(native, logits(*row))
    assert native.argmax(x) == reference.argmax(xr)
    for n in (0, 1, 20, 200):
        assert native.top(x, n) == reference.top(xr, n)
    ids = [0, row[0] - 1, row[0] // 3]
    assert native.gather(x, ids) == reference.gather(xr, ids)
    assert [native.rank(x, i) for i in ids] == [reference.rank(xr, i) for i in ids]
    got, want = native.stats(x), reference.stats(xr)
    assert got.n_kept == want.n_kept
    assert got.max == want.max
    np.testing.assert_allclose([got.logsumexp, got.entropy], [want.logsumexp, want.entropy], atol=2e-5)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_draws_are_the_same_token(native: Any, row: Any) -> None:
    x, xr = both(native, logits(*row))
    for seed in (0, 1, 2**64 - 1):
        for position in (0, 1, 1000):
            got, want = native.gumbel_argmax(x, seed, position), reference.gumbel_argmax(xr, seed, position)
            assert got[0] == want[0]
            assert got[1] == pytest.approx(want[1], abs=1e-9)


def test_draws_from_a_flat_and_from_a_peaked_vocabulary(native: Any) -> None:
    for spread in (0.0, 1e-3, 1.0, 30.0, 300.0):
        x = (np.random.default_rng(5).standard_normal(50257) * spread).astype(np.float32)
        row, row_r = both(native, x)
        for position in range(20):
            assert native.gumbel_argmax(row, 3, position)[0] == reference.gumbel_argmax(row_r, 3, position)[0]


def test_noise_is_the_same_number(native: Any) -> None:
    ids = [*list(range(300)), 2**31 - 1]
    np.testing.assert_allclose(native.gumbel(9, 4, ids), reference.gumbel(9, 4, ids), rtol=1e-14, atol=1e-14)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-50, 50, width=32), st.just(-float("inf"))), min_size=1, max_size=80),
    st.integers(1, 30),
    st.floats(0.01, 1),
)
def test_any_row_is_filtered_alike(values: list[float], k: int, p: float) -> None:
    x = np.array([*values, 1.0], np.float32)
    row, row_r = both(native_ops, x)
    np.testing.assert_array_equal(native_ops.top_k(row, k).numpy(), reference.top_k(row_r, k).numpy())
    assert native_ops.top(row, k) == reference.top(row_r, k)
    kept, kept_r = np.isfinite(native_ops.top_p(row, p).numpy()), np.isfinite(reference.top_p(row_r, p).numpy())
    if not np.array_equal(kept, kept_r):  # p exactly at a token's edge: a rounding of the total decides
        weights = np.sort(np.exp(x.astype(np.float64) - x.max()))[::-1]
        edges = np.cumsum(weights) / weights.sum()
        assert np.abs(edges - p).min() < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 32])
def test_damaged_rows_raise_when_something_is_chosen(native: Any, bad: float, at: int) -> None:
    x = logits(33, 0)
    x[at] = bad
    for ops, row in zip((native, reference), both(native, x), strict=True):
        for call in (ops.argmax, ops.stats, lambda r, ops=ops: ops.gumbel_argmax(r, 0, 0)):
            with pytest.raises(NumericError, match=r"NaN|inf"):
                call(row)
        for filtered in (ops.top_p(row, 0.5), ops.top_k(row, 3), ops.temperature(row, 2.0)):
            with pytest.raises(NumericError):
                ops.argmax(filtered)


def test_a_row_with_nothing_left_raises(native: Any) -> None:
    for ops, row in zip((native, reference), both(native, np.full(20, -np.inf, np.float32)), strict=True):
        for call in (ops.argmax, ops.stats, lambda r, ops=ops: ops.gumbel_argmax(r, 0, 0)):
            with pytest.raises(NumericError, match="no token is left"):
                call(row)


REFUSALS = {
    "two rows": lambda ops, row: ops.argmax(ops.tensor(bytes(16), 2)),
    "k of zero": lambda ops, row: ops.top_k(row, 0),
    "p of zero": lambda ops, row: ops.top_p(row, 0.0),
    "p above one": lambda ops, row: ops.top_p(row, 1.1),
    "p that is NaN": lambda ops, row: ops.top_p(row, float("nan")),
    "temperature of zero": lambda ops, row: ops.temperature(row, 0.0),
    "temperature that is NaN": lambda ops, row: ops.temperature(row, float("nan")),
    "infinite penalty": lambda ops, row: ops.repetition_penalty(row, [0], float("inf")),
    "id outside": lambda ops, row: ops.repetition_penalty(row, [5], 1.1),
    "gather outside": lambda ops, row: ops.gather(row, [-1]),
    "rank outside": lambda ops, row: ops.rank(row, 5),
    "top of a negative number": lambda ops, row: ops.top(row, -1),
    "row outside": lambda ops, row: ops.row(row, 1),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_arguments_are_refused_by_both(native: Any, name: str) -> None:
    for ops, row in zip((native, reference), both(native, logits(5, 0)), strict=True):
        with pytest.raises(KernelError):
            REFUSALS[name](ops, row)
