"""Closeness to transformers in float32 on the same dequantised weights, along a text of a thousand tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Goal, Outcome
from benchmarks.lineup import N_CTX, OURS, Q4_0, Q4_1, Lineup

FIGURE = "quality"
Logits = NDArray[np.float32]


def run(lineup: Lineup) -> Outcome:
    """Top-1 agreement, mean KL and perplexity ratio, for Fanlight and for llama.cpp (on the same path, for scale)."""
    ids = list(lineup.text_ids[:N_CTX])
    reference = lineup.transformers.logits(ids)
    found = {
        OURS: compare(reference, lineup.fanlight.logits(ids), ids),
        Q4_1: compare(reference, lineup.llama_q4_1.logits(ids), ids),
        Q4_0: compare(reference, lineup.llama_q4_0.logits(ids), ids),
    }
    names = ("top-1 agreement", "mean KL, nats", "perplexity ratio")
    samples = {
        f"{peer}: {name}": [value] for peer, values in found.items() for name, value in zip(names, values, strict=True)
    }
    top_1, kl, perplexity = found[OURS]
    goals = [
        Goal(what=names[0], found=top_1, low=0.975),
        Goal(what=names[1], found=kl, high=0.004),
        Goal(what=names[2], found=perplexity, low=0.99, high=1.01),
    ]
    return Outcome(figure=FIGURE, unit=f"{len(ids)} tokens of text", samples=samples, goals=goals)


def compare(reference: Logits, found: Logits, ids: Sequence[int]) -> tuple[float, float, float]:
    """(share of equal arg maxes, mean KL(reference || found), perplexity ratio). Logits: (T, n_vocab)."""
    same = float(np.mean(reference.argmax(axis=1) == found.argmax(axis=1)))
    p, q = log_softmax(reference), log_softmax(found)
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))
    rows, following = np.arange(len(ids) - 1), np.asarray(ids[1:])
    ratio = float(np.exp(np.mean(p[rows, following] - q[rows, following], dtype=np.float64)))
    return same, kl, ratio


def log_softmax(logits: Logits) -> Logits:
    """Natural logs of the probabilities, row by row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return found
