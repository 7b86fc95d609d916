"""Processors that set one row against another of the same step: guidance, contrastive decoding, DoLa. Knows no model.

The other rows are handed in by the strategy: of a negative prompt, of a smaller model, of earlier layers.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from fanlight.decoding.processors import AMATEUR, OnOps, Surroundings
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor

NEGATIVE, LAYERS = "negative", "layers"
DOLA_PLAUSIBLE = 0.1
"""DoLa's tokens: at least this share of the largest probability, as its authors have it."""


class Guidance(OnOps):
    """Log-probabilities move away from those under the negative prompt. Source: Sanchez et al. 2023, as in transformers.

    negative + scale * (positive - negative).
    """

    __slots__ = ()
    name = "guidance_scale"
    beside = NEGATIVE

    def between(self, ids: Sequence[int], logits: Tensor, others: Tensor) -> Tensor:
        """See Processor. others: the row of the negative prompt."""
        ops = self.ops
        positive, negative = ops.log_softmax(logits), ops.log_softmax(ops.row(others, 0))
        return ops.blend(positive, negative, self.value, 1 - self.value)


class ContrastiveDecoding(OnOps):
    """What a larger model says and a smaller one does not. Source: O'Brien and Lewis 2023, after Li et al. 2022.

    Of the tokens with at least alpha times the expert's largest probability: (1 + beta) * expert - beta * amateur, in logits.
    """

    __slots__ = ("alpha",)
    name = "contrastive_decoding"
    beside = AMATEUR

    def __init__(self, beta: float, alpha: float, ops: Ops) -> None:
        super().__init__(beta, ops)
        self.alpha = alpha
        self.label = f"contrastive_decoding(beta {beta:g}, alpha {alpha:g})"

    def between(self, ids: Sequence[int], logits: Tensor, others: Tensor) -> Tensor:
        """See Processor. others: the amateur's row."""
        ops = self.ops
        plausible = ops.keep_above(logits, ops.stats(logits).max + log(self.alpha))
        return ops.blend(plausible, ops.row(others, 0), 1 + self.value, -self.value)


class Dola(OnOps):
    """The last layer's log-probabilities against those of the earlier layer that differs most. Source: Chuang et al. 2023.

    Most by the Jensen-Shannon divergence; among tokens of at least a tenth of the largest probability.
    """

    __slots__ = ("layers",)
    name = "dola_layers"
    beside = LAYERS

    def __init__(self, layers: Sequence[int], ops: Ops) -> None:
        super().__init__(float(len(layers)), ops)
        self.layers = tuple(layers)
        self.label = f"dola({', '.join(map(str, layers))})"

    def between(self, ids: Sequence[int], logits: Tensor, others: Tensor) -> Tensor:
        """See Processor. others: the rows of `layers`, read off by the model's head."""
        ops = self.ops
        last, chosen = ops.log_softmax(logits), self.premature(logits, others)
        early = ops.log_softmax(ops.row(others, chosen))
        plausible = ops.keep_above(last, ops.stats(last).max + log(DOLA_PLAUSIBLE))
        return ops.blend(plausible, early, 1.0, -1.0)

    def premature(self, logits: Tensor, others: Tensor) -> int:
        """Which of the layers differs most from the last."""
        import numpy as np

        if others.shape[0] == 1:
            return 0
        last = logits.numpy()
        left = last[0] > -np.inf
        rows = np.concatenate([last[:, left], others.numpy()[:, left]])  # (1 + n, tokens left)
        rows -= rows.max(-1, keepdims=True)
        weights = np.exp(rows)
        totals = weights.sum(-1, keepdims=True, dtype=np.float64).astype(np.float32)
        probs, logprobs = weights / totals, rows - np.log(totals)
        final, early = probs[:1], probs[1:]
        middle = np.log(np.maximum((final + early) / 2, np.finfo(np.float32).tiny))
        divergence = (final * (logprobs[:1] - middle) + early * (logprobs[1:] - middle)).sum(
            -1, dtype=np.float64
        )  # (n,)
        return int(divergence.argmax())


def dola_candidates(setting: str | Sequence[int], n_layer: int, tied_head: bool) -> tuple[int, ...]:
    """The layers that "low" or "high" stand for, counted from 0 (the embedding), as transformers counted them.

    Every second one of the lower or upper half; of deep models, of twenty layers. Errors: OptionError.
    """
    if not isinstance(setting, str):
        outside = [layer for layer in setting if layer >= n_layer]
        if outside:
            raise OptionError(
                f"dola_layers: layer {outside[0]} is not before the last: the model allows 0 to {n_layer - 1}"
            )
        return tuple(setting)
    first = min(2, n_layer - 1) if tied_head else 0  # a tied head reads the embedding back as it is
    half, deep = n_layer // 2, n_layer > 40
    if setting == "low":
        return tuple(range(first, 20 if deep else half, 2)) or (first,)
    return tuple(range(n_layer - 20 if deep else half, n_layer, 2))


def guidance(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """guidance_scale."""
    return Guidance(config.guidance_scale, around.ops) if config.guidance_scale != 1 else None


def amateur(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """contrastive_alpha, contrastive_beta: where the request has an amateur."""
    if AMATEUR not in around.others:
        return None
    return ContrastiveDecoding(config.contrastive_beta, config.contrastive_alpha, around.ops)


def dola(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """dola_layers."""
    if config.dola_layers is None:
        return None
    return Dola(dola_candidates(config.dola_layers, around.n_layer, around.tied_head), around.ops)
