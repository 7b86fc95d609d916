"""Stored weights <-> float32 numbers, in NumPy. What the block types mean is in `kernels.reference_weights`,
how numbers are rounded in `kernels.reference_repack`.

In: an Array, or numbers. Out: numbers, or the bytes of an Array. Knows no file and no kernel. For tests, export and
looking at weights; a model's own arithmetic is in `kernels`.

Source: the block layouts and rounding rules of the ggml project.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.checkpoints.files import shown
from fanlight.errors import CheckpointError, OptionError
from fanlight.kernels.reference_repack import inverse, join_nibbles, near_half, numbers, round_blocks
from fanlight.kernels.reference_weights import BLOCK, BLOCKS, FLOATS, elements

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fanlight.checkpoints.arrays import Array

DTYPES = (*FLOATS, *BLOCKS)
"""What `dequantize` takes."""
ROUNDED = ("Q4_0", "Q4_1", "Q8_0")
QUANTIZES = ("F32", "F16", "BF16", *ROUNDED)
"""What `quantize` makes."""


def dequantize(array: Array) -> NDArray[np.float32]:
    """The numbers that the array stands for, in its shape; always a copy.

    Errors: CheckpointError for a type not in DTYPES, or where data and shape do not agree.
    """
    stored = BLOCKS.get(array.dtype) or FLOATS.get(array.dtype)
    what = f"array {shown(array.name)}"
    if stored is None:
        raise CheckpointError(
            f"{what} has type {shown(array.dtype)}, expected one of {', '.join(DTYPES)}; get the model in such a type"
        )
    n_elements, per_block = math.prod(array.shape), elements(array.dtype)
    n_columns = array.shape[-1] if array.shape else 1
    expected = n_elements // per_block * stored.itemsize
    if n_columns % per_block or expected != array.data.nbytes:
        raise CheckpointError(
            f"{what} of shape {array.shape} as {array.dtype} has rows of {n_columns} weights and {array.data.nbytes} "
            f"bytes, expected a multiple of {per_block} weights and {expected} bytes; download the file again"
        )
    values = np.frombuffer(array.data, dtype=stored)
    return numbers(values, array.dtype).reshape(array.shape)


def quantize(values: ArrayLike, dtype: str) -> bytes:
    """The numbers as an Array of this dtype stores them, row after row; the last axis is a row.

    Rounding is ggml's: each block's scale is found in float32, the weights are rounded with it, and it is then stored
    as F16 (beyond 65504: as 65504, where ggml stores infinity). Errors: OptionError for a type not in QUANTIZES, a row
    that is no multiple of the block, or numbers that are not finite where there are blocks.
    """
    x = np.ascontiguousarray(values, dtype=np.float32)
    if dtype not in QUANTIZES:
        raise OptionError(f"cannot quantize to {shown(dtype)}, expected one of {', '.join(QUANTIZES)}")
    if dtype == "BF16":
        return _to_bf16(x).tobytes()
    if dtype in FLOATS:
        with np.errstate(over="ignore"):  # beyond 65504: inf
            return x.astype(FLOATS[dtype]).tobytes()
    n_columns = x.shape[-1] if x.shape else 1
    if n_columns % BLOCK:
        raise OptionError(f"cannot quantize rows of {n_columns} numbers to {dtype}, expected a multiple of {BLOCK}")
    if not np.isfinite(x).all():
        raise OptionError(f"cannot quantize NaN or infinity to {dtype}, expected finite numbers")
    rows = x.reshape(-1, BLOCK)
    return (_round_q4_0(rows) if dtype == "Q4_0" else round_blocks(rows, dtype)).tobytes()


def _to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32).astype(np.uint64)  # room for the carry
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(x), quiet_nan, rounded).astype("<u2")


def _round_q4_0(x: NDArray[np.float32]) -> NDArray[Any]:
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    d = extreme / np.float32(-8)  # the number farthest from zero, whatever its sign, becomes -8
    blocks = np.empty(len(x), BLOCKS["Q4_0"])
    blocks["d"] = near_half(d)[:, 0]
    blocks["q"] = join_nibbles(np.minimum(np.trunc(x * inverse(d) + np.float32(8.5)), 15))
    return blocks
