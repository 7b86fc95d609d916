"""NaN and infinity in weights: found wherever they are, named, and nothing else taken for them."""

from __future__ import annotations

import math
import struct
import sys
import time
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.checkpoints import finite
from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.checkpoints.finite import NotFinite, first_not_finite
from fanlight.checkpoints.gguf_types import QUANTS
from fanlight.errors import KernelError
from fanlight.kernels._native import first_not_finite as native_search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIZES = {quant.name: (quant.elements, quant.nbytes) for quant in QUANTS.values()}
FLOATS = {"F16": "<e", "F32": "<f", "F64": "<d"}


def checkpoint(arrays: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Checkpoint:
    made = {
        name: Array(name=name, dtype=dtype, shape=shape, data=memoryview(data))
        for name, (dtype, shape, data) in arrays.items()
    }
    return Checkpoint(path="m", format="gguf", metadata={}, arrays=made)


def one(dtype: str, shape: tuple[int, ...], data: bytes) -> NotFinite | None:
    return first_not_finite(checkpoint({"w": (dtype, shape, data)}))


@pytest.mark.parametrize("at", [0, 1, 20, 34])
@pytest.mark.parametrize(("value", "said"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
@pytest.mark.parametrize("dtype", [*FLOATS, "BF16"])
def test_a_float_is_found_at_its_place(dtype: str, value: float, said: str, at: int) -> None:
    values = np.linspace(-60000, 60000, 35).astype(np.float32)
    values[at] = value
    if dtype == "BF16":
        data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        data = b"".join(struct.pack(FLOATS[dtype], x) for x in values.tolist())
    assert one(dtype, (5, 7), data) == NotFinite("w", said, (at // 7, at % 7), 1)


@pytest.mark.parametrize("dtype", [*FLOATS, "BF16"])
def test_the_largest_and_smallest_numbers_are_numbers(dtype: str) -> None:
    if dtype == "BF16":
        data = struct.pack("<5H", 0x7F7F, 0xFF7F, 0x0001, 0x8000, 0x0000)
    else:
        limits = np.finfo({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])
        numbers = [limits.max, limits.min, limits.smallest_subnormal, -0.0, 0.0]
        data = b"".join(struct.pack(FLOATS[dtype], float(x)) for x in numbers)
    assert one(dtype, (5,), data) is None


KNOWN_TO_GGUF = [name for name in finite._SCALES if name not in ("Q8_1", "IQ1_S")]


@pytest.mark.parametrize("dtype", KNOWN_TO_GGUF)
def test_every_scale_of_a_block_is_looked_at_and_nothing_else(dtype: str) -> None:
    """Each byte pair of a block set to NaN in turn: found if, and only if, the gguf package's numbers are not finite."""
    elements, nbytes = SIZES[dtype]
    for at in range(0, nbytes - 1, 2):
        block = bytearray(b"\x11" * nbytes)
        block[at : at + 2] = b"\xff\x7f"
        data = bytes(b"\x11" * nbytes * 2 + block + b"\x11" * nbytes)
        with np.errstate(all="ignore"):
            numbers = gguf.dequantize(np.frombuffer(data, np.uint8).reshape(2, -1), gguf.GGMLQuantizationType[dtype])
        found = one(dtype, (2, 2 * elements), data)
        assert (found is None) == bool(np.isfinite(numbers).all()), at
        if found is not None:
            assert found == NotFinite("w", "NaN", (1, 0), elements)


def test_the_first_tensor_is_named_and_other_types_are_passed_over() -> None:
    nan, zero = struct.pack("<f", math.nan), bytes(4)
    arrays = {
        "ids": ("I32", (1,), nan),
        "a": ("F32", (1,), zero),
        "b": ("F32", (2,), zero + nan),
        "c": ("F32", (1,), nan),
    }
    found = first_not_finite(checkpoint(arrays))
    assert str(found) == "tensor 'b' holds NaN (weight [1])"
    assert first_not_finite(checkpoint({})) is None
    assert one("F32", (0, 3), b"") is None
    assert str(one("F32", (), nan)) == "tensor 'w' holds NaN (weight [])"
    block = struct.pack("<e", math.inf) + bytes(32)
    assert str(one("Q8_0", (1, 32), block)) == "tensor 'w' holds infinity (a block's scale, at weight [0, 0])"


@pytest.mark.parametrize("search", [finite.search_with_numpy, native_search])
def test_places_beyond_a_chunk(search: Callable[..., int]) -> None:
    values = np.zeros(700_001, np.float32)
    assert search(memoryview(values.tobytes()), 4, (0,), 4, 0x7F800000) == -1
    for at in (700_000, 262_145, 65_536, 65_535, 0):  # each before the last
        values[at] = np.nan
        assert search(memoryview(values.tobytes()), 4, (0,), 4, 0x7F800000) == at


@given(st.binary(max_size=120), st.sampled_from([2, 4, 8]), st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1))
def test_both_searches_find_the_same(data: bytes, width: int, more: int, offsets: list[int]) -> None:
    stride = width + more
    offsets = sorted({offset % (more + 1) for offset in offsets})
    data = data[: len(data) // stride * stride].replace(b"\x11", b"\xff")
    for exponent in (0x7F80, 0x7C00) if width == 2 else (0x60, 0x7F8):
        given = (memoryview(data), stride, offsets, width, exponent)
        assert native_search(*given) == finite.search_with_numpy(*given)


@pytest.mark.parametrize(
    "wrong", [(0, [0], 2), (4, [], 2), (4, [3], 2), (4, [0], 3), (4, [2**63], 2), (4, [2**64 - 1], 2)]
)
def test_the_native_search_stays_within_its_units(wrong: tuple[int, list[int], int]) -> None:
    with pytest.raises(KernelError, match="first_not_finite"):
        native_search(memoryview(bytes(64)), *wrong, 0x7C00)


def test_without_the_native_module_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fanlight.kernels._native", None)
    assert finite._search() is finite.search_with_numpy
    assert one("F32", (2,), struct.pack("<2f", 0, math.inf)) == NotFinite("w", "infinity", (1,), 1)


def test_a_hundred_megabytes_take_a_moment() -> None:
    data = bytes(100 << 20)
    started = time.process_time()
    assert one("F16", (50 << 20,), data) is None
    assert time.process_time() - started < 2  # 0.1, where nothing else runs
