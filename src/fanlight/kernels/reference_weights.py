"""Stored weights -> float32, in NumPy: the plain meaning of every type that `pack` takes. Knows no file and no op.

Every block type is scale * q + minimum, with small integers q and a scale (and perhaps a minimum) for 16 or 32 weights that lie
together: `unpack` takes blocks apart into these, `dequantize_blocks` puts the numbers together.

Source: the block layouts of the ggml project.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Blocks = NDArray[Any]
    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]

BLOCK = 32
"""Weights that share a scale in packed types, and in a block of the plain Q types."""
SUPER = 256
"""Weights in a block of the K types and of IQ4_XS."""
HALF = BLOCK // 2


def _layout(*fields: tuple[str, str, int] | tuple[str, str]) -> np.dtype[np.void]:
    return np.dtype([field if len(field) == 2 else (field[0], field[1], (field[2],)) for field in fields])


BLOCKS: dict[str, np.dtype[np.void]] = {  # d: scale, m: minimum (of scales: s), q: weights, h: their upper bits
    "Q4_0": _layout(("d", "<f2"), ("q", "u1", HALF)),
    "Q4_1": _layout(("d", "<f2"), ("m", "<f2"), ("q", "u1", HALF)),
    "Q5_0": _layout(("d", "<f2"), ("h", "u1", 4), ("q", "u1", HALF)),
    "Q5_1": _layout(("d", "<f2"), ("m", "<f2"), ("h", "u1", 4), ("q", "u1", HALF)),
    "Q8_0": _layout(("d", "<f2"), ("q", "i1", BLOCK)),
    "Q2_K": _layout(("s", "u1", 16), ("q", "u1", 64), ("d", "<f2"), ("m", "<f2")),
    "Q3_K": _layout(("h", "u1", 32), ("q", "u1", 64), ("s", "u1", 12), ("d", "<f2")),
    "Q4_K": _layout(("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("q", "u1", 128)),
    "Q5_K": _layout(("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", 128)),
    "Q6_K": _layout(("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), ("d", "<f2")),
    "IQ4_NL": _layout(("d", "<f2"), ("q", "u1", HALF)),
    "IQ4_XS": _layout(("d", "<f2"), ("h", "<u2"), ("s", "u1", 4), ("q", "u1", 128)),
}
FLOATS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""What the nibbles of the IQ4 types stand for."""


def elements(dtype: str) -> int:
    """Weights in a block; 1 for floats."""
    if dtype in FLOATS:
        return 1
    return SUPER if dtype.endswith("_K") or dtype == "IQ4_XS" else BLOCK


class Unpacked(NamedTuple):
    """n blocks: weight i of a block is scale[i // s] * q[i] + minimum[i // s] with s = elements // len(scale)."""

    q: NDArray[np.int16]
    """(n, elements)"""
    scale: Floats
    """(n, elements / 16), (n, elements / 32) or (n, 1)"""
    minimum: Floats | None = None
    """As scale."""


def widen(values: NDArray[Any], dtype: str) -> Floats:
    """Float values as stored -> float32, same shape."""
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range: inf
        return values.astype(np.float32)


def unpack(blocks: Blocks, dtype: str) -> Unpacked:
    """(n,) blocks of BLOCKS[dtype], taken apart."""
    with np.errstate(over="ignore", invalid="ignore"):  # damaged scales give inf or NaN, as they do in ggml
        return _UNPACK[dtype](blocks)


def dequantize_blocks(blocks: Blocks, dtype: str) -> Floats:
    """(n,) blocks of BLOCKS[dtype] -> (n, elements)."""
    q, scale, minimum = unpack(blocks, dtype)
    out = q.astype(np.float32).reshape(*scale.shape, q.shape[1] // scale.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        out *= scale[:, :, None]
        if minimum is not None:
            out += minimum[:, :, None]
    return out.reshape(q.shape)


# -- how the integers lie


def _half(field: NDArray[Any]) -> Floats:
    widened: Floats = field.astype(np.float32)[:, None]
    return widened


def _nibbles(q: Bytes, run: int) -> NDArray[np.int16]:
    """Runs of `run` bytes: the low nibbles are as many weights, the high nibbles the next."""
    runs = q.reshape(len(q), q.shape[1] // run, run)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(q), 2 * q.shape[1]).astype(np.int16)


def _pairs(q: Bytes) -> NDArray[np.int16]:
    """Two runs of 32 bytes: bits 0-1 are 32 weights, bits 2-3 the next 32, ..."""
    runs = q.reshape(len(q), 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (runs & 3).reshape(len(q), SUPER).astype(np.int16)


def _bits(h: Bytes) -> NDArray[np.int16]:
    """32 bytes: bit j of byte i is weight 32 j + i's."""
    bits = h[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]
    return (bits & 1).reshape(len(h), SUPER).astype(np.int16)


def _six_bits(s: Bytes) -> tuple[Floats, Floats]:
    """Q4_K's and Q5_K's 12 bytes: eight 6-bit scales and eight 6-bit minima, (n, 8) each."""
    a, b, low = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scale = np.concatenate([a & 63, (low & 15) | (a >> 6) << 4], axis=1)
    minimum = np.concatenate([b & 63, low >> 4 | (b >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


# -- one function a type


def _q4_0(b: Blocks) -> Unpacked:  # scale * (q - 8)
    d = _half(b["d"])
    return Unpacked(_nibbles(b["q"], HALF), d, np.float32(-8) * d)


def _q4_1(b: Blocks) -> Unpacked:
    return Unpacked(_nibbles(b["q"], HALF), _half(b["d"]), _half(b["m"]))


def _fifth_bits(h: Bytes) -> NDArray[np.int16]:
    return np.unpackbits(h, axis=1, bitorder="little").astype(np.int16) << 4


def _q5_0(b: Blocks) -> Unpacked:
    return Unpacked((_nibbles(b["q"], HALF) | _fifth_bits(b["h"])) - 16, _half(b["d"]))


def _q5_1(b: Blocks) -> Unpacked:
    return Unpacked(_nibbles(b["q"], HALF) | _fifth_bits(b["h"]), _half(b["d"]), _half(b["m"]))


def _q8_0(b: Blocks) -> Unpacked:
    return Unpacked(b["q"].astype(np.int16), _half(b["d"]))


def _iq4_nl(b: Blocks) -> Unpacked:
    return Unpacked(UNEVEN[_nibbles(b["q"], HALF)].astype(np.int16), _half(b["d"]))


def _q2_k(b: Blocks) -> Unpacked:
    scale, minimum = (b["s"] & 15).astype(np.float32), (b["s"] >> 4).astype(np.float32)
    return Unpacked(_pairs(b["q"]), _half(b["d"]) * scale, -(_half(b["m"]) * minimum))


def _q3_k(b: Blocks) -> Unpacked:
    """Scale times number is -124 to 128: with both signs turned it fits a byte, and one scale serves all."""
    low, s = b["s"][:, :8], b["s"][:, 8:]
    high = (s[:, None, :] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(len(b), 16)
    scale = (np.concatenate([low & 15, low >> 4], axis=1) | high << 4).astype(np.int16) - 32  # (n, 16)
    q = _pairs(b["q"]) - 4 * (1 - _bits(b["h"]))
    return Unpacked(q * np.repeat(-scale, 16, axis=1), -_half(b["d"]))


def _q4_k(b: Blocks) -> Unpacked:
    scale, minimum = _six_bits(b["s"])
    return Unpacked(_nibbles(b["q"], BLOCK), _half(b["d"]) * scale, -(_half(b["m"]) * minimum))


def _q5_k(b: Blocks) -> Unpacked:
    scale, minimum = _six_bits(b["s"])
    q = _nibbles(b["q"], BLOCK) | _bits(b["h"]) << 4
    return Unpacked(q, _half(b["d"]) * scale, -(_half(b["m"]) * minimum))


def _q6_k(b: Blocks) -> Unpacked:
    q = (_nibbles(b["q"], 64) | _pairs(b["h"]) << 4) - 32
    return Unpacked(q, _half(b["d"]) * b["s"].astype(np.float32))


def _iq4_xs(b: Blocks) -> Unpacked:
    low = np.stack([b["s"] & 15, b["s"] >> 4], axis=2).reshape(len(b), 8).astype(np.int16)
    high = (b["h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.int16)
    scale = ((low | high << 4) - 32).astype(np.float32)
    return Unpacked(UNEVEN[_nibbles(b["q"], HALF)].astype(np.int16), _half(b["d"]) * scale)


_UNPACK: dict[str, Callable[[Blocks], Unpacked]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
