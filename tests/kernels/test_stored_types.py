"""Every stored type is packed alike by both twins, bit for bit, and as `PACKED_AS` promises; parts of several types too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np
import pytest

from fakes.blocks import SCALES, stored_weights
from fanlight.checkpoints.gguf_quants import quantize
from fanlight.kernels import reference
from fanlight.kernels.ops import DTYPES, PACKED_AS, QUANTIZE, Part
from fanlight.kernels.reference_weights import BLOCKS, FLOATS, elements


def theirs(data: bytes, dtype: str, n_rows: int) -> np.ndarray:
    """What the gguf package makes of the rows."""
    if dtype == "F64":
        return np.frombuffer(data).astype(np.float32).reshape(n_rows, -1)
    rows = np.frombuffer(data, np.uint8).reshape(n_rows, -1)
    dequantized: np.ndarray = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[dtype])
    return dequantized


def rows_of(ops: Any, n_in: int, parts: Sequence[Part], **options: Any) -> np.ndarray:
    """All rows as packed."""
    packed = ops.pack(n_in, parts, **options)
    got: np.ndarray = ops.embed(packed, range(packed.n_out)).numpy()
    return got


def both(native: Any, n_in: int, parts: Sequence[Part], **options: Any) -> np.ndarray:
    got, want = (rows_of(ops, n_in, parts, **options) for ops in (native, reference))
    np.testing.assert_array_equal(got, want)
    assert native.pack(n_in, parts, **options).part_dtypes == reference.pack(n_in, parts, **options).part_dtypes
    return got


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


# -- one type


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks_and_rows", [(1, 1), (1, 17), (3, 37)])
def test_packed_weights_equal_the_reference(
    native: Any, dtype: str, scales: str, blocks_and_rows: tuple[int, int]
) -> None:
    n_in, n_rows = blocks_and_rows[0] * max(32, elements(dtype)), blocks_and_rows[1]
    got = both(native, n_in, [Part(stored_weights(dtype, n_rows, n_in, scales), n_rows, dtype)])
    assert np.isfinite(got).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_is_as_exact_as_the_table_says(native: Any, dtype: str) -> None:
    data = stored_weights(dtype, 41, 512)
    want, packed = theirs(data, dtype, 41), native.pack(512, [Part(data, 41, dtype)])
    got = native.embed(packed, range(41)).numpy()
    assert packed.dtype == PACKED_AS[dtype].dtype
    if PACKED_AS[dtype].exact:
        np.testing.assert_array_equal(got, want)
    else:
        assert rms(got - want) < 0.005 * rms(want)


@pytest.mark.parametrize("dtype", [dtype for dtype in BLOCKS if PACKED_AS[dtype].dtype == "Q8_0"])
def test_subnormal_scales_lose_no_more_than_others(native: Any, dtype: str) -> None:
    data = stored_weights(dtype, 41, 512, "subnormal")
    want = theirs(data, dtype, 41)
    assert rms(rows_of(native, 512, [Part(data, 41, dtype)]) - want) < 0.005 * rms(want)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_damaged_scales_stay_visible(native: Any, dtype: str) -> None:
    for damage in (np.inf, np.nan):
        blocks = np.frombuffer(stored_weights(dtype, 3, 256), BLOCKS[dtype]).copy()
        blocks["d"][-1] = damage
        got = both(native, 256, [Part(blocks.tobytes(), 3, dtype)])
        assert not np.isfinite(got[2]).all()
        assert np.isfinite(got[:2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_multiplies_with_the_packed_weights(native: Any, dtype: str) -> None:
    parts = [Part(stored_weights(dtype, 45, 512), 45, dtype)]
    x = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    got, want = (ops.linear(ops.tensor(x.tobytes(), 512), ops.pack(512, parts)).numpy() for ops in (native, reference))
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


# -- quantised on the way in


@pytest.mark.parametrize("packed", QUANTIZE)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("n_in", "n_rows"), [(32, 1), (96, 33), (544, 19)])
def test_floats_are_quantised_as_a_checkpoint_would_be(
    native: Any, packed: str, dtype: str, transposed: bool, n_in: int, n_rows: int
) -> None:
    x = np.random.default_rng(2).standard_normal((n_rows, n_in)).astype(np.float32)
    x[0, :3], x[-1] = [0.5, -0.5, 2.5], 0
    data = x.astype(np.float64).tobytes() if dtype == "F64" else quantize(x, dtype)
    values = np.frombuffer(data, FLOATS[dtype]).reshape(n_rows, n_in)
    stored = quantize(theirs(data, dtype, n_rows), packed)
    order = [int(i) for i in np.random.default_rng(3).permutation(n_rows)]
    raw = np.ascontiguousarray(values.T).tobytes() if transposed else data
    got = both(native, n_in, [Part(raw, n_rows, dtype, order, transposed)], quantize=packed)
    np.testing.assert_array_equal(got, rows_of(native, n_in, [Part(stored, n_rows, packed, order)]))


@pytest.mark.parametrize("packed", QUANTIZE)
def test_numbers_at_the_ends_of_float32_are_quantised_alike(native: Any, packed: str) -> None:
    largest, tiny = np.finfo(np.float32).max, np.float32(1e-45)
    x = np.zeros((12, 32), np.float32)
    x[:7, 0] = [largest, 1e7, 65504, 6e-8, 2e-6, tiny, -largest]
    x[:7, 1] = [-largest, -66000, -65504, -6e-8, 1e-6, -tiny, 0]
    x[7], x[8], x[9], x[10] = largest, -0.0, 1e-30, -65504 * 200.0
    got = both(native, 32, [Part(x.tobytes(), 12, "F32")], quantize=packed)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("packed", QUANTIZE)
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_a_group_with_a_damaged_number_becomes_nan(native: Any, packed: str, damage: float) -> None:
    x = np.ones((3, 96), np.float32)
    x[1, 45] = damage
    got = both(native, 96, [Part(x.tobytes(), 3, "F32")], quantize=packed)
    assert np.isnan(got[1, 32:64]).all()
    assert np.isfinite(got).sum() == got.size - 32


@pytest.mark.parametrize("n_in", [1, 31, 33, 300])
def test_rows_of_no_whole_groups_stay_floats(native: Any, n_in: int) -> None:
    data = stored_weights("F16", 5, n_in)
    parts = [Part(data, 5, "F16")]
    np.testing.assert_array_equal(both(native, n_in, parts, quantize="Q8_0"), theirs(data, "F16", 5))
    assert native.pack(n_in, parts, quantize="Q8_0").dtype == "F16"


def test_parts_that_are_quantised_stay_as_they_are(native: Any) -> None:
    data = stored_weights("Q4_K", 64, 256)
    parts = [Part(data, 64, "Q4_K"), Part(stored_weights("F32", 5, 256), 5, "F32")]
    got = both(native, 256, parts, quantize="Q8_0")
    assert native.pack(256, parts, quantize="Q8_0").part_dtypes == ["Q4_1", "Q8_0"]
    np.testing.assert_array_equal(got[:64], rows_of(native, 256, [Part(data, 64, "Q4_K")]))


# -- parts of several types


def parts_of(sizes: Sequence[tuple[str, int]], n_in: int = 256) -> list[Part]:
    return [Part(stored_weights(dtype, n, n_in, seed=i), n, dtype) for i, (dtype, n) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ([("Q4_K", 64), ("Q4_K", 32), ("Q6_K", 32)], "Q4_1+Q8_0"),  # q, k, v of a Q4_K_M file
        ([("Q6_K", 32), ("Q4_K", 7)], "Q8_0+Q4_1"),
        ([("Q4_0", 7), ("Q4_K", 25), ("F16", 33)], "Q4_1+F16"),  # types change at a unit, not with every part
        ([("F32", 32), ("F16", 64), ("BF16", 1), ("F64", 5)], "F32"),  # the last two do not
        ([("F32", 32), ("F16", 64), ("BF16", 32), ("F64", 5)], "F32+F16+BF16"),
        ([("Q8_0", 7), ("Q5_0", 8), ("IQ4_XS", 9)], "Q8_0"),  # one packed type: any sizes
        ([("Q4_1", 33), ("Q8_0", 31)], "Q8_0"),
        ([("Q4_1", 33), ("F32", 31)], "Q8_0"),
        ([("F16", 31), ("BF16", 33)], "F32"),
        ([("F64", 31), ("F32", 3)], "F32"),
    ],
)
def test_parts_keep_their_types_where_these_meet_at_whole_units(
    native: Any, sizes: list[tuple[str, int]], dtype: str, two_threads: None
) -> None:
    parts = parts_of(sizes)
    n_out = sum(n for _, n in sizes)
    bias = np.arange(n_out, dtype=np.float32).tobytes()
    packed = [ops.pack(256, parts, bias=bias) for ops in (native, reference)]
    assert [linear.dtype for linear in packed] == [dtype, dtype]
    ids = [n_out - 1, 0, *range(n_out)]
    np.testing.assert_array_equal(native.embed(packed[0], ids).numpy(), reference.embed(packed[1], ids).numpy())
    x = np.random.default_rng(1).standard_normal((70, 256)).astype(np.float32)
    for rows in (x[:1], x[:5], x):
        got, want = (
            ops.linear(ops.tensor(rows.tobytes(), 256), linear).numpy()
            for ops, linear in zip((native, reference), packed, strict=True)
        )
        np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("n_out", [1, 17, 70])
@pytest.mark.parametrize(
    ("gate", "up", "dtype"),
    [
        ("Q4_K", "Q6_K", "Q4_1+Q8_0"),
        ("Q8_0", "Q4_0", "Q8_0+Q4_1"),
        ("F16", "Q5_K", "F16+Q8_0"),
        ("F64", "BF16", "F32+BF16"),
    ],
)
def test_gate_and_up_may_have_two_types(native: Any, gate: str, up: str, dtype: str, n_out: int) -> None:
    parts = parts_of([(gate, n_out), (up, n_out)])
    x = np.random.default_rng(1).standard_normal((9, 256)).astype(np.float32)
    results = []
    for ops in (native, reference):
        packed = ops.pack(256, parts, gated=True, activation="silu")
        assert packed.dtype == dtype
        results.append(ops.linear(ops.tensor(x.tobytes(), 256), packed).numpy())
    np.testing.assert_allclose(*results, atol=2e-6 * np.abs(results[1]).max())


def test_a_rows_bits_do_not_depend_on_other_rows(native: Any, two_threads: None) -> None:
    packed = native.pack(256, parts_of([("Q4_K", 64), ("F16", 32), ("Q6_K", 50)]))
    rows = np.random.default_rng(1).standard_normal((23, 256)).astype(np.float32)
    together = native.linear(native.tensor(rows.tobytes(), 256), packed).numpy()
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_array_equal(native.linear(native.tensor(row.tobytes(), 256), packed).numpy()[0], expected)


def test_transposed_and_plain_parts_stand_in_one_matrix(native: Any) -> None:
    plain, transposed = parts_of([("F16", 20), ("F16", 13)], n_in=300)
    turned = np.ascontiguousarray(np.frombuffer(transposed.data, np.float16).reshape(13, 300).T).tobytes()
    got = both(native, 300, [plain, Part(turned, 13, "F16", None, True)])
    np.testing.assert_array_equal(got, both(native, 300, [plain, transposed]))
