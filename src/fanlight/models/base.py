"""What the engine needs of a decoder. Any architecture, or a fake in a test, that has these is one.

A pass is looked into, or left early, by a `Watch`; without one it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fanlight.errors import OptionError
from fanlight.kernels.ops import KVBatch, KVPool, Ops, Readings, Tensor
from fanlight.models.rope import RopeConfig

FINAL = "final"
"""The key in `Watch.states` of the states that the head reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The sizes and switches of a decoder, in the project's vocabulary. Empty tuples: the same for every layer."""

    model_type: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    n_ffn: int
    n_vocab: int
    n_ctx: int
    """The window that this decoder runs with."""
    norm_eps: float
    activation: str = "silu"
    tied_head: bool = False
    rope: RopeConfig | None = None
    """None: learned positions."""
    local_rope: RopeConfig | None = None
    """Of the layers with a window, where they have one of their own (Gemma 3)."""
    rope_layers: tuple[bool, ...] = ()
    """Which layers know positions at all (SmolLM3); empty: all."""
    windows: tuple[int, ...] = ()
    """How many positions each layer sees, 0 for all; empty: all."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    attn_scale: float | None = None
    """What scores are multiplied with; None: 1 / sqrt(head_dim)."""
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    """Scores, and logits, become cap * tanh(x / cap); 0: they do not."""
    embed_scale: float = 1.0
    parallel_residual: bool = False
    """Attention and feed-forward both read the block's input (GPT-NeoX)."""
    norm_first: bool = True
    """Norms stand before attention and feed-forward; otherwise after the sum (small OPT)."""
    n_embed_in: int | None = None
    """Width of the embedding and the head where a projection lies between them and the blocks (small OPT)."""
    final_norm: bool = True
    """Whether a norm follows the last block."""
    n_ctx_declared: int = 0
    """The window that the checkpoint declares; where rotation can stretch it or the caller limits it, not that of n_ctx."""

    def window(self, layer: int) -> int:
        """How many positions this layer sees; 0: all."""
        return self.windows[layer] if self.windows else 0

    def has_rope(self, layer: int) -> bool:
        """Whether this layer turns queries and keys by their positions."""
        return self.rope_layers[layer] if self.rope_layers else True


@dataclass(slots=True, kw_only=True)
class Watch:
    """What a forward pass is to keep, and where it is to end; afterwards, what it kept. A row's bits are the same with one."""

    layers: tuple[int, ...] = ()
    """Keep the residual stream after so many blocks: 0 is the embedding, the last one stands before the final norm."""
    rows: Sequence[int] | None = None
    """Of these rows of the pass; None: those whose logits are wanted."""
    final: bool = False
    """Keep the states after the final norm, of which the head makes logits."""
    middles: bool = False
    """Keep the residual stream inside every block too, where attention has added its part and the feed-forward network has not."""
    attention: Mapping[int, Sequence[int] | None] = field(default_factory=dict)
    """Keep the attention weights of these layers, 0 the first block's: of these heads, None for all."""
    times: bool = False
    """Measure the parts of the pass."""
    n_layer: int | None = None
    """Leave after so many blocks: logits are then those that the final norm and the head make of that layer, and the cache gets
    keys and values of these layers alone. The caller cuts such positions off and computes them again. None: all blocks.
    """
    states: dict[int | str, Tensor] = field(default_factory=dict)
    """What was kept, (len(rows), n_embd) each: by the number of blocks before it, and FINAL."""
    inner: dict[int, Tensor] = field(default_factory=dict)
    """With `middles`: (len(rows), n_embd) inside block 0, 1, ..."""
    weights: dict[int, Tensor] = field(default_factory=dict)
    """With `attention`: layer -> (len(rows) * n_heads, n_positions), a row's heads in turn; see `Ops.attention_weights`."""
    kept: Sequence[int] = ()
    """`kept_rows` of the pass, which puts it here."""
    seconds: dict[tuple[str, int], float] = field(default_factory=dict)
    """With `times`: ("embedding", 0), ("attention", block), ("feed_forward", block), ("head", 0)."""

    def clear(self) -> None:
        """Forget what a pass before has kept."""
        self.states, self.inner, self.weights, self.seconds = {}, {}, {}, {}

    def depth(self, n_layer: int) -> int:
        """How many blocks the pass has in a decoder of n_layer. Errors: OptionError for a layer that it does not have."""
        depth = n_layer if self.n_layer is None else self.n_layer
        if not 1 <= depth <= n_layer:
            raise OptionError(
                f"a pass cannot be left after {depth} layers; this model has {n_layer}: give a number from 1 to {n_layer}"
            )
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise OptionError(
                    f"there are no states of layer {layer} in a pass of {depth} layers; "
                    f"give numbers from 0 (the embedding) to {depth}"
                )
        for layer in self.attention:
            if not 0 <= layer < depth:
                raise OptionError(
                    f"there are no attention weights of layer {layer} in a pass of {depth} layers; "
                    f"give numbers from 0 to {depth - 1}"
                )
        return depth

    def kept_rows(self, logit_rows: Sequence[int]) -> Sequence[int]:
        """`rows`, spelled out."""
        return logit_rows if self.rows is None else self.rows


class Decoder(Protocol):
    """Immutable; shared by every request. The KV cache belongs to the caller."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def ops(self) -> Ops: ...

    def new_pool(self, dtype: str | None = None) -> KVPool:
        """An empty KV pool of this model's shape.

        dtype: one of `ops.CACHE_DTYPES`; None: what suits the weights. Errors: OptionError for one that cannot be had.
        """

    def forward(
        self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int], watch: Watch | None = None
    ) -> Tensor:
        """Append `ids` (T of them, laid out as `batch` says) to the cache; logits of the rows named: (len(logit_rows), n_vocab).

        watch: what else to keep, and where to leave; its states are replaced. Errors: OptionError for layers out of range.
        """

    def read_out(self, x: Tensor, *, norm: bool = True) -> Tensor:
        """The logits that states of any layer stand for: (T, n_embd) -> (T, n_vocab). norm false: of FINAL states."""

    def readings(self, x: Tensor, tokens: Sequence[int], k: int) -> Readings:
        """What `read_out` of states (T, n_embd) says, summed up row by row; tokens: whose logit and rank, one for each row."""

    def final(self, x: Tensor) -> Tensor:
        """What the head reads of states: the final norm, and what else stands before the head. (T, n_embd) -> (T, n)."""

    def head_rows(self, tokens: Sequence[int]) -> Tensor:
        """The head's rows of these tokens, as numbers: (len(tokens), n). Their product with `final` is the logit, up to rounding,
        a factor and a cap.
        """
