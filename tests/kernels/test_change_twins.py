"""Native changes of a row, sums of it and draws from it equal the NumPy reference."""

from __future__ import annotations

import array
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fanlight.errors import KernelError, NumericError
from fanlight.kernels import native as native_ops
from fanlight.kernels import reference
from fanlight.kernels.mersenne import green_list
from kernels.rows import ROWS, both, logits

INF = math.inf


def results(native: Any, x: np.ndarray, op: str, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    row, row_r = both(native, x)
    got, want = getattr(native, op)(row, *arguments).numpy(), getattr(reference, op)(row_r, *arguments).numpy()
    np.testing.assert_array_equal(row.numpy()[0], x)
    return got, want


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_changes_are_the_same_numbers(native: Any, row: Any) -> None:
    x = logits(*row)
    rng = np.random.default_rng(row[1])
    ids = rng.integers(0, len(x), 9)
    amounts = rng.normal(0, 3, 9)
    amounts[3] = -INF
    bits = rng.bytes((len(x) + 31) // 32 * 4)
    for call in (
        ("bias", ids, amounts),
        ("bias", ids.tolist(), amounts.tolist()),
        ("bias", ids.astype(np.int32), amounts.astype(np.float32)),
        ("bias", array.array("q", ids.tolist()), array.array("d", amounts)),
        ("bias", [], []),
        ("bias_mask", bits, 1.7),
        ("bias_mask", bits, -INF),
        ("finite",),
        ("smooth", 0.3),
        ("smooth", 1.7, 2.5),
        ("smooth", 0.2, 5.0),
    ):
        np.testing.assert_array_equal(*results(native, x, *call), err_msg=str(call))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_changes_by_probability_agree_to_rounding(native: Any, row: Any) -> None:
    x = logits(*row)
    for call in (("log_softmax",), ("near_target", 0.4), ("near_target", 0.0)):
        got, want = results(native, x, *call)
        np.testing.assert_array_equal(np.isneginf(got), np.isneginf(x)[None])
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)
    got = native.log_softmax(native.tensor(x.tobytes(), len(x))).numpy().astype(np.float64)
    assert np.exp(got).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_blend_is_the_same_numbers(native: Any, row: Any) -> None:
    x, y = logits(*row), logits(row[0], 99, 2.0, 0.3)
    (a, a_r), (b, b_r) = both(native, x), both(native, y)
    for weights in ((1.5, -0.5), (0.0, 1.0), (-2.0, 0.0)):
        got, want = native.blend(a, b, *weights).numpy(), reference.blend(a_r, b_r, *weights).numpy()
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.isneginf(got[0]), np.isneginf(x) | np.isneginf(y))
    assert a.numpy().tolist() == [x.tolist()]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_deviation_agrees(native: Any, row: Any) -> None:
    for by in (1, 1e-6, 1e30):
        x, x_r = both(native, logits(*row) * np.float32(by))
        want = reference.deviation(x_r)
        assert native.deviation(x) == pytest.approx(want, rel=2e-6, abs=1e-6 * by)
        assert native.deviation(x) == native.deviation(x)


def test_sums_are_remembered_for_each_row_of_a_tensor(native: Any) -> None:
    rows = np.stack([logits(300, seed, spread) for seed, spread in ((1, 2.0), (2, 5.0), (3, 0.5))])
    x, x_r = native.tensor(rows.tobytes(), 300), reference.tensor(rows.tobytes(), 300)
    for index in (2, 0, 1, 1, 2, 0):
        row, row_r = native.row(x, index), reference.row(x_r, index)
        for _ in range(2):
            np.testing.assert_allclose(native.stats(row), reference.stats(row_r), atol=1e-5)
            assert native.deviation(row) == pytest.approx(reference.deviation(row_r), rel=1e-6)


def test_the_sums_of_a_changed_row_are_its_own(native: Any) -> None:
    row = native.tensor(logits(300, 1).tobytes(), 300)
    before = native.stats(row)
    for _ in range(50):  # memory is used again
        assert native.stats(native.top_k(row, 3)).n_kept == 3
        assert native.stats(native.top_k(row, 7)).n_kept == 7
    assert native.stats(row) == before


def test_numbers_that_are_none_become_finite(native: Any) -> None:
    x = logits(33, 3, removed=0.3)
    x[[0, 5, 17, 31, 32]] = np.nan, np.inf, np.nan, np.inf, -np.nan
    got, want = results(native, x, "finite")
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got[0, [0, 5, 17, 32]], [0, np.finfo(np.float32).max, 0, 0])


def test_a_smoothed_row_holds_no_nan_however_low_a_logit(native: Any) -> None:
    x = np.array([1, -1e6, -1e30, -3e38, -np.inf, 0.5], np.float32)
    for curve in (1.0, 2.0, 5.0):
        got, want = results(native, x, "smooth", 0.3, curve)
        np.testing.assert_array_equal(got, want)
        assert not np.isnan(got).any()
        assert got[0, 4] == -np.inf


def sums_of(ops: Any) -> tuple[Callable[[Any], object], ...]:
    """The ops that need a sum over the row, or a choice from it."""
    return (
        ops.deviation,
        ops.log_softmax,
        lambda row: ops.near_target(row, 0.5),
        lambda row: ops.gumbel_top(row, 1, 2, 3),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 32])
def test_damaged_rows_raise_or_come_through(native: Any, bad: float, at: int) -> None:
    x = logits(33, 0)
    x[at] = bad
    for ops, row in zip((native, reference), both(native, x), strict=True):
        for call in (
            ops.deviation,
            ops.log_softmax,
            lambda r, ops=ops: ops.near_target(r, 0.5),
            lambda r, ops=ops: ops.gumbel_top(r, 1, 2, 3),
        ):
            for _ in range(2):
                with pytest.raises(NumericError, match=r"NaN|inf"):
                    call(row)
        for changed in (
            ops.smooth(row, 0.5),
            ops.bias(row, [at], [1.0]),
            ops.bias_mask(row, b"\xff" * 8, 1.0),
            ops.blend(row, row, 0.7, 0.3),
        ):
            with pytest.raises(NumericError, match=r"NaN|inf"):
                ops.argmax(changed)


def test_a_row_with_nothing_left_has_no_sums(native: Any) -> None:
    for ops, row in zip((native, reference), both(native, np.full(20, -np.inf, np.float32)), strict=True):
        for call in (
            ops.deviation,
            ops.log_softmax,
            lambda r, ops=ops: ops.near_target(r, 0.5),
            lambda r, ops=ops: ops.gumbel_top(r, 1, 2, 3),
        ):
            with pytest.raises(NumericError, match="no token is left"):
                call(row)


# -- chance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_draws_without_replacement_are_the_same_tokens(native: Any, row: Any) -> None:
    x, x_r = both(native, logits(*row))
    for seed, position in ((0, 0), (2**64 - 1, 5), (7, 1000)):
        for n in (1, 2, 7, 33, 999, 10**6):
            (ids, scores), (ids_r, scores_r) = (
                native.gumbel_top(x, seed, position, n),
                reference.gumbel_top(x_r, seed, position, n),
            )
            assert ids == ids_r
            np.testing.assert_allclose(scores, scores_r, atol=1e-9)
        first, score = native.gumbel_argmax(x, seed, position)
        assert (ids[0], scores[0]) == (first, score)


def test_draws_without_replacement_from_a_vocabulary(native: Any) -> None:
    for spread in (0.0, 1e-3, 1.0, 30.0, 300.0):
        x, x_r = both(native, logits(50257, 5, spread))
        for position in range(4):
            for n in (2, 5, 64):
                assert native.gumbel_top(x, 3, position, n)[0] == reference.gumbel_top(x_r, 3, position, n)[0]


@pytest.mark.parametrize("n_vocab", [1, 2, 7, 31, 32, 33, 623, 625, 49152, 50257])
def test_green_lists_are_the_same_bits(n_vocab: int) -> None:
    for seed in (0, 1, 15485863, 2**32 - 1, 2**32, 2**63 + 9, 2**64 - 1, -1, -(2**63)):
        for n_green in {0, 1, n_vocab // 4, n_vocab // 2, n_vocab}:
            if n_green <= n_vocab:
                got = native_ops.green_list(seed, n_vocab, n_green)
                assert got == green_list(seed, n_vocab, n_green)
                assert len(got) == (n_vocab + 31) // 32 * 4
                assert sum(byte.bit_count() for byte in got) == n_green


REFUSALS = {
    "bias outside": lambda ops, row: ops.bias(row, [5], [1.0]),
    "bias of a negative id": lambda ops, row: ops.bias(row, [-1], [1.0]),
    "bias without an amount": lambda ops, row: ops.bias(row, [1, 2], [1.0]),
    "bias of NaN": lambda ops, row: ops.bias(row, [1], [math.nan]),
    "bias of +inf": lambda ops, row: ops.bias(row, [1], np.array([math.inf])),
    "bias of fractional ids": lambda ops, row: ops.bias(row, np.array([0.5]), [1.0]),
    "bias mask too short": lambda ops, row: ops.bias_mask(row, b"123", 1.0),
    "bias mask of NaN": lambda ops, row: ops.bias_mask(row, b"1234", math.nan),
    "bias mask of +inf": lambda ops, row: ops.bias_mask(row, b"1234", math.inf),
    "blend of unequal rows": lambda ops, row: ops.blend(row, ops.tensor(bytes(24), 6), 1.0, 1.0),
    "blend with NaN": lambda ops, row: ops.blend(row, row, math.nan, 1.0),
    "blend with inf": lambda ops, row: ops.blend(row, row, 1.0, math.inf),
    "smooth of zero": lambda ops, row: ops.smooth(row, 0.0),
    "smooth of NaN": lambda ops, row: ops.smooth(row, math.nan),
    "smooth along a curve of zero": lambda ops, row: ops.smooth(row, 1.0, 0.0),
    "smooth beyond float32": lambda ops, row: ops.smooth(row, 1e38, 1e38),
    "target of NaN": lambda ops, row: ops.near_target(row, math.nan),
    "target of inf": lambda ops, row: ops.near_target(row, math.inf),
    "deviation of two rows": lambda ops, row: ops.deviation(ops.tensor(bytes(16), 2)),
    "draw of nothing": lambda ops, row: ops.gumbel_top(row, 1, 0, 0),
    "green list of no vocabulary": lambda ops, row: ops.green_list(1, 0, 0),
    "green list of a vast vocabulary": lambda ops, row: ops.green_list(1, 2**24 + 1, 1),
    "green list longer than the vocabulary": lambda ops, row: ops.green_list(1, 7, 8),
    "green list of a negative size": lambda ops, row: ops.green_list(1, 7, -1),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_arguments_are_refused_by_both(native: Any, name: str) -> None:
    for ops, row in zip((native, reference), both(native, logits(5, 0)), strict=True):
        with pytest.raises(KernelError):
            REFUSALS[name](ops, row)
