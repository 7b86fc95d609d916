"""Stored weights of any type, random: every bit of the blocks, with scales of a chosen kind. Knows no file."""

from __future__ import annotations

from typing import Any

import numpy as np

from fanlight.kernels.reference_weights import BLOCKS, FLOATS, elements

SCALES = ("sane", "subnormal", "negative", "zero or the largest", "any")


def stored_weights(dtype: str, n_rows: int, n_in: int, scales: str = "sane", seed: int = 0) -> bytes:
    """Rows of n_in weights. Floats: the values are of that kind; blocks: their half-precision scales and minima are."""
    rng = np.random.default_rng(seed)
    n = n_rows * n_in // elements(dtype)
    if dtype in BLOCKS:
        blocks = np.frombuffer(rng.bytes(n * BLOCKS[dtype].itemsize), BLOCKS[dtype]).copy()
        for field in {"d", "m"} & set(blocks.dtype.names or ()):
            blocks[field] = _halves(scales, n, rng)
        return blocks.tobytes()
    values = _halves(scales, n, rng).astype(np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype(FLOATS[dtype]).tobytes()


def _halves(scales: str, n: int, rng: np.random.Generator) -> Any:
    if scales == "sane":
        return (rng.standard_normal(n) * 0.02).astype(np.float16)
    if scales == "negative":
        return -rng.random(n).astype(np.float16)
    if scales == "zero or the largest":
        return rng.choice(np.array([0, 65504, -65504], np.float16), n)
    top = 0x400 if scales == "subnormal" else 0x7C00
    return (rng.integers(0, top, n) | rng.integers(0, 2, n) << 15).astype("<u2").view(np.float16)
