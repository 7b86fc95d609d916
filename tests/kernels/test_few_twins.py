"""A row of which little is left is stored so; every op on it gives what the reference gives, and reads it as a whole row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanlight.errors import NumericError
from fanlight.kernels import reference

N = 5003
BITS = np.packbits(np.arange(-(-N // 32) * 32) % 3 != 1, bitorder="little").tobytes()
FIRST = {
    "top_k": lambda ops, row: ops.top_k(row, 40),
    "top_p": lambda ops, row: ops.top_p(row, 0.7),
    "keep_above": lambda ops, row: ops.keep_above(row, 7.5),
    "keep": lambda ops, row: ops.keep(row, [5002, 0, 17, 4000, 31, 32]),
    "one": lambda ops, row: ops.top_k(row, 1),
    "typical_p": lambda ops, row: ops.typical_p(row, 0.2),
    "blend": lambda ops, row: ops.blend(ops.top_k(row, 9), row, 0.5, 0.25),
}
THEN = {
    "temperature": lambda ops, row: ops.temperature(row, 0.7),
    "repetition_penalty": lambda ops, row: ops.repetition_penalty(row, [0, 17, 5002, 100, 17], 1.7),
    "bias": lambda ops, row: ops.bias(row, [17, 5001, 0, 17], [1.5, 2.0, -np.inf, 0.5]),
    "mask": lambda ops, row: ops.mask(row, BITS),
    "bias_mask": lambda ops, row: ops.bias_mask(row, BITS, 1.25),
    "finite": lambda ops, row: ops.finite(row),
    "smooth": lambda ops, row: ops.smooth(row, 0.3, 1.5),
    "blend": lambda ops, row: ops.blend(row, row, 2.0, -0.5),
    "keep": lambda ops, row: ops.keep(row, [5002, 0, 17, 3999]),
    "top_k": lambda ops, row: ops.top_k(row, 3),
    "all of top_k": lambda ops, row: ops.top_k(row, 4000),
    "top_p": lambda ops, row: ops.top_p(row, 0.6),
    "typical_p": lambda ops, row: ops.typical_p(row, 0.5, 2),
    "tail_free": lambda ops, row: ops.tail_free(row, 0.9),
    "top_h": lambda ops, row: ops.top_h(row, 0.5),
    "keep_above": lambda ops, row: ops.keep_above(row, 9.0, 2),
    "drop_above": lambda ops, row: ops.drop_above(row, 9.0),
}
NEARLY = ("log_softmax", "near_target")


def rows(native: Any, first: str, seed: int) -> tuple[Any, Any, np.ndarray]:
    x = (np.random.default_rng(seed).standard_normal(N) * 3).astype(np.float32)
    if seed % 2:
        x = np.round(x)  # ties
    x[[0, 17, 5002, 4000, 31]] = [9.0, 8.0, 8.0, 11.5, 8.5]
    whole = native.tensor(x.tobytes(), N), reference.tensor(x.tobytes(), N)
    return FIRST[first](native, whole[0]), FIRST[first](reference, whole[1]), x


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("then", THEN)
def test_ops_on_few_give_the_same_row(native: Any, first: str, then: str, seed: int) -> None:
    few, few_r, _ = rows(native, first, seed)
    np.testing.assert_array_equal(few.numpy(), few_r.numpy())
    result = THEN[then](native, few)
    np.testing.assert_array_equal(result.numpy(), THEN[then](reference, few_r).numpy())
    np.testing.assert_array_equal(few.numpy(), few_r.numpy())  # not written to
    again = THEN[then](native, result) if then != "drop_above" else result  # and on what came of it
    expected = THEN[then](reference, THEN[then](reference, few_r)) if then != "drop_above" else result
    np.testing.assert_array_equal(again.numpy(), expected.numpy())


@pytest.mark.parametrize("op", NEARLY)
@pytest.mark.parametrize("first", FIRST)
def test_ops_that_sum_up_agree_on_few(native: Any, first: str, op: str) -> None:
    few, few_r, _ = rows(native, first, 0)
    call = (
        (lambda ops, row: ops.near_target(row, 0.3)) if op == "near_target" else (lambda ops, row: ops.log_softmax(row))
    )
    got, want = call(native, few).numpy(), call(reference, few_r).numpy()
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    np.testing.assert_allclose(got[np.isfinite(got)], want[np.isfinite(want)], atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("first", FIRST)
def test_readings_and_draws_of_few_agree(native: Any, first: str, seed: int) -> None:
    few, few_r, _ = rows(native, first, seed)
    ids = [0, 17, 31, 100, 4000, 5002]
    assert native.argmax(few) == reference.argmax(few_r)
    assert native.gather(few, ids) == reference.gather(few_r, ids)
    assert [native.rank(few, i) for i in ids] == [reference.rank(few_r, i) for i in ids]
    for n in (0, 1, 7, 600):
        assert native.top(few, n) == reference.top(few_r, n)
    got, want = native.stats(few), reference.stats(few_r)
    assert (got.n_kept, got.max) == (want.n_kept, want.max)
    np.testing.assert_allclose([got.logsumexp, got.entropy], [want.logsumexp, want.entropy], atol=2e-5)
    assert native.deviation(few) == pytest.approx(reference.deviation(few_r), rel=1e-5, abs=1e-6)
    for position in range(30):
        assert native.gumbel_argmax(few, 3, position)[0] == reference.gumbel_argmax(few_r, 3, position)[0]
        assert native.gumbel_top(few, 3, position, 5)[0] == reference.gumbel_top(few_r, 3, position, 5)[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_damage_is_not_lost_where_little_is_left(native: Any, bad: float) -> None:
    x = np.full(N, -np.inf, np.float32)
    x[[3, 4, 5]] = [1.0, bad, 2.0]
    row = native.tensor(x.tobytes(), N)
    for filtered in (native.top_k(row, 5000), native.keep_above(row, 0.0), native.mask(row, b"\xff" * (len(BITS)))):
        with pytest.raises(NumericError):
            native.argmax(filtered)


def test_a_row_with_nothing_left_is_still_an_error(native: Any) -> None:
    few = native.top_k(native.tensor(np.arange(N, dtype=np.float32).tobytes(), N), 3)
    nothing = native.bias(few, [5000, 5001, 5002], [-np.inf] * 3)
    assert native.top(nothing, 2) == ([], [])
    for call in (native.argmax, native.stats, lambda row: native.gumbel_argmax(row, 0, 0)):
        with pytest.raises(NumericError, match="no token is left"):
            call(nothing)
