"""Filters: processors that remove tokens, by a logit of -inf, and change no other. Knows no model and no text.

Each leaves at least `min_keep` tokens: the first in descending order of logits, ties by lowest id.
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

from fanlight.decoding.processors import Maker, OnOps, Surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, RowStats, Tensor

COIN = 2**31 - 1
"""The token whose noise decides for the whole step; no vocabulary reaches it."""


class Filter(OnOps):
    """A filter with one number, and how many tokens it leaves at least."""

    __slots__ = ("min_keep",)
    removes = True

    def __init__(self, value: float, ops: Ops, min_keep: int = 1) -> None:
        super().__init__(value, ops)
        self.min_keep = min_keep


class TopK(Filter):
    """Only the k largest logits stay, and those equal to the k-th. Source: Fan et al. 2018."""

    __slots__ = ()
    name = "top_k"

    def __init__(self, value: int, ops: Ops, min_keep: int = 1) -> None:
        super().__init__(value, ops, min_keep)
        self.label = f"top_k({value})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.top_k(logits, min(max(int(self.value), self.min_keep), logits.shape[1]))


class TopP(Filter):
    """Only the most probable tokens stay whose probabilities together reach p. Source: Holtzman et al. 2019."""

    __slots__ = ()
    name = "top_p"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.top_p(logits, self.value, self.min_keep)


class TypicalP(Filter):
    """Those whose surprise is nearest to the entropy stay, until they reach p. Source: Meister et al. 2022."""

    __slots__ = ()
    name = "typical_p"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.typical_p(logits, self.value, self.min_keep)


class TailFree(Filter):
    """The tail goes, from where the curve of sorted probabilities flattens. Source: Phénix 2019, as in llama.cpp."""

    __slots__ = ()
    name = "tfs"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.tail_free(logits, self.value, self.min_keep)


class TopH(Filter):
    """The most probable tokens stay while their entropy is below h of the whole. Source: Potraghloo et al. 2025."""

    __slots__ = ()
    name = "top_h"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.top_h(logits, self.value, self.min_keep)


class Above(Filter):
    """A filter that is one limit on the logits."""

    __slots__ = ()

    def limit(self, logits: Tensor) -> float:
        """The least logit that stays."""
        raise AssertionError("every filter of this kind has a limit")

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.keep_above(logits, self.limit(logits), self.min_keep)


class MinP(Above):
    """Only tokens stay that are at least p times as probable as the most probable one. Source: Nguyen et al. 2024."""

    __slots__ = ()
    name = "min_p"

    def limit(self, logits: Tensor) -> float:
        """max + log p."""
        return self.ops.stats(logits).max + log(self.value)


class Cutoff(Above):
    """A limit that no token may reach: then those stay that min_keep asks for, and those equal to the last of them."""

    __slots__ = ()

    def asked(self, stats: RowStats) -> float:
        """The limit for a row with these sums."""
        raise AssertionError("every cutoff has a limit")

    def limit(self, logits: Tensor) -> float:
        """The limit, or the logit of the last token that stays all the same."""
        stats = self.ops.stats(logits)
        last = stats.max if self.min_keep == 1 else self.ops.top(logits, self.min_keep)[1][-1]
        return min(self.asked(stats), last)


class EpsilonCutoff(Cutoff):
    """Only tokens stay of at least this probability. Source: Hewitt et al. 2022."""

    __slots__ = ()
    name = "epsilon_cutoff"

    def asked(self, stats: RowStats) -> float:
        """logsumexp + log epsilon."""
        return stats.logsumexp + log(self.value)


class EtaCutoff(Cutoff):
    """The same, with less where the entropy is high: min(eps, sqrt(eps) * exp(-entropy)). Source: Hewitt et al. 2022."""

    __slots__ = ()
    name = "eta_cutoff"

    def asked(self, stats: RowStats) -> float:
        """logsumexp + log eta."""
        return stats.logsumexp + min(log(self.value), 0.5 * log(self.value) - stats.entropy)


class TopNSigma(Above):
    """Only tokens stay within n standard deviations of the largest logit. Source: Tang et al. 2024."""

    __slots__ = ()
    name = "top_n_sigma"

    def limit(self, logits: Tensor) -> float:
        """max - n * deviation."""
        return self.ops.stats(logits).max - self.value * self.ops.deviation(logits)


class TopA(Above):
    """Only tokens stay of at least a times the largest probability squared. Source: top-a, KoboldAI 2022."""

    __slots__ = ()
    name = "top_a"

    def limit(self, logits: Tensor) -> float:
        """logsumexp + log a + 2 * log of the largest probability."""
        stats = self.ops.stats(logits)
        return stats.logsumexp + log(self.value) + 2 * (stats.max - stats.logsumexp)


class XTC(Filter):
    """Exclude top choices: of the tokens above a threshold all but the least probable go, now and then.

    Now and then: by a draw that depends on seed and position alone. Nothing goes where fewer than min_keep would stay.
    Source: p-e-w 2024, as in llama.cpp.
    """

    __slots__ = ("seed", "threshold")
    name = "xtc"

    def __init__(self, probability: float, threshold: float, seed: int, ops: Ops, min_keep: int = 1) -> None:
        super().__init__(probability, ops, min_keep)
        self.threshold, self.seed = threshold, seed % 2**64
        self.label = f"xtc({probability:g}, above {threshold:g})"

    def strikes(self, position: int) -> bool:
        """Whether it does anything at this position."""
        (noise,) = self.ops.gumbel(self.seed, position, (COIN,))
        return exp(-exp(-noise)) < self.value  # back to the uniform number that the noise was made of

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        if not self.strikes(len(ids)):
            return logits
        limit = self.ops.stats(logits).logsumexp + log(self.threshold) if self.threshold > 0 else -float("inf")
        left = self.ops.drop_above(logits, limit)
        return logits if self.min_keep > 1 and self.ops.stats(left).n_kept < self.min_keep else left


# -- settings -> filters -------------------------------------------------------------------------------------------------


def min_keep(config: GenerationConfig, around: Surroundings) -> int:
    """What every filter leaves: where beams are drawn, more than there are ends of text, as in transformers."""
    ends = max(len(around.eos_ids), 1) + 1 if config.num_beams > 1 else 1
    return min(max(config.min_tokens_to_keep, ends), around.n_vocab)


def _maker(kind: type[Filter], option: str, off: float | None) -> Maker:
    def make(config: GenerationConfig, around: Surroundings) -> Filter | None:
        value = getattr(config, option)
        return None if value is None or value == off else kind(value, around.ops, min_keep(config, around))

    return make


top_p = _maker(TopP, "top_p", 1)
min_p = _maker(MinP, "min_p", 0)
top_h = _maker(TopH, "top_h", None)  # 1 leaves 100 tokens, as in transformers
typical_p = _maker(TypicalP, "typical_p", 1)
epsilon_cutoff = _maker(EpsilonCutoff, "epsilon_cutoff", 0)
eta_cutoff = _maker(EtaCutoff, "eta_cutoff", 0)
top_n_sigma = _maker(TopNSigma, "top_n_sigma", 0)
tail_free = _maker(TailFree, "tfs", 1)
top_a = _maker(TopA, "top_a", 0)


def top_k(config: GenerationConfig, around: Surroundings) -> Filter | None:
    """top_k; its default steps back where mirostat, which makes its own cut, was asked for."""
    if not config.top_k or (config.mirostat and not config.was_asked("top_k")):
        return None
    return TopK(config.top_k, around.ops, min_keep(config, around))


def xtc(config: GenerationConfig, around: Surroundings) -> Filter | None:
    """xtc_probability, xtc_threshold."""
    if not config.xtc_probability:
        return None
    return XTC(config.xtc_probability, config.xtc_threshold, around.seed, around.ops, min_keep(config, around))
