"""`readings` says of many rows what the single ops say of each: bit for bit in both kinds of ops, and alike in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanlight.errors import KernelError, NumericError
from fanlight.kernels import reference
from fanlight.kernels.ops import Part, Readings

N_IN = 64
SIZES = [(1, 1, 1), (2, 7, 9), (3, 31, 5), (7, 33, 0), (9, 255, 20), (5, 257, 300), (31, 1000, 20), (70, 5003, 3)]
"""Rows, tokens, k."""


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rows_of(ops: Any, n_rows: int, seed: int = 1) -> Any:
    return ops.tensor(numbers((n_rows, N_IN), seed).tobytes(), N_IN)


def head(
    ops: Any, n_vocab: int, quantize: str | None = "Q8_0", bias: np.ndarray | None = None, spread: float = 1
) -> Any:
    matrix = numbers((n_vocab, N_IN), 2) * np.float32(spread)
    given = None if bias is None else bias.astype(np.float32).tobytes()
    packed = ops.pack(N_IN, [Part(matrix.tobytes(), n_vocab, "F32")], quantize=quantize, bias=given)
    ops.finish_packing()
    return packed


def tied_head(ops: Any, n_vocab: int) -> Any:
    """Five different rows, again and again: every logit is there many times."""
    matrix = np.resize(numbers((5, N_IN), 3), (n_vocab, N_IN))
    packed = ops.pack(N_IN, [Part(matrix.tobytes(), n_vocab, "F32")])
    ops.finish_packing()
    return packed


def some_tokens(n_rows: int, n_vocab: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(n_rows).integers(0, n_vocab, n_rows)]


def by_single_ops(ops: Any, h: Any, w: Any, tokens: list[int], k: int, softcap: float) -> Readings:
    logits = ops.linear(h, w)
    if softcap > 0:
        logits = ops.softcap(logits, softcap)
    k = min(k, w.n_out)
    ids, values, sums, of_token, ranks = [], [], [], [], []
    for index, token in enumerate(tokens):
        row = ops.row(logits, index)
        first, theirs = ops.top(row, k)
        missing = k - len(first)
        ids.append(first + [-1] * missing)
        values.append(theirs + [-np.inf] * missing)
        sums.append(ops.stats(row))
        of_token.append(ops.gather(row, [token])[0])
        ranks.append(ops.rank(row, token))
    n_rows = len(tokens)
    return Readings(
        np.array(ids, np.int32).reshape(n_rows, k),
        np.array(values, np.float32).reshape(n_rows, k),
        np.array([s.logsumexp for s in sums], np.float64),
        np.array([s.entropy for s in sums], np.float64),
        np.array(of_token, np.float32),
        np.array(ranks, np.int32),
    )


def assert_same_bits(got: Readings, want: Readings) -> None:
    for field, one, other in zip(Readings._fields, got, want, strict=True):
        assert one.dtype == other.dtype, field
        assert one.shape == other.shape, field
        assert one.tobytes() == other.tobytes(), field


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("softcap", [0.0, 7.5])
@pytest.mark.parametrize("quantize", [None, "Q8_0", "Q4_1"])
def test_readings_equal_the_single_ops_bit_for_bit(
    native: Any, size: Any, softcap: float, quantize: str | None
) -> None:
    n_rows, n_vocab, k = size
    tokens = some_tokens(n_rows, n_vocab)
    for ops in (native, reference):
        h, w = rows_of(ops, n_rows), head(ops, n_vocab, quantize)
        assert_same_bits(ops.readings(h, w, tokens, k, softcap), by_single_ops(ops, h, w, tokens, k, softcap))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_readings_of_the_twins_agree(native: Any, size: Any) -> None:
    n_rows, n_vocab, k = size
    tokens = some_tokens(n_rows, n_vocab)
    got, want = (ops.readings(rows_of(ops, n_rows), head(ops, n_vocab), tokens, k, 30.0) for ops in (native, reference))
    np.testing.assert_allclose(got.logits, want.logits, atol=2e-4)
    np.testing.assert_allclose(got.logsumexp, want.logsumexp, atol=2e-4)
    np.testing.assert_allclose(got.entropy, want.entropy, atol=2e-3)
    np.testing.assert_allclose(got.token_logits, want.token_logits, atol=2e-4)
    # Two logits that lie closer than the twins do may change places.
    assert (got.ids != want.ids).mean() < 0.01 if k else got.ids.shape == (n_rows, 0)
    assert np.abs(got.token_ranks - want.token_ranks).max() <= 2


@pytest.mark.parametrize("k", [1, 4, 300, 700])
def test_equal_logits_come_in_the_order_of_their_ids(native: Any, k: int) -> None:
    n_rows, n_vocab = 6, 601
    tokens = [0, 600, 300, 5, 4, 299]
    for ops in (native, reference):
        h, w = rows_of(ops, n_rows), tied_head(ops, n_vocab)
        got = ops.readings(h, w, tokens, k)
        assert_same_bits(got, by_single_ops(ops, h, w, tokens, k, 0.0))
        assert got.ids.shape == (n_rows, min(k, n_vocab))
        assert (np.diff(got.ids[:, : min(k, 100)]) == 5).all()


def test_removed_tokens_are_left_out_and_their_places_say_so(native: Any) -> None:
    n_rows, n_vocab, k = 5, 523, 20
    bias = np.full(n_vocab, -np.inf)
    bias[[3, 255, 256, 500, 522]] = [0, 1, 2, 0, 0]
    tokens = [3, 4, 522, 521, 256]
    for ops in (native, reference):
        h, w = rows_of(ops, n_rows), head(ops, n_vocab, "Q8_0", bias)
        got = ops.readings(h, w, tokens, k)
        assert_same_bits(got, by_single_ops(ops, h, w, tokens, k, 0.0))
        assert (got.ids[:, :5] >= 0).all()
        assert (got.ids[:, 5:] == -1).all()
        assert np.isneginf(got.logits[:, 5:]).all()
        assert [bool(removed) for removed in np.isneginf(got.token_logits)] == [False, True, False, True, False]


def test_a_peaked_row_and_a_flat_one(native: Any) -> None:
    tokens = some_tokens(9, 5003)
    for spread in (0.0, 1e-3, 40.0):
        h, w = rows_of(native, 9), head(native, 5003, None, spread=spread)
        assert_same_bits(native.readings(h, w, tokens, 20), by_single_ops(native, h, w, tokens, 20, 0.0))


def test_rows_of_several_groups_are_read_alike(native: Any, two_threads: None) -> None:
    """More rows than are held at once, and a number that no kernel takes in whole steps."""
    n_rows, n_vocab = 263, 259
    tokens = some_tokens(n_rows, n_vocab)
    h, w = rows_of(native, n_rows), head(native, n_vocab)
    together = native.readings(h, w, tokens, 4)
    assert_same_bits(together, by_single_ops(native, h, w, tokens, 4, 0.0))
    native.set_threads(1)
    assert_same_bits(native.readings(h, w, tokens, 4), together)
    for index in (0, 1, 255, 256, 262):
        alone = native.readings(native.take_rows(h, [index]), w, [tokens[index]], 4)
        assert_same_bits(alone, Readings(*(field[index : index + 1] for field in together)))


def test_a_wide_head_is_read_in_groups_too(native: Any) -> None:
    n_rows, n_vocab = 37, 66_001
    tokens = some_tokens(n_rows, n_vocab)
    h, w = rows_of(native, n_rows), head(native, n_vocab)
    assert_same_bits(native.readings(h, w, tokens, 20), by_single_ops(native, h, w, tokens, 20, 0.0))


def test_no_rows_have_no_readings(native: Any) -> None:
    for ops in (native, reference):
        got = ops.readings(ops.take_rows(rows_of(ops, 1), []), head(ops, 33), [], 40)
        assert [field.shape for field in got] == [(0, 33), (0, 33), (0,), (0,), (0,), (0,)]


@pytest.mark.parametrize(
    ("bad", "message"), [(np.nan, "row 0.*NaN"), (np.inf, r"row 0.*\+inf"), (-np.inf, "row 0.*no token is left")]
)
def test_damaged_rows_raise_and_say_which(native: Any, bad: float, message: str) -> None:
    bias = np.zeros(33)
    bias[slice(None) if bad == -np.inf else 17] = bad
    for ops in (native, reference):
        h, w = rows_of(ops, 3), head(ops, 33, None, bias)
        with pytest.raises(NumericError, match=message):
            ops.readings(h, w, [0, 1, 2], 4)


def test_the_first_damaged_row_is_named(native: Any) -> None:
    values = numbers((7, N_IN), 1)
    values[[4, 6], 3] = np.nan
    for ops in (native, reference):
        h = ops.tensor(values.tobytes(), N_IN)
        with pytest.raises(NumericError, match="row 4"):
            ops.readings(h, head(ops, 33, None), [0] * 7, 4)


REFUSALS = {
    "too few tokens": lambda ops, h, w: ops.readings(h, w, [0, 1], 4),
    "too many tokens": lambda ops, h, w: ops.readings(h, w, [0, 1, 2, 3], 4),
    "a token outside": lambda ops, h, w: ops.readings(h, w, [0, 1, 33], 4),
    "a negative token": lambda ops, h, w: ops.readings(h, w, [0, 1, -1], 4),
    "a negative k": lambda ops, h, w: ops.readings(h, w, [0, 1, 2], -1),
    "a negative softcap": lambda ops, h, w: ops.readings(h, w, [0, 1, 2], 4, -1.0),
    "a softcap that is NaN": lambda ops, h, w: ops.readings(h, w, [0, 1, 2], 4, float("nan")),
    "rows of another width": lambda ops, h, w: ops.readings(ops.tensor(bytes(12), 1), w, [0, 1, 2], 4),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_arguments_are_refused_by_both(native: Any, name: str) -> None:
    for ops in (native, reference):
        with pytest.raises(KernelError):
            REFUSALS[name](ops, rows_of(ops, 3), head(ops, 33))


def test_a_row_view_is_refused_as_linear_refuses_it(native: Any) -> None:
    h, w = rows_of(native, 3), head(native, 33)
    with pytest.raises(KernelError, match="take_rows"):
        native.readings(native.row(h, 1), w, [0], 4)
