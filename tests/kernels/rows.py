"""Logits rows for the tests of the twins: random ones, some with ties and removed tokens, as tensors of both kinds."""

from __future__ import annotations

from typing import Any

import numpy as np

from fanlight.kernels import reference

SIZES = [1, 2, 7, 15, 16, 17, 31, 33, 1000, 5003]
ROWS = [
    (n, seed, spread, removed, ties)
    for seed, n in enumerate(SIZES)
    for spread in (0.01, 4.0)
    for removed, ties in ((0.0, False), (0.5, True))
]
"""Arguments of `logits`."""


def logits(n: int, seed: int, spread: float = 4.0, removed: float = 0.0, ties: bool = False) -> np.ndarray:
    """(n,) float32; one token of them is always left."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(n) * spread).astype(np.float32)
    if ties:
        x = np.round(x)
    x[rng.random(n) < removed] = -np.inf
    x[rng.integers(n)] = 3.0
    return x


def both(native: Any, x: np.ndarray) -> tuple[Any, Any]:
    """The row as a tensor of the native ops and of the reference."""
    return native.tensor(x.tobytes(), len(x)), reference.tensor(x.tobytes(), len(x))
