"""What the user's side needs of an encoder: sizes, and states of ids that read both ways. Knows no architecture, no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fanlight.kernels.ops import KVBatch, KVPool, Ops, Tensor
from fanlight.models.base import DecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(DecoderConfig):
    """The sizes of an encoder: those of a decoder's stack of blocks, and what only encoders have."""

    n_segments: int
    """Kinds of text in one input: a sentence and its pair are 0 and 1."""
    has_span_head: bool = False
    """Whether it marks where an answer begins and ends."""


class BidirectionalEncoder(Protocol):
    """Immutable; every token sees all tokens of its sequence. The keys and values belong to the caller."""

    @property
    def config(self) -> EncoderConfig: ...

    @property
    def ops(self) -> Ops: ...

    def new_pool(self) -> KVPool:
        """An empty pool for the keys and values of one layer: each layer writes over those of the one before."""

    def forward(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> Tensor:
        """States after the last block: (T, n_embd). `batch` lays the T ids out, every sequence whole and from position 0."""

    def every_state(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> list[Tensor]:
        """As `forward`: the embeddings' states and those after each block, n_layer + 1 of (T, n_embd)."""

    def weights(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> list[Tensor]:
        """Of each block, what attention weighs with: (T * n_head, positions), see `Ops.attention_weights`."""

    def span_logits(self, states: Tensor) -> Tensor:
        """How much each token looks like an answer's first and last: (T, n_embd) -> (T, 2). Needs `config.has_span_head`."""
