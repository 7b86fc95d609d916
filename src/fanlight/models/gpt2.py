"""GPT-2: LayerNorm, learned positions, full multi-head attention, GELU. In: ids and a KV batch. Out: logits. Knows no text.

Source: Radford et al. 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, KVPool, Linear, Ops, Tensor
from fanlight.models.base import DecoderConfig
from fanlight.models.fields import Fields
from fanlight.models.weights import Slot, Weights

NAMES = {
    "wte.weight": "embed",
    "wpe.weight": "positions",
    "h.{i}.ln_1.weight": "blocks.{i}.attn_norm",
    "h.{i}.ln_1.bias": "blocks.{i}.attn_norm_bias",
    "h.{i}.attn.c_attn.weight": "blocks.{i}.w_qkv",
    "h.{i}.attn.c_attn.bias": "blocks.{i}.b_qkv",
    "h.{i}.attn.c_proj.weight": "blocks.{i}.w_o",
    "h.{i}.attn.c_proj.bias": "blocks.{i}.b_o",
    "h.{i}.ln_2.weight": "blocks.{i}.mlp_norm",
    "h.{i}.ln_2.bias": "blocks.{i}.mlp_norm_bias",
    "h.{i}.mlp.c_fc.weight": "blocks.{i}.w_up",
    "h.{i}.mlp.c_fc.bias": "blocks.{i}.b_up",
    "h.{i}.mlp.c_proj.weight": "blocks.{i}.w_down",
    "h.{i}.mlp.c_proj.bias": "blocks.{i}.b_down",
    "ln_f.weight": "norm",
    "ln_f.bias": "norm_bias",
}
HEAD = "lm_head.weight"  # never under the prefix
PREFIX = "transformer."  # of checkpoints saved with the language-model head; the first ones have none
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias")  # the causal mask, stored by old versions


def names(arrays: Mapping[str, object]) -> dict[str, str]:
    """The name map for this checkpoint, with or without the prefix."""
    prefix = PREFIX if PREFIX + "wte.weight" in arrays else ""
    return {prefix + stored: canonical for stored, canonical in NAMES.items()} | {HEAD: "head"}


def config_from_hf(config: Mapping[str, Any], path: str) -> DecoderConfig:
    """Sizes from config.json. Errors: CheckpointError."""
    f = Fields(config, path)
    f.only("activation_function", "gelu_new", "gelu_pytorch_tanh")
    f.only("scale_attn_weights", True)
    f.only("scale_attn_by_inverse_layer_idx", False)
    f.only("add_cross_attention", False)
    n_embd, n_head = f.size("n_embd"), f.size("n_head")
    if n_embd % n_head:
        raise CheckpointError(f"{path}: n_embd is {n_embd}, expected a multiple of n_head {n_head}")
    return DecoderConfig(
        model_type="gpt2",
        n_layer=f.size("n_layer"),
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_embd,
        head_dim=n_embd // n_head,
        n_ffn=f.size("n_inner", 4 * n_embd),
        n_vocab=f.size("vocab_size"),
        n_ctx=f.size("n_positions", 1024),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", True),
    )


class Block:
    """The weights of one layer. GPT-2 stores matrices as (n_in, n_out): its Conv1D."""

    __slots__ = ("attn_norm", "attn_norm_bias", "mlp_norm", "mlp_norm_bias", "w_down", "w_o", "w_qkv", "w_up")

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        def matrix(name: str, n_in: int, n_out: int, activation: str = "none") -> Linear:
            slot, bias = Slot(f"blocks.{i}.w_{name}", n_out), Slot(f"blocks.{i}.b_{name}", n_out)
            return weights.matrix([slot], n_in, bias=[bias], activation=activation, transposed=True)

        self.attn_norm = weights.vector(f"blocks.{i}.attn_norm", c.n_embd)
        self.attn_norm_bias = weights.vector(f"blocks.{i}.attn_norm_bias", c.n_embd)
        self.w_qkv = matrix("qkv", c.n_embd, 3 * c.n_embd)
        self.w_o = matrix("o", c.n_embd, c.n_embd)
        self.mlp_norm = weights.vector(f"blocks.{i}.mlp_norm", c.n_embd)
        self.mlp_norm_bias = weights.vector(f"blocks.{i}.mlp_norm_bias", c.n_embd)
        self.w_up = matrix("up", c.n_embd, c.n_ffn, activation="gelu_tanh")
        self.w_down = matrix("down", c.n_ffn, c.n_embd)


class GPT2:
    """A decoder of the GPT-2 family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights, *, cache_dtype: str) -> None:
        c = self.config = config
        self.ops: Ops = weights.ops
        self.cache_dtype = cache_dtype
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd)
        self.positions = weights.matrix([Slot("positions", c.n_ctx)], c.n_embd)
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        self.norm, self.norm_bias = weights.vector("norm", c.n_embd), weights.vector("norm_bias", c.n_embd)
        self.head: Linear = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)
        self.scale = c.head_dim**-0.5

    def new_pool(self) -> KVPool:
        """An empty KV pool of this model's shape."""
        return self.ops.kv_pool(self.config.n_layer, self.config.n_kv_head, self.config.head_dim, self.cache_dtype)

    def linears(self) -> Iterator[Linear]:
        """Every matrix that a decode step reads."""
        for b in self.blocks:
            yield from (b.w_qkv, b.w_o, b.w_up, b.w_down)
        yield self.head

    def forward(self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int]) -> Tensor:
        """See `models.base.Decoder`."""
        ops, c = self.ops, self.config
        x = ops.add(ops.embed(self.embed, ids), ops.embed(self.positions, batch.positions))  # (T, E)
        for layer, b in enumerate(self.blocks):
            h = ops.layer_norm(x, b.attn_norm, b.attn_norm_bias, c.norm_eps)
            q = ops.store_kv(ops.linear(h, b.w_qkv), batch, layer, None)  # (T, E) -> (T, H * D)
            if layer == c.n_layer - 1:  # from here on only the rows whose logits are wanted are read
                x, q, batch = ops.take_rows(x, logit_rows), ops.take_rows(q, logit_rows), batch.take(logit_rows)
            x = ops.linear(ops.attention(q, batch, layer, self.scale), b.w_o, x)  # x + attend(norm(x))
            h = ops.layer_norm(x, b.mlp_norm, b.mlp_norm_bias, c.norm_eps)
            x = ops.linear(ops.linear(h, b.w_up), b.w_down, x)  # x + mlp(norm(x))
        x = ops.layer_norm(x, self.norm, self.norm_bias, c.norm_eps)
        return ops.linear(x, self.head)  # (len(logit_rows), V)
