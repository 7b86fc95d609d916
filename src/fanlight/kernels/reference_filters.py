"""Filters on one logits row (1, V), in NumPy: tokens removed, the others untouched. Knows no model and no text.

A removed token has the logit -inf and never comes back. "The order" is that of `top`: largest logit first, ties: lowest id
first. `min_keep` is how many tokens stay at least, the first ones in the order, as far as so many are left. Probabilities
are those of the softmax over the tokens left, in float64. These functions define what the native ones compute.

Damaged rows, with NaN or +inf or nothing left: those filters that need sums or an order let the row through unchanged, so
that the choice after them raises; the others remove what they remove and keep NaN and +inf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import KernelError
from fanlight.kernels.reference_checks import REMOVED, above, at_least, flags_of, ids_of, is_sound, logits_of, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels import ops as interface
    from fanlight.kernels.reference_tensor import Tensor

TOP_H_TOKENS = 100
"""How many tokens `top_h` looks at: as in transformers."""
FLAT_CURVATURE = 1e-6
"""The sum of second differences up to which `tail_free` takes a row for flat: as in llama.cpp."""


# -- by rank or by value --------------------------------------------------------------------------------------------


def top_k(row: interface.Tensor, k: int) -> Tensor:
    """Remove tokens below the k-th largest logit; tokens equal to it stay."""
    at_least("top_k", "k", k, 1)
    logits = logits_of(row)
    if k >= len(logits):
        return row_of(logits)
    kth = np.partition(logits, len(logits) - k)[len(logits) - k]  # NaN counts as largest: below NaN is nothing
    return row_of(np.where(logits < kth, REMOVED, logits))


def keep_above(row: interface.Tensor, limit: float, min_keep: int = 1) -> Tensor:
    """Remove tokens with float64(logit) < limit; where fewer than min_keep would stay, the first min_keep stay."""
    at_least("keep_above", "min_keep", min_keep, 1)
    _no_nan("keep_above", limit)
    logits = logits_of(row)
    stays = (logits.astype(np.float64) >= limit) & (logits > REMOVED)
    if stays.sum() < min_keep and not np.isnan(logits).any():
        return _first(logits, _order(logits), min_keep)
    return row_of(np.where(stays | np.isnan(logits), logits, REMOVED))


def drop_above(row: interface.Tensor, limit: float) -> Tensor:
    """Of the tokens with float64(logit) >= limit, only the last in the order stays; those below the limit stay too."""
    _no_nan("drop_above", limit)
    logits = logits_of(row)
    reached = np.flatnonzero((logits.astype(np.float64) >= limit) & (logits > REMOVED))
    if len(reached) < 2:
        return row_of(logits)
    kept = logits.copy()
    kept[reached] = REMOVED
    last = reached[len(reached) - 1 - int(np.argmin(logits[reached][::-1]))]  # of the smallest, the highest id
    kept[last] = logits[last]
    return row_of(kept)


# -- by what is asked for -------------------------------------------------------------------------------------------


def keep(row: interface.Tensor, ids: Sequence[int]) -> Tensor:
    """Only these ids keep their logits."""
    logits = logits_of(row)
    wanted = ids_of("keep", ids, len(logits))
    if not len(wanted):
        raise KernelError("keep: expected at least one id: got none")
    kept = np.full_like(logits, REMOVED)
    kept[wanted] = logits[wanted]
    return row_of(kept)


def mask(row: interface.Tensor, bits: interface.Buffer) -> Tensor:
    """Tokens whose bit is set keep their logits."""
    logits = logits_of(row)
    return row_of(np.where(flags_of("mask", bits, len(logits)), logits, REMOVED))


# -- by probability -------------------------------------------------------------------------------------------------


def top_p(row: interface.Tensor, p: float, min_keep: int = 1) -> Tensor:
    """Keep the fewest tokens, in the order, whose probabilities sum to >= p; p of 1 removes nothing.

    A weight is exp(logit - max) in float64; tokens are kept until their weights sum to p times the sum of all.
    """
    above("top_p", "p", p, 0, 1)
    at_least("top_p", "min_keep", min_keep, 1)
    logits = logits_of(row)
    if p == 1 or not is_sound(logits):
        return row_of(logits)
    order = _order(logits)
    sums = np.cumsum(_weights(logits[order]))
    return _first(logits, order, max(int(np.searchsorted(sums, p * sums[-1])) + 1, min_keep))


def typical_p(row: interface.Tensor, mass: float, min_keep: int = 1) -> Tensor:
    """Keep the fewest tokens, nearest to the expected information first, whose probabilities sum to >= mass.

    A token's distance is |-log p - H|, H the entropy, which is its logit's distance to the mean logit; ties: lowest id
    first. Here `min_keep` counts in the order of distances. A mass of 1 removes nothing. Source: Meister et al. 2022.
    """
    above("typical_p", "mass", mass, 0, 1)
    at_least("typical_p", "min_keep", min_keep, 1)
    logits = logits_of(row)
    if mass == 1 or not is_sound(logits):
        return row_of(logits)
    kept = np.flatnonzero(logits > REMOVED)
    weights = _weights(logits[kept])
    mean = float(weights @ logits[kept].astype(np.float64)) / float(weights.sum())
    near = np.argsort(np.abs(logits[kept].astype(np.float64) - mean), kind="stable")
    sums = np.cumsum(weights[near])
    return _first(logits, kept[near], max(int(np.searchsorted(sums, mass * sums[-1])) + 1, min_keep))


def tail_free(row: interface.Tensor, z: float, min_keep: int = 1) -> Tensor:
    """Cut where the curve of sorted probabilities has spent a share z of its curvature.

    With p sorted, c[i] = |p[i] - 2 p[i + 1] + p[i + 2]|, divided by their sum (equal shares if it is at most 1e-6): the
    first i tokens stay, for the first i >= min_keep at which c[0] + ... + c[i] > z; all, if there is none, if z is 1 or
    if two tokens are left or fewer. Source: Phénix 2019 (tail free sampling), with the indices that llama.cpp used.
    """
    above("tail_free", "z", z, 0, 1)
    at_least("tail_free", "min_keep", min_keep, 1)
    logits = logits_of(row)
    if z == 1 or not is_sound(logits):
        return row_of(logits)
    order = _order(logits)
    if len(order) <= 2:
        return row_of(logits)
    weights = _weights(logits[order])
    curvature = np.abs(np.diff(weights / weights.sum(), n=2))
    total = float(curvature.sum())
    shares = curvature / total if total > FLAT_CURVATURE else np.full(len(curvature), 1 / len(curvature))
    spent = np.flatnonzero(np.cumsum(shares) > z)
    cuts = spent[spent >= min_keep]
    return _first(logits, order, int(cuts[0]) if len(cuts) else len(order))


def top_h(row: interface.Tensor, h: float, min_keep: int = 1) -> Tensor:
    """Keep tokens, in the order, while their terms -p log p sum to at most h times the entropy; the first always.

    Only the first 100 tokens count, their probabilities taken among themselves; all others are removed, unless min_keep
    is above 100. Source: Potraghloo et al. 2025 (arXiv 2509.02510), with the limit of 100 that transformers has.
    """
    above("top_h", "h", h, 0, 1)
    at_least("top_h", "min_keep", min_keep, 1)
    logits = logits_of(row)
    if not is_sound(logits):
        return row_of(logits)
    order = _order(logits)
    weights = _weights(logits[order[:TOP_H_TOKENS]])
    p = weights / weights.sum()
    sums = np.cumsum(-p * np.log(np.where(p > 0, p, 1)))
    return _first(logits, order, max(int(np.searchsorted(sums, h * sums[-1], side="right")), min_keep))


# -- shared ---------------------------------------------------------------------------------------------------------


def _order(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    order = np.argsort(-logits, kind="stable")
    return order[logits[order] > REMOVED]


def _weights(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())
    return weights


def _first(logits: NDArray[np.float32], order: NDArray[np.int64], n: int) -> Tensor:
    kept = np.full_like(logits, REMOVED)
    kept[order[:n]] = logits[order[:n]]
    return row_of(kept)


def _no_nan(op: str, limit: float) -> None:
    if np.isnan(limit):
        raise KernelError(f"{op}: the limit must be a number: got {limit}")
