"""Native filters keep the same tokens as the NumPy reference, and their logits bit by bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.errors import KernelError, NumericError
from fanlight.kernels import native as native_ops
from fanlight.kernels import reference
from kernels.rows import ROWS, both, logits

INF = math.inf
WIDE = 49152
MIN_KEEPS = (1, 3, 300, 10**6)
BY_MASS = ("top_p", "typical_p", "tail_free", "top_h")
SHARES = (1e-9, 0.1, 0.5, 0.93, 0.9999, 1.0)


def same(native: Any, x: np.ndarray, op: str, *arguments: Any) -> None:
    row, row_r = both(native, x)
    got, want = getattr(native, op)(row, *arguments).numpy(), getattr(reference, op)(row_r, *arguments).numpy()
    np.testing.assert_array_equal(got, want, err_msg=f"{op}{arguments} of {len(x)}")
    np.testing.assert_array_equal(row.numpy()[0], x)


def bits_of(flags: np.ndarray) -> bytes:
    packed = np.packbits(flags, bitorder="little").tobytes()
    return packed + bytes(-len(packed) % 4)


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("op", BY_MASS)
def test_filters_by_mass_keep_the_same_tokens(native: Any, row: Any, op: str) -> None:
    x = logits(*row)
    for share in SHARES:
        for min_keep in MIN_KEEPS:
            same(native, x, op, share, min_keep)


@pytest.mark.parametrize("op", BY_MASS)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 3.0, 30.0, 300.0])
def test_filters_by_mass_of_a_whole_vocabulary(native: Any, op: str, spread: float) -> None:
    x = logits(WIDE, 5, spread)
    for share in (0.01, 0.5, 0.95):
        if op == "typical_p" and spread == 1e-3:  # distances lie closer together than the mean is known
            row, row_r = both(native, x)
            got, want = native.typical_p(row, share).numpy(), reference.typical_p(row_r, share).numpy()
            assert (np.isfinite(got) != np.isfinite(want)).sum() <= 4
        else:
            same(native, x, op, share)
    same(native, np.where(x < np.sort(x)[-50], np.float32(-np.inf), x), op, 0.9, 2)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_filters_by_value_keep_the_same_tokens(native: Any, row: Any) -> None:
    x = logits(*row)
    left = x[x > -np.inf].astype(np.float64)
    for limit in (-INF, INF, -1e300, 1e300, 0.0, float(left.min()), float(left.max()), float(np.median(left)), 1e-320):
        for near in (limit, np.nextafter(limit, -INF), np.nextafter(limit, INF)):
            for min_keep in MIN_KEEPS:
                same(native, x, "keep_above", near, min_keep)
            same(native, x, "drop_above", near)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_filters_by_id_keep_the_same_tokens(native: Any, row: Any) -> None:
    x = logits(*row)
    rng = np.random.default_rng(row[1])
    for ids in (
        [0],
        [len(x) - 1, 0, len(x) - 1],
        rng.integers(0, len(x), 40).astype(np.int64),
        np.array([0], np.int32),
    ):
        same(native, x, "keep", ids)
    for flags in (rng.random(len(x)) < 0.5, np.zeros(len(x), bool), np.ones(len(x), bool)):
        bits = bits_of(flags)
        same(native, x, "mask", bits)
        same(native, x, "mask", np.frombuffer(bits + b"\xff" * 8, np.uint32))
        same(native, x, "mask", memoryview(b"\0" + bits)[1:])  # at an odd address


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-50, 50, width=32), st.sampled_from([-INF, 0.0, 1.0])), max_size=400),
    st.floats(-60, 60),
    st.integers(1, 40),
)
def test_any_row_is_cut_alike(values: list[float], limit: float, min_keep: int) -> None:
    x = np.array([*values, 1.0], np.float32)
    same(native_ops, x, "keep_above", limit, min_keep)
    same(native_ops, x, "drop_above", limit)
    for op in BY_MASS:
        row, row_r = both(native_ops, x)
        got, want = (
            getattr(ops, op)(r, 0.61803, min_keep).numpy() for ops, r in ((native_ops, row), (reference, row_r))
        )
        n_left = np.isfinite(x).sum()
        assert min(min_keep, n_left) <= np.isfinite(got).sum() <= n_left
        assert abs(int(np.isfinite(got).sum()) - int(np.isfinite(want).sum())) <= 1  # a share at a token's very edge


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 32])
def test_damaged_rows_come_through_to_the_choice(native: Any, bad: float, at: int) -> None:
    x = logits(33, 0)
    x[at] = bad
    for ops, row in zip((native, reference), both(native, x), strict=True):
        for filtered in (
            *(getattr(ops, op)(row, 0.5, 2) for op in BY_MASS),
            ops.keep_above(row, 1.0),
            ops.keep_above(row, 1e9, 40),
            ops.keep(row, [at, 3]),
            ops.mask(row, b"\xff" * 8),
        ):
            with pytest.raises(NumericError, match=r"NaN|inf"):
                ops.argmax(filtered)


def test_rows_with_nothing_left_stay_so(native: Any) -> None:
    x = np.full(20, -np.inf, np.float32)
    for op in BY_MASS:
        same(native, x, op, 0.5, 3)
    for op in ("keep_above", "drop_above"):
        same(native, x, op, 0.5)
        same(native, x, op, -INF)


REFUSALS = {
    **{f"{op} of {share}": (op, share) for op in BY_MASS for share in (0.0, -0.1, 1.1, math.nan)},
    **{f"{op} keeping {n}": (op, 0.5, n) for op in (*BY_MASS, "keep_above") for n in (0, -1)},
    "keep_above of NaN": ("keep_above", math.nan),
    "drop_above of NaN": ("drop_above", math.nan),
    "keep of nothing": ("keep", []),
    "keep outside": ("keep", [5]),
    "keep of a negative id": ("keep", np.array([-1])),
    "keep of an id beyond 32 bits": ("keep", np.array([1 << 32])),
    "keep of fractions": ("keep", np.array([1.0])),
    "keep of a matrix": ("keep", np.array([[1]])),
    "keep of text": ("keep", b"12"),
    "mask too short": ("mask", b"123"),
    "mask of a list": ("mask", [1]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_arguments_are_refused_by_both(native: Any, name: str) -> None:
    op, *arguments = REFUSALS[name]
    for ops, row in zip((native, reference), both(native, logits(5, 0)), strict=True):
        with pytest.raises(KernelError):
            getattr(ops, op)(row, *arguments)


def test_two_rows_are_refused_by_both(native: Any) -> None:
    for ops in (native, reference):
        rows = ops.tensor(bytes(48), 6)
        for op in (*BY_MASS, "keep_above", "drop_above"):
            with pytest.raises(KernelError, match="one"):
                getattr(ops, op)(rows, 0.5)
        for op, argument in (("keep", [0]), ("mask", b"1234")):
            with pytest.raises(KernelError, match="one"):
                getattr(ops, op)(rows, argument)
