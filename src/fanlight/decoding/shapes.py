"""Processors that bend the whole row and remove nothing: temperature, quadratic smoothing, renormalisation. Knows no model."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from fanlight.decoding.config import SMALLEST
from fanlight.decoding.processors import OnOps, Surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


class Temperature(OnOps):
    """Every logit is divided by the temperature: below 1 sharpens, above 1 flattens."""

    __slots__ = ()
    name = "temperature"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.temperature(logits, self.value)


class DynamicTemperature(OnOps):
    """A temperature between low and high, which follows the entropy of the step. Source: llama.cpp (dynatemp).

    low + (high - low) * (entropy / largest possible entropy)^exponent.
    """

    __slots__ = ("exponent", "high", "low")
    name = "temperature"

    def __init__(self, middle: float, span: float, exponent: float, ops: Ops) -> None:
        super().__init__(middle, ops)
        self.low, self.high, self.exponent = max(0.0, middle - span), middle + span, exponent
        self.label = f"temperature({self.low:g}..{self.high:g})"

    def temperature(self, logits: Tensor) -> float:
        """That of this row."""
        stats = self.ops.stats(logits)
        share = stats.entropy / log(stats.n_kept) if stats.n_kept > 1 else 0.0
        grown: float = share**self.exponent
        return max(self.low + (self.high - self.low) * grown, SMALLEST)

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.temperature(logits, self.temperature(logits))


class Smoothing(OnOps):
    """Logits fall with the square of their distance from the largest. Source: quadratic sampling, text-generation-webui."""

    __slots__ = ("curve",)
    name = "smoothing_factor"

    def __init__(self, factor: float, curve: float, ops: Ops) -> None:
        super().__init__(factor, ops)
        self.curve = curve
        self.label = f"smoothing({factor:g}, curve {curve:g})" if curve != 1 else f"smoothing({factor:g})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.smooth(logits, self.value, self.curve)


class InvalidValues(OnOps):
    """NaN becomes 0, an infinite logit the largest number. Source: transformers (InfNanRemoveLogitsProcessor)."""

    __slots__ = ()
    name = "remove_invalid_values"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.finite(logits)


class Renormalize(OnOps):
    """Logits become logarithms of probabilities. Source: transformers (LogitNormalization)."""

    __slots__ = ()
    name = "renormalize_logits"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.log_softmax(logits)


# -- settings -> processors ------------------------------------------------------------------------------------------------


def temperature(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """temperature, with dynatemp_range."""
    if config.dynatemp_range:
        return DynamicTemperature(config.temperature, config.dynatemp_range, config.dynatemp_exponent, around.ops)
    return Temperature(config.temperature, around.ops) if config.temperature != 1 else None


def smoothing(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """smoothing_factor, smoothing_curve."""
    return Smoothing(config.smoothing_factor, config.smoothing_curve, around.ops) if config.smoothing_factor else None


def invalid_values(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """remove_invalid_values."""
    return _switch(InvalidValues, around) if config.remove_invalid_values else None


def renormalize(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """renormalize_logits."""
    return _switch(Renormalize, around) if config.renormalize_logits else None


def _switch(kind: type[OnOps], around: Surroundings) -> OnOps:
    processor = kind(1.0, around.ops)
    processor.label = kind.name
    return processor
