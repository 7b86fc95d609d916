"""OLMo 2: Llama with its norms behind attention and feed-forward, and on all queries and all keys. In: ids and a KV batch.

Out: logits. Knows no text. Source: OLMo Team 2024 (2 OLMo 2 Furious). GGUF files with a window are OLMo 3 under this name.
"""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.kernels.ops import KVBatch, Tensor
from fanlight.models import llama
from fanlight.models.architecture import (
    GGUF,
    SAFETENSORS,
    Architecture,
    Layout,
    Source,
    Values,
    gguf_rope,
    hf_rope,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.decoder import DecoderBase, make_rope
from fanlight.models.rope import rope_to_gguf, rope_to_hf
from fanlight.models.weights import Slot, Weights

KEYS = tuple(key._replace(default=1e-5) if key.field == "norm_eps" else key for key in llama.KEYS)
HF_NAMES = {stored: name for stored, name in llama.HF_NAMES.items() if not name.startswith("blocks.{i}.attn_norm")} | {
    "model.layers.{i}.self_attn.q_norm.weight": "blocks.{i}.q_norm",
    "model.layers.{i}.self_attn.k_norm.weight": "blocks.{i}.k_norm",
    "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.attn_post_norm",
    "model.layers.{i}.post_feedforward_layernorm.weight": "blocks.{i}.mlp_post_norm",
}
GGUF_NAMES = {stored: name for stored, name in llama.GGUF_NAMES.items() if not stored.endswith("_norm.weight")} | {
    "blk.{i}.attn_q_norm.weight": "blocks.{i}.q_norm",
    "blk.{i}.attn_k_norm.weight": "blocks.{i}.k_norm",
    "blk.{i}.post_attention_norm.weight": "blocks.{i}.attn_post_norm",
    "blk.{i}.post_ffw_norm.weight": "blocks.{i}.mlp_post_norm",
    "output_norm.weight": "norm",
}


def refine(source: Source, values: Values) -> None:
    """Rotation and biases."""
    f = source.fields
    if source.is_gguf:
        f.only("attention.value_length", values["head_dim"])
        f.only("attention.sliding_window", 0)
        values["rope"] = gguf_rope(source, values)
    else:
        values["rope"] = hf_rope(source, values)
        values["qkv_bias"] = values["o_bias"] = f.flag("attention_bias", False)
    llama.stretch(values)


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    return {"rope_parameters": rope_to_hf(c.rope), "attention_bias": c.qkv_bias}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys."""
    assert c.rope is not None
    values, arrays = rope_to_gguf(c.rope)
    facts = {
        "no biases": not c.qkv_bias and not c.o_bias,
        "the activation silu": c.activation == "silu",
        "a head of its own": not c.tied_head,
        "heads that are n_embd wide together": c.n_head * c.head_dim == c.n_embd,
        "no factors of rotation (llama3, dynamic, longrope)": not arrays and c.rope.kind != "dynamic",
    }
    refuse_for_gguf(c, facts)
    return {**values, "attention.value_length": c.head_dim}, {}


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."
        n_q, n_kv = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        self.w_qkv = weights.matrix(
            [Slot(name + "w_q", n_q), Slot(name + "w_k", n_kv), Slot(name + "w_v", n_kv)], c.n_embd, bias=c.qkv_bias
        )
        q_norm, k_norm = weights.floats(name + "q_norm", n_q), weights.floats(name + "k_norm", n_kv)
        self.qk_norm = weights.ops.tensor(bytes(q_norm) + bytes(k_norm), n_q + n_kv)
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], n_q, bias=c.o_bias)
        self.attn_post_norm = weights.vector(name + "attn_post_norm", c.n_embd)
        self.w_gate_up = weights.matrix(
            [Slot(name + "w_gate", c.n_ffn), Slot(name + "w_up", c.n_ffn)],
            c.n_embd,
            activation=c.activation,
            gated=True,
        )
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn)
        self.mlp_post_norm = weights.vector(name + "mlp_post_norm", c.n_embd)


class Olmo2(DecoderBase):
    """A decoder of the OLMo 2 family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        c = config
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd, table=not c.tied_head)
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        self.norm = weights.vector("norm", c.n_embd)
        self.head = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)
        assert c.rope is not None
        self.rope = make_rope(self.ops, c.rope, c.n_ctx)
        self.widths = [c.n_head * c.head_dim, c.n_kv_head * c.head_dim]

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        return self.ops.embed(self.embed, ids)  # (T, E)

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + norm(attend(x))"""
        ops, b, eps = self.ops, self.blocks[layer], self.config.norm_eps
        qkv = ops.span_norm(ops.linear(x, b.w_qkv), b.qk_norm, self.widths, eps)  # (T, E) -> (T, (H + 2 H_kv) * D)
        x, a = self.attend(layer, x, qkv, batch, self.rope, rows, watch)  # (T, H * D)
        x = ops.add(x, ops.rms_norm(ops.linear(a, b.w_o), b.attn_post_norm, eps))  # (T, E)
        return x, x

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + norm(mlp(x))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.linear(ops.linear(given, b.w_gate_up), b.w_down)
        return ops.add(x, ops.rms_norm(h, b.mlp_post_norm, self.config.norm_eps))

    def normed(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.ops.rms_norm(x, self.norm, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="olmo2",
    hf_class="Olmo2ForCausalLM",
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(names=HF_NAMES, ignored=llama.HF_LAYOUT.ignored),
        GGUF: Layout(names=GGUF_NAMES, ignored=llama.GGUF_LAYOUT.ignored, essential=llama.GGUF_LAYOUT.essential),
    },
    build=Olmo2,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
)
