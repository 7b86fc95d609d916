"""Dequantisation and quantisation against the gguf package, and what is refused."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from fakes.blocks import SCALES, stored_weights
from fanlight.checkpoints.arrays import Array
from fanlight.checkpoints.gguf_quants import DTYPES, QUANTIZES, ROUNDED, dequantize, quantize
from fanlight.checkpoints.gguf_types import QUANTS
from fanlight.errors import CheckpointError, OptionError
from fanlight.kernels import ops
from fanlight.kernels.reference_weights import BLOCKS, FLOATS, elements

SHAPES = [(32,), (1, 32), (7, 96), (2, 3, 64)]


def stored(dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    return Array(name="w", dtype=dtype, shape=shape, data=memoryview(data))


def numbers(shape: tuple[int, ...], seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def theirs(data: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
    kind = gguf.GGMLQuantizationType[dtype]
    row_bytes = len(data) // (int(np.prod(shape)) // shape[-1])
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, row_bytes)
    return gguf.quants.dequantize(rows, kind).reshape(shape)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("shape", [(256,), (1, 256), (7, 768), (2, 3, 512)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize_equals_the_gguf_package_on_any_finite_blocks(
    dtype: str, shape: tuple[int, ...], scales: str
) -> None:
    data = stored_weights(dtype, int(np.prod(shape[:-1])), shape[-1], scales)
    ours = dequantize(stored(dtype, shape, data))
    assert ours.shape == shape
    assert ours.dtype == np.float32
    # every product of a scale and an integer fits float32, so that no order of operations shows, but in the sign of a zero
    expected = np.frombuffer(data).astype(np.float32).reshape(shape) if dtype == "F64" else theirs(data, dtype, shape)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_damaged_scales_give_no_number(dtype: str) -> None:
    for damage in (np.inf, np.nan):
        blocks = np.frombuffer(stored_weights(dtype, 1, 256), BLOCKS[dtype]).copy()
        blocks["d"] = damage
        ours = dequantize(stored(dtype, (256,), blocks.tobytes()))
        with np.errstate(invalid="ignore"):
            expected = theirs(blocks.tobytes(), dtype, (256,))
        assert not np.isfinite(expected).all()
        assert not np.isfinite(ours[~np.isfinite(expected)]).any()


def test_layouts_have_the_sizes_of_ggml() -> None:
    sizes = {quant.name: (quant.elements, quant.nbytes) for quant in QUANTS.values()}
    assert {dtype: (elements(dtype), layout.itemsize) for dtype, layout in {**FLOATS, **BLOCKS}.items()} == {
        dtype: sizes[dtype] for dtype in ops.DTYPES
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", QUANTIZES)
def test_quantize_equals_the_gguf_package(dtype: str, shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    ours = quantize(x, dtype)
    assert ours == gguf.quants.quantize(x, gguf.GGMLQuantizationType[dtype]).tobytes()


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("F32", 0), ("F16", 2**-11), ("BF16", 2**-8), ("Q8_0", 1 / 250), ("Q4_0", 1 / 7), ("Q4_1", 1 / 14)],
)
def test_what_comes_back_is_near(dtype: str, bound: float) -> None:
    x = numbers((5, 64), seed=2)
    back = dequantize(stored(dtype, x.shape, quantize(x, dtype)))
    scale = np.abs(x) if dtype.endswith(("F16", "F32")) else np.ptp(x.reshape(-1, 32), axis=1).max()
    assert (np.abs(back - x) <= bound * scale).all()
    assert np.abs(back - x).mean() > 0 or dtype == "F32"


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 1e-30, 65504.0])
def test_blocks_of_one_value(dtype: str, value: float) -> None:
    x = np.full((1, 32), value, dtype=np.float32)
    ours, reference = quantize(x, dtype), gguf.quants.quantize(x, gguf.GGMLQuantizationType[dtype]).tobytes()
    np.testing.assert_array_equal(dequantize(stored(dtype, x.shape, ours)), theirs(reference, dtype, x.shape))


def test_q8_0_rounds_ties_away_from_zero() -> None:
    x = np.zeros((1, 32), dtype=np.float32)
    x[0, :5] = [127, 0.5, -0.5, 2.5, -1.5]  # the scale is 1
    assert dequantize(stored("Q8_0", (1, 32), quantize(x, "Q8_0")))[0, :5].tolist() == [127, 1, -1, 3, -2]


def test_q8_0_just_below_a_tie_rounds_to_the_nearer() -> None:
    x = np.zeros((1, 32), dtype=np.float32)
    x[0, :2] = [127, np.nextafter(np.float32(0.5), np.float32(0))]
    assert dequantize(stored("Q8_0", (1, 32), quantize(x, "Q8_0")))[0, 1] == 0


def test_q4_0_keeps_the_number_farthest_from_zero_whatever_its_sign() -> None:
    for extreme in (-8.0, 8.0):
        x = np.zeros((1, 32), dtype=np.float32)
        x[0, 17] = extreme
        assert dequantize(stored("Q4_0", (1, 32), quantize(x, "Q4_0")))[0].tolist() == x[0].tolist()


def test_nibbles_hold_weight_i_and_weight_i_plus_16() -> None:
    x = np.array([[*range(-8, 8), *range(7, -9, -1)]], dtype=np.float32)
    for dtype in ("Q4_0", "Q4_1"):
        assert dequantize(stored(dtype, (1, 32), quantize(x, dtype)))[0].tolist() == x[0].tolist()


def test_bf16_rounds_ties_to_even_and_keeps_nan_and_infinity() -> None:
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F7FFFFF], dtype=np.uint32
    )
    halves = np.frombuffer(quantize(bits.view(np.float32), "BF16"), dtype="<u2")
    assert [hex(half) for half in halves] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0xff80", "0x7fff", "0x7f80"]
    back = dequantize(stored("BF16", (7,), halves.tobytes()))
    assert np.isnan(back[5])
    assert np.isinf(back[[3, 4, 6]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_in_nothing_out(dtype: str) -> None:
    assert dequantize(stored(dtype, (0, 256), b"")).shape == (0, 256)
    if dtype in QUANTIZES:
        assert quantize(np.zeros((0, 32)), dtype) == b""


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("value", [3e38, -3e38, 1e7, 66000.0])
def test_finite_numbers_never_become_infinite(dtype: str, value: float) -> None:
    x = np.linspace(-value, value, 32, dtype=np.float32)[None]
    assert np.isfinite(dequantize(stored(dtype, (1, 32), quantize(x, dtype)))).all()


def test_the_result_is_a_copy_that_can_be_written_to() -> None:
    data = bytearray(quantize(np.ones(4), "F32"))
    values = dequantize(stored("F32", (4,), data))  # type: ignore[arg-type]
    values[0] = 5
    assert data == quantize(np.ones(4), "F32")


def test_a_type_without_arithmetic_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"array 'w' has type 'IQ1_S', expected one of F32, F16, BF16, F64, Q4_0, .*; get"
    ):
        dequantize(stored("IQ1_S", (256,), b"\0" * 50))
    with pytest.raises(OptionError, match="cannot quantize to 'Q4_K', expected one of F32, F16"):
        quantize(np.zeros(256), "Q4_K")


@pytest.mark.parametrize(
    ("dtype", "shape", "n_bytes"),
    [("F32", (3,), 11), ("Q8_0", (2, 32), 67), ("Q4_1", (2, 48), 60), ("Q6_K", (2, 128), 210)],
)
def test_data_that_does_not_fit_the_shape_is_refused(dtype: str, shape: tuple[int, ...], n_bytes: int) -> None:
    with pytest.raises(
        CheckpointError, match=rf"array 'w' of shape .* as {dtype} has rows of .* and {n_bytes} bytes, expected"
    ):
        dequantize(stored(dtype, shape, b"\0" * n_bytes))


@pytest.mark.parametrize("dtype", ROUNDED)
def test_numbers_that_blocks_cannot_hold_are_refused(dtype: str) -> None:
    with pytest.raises(OptionError, match=rf"rows of 33 numbers to {dtype}, expected a multiple of 32"):
        quantize(np.zeros((2, 33)), dtype)
    for bad in (np.nan, np.inf):
        with pytest.raises(OptionError, match=rf"cannot quantize NaN or infinity to {dtype}, expected finite numbers"):
            quantize(np.full(32, bad), dtype)
