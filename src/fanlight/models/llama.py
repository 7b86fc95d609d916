"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU. In: ids and a KV batch. Out: logits. Knows no text.

Source: Touvron et al. 2023 (LLaMA); SmolLM2 is of this architecture.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, KVPool, Linear, Ops, Tensor
from fanlight.models.base import DecoderConfig
from fanlight.models.fields import Fields
from fanlight.models.weights import Slot, Weights

NAMES = {
    "safetensors": {
        "model.embed_tokens.weight": "embed",
        "model.layers.{i}.input_layernorm.weight": "blocks.{i}.attn_norm",
        "model.layers.{i}.self_attn.q_proj.weight": "blocks.{i}.w_q",
        "model.layers.{i}.self_attn.k_proj.weight": "blocks.{i}.w_k",
        "model.layers.{i}.self_attn.v_proj.weight": "blocks.{i}.w_v",
        "model.layers.{i}.self_attn.o_proj.weight": "blocks.{i}.w_o",
        "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.mlp_norm",
        "model.layers.{i}.mlp.gate_proj.weight": "blocks.{i}.w_gate",
        "model.layers.{i}.mlp.up_proj.weight": "blocks.{i}.w_up",
        "model.layers.{i}.mlp.down_proj.weight": "blocks.{i}.w_down",
        "model.norm.weight": "norm",
        "lm_head.weight": "head",
    },
    "gguf": {
        "token_embd.weight": "embed",
        "blk.{i}.attn_norm.weight": "blocks.{i}.attn_norm",
        "blk.{i}.attn_q.weight": "blocks.{i}.w_q",
        "blk.{i}.attn_k.weight": "blocks.{i}.w_k",
        "blk.{i}.attn_v.weight": "blocks.{i}.w_v",
        "blk.{i}.attn_output.weight": "blocks.{i}.w_o",
        "blk.{i}.ffn_norm.weight": "blocks.{i}.mlp_norm",
        "blk.{i}.ffn_gate.weight": "blocks.{i}.w_gate",
        "blk.{i}.ffn_up.weight": "blocks.{i}.w_up",
        "blk.{i}.ffn_down.weight": "blocks.{i}.w_down",
        "output_norm.weight": "norm",
        "output.weight": "head",
    },
}
NO_WEIGHTS = (".rotary_emb.inv_freq",)
GGUF_ESSENTIAL = ("blk.", "rope_freqs.")  # a bias, another norm, experts, rope scaling: the metadata tell of none


def config_from_gguf(metadata: Mapping[str, Any], path: str, *, tied_head: bool = False) -> DecoderConfig:
    """Sizes from GGUF metadata, which does not tell whether the head is tied. Errors: CheckpointError."""
    f = Fields(metadata, path, prefix="llama.")
    f.only("rope.scaling.type", "none")
    f.only("rope.scale_linear", 1.0)
    n_head, n_embd = f.size("attention.head_count"), f.size("embedding_length")
    head_dim = f.size("attention.key_length", n_embd // n_head)
    f.only("attention.value_length", head_dim)
    f.only("rope.dimension_count", head_dim)
    tokens = metadata.get("tokenizer.ggml.tokens")
    return _checked(
        DecoderConfig(
            model_type="llama",
            n_layer=f.size("block_count"),
            n_head=n_head,
            n_kv_head=f.size("attention.head_count_kv", n_head),
            n_embd=n_embd,
            head_dim=head_dim,
            n_ffn=f.size("feed_forward_length"),
            n_vocab=f.size("vocab_size", len(tokens) if isinstance(tokens, list) else None),
            n_ctx=f.size("context_length"),
            norm_eps=f.number("attention.layer_norm_rms_epsilon"),
            rope_theta=f.number("rope.freq_base", 10000.0),
            tied_head=tied_head,
        ),
        path,
    )


def config_from_hf(config: Mapping[str, Any], path: str) -> DecoderConfig:
    """Sizes from config.json. Errors: CheckpointError."""
    f = Fields(config, path)
    f.only("hidden_act", "silu", "swish")
    f.only("attention_bias", False)
    f.only("mlp_bias", False)
    rope_theta = f.number("rope_theta", 10000.0)
    for key in ("rope_scaling", "rope_parameters"):  # the second, of transformers 5, holds theta too
        rope = Fields(f.group(key), f"{path}: {key}")
        rope.only("type", "default")
        rope.only("rope_type", "default")
        rope_theta = rope.number("rope_theta", rope_theta)
    n_head, n_embd = f.size("num_attention_heads"), f.size("hidden_size")
    return _checked(
        DecoderConfig(
            model_type="llama",
            n_layer=f.size("num_hidden_layers"),
            n_head=n_head,
            n_kv_head=f.size("num_key_value_heads", n_head),
            n_embd=n_embd,
            head_dim=f.size("head_dim", n_embd // n_head),
            n_ffn=f.size("intermediate_size"),
            n_vocab=f.size("vocab_size"),
            n_ctx=f.size("max_position_embeddings", 2048),
            norm_eps=f.number("rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            tied_head=f.flag("tie_word_embeddings", False),
        ),
        path,
    )


def _checked(c: DecoderConfig, path: str) -> DecoderConfig:
    if c.n_head % c.n_kv_head:
        raise CheckpointError(f"{path}: n_head is {c.n_head}, expected a multiple of n_kv_head {c.n_kv_head}")
    if c.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim is {c.head_dim}, expected an even number: rotary positions turn pairs")
    return c


def gguf_row_order(n_head: int, head_dim: int) -> list[int]:
    """GGUF stores q and k with the two halves of a head interleaved, (a0, b0, a1, b1, ...); here they are split."""
    half = head_dim // 2
    return [head * head_dim + 2 * j + side for head in range(n_head) for side in (0, 1) for j in range(half)]


class Block:
    """The weights of one layer."""

    __slots__ = ("attn_norm", "mlp_norm", "w_down", "w_gate_up", "w_o", "w_qkv")

    def __init__(self, weights: Weights, i: int, c: DecoderConfig, gguf: bool) -> None:
        name = f"blocks.{i}."
        n_q, n_kv = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        q_order = partial(gguf_row_order, c.n_head, c.head_dim) if gguf else None
        k_order = partial(gguf_row_order, c.n_kv_head, c.head_dim) if gguf else None
        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.w_qkv = weights.matrix(
            [Slot(name + "w_q", n_q, q_order), Slot(name + "w_k", n_kv, k_order), Slot(name + "w_v", n_kv)], c.n_embd
        )
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], n_q)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.w_gate_up = weights.matrix(
            [Slot(name + "w_gate", c.n_ffn), Slot(name + "w_up", c.n_ffn)], c.n_embd, activation="silu", gated=True
        )
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn)


class Llama:
    """A decoder of the Llama family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights, *, gguf: bool, cache_dtype: str) -> None:
        c = self.config = config
        self.ops: Ops = weights.ops
        self.cache_dtype = cache_dtype
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd)
        self.blocks = [Block(weights, i, c, gguf) for i in range(c.n_layer)]
        self.norm = weights.vector("norm", c.n_embd)
        self.head: Linear = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)
        theta = c.rope_theta or 10000.0
        angles = array("f", [theta ** (-2 * i / c.head_dim) for i in range(c.head_dim // 2)])
        self.rope = self.ops.rope(self.ops.tensor(angles, len(angles)))
        self.scale = c.head_dim**-0.5

    def new_pool(self) -> KVPool:
        """An empty KV pool of this model's shape."""
        return self.ops.kv_pool(self.config.n_layer, self.config.n_kv_head, self.config.head_dim, self.cache_dtype)

    def linears(self) -> Iterator[Linear]:
        """Every matrix that a decode step reads."""
        for b in self.blocks:
            yield from (b.w_qkv, b.w_o, b.w_gate_up, b.w_down)
        yield self.head

    def forward(self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int]) -> Tensor:
        """See `models.base.Decoder`."""
        ops, c = self.ops, self.config
        linear, rms_norm, store_kv, attention = ops.linear, ops.rms_norm, ops.store_kv, ops.attention
        x = ops.embed(self.embed, ids)  # (T, E)
        for layer, b in enumerate(self.blocks):
            h = rms_norm(x, b.attn_norm, c.norm_eps)
            q = store_kv(linear(h, b.w_qkv), batch, layer, self.rope)  # (T, E) -> (T, H * D)
            if layer == c.n_layer - 1:  # from here on only the rows whose logits are wanted are read
                x, q, batch = ops.take_rows(x, logit_rows), ops.take_rows(q, logit_rows), batch.take(logit_rows)
            x = linear(attention(q, batch, layer, self.scale), b.w_o, x)  # x + attend(norm(x))
            h = rms_norm(x, b.mlp_norm, c.norm_eps)
            x = linear(linear(h, b.w_gate_up), b.w_down, x)  # x + mlp(norm(x))
        x = rms_norm(x, self.norm, c.norm_eps)
        return linear(x, self.head)  # (len(logit_rows), V)
