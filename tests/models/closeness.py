"""How near two sets of logits are. In: (T, n_vocab) each. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def kl_divergence(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Mean over the rows of KL(expected || found), in nats."""
    p, q = log_softmax(expected), log_softmax(found)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))


def same_top(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The share of rows with the same arg max."""
    return float(np.mean(expected.argmax(axis=1) == found.argmax(axis=1)))


def perplexity(logits: NDArray[np.float32], ids: list[int]) -> float:
    """Of ids[1:], each from the row before it."""
    return float(np.exp(-np.mean(log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]])))
