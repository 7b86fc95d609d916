"""What the engine needs of a decoder. Any architecture, or a fake in a test, that has these is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fanlight.kernels.ops import KVBatch, KVPool, Ops, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The sizes of a decoder, in the project's vocabulary."""

    model_type: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    n_ffn: int
    n_vocab: int
    n_ctx: int
    norm_eps: float
    rope_theta: float | None = None  # None: learned positions
    tied_head: bool = False


class Decoder(Protocol):
    """Immutable; shared by every request. The KV cache belongs to the caller."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def ops(self) -> Ops: ...

    def new_pool(self) -> KVPool:
        """An empty KV pool of this model's shape."""

    def forward(self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int]) -> Tensor:
        """Append `ids` (T of them, laid out as `batch` says) to the cache; logits of the rows named: (len(logit_rows), n_vocab)."""
