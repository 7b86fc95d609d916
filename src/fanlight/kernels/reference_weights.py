"""Stored weights -> float32, in NumPy: the plain meaning of every type that `pack` takes. Knows no file and no op.

Source: the block layouts of the ggml project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32
"""Weights in a block of every Q type here."""

HALF = BLOCK // 2
BLOCKS: dict[str, np.dtype[np.void]] = {  # d: scale, m: minimum, q: one weight a byte, or two: i and i + 16
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", (HALF,))]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", (HALF,))]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", (BLOCK,))]),
}
FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def widen(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """F32, F16 or BF16 values as stored -> float32, same shape."""
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def dequantize_blocks(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) blocks of a dtype in BLOCKS -> (n, 32)."""
    out = np.empty((len(blocks), BLOCK), dtype=np.float32)
    d = blocks["d"].astype(np.float32)[:, None]
    q = blocks["q"]
    if q.dtype == np.int8:
        out[:] = q  # Q8_0: q * d
    else:
        out[:, :HALF] = q & 15
        out[:, HALF:] = q >> 4
    has_min = "m" in (blocks.dtype.names or ())
    if q.dtype == np.uint8 and not has_min:
        out -= 8  # Q4_0: (q - 8) * d
    with np.errstate(over="ignore", invalid="ignore"):  # damaged scales give inf or NaN, as they do in ggml
        out *= d
        if has_min:
            out += blocks["m"].astype(np.float32)[:, None]  # Q4_1: q * d + m
    return out
