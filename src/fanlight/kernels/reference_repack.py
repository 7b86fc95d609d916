"""Stored weights -> the few types that kernels multiply with, in NumPy: what `pack` does to a part, bit by bit.

In: bytes of a stored type. Out: blocks or values of a packed type. Knows no layout of tiles. `ops.PACKED_AS` says which type
becomes which.

Source: the rounding rules of the ggml project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.kernels.ops import PACKED_AS
from fanlight.kernels.reference_weights import BLOCK, BLOCKS, FLOATS, HALF, dequantize_blocks, unpack, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LARGEST_HALF = np.float32(65504)
KEEPS_INTEGERS = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q3_K", "Q4_K", "IQ4_NL", "IQ4_XS")
"""Types whose integers fit their packed type as they are."""


def numbers(values: NDArray[Any], dtype: str) -> Floats:
    """Blocks -> (n, elements), float values -> the same shape."""
    return dequantize_blocks(values, dtype) if dtype in BLOCKS else widen(values, dtype)


def repack(values: NDArray[Any], dtype: str, packed: str) -> NDArray[Any]:
    """Blocks or float values as type `packed`: "F32", "Q4_1", "Q8_0", or `dtype` itself."""
    if packed == dtype:
        return values
    if packed in FLOATS:
        return numbers(values, dtype)
    if dtype in KEEPS_INTEGERS and PACKED_AS[dtype].dtype == packed:
        return _keep_integers(values, dtype, packed)
    x = numbers(values, dtype).reshape(-1, BLOCK)
    return round_blocks(x, packed, as_stored=dtype in BLOCKS)


def near_half(x: Floats) -> NDArray[np.float16]:
    """Rounded to half precision. A finite number beyond its range becomes the largest one: packing makes no infinity."""
    return np.where(np.isfinite(x), np.clip(x, -LARGEST_HALF, LARGEST_HALF), x).astype(np.float16)


def _keep_integers(blocks: NDArray[Any], dtype: str, packed: str) -> NDArray[Any]:
    q, scale, minimum = unpack(blocks, dtype)
    groups = (len(q), q.shape[1] // BLOCK)
    out = np.empty(q.size // BLOCK, BLOCKS[packed])
    out["d"] = near_half(np.broadcast_to(scale, groups)).reshape(-1)
    if minimum is None:
        out["q"] = q.reshape(-1, BLOCK)
    else:
        out["m"] = near_half(np.broadcast_to(minimum, groups)).reshape(-1)
        out["q"] = join_nibbles(q.reshape(-1, BLOCK))
    return out


def round_blocks(x: Floats, packed: str, *, as_stored: bool = False) -> NDArray[Any]:
    """(n, 32) numbers -> (n,) blocks of Q8_0 or Q4_1, by ggml's rule. A row with a NaN or an infinity becomes NaN throughout.

    as_stored, for Q8_0: the integers are those of the scale as it is stored, rounded up to half precision, where ggml's rule
    takes the scale before rounding. So a subnormal scale, which is coarse, still meets the integers that suit it best.
    """
    out = np.zeros(len(x), BLOCKS[packed])
    finite = np.isfinite(np.abs(x).max(axis=1, keepdims=True))  # (n, 1)
    x = np.where(finite, x, np.float32(0))
    if packed == "Q8_0":
        _round_q8_0(x, out, as_stored)
    else:
        _round_q4_1(x, out)
        out["m"][~finite[:, 0]] = np.nan
    out["d"][~finite[:, 0]] = np.nan
    return out


def inverse(d: Floats) -> Floats:
    """1 / d, and 0 for a block of zeros (or of numbers so small that 1 / d is infinite)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverted = np.float32(1) / d
    return np.where(np.isfinite(inverted), inverted, np.float32(0))


def join_nibbles(q: NDArray[Any]) -> NDArray[np.uint8]:
    """(n, 32) integers 0 to 15 -> (n, 16) bytes; byte i holds i (low) and i + 16."""
    nibbles = q.astype(np.uint8)
    return nibbles[:, :HALF] | (nibbles[:, HALF:] << np.uint8(4))


def _round_q8_0(x: Floats, out: NDArray[Any], as_stored: bool) -> None:
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    half = near_half(d)
    if as_stored:
        above = np.nextafter(half, np.float16(65504))  # no further than the largest
        half = np.where(half.astype(np.float32) < d, above, half)
        d = np.maximum(d, half.astype(np.float32))
    scaled = x * inverse(d)
    whole = np.trunc(scaled)
    away = np.copysign(np.float32(1), scaled) * (np.abs(scaled - whole) >= 0.5)  # ties away from zero, as C's roundf
    out["d"], out["q"] = half[:, 0], whole + away


def _round_q4_1(x: Floats, out: NDArray[Any]) -> None:
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        span, distance = high - low, x - low
    d = np.where(np.isfinite(span), span / np.float32(15), high / np.float32(15) - low / np.float32(15))
    out["d"], out["m"] = near_half(d)[:, 0], near_half(low)[:, 0]
    with np.errstate(invalid="ignore"):  # the distance may be infinite, its inverse is not
        out["q"] = join_nibbles(np.trunc(np.minimum(distance * inverse(d) + np.float32(0.5), np.float32(15))))
