"""Packing notices scales that are infinite or NaN, of every stored type: products with rounded activations may hide them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes.blocks import stored_weights
from fanlight.checkpoints.finite import _SCALES
from fanlight.checkpoints.gguf_quants import quantize
from fanlight.checkpoints.gguf_types import QUANTS
from fanlight.kernels import reference
from fanlight.kernels.ops import DTYPES, Part

SIZES = {quant.name: quant.nbytes for quant in QUANTS.values()}
BLOCK_TYPES = [dtype for dtype in DTYPES if dtype in _SCALES]


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E01], ids=["inf", "-inf", "nan"])
def test_one_scale_among_many_is_noticed(native: Any, dtype: str, bits: int) -> None:
    n_rows, n_in = 19, 512
    good = stored_weights(dtype, n_rows, n_in)
    n_blocks = len(good) // SIZES[dtype]
    for ops in (native, reference):
        assert ops.pack(n_in, [Part(good, n_rows, dtype)]).is_finite
    for offset in _SCALES[dtype]:
        for block in (0, n_blocks // 2, n_blocks - 1):
            bad = bytearray(good)
            at = block * SIZES[dtype] + offset
            bad[at : at + 2] = bits.to_bytes(2, "little")
            for ops in (native, reference):
                assert not ops.pack(n_in, [Part(bytes(bad), n_rows, dtype)]).is_finite, (offset, block, ops.name)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("to", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("transposed", [False, True])
def test_floats_that_are_rounded_on_the_way_in(native: Any, value: float, to: str, transposed: bool) -> None:
    weights = np.random.default_rng(1).standard_normal((33, 96)).astype(np.float32)
    for ops in (native, reference):
        part = Part((weights.T if transposed else weights).copy().tobytes(), 33, "F32", None, transposed)
        assert ops.pack(96, [part], quantize=to).is_finite
    weights[21, 70] = value
    for ops in (native, reference):
        part = Part((weights.T if transposed else weights).copy().tobytes(), 33, "F32", None, transposed)
        assert not ops.pack(96, [part], quantize=to).is_finite


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_floats_too(native: Any, value: float, dtype: str) -> None:
    weights = np.random.default_rng(1).standard_normal((17, 37)).astype(np.float32)
    for place, found in (((0, 0), value), ((16, 36), value), ((3, 5), 1.0)):
        damaged = weights.copy()
        damaged[place] = found
        stored = damaged.astype("<f8").tobytes() if dtype == "F64" else quantize(damaged, dtype)
        for ops in (native, reference):
            assert ops.pack(37, [Part(stored, 17, dtype)]).is_finite == bool(np.isfinite(found))


def test_relu_keeps_nan(native: Any) -> None:
    x = np.array([[1.0, np.nan, -1.0, np.nan]], np.float32)
    for ops in (native, reference):
        eye = ops.pack(4, [Part(np.eye(4, dtype=np.float32).tobytes(), 4, "F32")], activation="relu")
        assert np.isnan(ops.linear(ops.tensor(x.tobytes(), 4), eye).numpy()).any()


def test_the_largest_half_is_finite(native: Any) -> None:
    block = (0x7BFF).to_bytes(2, "little") + bytes(range(32))
    for ops in (native, reference):
        assert ops.pack(32, [Part(block, 1, "Q8_0")]).is_finite
