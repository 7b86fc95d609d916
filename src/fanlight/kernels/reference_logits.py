"""Changes of one logits row (1, V), in NumPy: logits in, other logits out. Knows no model and no text.

A removed token has the logit -inf and stays removed, whatever an op does. Results are float32; where float64 is not named,
so is the arithmetic, in the order that is written. These functions define what the native ones compute.

Damaged rows: `log_softmax` and `near_target` need a sum and raise NumericError if the row holds NaN or +inf, or nothing
above -inf; `smooth` lets such a row through unchanged; the others treat NaN and +inf as the numbers they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import KernelError
from fanlight.kernels.reference_checks import (
    REMOVED,
    amounts_of,
    finite_number,
    flags_of,
    ids_of,
    is_sound,
    largest_of,
    logits_of,
    positive,
    row_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels import ops as interface
    from fanlight.kernels.reference_tensor import Tensor

LARGEST = np.finfo(np.float32).max
TARGET_WIDTH, TARGET_PEAK, TARGET_SHARPNESS = 0.3, 5.0, 10.0
"""Of the curve of `near_target`: as in llama.cpp."""


def temperature(row: interface.Tensor, temperature: float) -> Tensor:
    """logit / temperature."""
    divisor = positive("temperature", temperature)
    with np.errstate(over="ignore"):
        return row_of(logits_of(row) / divisor)


def repetition_penalty(row: interface.Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """For each distinct id: logit > 0 ? logit / penalty : logit * penalty."""
    factor = positive("repetition_penalty", penalty)
    logits = logits_of(row).copy()
    seen = np.unique(ids_of("repetition_penalty", ids, len(logits)))
    old = logits[seen]
    with np.errstate(over="ignore"):
        logits[seen] = np.where(old > 0, old / factor, old * factor)
    return row_of(logits)


def bias(row: interface.Tensor, ids: Sequence[int], amounts: Sequence[float]) -> Tensor:
    """logit + amount for each id, one after the other, so that an id met twice gets both; an amount of -inf removes."""
    logits = logits_of(row).copy()
    tokens = ids_of("bias", ids, len(logits))
    added = amounts_of("bias", amounts)
    if len(tokens) != len(added):
        raise KernelError(f"bias: expected an amount for each of {len(tokens)} ids: got {len(added)}")
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(logits, tokens, added)
    return row_of(logits)


def bias_mask(row: interface.Tensor, bits: interface.Buffer, amount: float) -> Tensor:
    """logit + amount for the tokens whose bit is set."""
    logits = logits_of(row)
    (added,) = amounts_of("bias_mask", amount)
    with np.errstate(over="ignore", invalid="ignore"):
        return row_of(np.where(flags_of("bias_mask", bits, len(logits)), logits + added, logits))


def finite(row: interface.Tensor) -> Tensor:
    """NaN becomes 0, +inf the largest float32; a removed token stays removed."""
    logits = logits_of(row)
    return row_of(np.where(np.isnan(logits), np.float32(0), np.minimum(logits, LARGEST)))


def log_softmax(row: interface.Tensor) -> Tensor:
    """logit - logsumexp, subtracted in float64."""
    logits = logits_of(row)
    return row_of((logits.astype(np.float64) - _logsumexp("log_softmax", logits)).astype(np.float32))


def blend(a: interface.Tensor, b: interface.Tensor, weight_a: float, weight_b: float) -> Tensor:
    """weight_a * a + weight_b * b, for tokens that are left in both; the others are removed.

    Classifier-free guidance (Sanchez et al. 2023) and contrastive decoding (Li et al. 2022) are such sums.
    """
    x, y = logits_of(a), logits_of(b)
    if x.shape != y.shape:
        raise KernelError(f"blend: expected rows of equal size: got {len(x)} and {len(y)}")
    by_x, by_y = finite_number("blend", "weight_a", weight_a), finite_number("blend", "weight_b", weight_b)
    with np.errstate(over="ignore", invalid="ignore"):
        return row_of(np.where((x == REMOVED) | (y == REMOVED), REMOVED, by_x * x + by_y * y))


def smooth(row: interface.Tensor, factor: float, curve: float = 1.0) -> Tensor:
    """-k d^2 + s d^3 + max with d = logit - max, k = factor (3 - curve) / 2 and s = factor (curve - 1) / 2.

    The powers are d d and d d d; d is at least -1e12, so that they are finite. Source: quadratic sampling, as
    text-generation-webui has it.
    """
    positive("smooth", factor)
    positive("smooth", curve)
    square = finite_number("smooth", "factor * (3 - curve) / 2", factor * (3 - curve) / 2)
    cube = finite_number("smooth", "factor * (curve - 1) / 2", factor * (curve - 1) / 2)
    logits = logits_of(row)
    if not is_sound(logits):
        return row_of(logits)
    with np.errstate(over="ignore", invalid="ignore"):
        d = np.maximum(logits - logits.max(), np.float32(-1e12))
        curved: NDArray[np.float32] = cube * (d * d * d) - square * (d * d) + logits.max()
    return row_of(np.where(logits == REMOVED, REMOVED, curved))


def near_target(row: interface.Tensor, target: float) -> Tensor:
    """5 - 10 d^2 / (1 + d) with d = |probability - target| / 0.3, in float64. Source: adaptive-p, llama.cpp PR 17927."""
    finite_number("near_target", "target", target)
    logits = logits_of(row)
    p = np.exp(logits.astype(np.float64) - _logsumexp("near_target", logits))
    d = np.abs(p - target) / TARGET_WIDTH
    curved = TARGET_PEAK - TARGET_SHARPNESS * d * d / (1 + d)
    return row_of(np.where(logits == REMOVED, REMOVED, curved.astype(np.float32)))


def _logsumexp(op: str, logits: NDArray[np.float32]) -> float:
    largest = largest_of(op, logits)
    return largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))
