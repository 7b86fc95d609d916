"""Processors: (ids, logits) -> logits. In: the ids so far and one row (1, n_vocab). Knows no model and no text.

A processor never writes to its input. A filter is a processor that removes tokens, by a logit of -inf, and changes no
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


class Processor(Protocol):
    """One step between the model's logits and the choice."""

    @property
    def name(self) -> str:
        """The option that switches it on."""

    @property
    def label(self) -> str:
        """The name with its setting: "top_p(0.9)"."""

    @property
    def removes(self) -> bool:
        """Whether it is a filter."""

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """(1, n_vocab) -> (1, n_vocab)."""


class _OnOps:
    """What the classes below share: a setting, and the ops they run on."""

    __slots__ = ("label", "ops", "value")
    name = ""
    removes = False

    def __init__(self, value: float, ops: Ops) -> None:
        self.value = value
        self.ops = ops
        self.label = f"{self.name}({value:g})"

    def __repr__(self) -> str:
        return self.label


class RepetitionPenalty(_OnOps):
    """Tokens already in the sequence: positive logits are divided by the penalty, negative ones multiplied."""

    __slots__ = ()
    name = "repetition_penalty"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        return self.ops.repetition_penalty(logits, ids, self.value)


class Temperature(_OnOps):
    """Every logit is divided by the temperature: below 1 sharpens, above 1 flattens."""

    __slots__ = ()
    name = "temperature"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        return self.ops.temperature(logits, self.value)


class TopK(_OnOps):
    """Only the k largest logits stay, and those equal to the k-th."""

    __slots__ = ("k",)
    name = "top_k"
    removes = True

    def __init__(self, value: int, ops: Ops) -> None:
        super().__init__(value, ops)
        self.k = value
        self.label = f"top_k({value})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        return self.ops.top_k(logits, self.k)


class TopP(_OnOps):
    """Only the most probable tokens stay whose probabilities together reach p."""

    __slots__ = ()
    name = "top_p"
    removes = True

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        return self.ops.top_p(logits, self.value)


class MinP(_OnOps):
    """Only tokens stay that are at least p times as probable as the most probable one."""

    __slots__ = ()
    name = "min_p"
    removes = True

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        return self.ops.min_p(logits, self.value)


def build_processors(config: GenerationConfig, ops: Ops) -> tuple[Processor, ...]:
    """The processors that these settings ask for, in the order of transformers.

    Those that would change nothing are left out. Only sampling uses those after the penalty: they keep the order of the
    logits, so the arg max would be the same.
    """
    processors: list[Processor] = []
    if config.repetition_penalty != 1:
        processors.append(RepetitionPenalty(config.repetition_penalty, ops))
    if config.samples:
        if config.temperature != 1:
            processors.append(Temperature(config.temperature, ops))
        if config.top_k:
            processors.append(TopK(config.top_k, ops))
        if config.top_p < 1:
            processors.append(TopP(config.top_p, ops))
        if config.min_p:
            processors.append(MinP(config.min_p, ops))
    return tuple(processors)
