"""Reading one logits row (1, V) and drawing from it, in NumPy: these define what the native ops compute. Knows no model.

The ops that make another row of it are defined in `reference_filters` and `reference_logits`; all can be had from here. A
removed token has the logit -inf. Sums, exponentials and noise are float64. Ties go to the lowest id.

Damaged rows: an op that must choose or sum up (`argmax`, `stats`, `deviation`, `gumbel_argmax`, `gumbel_top`) raises
NumericError if the row holds NaN or +inf, or nothing above -inf.

The noise of a token is a function of (seed, position, token) and needs no state. In unsigned arithmetic that wraps:

    z    = seed + 0x9E3779B97F4A7C15 * (position + 1)                         64 bits
    key  = splitmix64's output function of z; k0 = its low, k1 = its high 32 bits
    hi   = mix(mix(token ^ k0) + k1)                                          32 bits
    lo   = mix(hi ^ mix(token + k1) ^ k0)                                     32 bits
    v    = min((hi + (lo + 0.5) / 2^32) / 2^32, 1 - 2^-53)                    float64, uniform in (0, 1)
    g    = -log(-log1p(-v))                                                   float64, standard Gumbel

A small v is a large g, where float64 resolves finely, so the tail that decides is not rounded away. For one key, `hi`
is a bijection of the token: no two tokens of a row share a noise.

Sources: splitmix64: Steele, Lea and Flood 2014, with the constants of Vigna's public-domain C code (xoshiro project).
`mix` is "lowbias32" of Wellons's hash-prospector (public domain). The Gumbel-max trick: Gumbel 1954; Maddison et al.
2014. Its n largest instead of one: Kool, van Hoof and Welling 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import KernelError
from fanlight.kernels.mersenne import green_list
from fanlight.kernels.ops import RowStats
from fanlight.kernels.reference_checks import REMOVED, array_of, at_least, ids_of, largest_of, logits_of
from fanlight.kernels.reference_filters import (
    drop_above,
    keep,
    keep_above,
    mask,
    tail_free,
    top_h,
    top_k,
    top_p,
    typical_p,
)
from fanlight.kernels.reference_logits import (
    bias,
    bias_mask,
    blend,
    finite,
    log_softmax,
    near_target,
    repetition_penalty,
    smooth,
    temperature,
)
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels import ops as interface

__all__ = [
    "MASK_64",
    "argmax",
    "bias",
    "bias_mask",
    "blend",
    "deviation",
    "drop_above",
    "finite",
    "gather",
    "green_list",
    "gumbel",
    "gumbel_argmax",
    "gumbel_top",
    "keep",
    "keep_above",
    "log_softmax",
    "mask",
    "near_target",
    "rank",
    "repetition_penalty",
    "row",
    "smooth",
    "stats",
    "tail_free",
    "temperature",
    "top",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
    "uniform",
]

MASK_64 = (1 << 64) - 1


def row(x: interface.Tensor, index: int) -> Tensor:
    """Row `index` as (1, columns)."""
    array = array_of(x)
    if not 0 <= index < array.shape[0]:
        raise KernelError(f"row: index {index} is outside 0..{array.shape[0] - 1}")
    return Tensor(array[index : index + 1])


# -- reading a row --------------------------------------------------------------------------------------------------


def argmax(row: interface.Tensor) -> int:
    """The id of the largest logit."""
    logits = logits_of(row)
    largest_of("argmax", logits)
    return int(np.argmax(logits))


def stats(row: interface.Tensor) -> RowStats:
    """Count, maximum, logsumexp and entropy of the row."""
    logits = logits_of(row)
    largest = largest_of("stats", logits)
    shifted = logits[logits > REMOVED].astype(np.float64) - largest
    weights = np.exp(shifted)
    total = float(weights.sum())
    log_total = float(np.log(total))
    return RowStats(
        n_kept=len(shifted),
        max=largest,
        logsumexp=largest + log_total,
        entropy=max(0.0, log_total - float(weights @ shifted) / total),
    )


def deviation(row: interface.Tensor) -> float:
    """Standard deviation of the logits left: the root of the mean squared distance to their mean."""
    logits = logits_of(row)
    largest_of("deviation", logits)
    return float(logits[logits > REMOVED].astype(np.float64).std())


def top(row: interface.Tensor, n: int) -> tuple[list[int], list[float]]:
    """Ids and logits of the n largest, descending; ties: lowest id first. Removed tokens are left out."""
    at_least("top", "n", n, 0)
    logits = logits_of(row)
    order = np.argsort(-logits, kind="stable")[:n]
    order = order[logits[order] > REMOVED]
    return order.tolist(), logits[order].tolist()


def gather(row: interface.Tensor, ids: Sequence[int]) -> list[float]:
    """The logits of `ids`."""
    logits = logits_of(row)
    picked: list[float] = logits[ids_of("gather", ids, len(logits))].tolist()
    return picked


def rank(row: interface.Tensor, token: int) -> int:
    """How many tokens come before this one: larger logits, and equal ones of a lower id."""
    logits = logits_of(row)
    if not 0 <= token < len(logits):
        raise KernelError(f"rank: id {token} is outside 0..{len(logits) - 1}")
    return int((logits > logits[token]).sum() + (logits[:token] == logits[token]).sum())


# -- drawing --------------------------------------------------------------------------------------------------------


def gumbel(seed: int, position: int, ids: Sequence[int]) -> list[float]:
    """Standard Gumbel noise of these tokens."""
    noise: list[float] = _noise(seed, position, ids_of("gumbel", ids, 1 << 32)).tolist()
    return noise


def gumbel_argmax(row: interface.Tensor, seed: int, position: int) -> tuple[int, float]:
    """arg max of float64(logit) + noise over the tokens left, and that sum."""
    logits = logits_of(row)
    largest_of("gumbel_argmax", logits)
    ids = np.flatnonzero(logits > REMOVED)
    scores = logits[ids].astype(np.float64) + _noise(seed, position, ids)
    best = int(np.argmax(scores))
    return int(ids[best]), float(scores[best])


def gumbel_top(row: interface.Tensor, seed: int, position: int, n: int) -> tuple[list[int], list[float]]:
    """Ids and float64(logit) + noise of the n tokens where it is largest, descending; ties: lowest id first."""
    at_least("gumbel_top", "n", n, 1)
    logits = logits_of(row)
    largest_of("gumbel_top", logits)
    ids = np.flatnonzero(logits > REMOVED)
    scores = logits[ids].astype(np.float64) + _noise(seed, position, ids)
    best = np.argsort(-scores, kind="stable")[:n]
    return ids[best].tolist(), scores[best].tolist()


def uniform(seed: int, position: int, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """`v` above: the uniform number in (0, 1) that each token's noise is made of."""
    if position < 0:
        raise KernelError(f"gumbel: position must be at least 0: got {position}")
    key = _splitmix64((seed + 0x9E3779B97F4A7C15 * (position + 1)) & MASK_64)
    k0, k1 = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    token = ids.astype(np.uint32)
    hi = _mix32(_mix32(token ^ k0) + k1)
    lo = _mix32(hi ^ _mix32(token + k1) ^ k0)
    v = (hi.astype(np.float64) + (lo.astype(np.float64) + 0.5) * 2.0**-32) * 2.0**-32
    return np.minimum(v, 1 - 2.0**-53)  # rounding up to 1 would make the noise -inf


def _noise(seed: int, position: int, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = -np.log(-np.log1p(-uniform(seed, position, ids)))
    return noise


def _splitmix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)


def _mix32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
