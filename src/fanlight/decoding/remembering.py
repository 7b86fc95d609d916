"""Processors that remember what was chosen: mirostat and adaptive-p. Knows no model and no text.

They are immutable all the same: `after` makes the one for the next step, so that beams and drafts can go different ways.
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

from fanlight.decoding.filters import Filter, min_keep
from fanlight.decoding.processors import OnOps, Surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor

LN2 = log(2)


class Mirostat2(Filter):
    """Only tokens stay whose surprise is at most mu bits; mu follows the surprise of what is chosen. Source: Basu et al. 2021."""

    __slots__ = ("eta", "mu")
    name = "mirostat"
    remembers = True

    def __init__(self, tau: float, eta: float, ops: Ops, min_keep: int = 1, mu: float | None = None) -> None:
        """mu: None where a text begins."""
        super().__init__(tau, ops, min_keep)
        self.eta, self.mu = eta, 2 * tau if mu is None else mu
        self.label = f"mirostat(tau {tau:g}, mu {self.mu:.3g})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.keep_above(logits, self.ops.stats(logits).logsumexp - self.mu * LN2, self.min_keep)

    def after(self, token: int, before: Tensor, result: Tensor) -> Mirostat2:
        """With mu moved by eta times the surprise beyond tau."""
        (logit,) = self.ops.gather(result, (token,))
        surprise = (self.ops.stats(result).logsumexp - logit) / LN2
        return type(self)(self.value, self.eta, self.ops, self.min_keep, self.mu - self.eta * (surprise - self.value))


class Mirostat1(Mirostat2):
    """The first version: mu becomes a k, by Zipf's law fitted to the most probable tokens. Source: Basu et al. 2021."""

    __slots__ = ()
    FITTED = 100

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.top_k(logits, max(self.k(logits), self.min_keep))

    def k(self, logits: Tensor) -> int:
        """How many tokens stay."""
        n = self.ops.stats(logits).n_kept
        _, leading = self.ops.top(logits, self.FITTED)
        if len(leading) < 2:
            return 1
        ranks = range(1, len(leading))
        steps = [log((i + 1) / i) for i in ranks]
        falls = [leading[i - 1] - leading[i] for i in ranks]
        s = sum(t * b for t, b in zip(steps, falls, strict=True)) / sum(t * t for t in steps)
        epsilon = s - 1
        try:
            if abs(epsilon) < 1e-9 or s <= 0:  # the limit of the formula; a row without any slope
                k = 2**self.mu / log(n)
            else:
                k = (epsilon * 2**self.mu / (1 - n**-epsilon)) ** (1 / s)
        except OverflowError:
            return n
        return n if k >= n else max(1, int(k))


class AdaptiveP(OnOps):
    """Favours tokens near a probability, which moves so that the average of what is chosen stays at the target.

    Source: adaptive-p, llama.cpp (pull request 17927).
    """

    __slots__ = ("decay", "total", "weight")
    name = "adaptive_p"
    remembers = True

    def __init__(self, target: float, decay: float, ops: Ops, total: float | None = None, weight: float = 0.0) -> None:
        """total, weight: the decayed sum of the probabilities chosen, and of ones; None where a text begins."""
        super().__init__(target, ops)
        self.decay = decay
        self.weight = 1 / (1 - decay) if total is None else weight
        self.total = target / (1 - decay) if total is None else total
        self.label = f"adaptive_p({target:g}, now {self.now:.3g})"

    @property
    def now(self) -> float:
        """The probability that it favours at this step."""
        return min(1.0, max(0.0, 2 * self.value - self.total / self.weight))

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.near_target(logits, self.now)

    def after(self, token: int, before: Tensor, result: Tensor) -> AdaptiveP:
        """With the probability that the token had before this processor."""
        (logit,) = self.ops.gather(before, (token,))
        prob = exp(logit - self.ops.stats(before).logsumexp)
        total, weight = self.decay * self.total + prob, self.decay * self.weight + 1
        return AdaptiveP(self.value, self.decay, self.ops, total, weight)


def mirostat(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """mirostat, mirostat_tau, mirostat_eta."""
    if not config.mirostat:
        return None
    kind = Mirostat1 if config.mirostat == 1 else Mirostat2
    return kind(config.mirostat_tau, config.mirostat_eta, around.ops, min_keep(config, around))


def adaptive_p(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """adaptive_target, adaptive_decay."""
    if config.adaptive_target is None:
        return None
    return AdaptiveP(config.adaptive_target, config.adaptive_decay, around.ops)
