"""Ops on one logits row (1, V), in NumPy: these define what the native ones compute. Knows no model and no text.

A removed token has the logit -inf. Results are float32; sums, exponentials and noise are float64. Ties go to the lowest
id.

Damaged rows: an op that must choose or sum up (`argmax`, `stats`, `gumbel_argmax`) raises NumericError if the row holds
NaN or +inf, or nothing above -inf. The processors let NaN and +inf through, so that the choice after them raises.

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
2014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import KernelError, NumericError
from fanlight.kernels.ops import RowStats
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels import ops as interface

REMOVED = np.float32(-np.inf)
MASK_64 = (1 << 64) - 1


def row(x: interface.Tensor, index: int) -> Tensor:
    """Row `index` as (1, columns)."""
    array = _array(x)
    if not 0 <= index < array.shape[0]:
        raise KernelError(f"row: index {index} is outside 0..{array.shape[0] - 1}")
    return Tensor(array[index : index + 1])


# -- processors -----------------------------------------------------------------------------------------------------


def temperature(row: interface.Tensor, temperature: float) -> Tensor:
    """logit / temperature, divided in float32."""
    divisor = _positive("temperature", temperature)
    with np.errstate(over="ignore"):
        return _tensor(_logits(row) / divisor)


def repetition_penalty(row: interface.Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """For each distinct id: logit > 0 ? logit / penalty : logit * penalty, in float32."""
    factor = _positive("repetition_penalty", penalty)
    logits = _logits(row).copy()
    seen = np.unique(_ids("repetition_penalty", ids, len(logits)))
    old = logits[seen]
    with np.errstate(over="ignore"):
        logits[seen] = np.where(old > 0, old / factor, old * factor)
    return _tensor(logits)


def top_k(row: interface.Tensor, k: int) -> Tensor:
    """Remove tokens below the k-th largest logit; tokens equal to it stay."""
    if k < 1:
        raise KernelError(f"top_k: k must be at least 1: got {k}")
    logits = _logits(row)
    if k >= len(logits):
        return _tensor(logits)
    kth = np.partition(logits, len(logits) - k)[len(logits) - k]  # NaN counts as largest: below NaN is nothing
    return _tensor(np.where(logits < kth, REMOVED, logits))


def top_p(row: interface.Tensor, p: float) -> Tensor:
    """Keep the fewest tokens, most probable first, whose probabilities sum to >= p; at least one.

    A weight is exp(logit - max) in float64; tokens are kept until their weights sum to p times the sum of all.
    """
    if not 0 < p <= 1:
        raise KernelError(f"top_p: p must be above 0 and at most 1: got {p}")
    logits = _logits(row)
    if not len(logits) or not np.isfinite(logits.max()):
        return _tensor(logits)
    order = np.argsort(-logits, kind="stable")
    sums = np.cumsum(np.exp(logits[order].astype(np.float64) - logits.max()))
    n_kept = int(np.searchsorted(sums, p * sums[-1])) + 1
    kept = np.full_like(logits, REMOVED)
    kept[order[:n_kept]] = logits[order[:n_kept]]
    return _tensor(kept)


def min_p(row: interface.Tensor, p: float) -> Tensor:
    """Remove tokens with a probability below p times the largest: logit < max + log(p), compared in float64."""
    if not 0 <= p <= 1:
        raise KernelError(f"min_p: p must be between 0 and 1: got {p}")
    logits = _logits(row)
    if not len(logits) or p == 0:
        return _tensor(logits)
    floor = float(logits.max()) + float(np.log(p))
    return _tensor(np.where(logits.astype(np.float64) < floor, REMOVED, logits))


# -- reading a row --------------------------------------------------------------------------------------------------


def argmax(row: interface.Tensor) -> int:
    """The id of the largest logit."""
    logits = _logits(row)
    _largest("argmax", logits)
    return int(np.argmax(logits))


def stats(row: interface.Tensor) -> RowStats:
    """Count, maximum, logsumexp and entropy of the row."""
    logits = _logits(row)
    largest = _largest("stats", logits)
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


def top(row: interface.Tensor, n: int) -> tuple[list[int], list[float]]:
    """Ids and logits of the n largest, descending; ties: lowest id first. Removed tokens are left out."""
    if n < 0:
        raise KernelError(f"top: n must be at least 0: got {n}")
    logits = _logits(row)
    order = np.argsort(-logits, kind="stable")[:n]
    order = order[logits[order] > REMOVED]
    return order.tolist(), logits[order].tolist()


def gather(row: interface.Tensor, ids: Sequence[int]) -> list[float]:
    """The logits of `ids`."""
    logits = _logits(row)
    picked: list[float] = logits[_ids("gather", ids, len(logits))].tolist()
    return picked


def rank(row: interface.Tensor, token: int) -> int:
    """How many tokens come before this one: larger logits, and equal ones of a lower id."""
    logits = _logits(row)
    if not 0 <= token < len(logits):
        raise KernelError(f"rank: id {token} is outside 0..{len(logits) - 1}")
    return int((logits > logits[token]).sum() + (logits[:token] == logits[token]).sum())


# -- drawing --------------------------------------------------------------------------------------------------------


def gumbel(seed: int, position: int, ids: Sequence[int]) -> list[float]:
    """Standard Gumbel noise of these tokens."""
    noise: list[float] = _noise(seed, position, _ids("gumbel", ids, 1 << 32)).tolist()
    return noise


def gumbel_argmax(row: interface.Tensor, seed: int, position: int) -> tuple[int, float]:
    """arg max of float64(logit) + noise over the tokens left, and that sum."""
    logits = _logits(row)
    _largest("gumbel_argmax", logits)
    ids = np.flatnonzero(logits > REMOVED)
    scores = logits[ids].astype(np.float64) + _noise(seed, position, ids)
    best = int(np.argmax(scores))
    return int(ids[best]), float(scores[best])


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


# -- checks ---------------------------------------------------------------------------------------------------------


def _array(x: interface.Tensor) -> NDArray[np.float32]:
    return x.array if isinstance(x, Tensor) else x.numpy()


def _logits(row: interface.Tensor) -> NDArray[np.float32]:
    array = _array(row)
    if array.shape[0] != 1:
        raise KernelError(f"expected one logits row, (1, n_vocab): got {array.shape}; take one with row(x, index)")
    logits: NDArray[np.float32] = array[0]  # (1, V) -> (V,)
    return logits


def _tensor(logits: NDArray[np.float32]) -> Tensor:
    return Tensor(logits[None])  # (V,) -> (1, V)


def _positive(op: str, value: float) -> np.float32:
    with np.errstate(over="ignore", under="ignore"):
        number = np.float32(value)
    if not 0 < number < np.inf:
        raise KernelError(f"{op}: expected a positive float32: got {value}")
    return number


def _ids(op: str, ids: Sequence[int], n_vocab: int) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise KernelError(f"{op}: ids must be a sequence of integers: got {array.dtype} of shape {array.shape}")
    if len(array) and not (array.min() >= 0 and array.max() < n_vocab):
        outside = next(int(token) for token in array if not 0 <= token < n_vocab)
        raise KernelError(f"{op}: id {outside} is outside 0..{n_vocab - 1}")
    return array.astype(np.int64)


def _largest(op: str, logits: NDArray[np.float32]) -> float:
    largest = float(logits.max()) if len(logits) else -np.inf
    if np.isnan(largest):
        damaged = int(np.isnan(logits).sum())
        raise NumericError(f"{op}: {damaged} of {len(logits)} logits are NaN; the model's weights may be damaged")
    if largest == np.inf:
        raise NumericError(
            f"{op}: token {int(np.argmax(logits))} has the logit +inf; the model's arithmetic overflowed"
        )
    if largest == -np.inf:
        raise NumericError(f"{op}: no token is left: all {len(logits)} logits are -inf; loosen the filters")
    return largest
