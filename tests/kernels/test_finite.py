"""Packing notices scales that are infinite or NaN, of every stored type: products with rounded activations may hide them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes.blocks import stored_weights
from fanlight.checkpoints.finite import _SCALES
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
@pytest.mark.parametrize("quantize", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("transposed", [False, True])
def test_floats_that_are_rounded_on_the_way_in(native: Any, value: float, quantize: str, transposed: bool) -> None:
    weights = np.random.default_rng(1).standard_normal((33, 96)).astype(np.float32)
    for ops in (native, reference):
        part = Part((weights.T if transposed else weights).copy().tobytes(), 33, "F32", None, transposed)
        assert ops.pack(96, [part], quantize=quantize).is_finite
    weights[21, 70] = value
    for ops in (native, reference):
        part = Part((weights.T if transposed else weights).copy().tobytes(), 33, "F32", None, transposed)
        assert not ops.pack(96, [part], quantize=quantize).is_finite


def test_the_largest_half_is_finite(native: Any) -> None:
    block = (0x7BFF).to_bytes(2, "little") + bytes(range(32))
    for ops in (native, reference):
        assert ops.pack(32, [Part(block, 1, "Q8_0")]).is_finite
