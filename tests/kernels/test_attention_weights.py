"""Attention weights: the native ones equal the reference, sum the values to what attention says, and depend on no other row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.errors import KernelError
from fanlight.kernels import native as native_ops
from fanlight.kernels import reference
from fanlight.kernels.ops import CACHE_DTYPES

TOLERANCE = {"F16": 2e-6, "F32": 2e-6, "I8": 1e-4}  # I8: native rounds queries to 16 bits


class Sizes(NamedTuple):
    n_head: int
    n_kv: int
    head_dim: int


class Text(NamedTuple):
    """A sequence of which `before` positions were stored in earlier passes, and `now` come in this one."""

    name: str
    before: int
    now: int


class Pass(NamedTuple):
    """Queries of one pass, and where they stand."""

    ops: Any
    q: Any
    batch: Any
    pool: Any
    tables: list[list[int]]
    layer: int
    scale: float

    def weights(self, **rule: Any) -> np.ndarray:
        result: np.ndarray = self.ops.attention_weights(self.q, self.batch, self.layer, self.scale, **rule).numpy()
        return result

    def attention(self, **rule: Any) -> np.ndarray:
        result: np.ndarray = self.ops.attention(self.q, self.batch, self.layer, self.scale, **rule).numpy()
        return result

    def take(self, rows: Sequence[int]) -> Pass:
        return self._replace(q=self.ops.take_rows(self.q, rows), batch=self.batch.take(rows))


@cache
def numbers(name: str, width: int) -> np.ndarray:
    """What the text of this name is made of: (600, width)."""
    return np.random.default_rng(sum(name.encode())).standard_normal((600, width)).astype(np.float32)


def run(ops: Any, sizes: Sizes, dtype: str, texts: Sequence[Text], layer: int = 1) -> Pass:
    """Stores all positions of the texts in `layer` of two; numbers depend on name and position alone.

    Nothing is rotated, so that both modules read the same bits from the cache.
    """
    pool = ops.kv_pool(2, sizes.n_kv, sizes.head_dim, dtype)
    tables = [[pool.allocate() for _ in range((text.before + text.now + 63) // 64)] for text in texts]

    def stored(starts: list[int], counts: list[int]) -> tuple[Any, Any]:
        width = (sizes.n_head + 2 * sizes.n_kv) * sizes.head_dim
        x = np.concatenate(
            [
                numbers(text.name, width)[start : start + count]
                for text, start, count in zip(texts, starts, counts, strict=True)
            ]
        )
        batch = pool.batch(tables, starts, counts)
        return ops.store_kv(ops.tensor(x.tobytes(), width), batch, layer, None), batch

    stored([0] * len(texts), [text.before for text in texts])
    q, batch = stored([text.before for text in texts], [text.now for text in texts])
    scale = 2 * sizes.head_dim**-0.5  # weights that differ by orders of magnitude
    return Pass(ops, q, batch, pool, tables, layer, scale)


@cache
def defined(sizes: Sizes, dtype: str, texts: tuple[Text, ...]) -> Pass:
    """The reference's pass, made once for all instruction sets and rules: weights change nothing in it."""
    return run(reference, sizes, dtype, texts)


RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a window": {"window": 5},
    "a window of one": {"window": 1},
    "a window over a page": {"window": 70},
    "soft cap": {"softcap": 1.5},
    "window and soft cap": {"window": 33, "softcap": 0.3},
    "every position": {"causal": False},
    "some heads": {"heads": [0]},
}

TEXTS = {
    "one token": (Text("a", 0, 1),),
    "page edges": (Text("a", 31, 32), Text("b", 63, 1), Text("c", 62, 3), Text("d", 64, 1), Text("e", 0, 7)),
    "long": (Text("a", 261, 39), Text("b", 0, 2), Text("c", 299, 1)),
}


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("sizes", [Sizes(3, 1, 6), Sizes(9, 3, 64), Sizes(4, 4, 25)], ids=str)
def test_weights_equal_reference(
    native: Any, dtype: str, rule: dict[str, Any], texts: tuple[Text, ...], sizes: Sizes
) -> None:
    got, want = run(native, sizes, dtype, texts).weights(**rule), defined(sizes, dtype, texts).weights(**rule)
    n_heads = 1 if "heads" in rule else sizes.n_head
    assert got.shape == (n_heads * sum(text.now for text in texts), max(text.before + text.now for text in texts))
    np.testing.assert_allclose(got, want, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("rule", [{}, {"window": 259}, {"window": 300, "softcap": 2.0}, {"causal": False}], ids=str)
@pytest.mark.parametrize("sizes", [Sizes(3, 1, 7), Sizes(2, 2, 33), Sizes(11, 1, 2), Sizes(1, 1, 530)], ids=str)
def test_weights_over_several_stretches_equal_reference(
    native: Any, dtype: str, rule: dict[str, Any], sizes: Sizes
) -> None:
    """Scores are made in stretches of 256 positions: texts that end before, at and after their ends."""
    texts = (Text("a", 254, 1), Text("b", 255, 4), Text("c", 511, 1), Text("d", 530, 7))
    got, want = run(native, sizes, dtype, texts).weights(**rule), defined(sizes, dtype, texts).weights(**rule)
    np.testing.assert_allclose(got, want, atol=TOLERANCE[dtype], rtol=0)


def values_of(seen: Pass, table: list[int]) -> np.ndarray:
    """(n_kv, positions, head_dim), as numbers."""
    parts = [seen.pool.read(page, 64) for page in table]
    values = np.concatenate([part["values"][seen.layer].astype(np.float64) for part in parts], axis=1)
    if "value_scales" in parts[0]:
        values *= np.concatenate([part["value_scales"][seen.layer] for part in parts], axis=1)[..., None]
    result: np.ndarray = values
    return result


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("rule", [{}, {"window": 70}, {"softcap": 1.5}, {"causal": False}], ids=str)
def test_weighted_values_are_what_attention_says(native: Any, dtype: str, rule: dict[str, Any]) -> None:
    sizes, texts = Sizes(6, 2, 20), [Text("a", 250, 9), Text("b", 0, 65)]
    for ops in (native, reference):
        seen = run(ops, sizes, dtype, texts)
        weights = seen.weights(**rule).reshape(74, 2, 3, 259)
        attended = seen.attention(**rule).reshape(74, 2, 3, 20)
        for rows, table in zip((slice(0, 9), slice(9, 74)), seen.tables, strict=True):
            values = values_of(seen, table)
            n = min(259, values.shape[1])
            summed = weights[rows, :, :, :n].astype(np.float64) @ values[:, :n]  # (rows, n_kv, share, head_dim)
            is_rounded = dtype == "I8" and ops is native  # attention's own weights are: to 16 bits
            np.testing.assert_allclose(summed, attended[rows], atol=6e-4 if is_rounded else 3e-6, rtol=0)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("window", [0, 1, 7, 65])
def test_a_row_sums_to_one_and_is_zero_where_it_may_not_look(native: Any, dtype: str, window: int) -> None:
    seen = run(native, Sizes(4, 2, 10), dtype, [Text("a", 60, 9), Text("b", 0, 2)])
    weights = seen.weights(window=window).reshape(11, 4, 69)
    np.testing.assert_allclose(weights.sum(axis=2, dtype=np.float64), 1, atol=1e-6)
    for row, position in enumerate(seen.batch.positions):
        first = max(0, position + 1 - window) if window else 0
        assert (weights[row, :, first : position + 1] > 0).all()
        assert not weights[row, :, :first].any()
        assert not weights[row, :, position + 1 :].any()


def test_a_row_that_sees_one_position_gives_it_all(native: Any) -> None:
    seen = run(native, Sizes(3, 1, 6), "F16", [Text("a", 0, 1), Text("b", 40, 2)])
    alone = seen.weights(window=1)
    assert np.array_equal(alone.reshape(3, 3, 42)[:, 0], np.eye(42, dtype=np.float32)[[0, 40, 41]])
    assert seen.take([0]).weights().tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_scores_beyond_the_range_of_exp_leave_one_position(native: Any, dtype: str) -> None:
    seen = run(native, Sizes(2, 1, 6), dtype, [Text("a", 0, 33)])
    weights = native.attention_weights(seen.q, seen.batch, 1, 1e6).numpy()
    assert np.isfinite(weights).all()
    assert (weights.max(axis=1) > 0.999).all()


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_what_a_page_holds_beyond_the_text_does_not_show(native: Any, dtype: str) -> None:
    clean, dirty = (run(native, Sizes(3, 1, 6), dtype, [Text("a", 30, 40)]) for _ in range(2))
    for table in dirty.tables:
        page = dirty.pool.read(table[1], 64)
        for array in page.values():
            array[:, :, 6:] = np.nan  # positions 70 to 127
        dirty.pool.write(table[1], page)
    assert np.array_equal(clean.weights(), dirty.weights())
    assert np.array_equal(clean.weights(causal=False), dirty.weights(causal=False))


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [[5], [0, 8], [7, 2, 4, 2], list(range(8, -1, -1))], ids=str)
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_heads_come_in_the_order_asked_for_with_the_same_bits(native: Any, dtype: str, heads: list[int]) -> None:
    for ops in (native, reference):
        seen = run(ops, Sizes(9, 3, 12), dtype, [Text("a", 3, 67), Text("b", 0, 5)])
        every = seen.weights().reshape(72, 9, 70)
        assert np.array_equal(seen.weights(heads=heads).reshape(72, len(heads), 70), every[:, heads])


def test_no_heads_and_no_rows_give_no_weights(native: Any) -> None:
    for ops in (native, reference):
        seen = run(ops, Sizes(4, 2, 3), "F32", [Text("a", 4, 7)])
        assert seen.weights(heads=[]).shape == (0, 11)
        assert seen.take([]).weights().shape == (0, 0)
        assert seen.take([]).weights(causal=False, heads=[1]).shape == (0, 0)


# -- a row alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("rule", [{}, {"window": 33, "softcap": 2.0}, {"heads": [4, 1]}], ids=str)
def test_taken_rows_have_the_bits_they_had(native: Any, dtype: str, rule: dict[str, Any]) -> None:
    seen = run(native, Sizes(6, 2, 20), dtype, [Text("a", 290, 9), Text("b", 0, 65), Text("c", 63, 2)])
    n_heads = len(rule.get("heads", range(6)))
    whole = seen.weights(**rule).reshape(76, n_heads, 299)
    for rows in ([75], [0, 40, 8, 74, 9], [73, 72, 71], [5, 5]):
        taken = seen.take(rows).weights(**rule)
        n = taken.shape[1]
        assert n == max(seen.batch.positions[row] for row in rows) + 1
        assert np.array_equal(taken.reshape(len(rows), n_heads, n), whole[rows][:, :, :n])
        assert not whole[rows][:, :, n:].any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), min_size=1, max_size=4),
    st.sampled_from(CACHE_DTYPES),
    st.sampled_from([{}, {"window": 65}, {"causal": False}]),
)
def test_neither_other_sequences_nor_threads_change_a_bit(
    lengths: list[tuple[int, int]], dtype: str, rule: dict[str, Any]
) -> None:
    """All sequences at once with two threads, against each alone with one; without a rule also row by row."""
    sizes = Sizes(6, 2, 20)
    texts = [Text("abcd"[i], before, now) for i, (before, now) in enumerate(lengths)]
    before = native_ops.get_threads()
    native_ops.set_threads(2)
    together = run(native_ops, sizes, dtype, texts).weights(**rule).reshape(-1, 6, max(map(sum, lengths)))
    native_ops.set_threads(1)
    first = 0
    for text in texts:
        n = text.before + text.now
        alone = run(native_ops, sizes, dtype, [text])
        rows = together[first : first + text.now]
        assert np.array_equal(rows[:, :, :n], alone.weights(**rule).reshape(-1, 6, n))
        assert not rows[:, :, n:].any()
        for row in (0, text.now - 1):
            one = alone.take([row]).weights(**rule)
            assert np.array_equal(rows[row, :, : one.shape[1]], one)
        first += text.now
    native_ops.set_threads(before)


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a head beyond the last": ({"heads": [0, 6]}, "attention_weights: head 6 is outside 0 to 5"),
    "a negative head": ({"heads": [-1]}, "attention_weights: head -1 is outside 0 to 5"),
    "a negative window": ({"window": -3}, "attention_weights: window is -3, expected 0"),
    "a layer beyond the last": ({"layer": 2}, "attention_weights: layer 2 is outside 0 to 1"),
    "a negative layer": ({"layer": -1}, "attention_weights: layer -1 is outside 0 to 1"),
    "q not whole heads": ({"q": (5, 25)}, "attention_weights: q has 25 columns, expected a multiple of 8"),
    "rows that the batch does not have": ({"q": (4, 24)}, "4 rows, the batch"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused_by_both(native: Any, changes: dict[str, Any], message: str) -> None:
    for ops in (native, reference):
        seen = run(ops, Sizes(6, 2, 4), "F32", [Text("a", 0, 5)])
        given_ = {"q": seen.q, "layer": 1} | changes
        if "q" in changes:
            n_rows, n_columns = changes["q"]
            given_["q"] = ops.tensor(bytes(4 * n_rows * n_columns), n_columns)
        with pytest.raises(KernelError, match=message):
            ops.attention_weights(batch=seen.batch, scale=seen.scale, **given_)
