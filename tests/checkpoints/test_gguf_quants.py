"""Dequantisation and quantisation against the gguf package, and what is refused."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from fanlight.checkpoints.arrays import Array
from fanlight.checkpoints.gguf_quants import DTYPES, dequantize, quantize
from fanlight.errors import CheckpointError, OptionError

BLOCKS = ("Q4_0", "Q4_1", "Q8_0")
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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize_equals_the_gguf_package_on_any_finite_blocks(dtype: str, shape: tuple[int, ...]) -> None:
    data = bytearray(np.random.default_rng(7).bytes(len(quantize(np.zeros(shape), dtype))))
    if dtype in BLOCKS:  # scales must be numbers: 0x3c.. is about 1, 0xbc.. about -1
        size = len(data) // (int(np.prod(shape)) // 32)
        for start in range(0, len(data), size):
            data[start + 1] = 0x3C
            if dtype == "Q4_1":
                data[start + 3] = 0xBC
    ours = dequantize(stored(dtype, shape, bytes(data)))
    assert ours.shape == shape
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs(bytes(data), dtype, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("dtype", BLOCKS)
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
    assert quantize(np.zeros((0, 32)), dtype) == b""
    assert dequantize(stored(dtype, (0, 32), b"")).shape == (0, 32)


def test_the_result_is_a_copy_that_can_be_written_to() -> None:
    data = bytearray(quantize(np.ones(4), "F32"))
    values = dequantize(stored("F32", (4,), data))  # type: ignore[arg-type]
    values[0] = 5
    assert data == quantize(np.ones(4), "F32")


def test_a_type_without_arithmetic_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"array 'w' has type 'Q4_K', expected one of F32, F16, BF16, Q4_0, Q4_1, Q8_0; get"
    ):
        dequantize(stored("Q4_K", (256,), b"\0" * 144))
    with pytest.raises(OptionError, match="cannot quantize to 'Q4_K', expected one of F32, F16"):
        quantize(np.zeros(256), "Q4_K")


@pytest.mark.parametrize(
    ("dtype", "shape", "n_bytes"), [("F32", (3,), 11), ("Q8_0", (2, 32), 67), ("Q4_1", (2, 48), 60)]
)
def test_data_that_does_not_fit_the_shape_is_refused(dtype: str, shape: tuple[int, ...], n_bytes: int) -> None:
    with pytest.raises(
        CheckpointError, match=rf"array 'w' of shape .* as {dtype} has rows of .* and {n_bytes} bytes, expected"
    ):
        dequantize(stored(dtype, shape, b"\0" * n_bytes))


@pytest.mark.parametrize("dtype", BLOCKS)
def test_numbers_that_blocks_cannot_hold_are_refused(dtype: str) -> None:
    with pytest.raises(OptionError, match=rf"rows of 33 numbers to {dtype}, expected a multiple of 32"):
        quantize(np.zeros((2, 33)), dtype)
    for bad in (np.nan, np.inf):
        with pytest.raises(OptionError, match=rf"cannot quantize NaN or infinity to {dtype}, expected finite numbers"):
            quantize(np.full(32, bad), dtype)
