"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU. In: ids and a KV batch. Out: logits. Knows no text.

Source: Touvron et al. 2023 (LLaMA); SmolLM2 is of this architecture. Mistral, Qwen and SmolLM3 differ from it in a line or
two each: their files build on this one.
"""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.kernels.ops import KVBatch, Tensor
from fanlight.models.architecture import (
    GGUF,
    ROPE_ARRAYS,
    SAFETENSORS,
    Architecture,
    Key,
    Layout,
    Source,
    Values,
    gguf_rope,
    hf_rope,
)
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.decoder import DecoderBase, make_rope
from fanlight.models.rope import rope_to_gguf, rope_to_hf
from fanlight.models.weights import Slot, Weights

KEYS = (
    Key("n_layer", "num_hidden_layers", "block_count"),
    Key("n_embd", "hidden_size", "embedding_length"),
    Key("n_head", "num_attention_heads", "attention.head_count"),
    Key("n_kv_head", "num_key_value_heads", "attention.head_count_kv", default=lambda values: values["n_head"]),
    Key("head_dim", "head_dim", "attention.key_length", default=lambda values: values["n_embd"] // values["n_head"]),
    Key("n_ffn", "intermediate_size", "feed_forward_length"),
    Key("n_vocab", "vocab_size", "vocab_size"),
    Key("n_ctx", "max_position_embeddings", "context_length", default=2048),
    Key("norm_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "number", 1e-6),
    Key("activation", "hidden_act", None, "gate", "silu"),
)
HF_NAMES = {
    "model.embed_tokens.weight": "embed",
    "model.layers.{i}.input_layernorm.weight": "blocks.{i}.attn_norm",
    "model.layers.{i}.self_attn.q_proj.weight": "blocks.{i}.w_q",
    "model.layers.{i}.self_attn.q_proj.bias": "blocks.{i}.b_q",
    "model.layers.{i}.self_attn.k_proj.weight": "blocks.{i}.w_k",
    "model.layers.{i}.self_attn.k_proj.bias": "blocks.{i}.b_k",
    "model.layers.{i}.self_attn.v_proj.weight": "blocks.{i}.w_v",
    "model.layers.{i}.self_attn.v_proj.bias": "blocks.{i}.b_v",
    "model.layers.{i}.self_attn.o_proj.weight": "blocks.{i}.w_o",
    "model.layers.{i}.self_attn.o_proj.bias": "blocks.{i}.b_o",
    "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.mlp_norm",
    "model.layers.{i}.mlp.gate_proj.weight": "blocks.{i}.w_gate",
    "model.layers.{i}.mlp.gate_proj.bias": "blocks.{i}.b_gate",
    "model.layers.{i}.mlp.up_proj.weight": "blocks.{i}.w_up",
    "model.layers.{i}.mlp.up_proj.bias": "blocks.{i}.b_up",
    "model.layers.{i}.mlp.down_proj.weight": "blocks.{i}.w_down",
    "model.layers.{i}.mlp.down_proj.bias": "blocks.{i}.b_down",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
}
GGUF_NAMES = {
    "token_embd.weight": "embed",
    "blk.{i}.attn_norm.weight": "blocks.{i}.attn_norm",
    "blk.{i}.attn_q.weight": "blocks.{i}.w_q",
    "blk.{i}.attn_q.bias": "blocks.{i}.b_q",
    "blk.{i}.attn_k.weight": "blocks.{i}.w_k",
    "blk.{i}.attn_k.bias": "blocks.{i}.b_k",
    "blk.{i}.attn_v.weight": "blocks.{i}.w_v",
    "blk.{i}.attn_v.bias": "blocks.{i}.b_v",
    "blk.{i}.attn_output.weight": "blocks.{i}.w_o",
    "blk.{i}.attn_output.bias": "blocks.{i}.b_o",
    "blk.{i}.ffn_norm.weight": "blocks.{i}.mlp_norm",
    "blk.{i}.ffn_gate.weight": "blocks.{i}.w_gate",
    "blk.{i}.ffn_gate.bias": "blocks.{i}.b_gate",
    "blk.{i}.ffn_up.weight": "blocks.{i}.w_up",
    "blk.{i}.ffn_up.bias": "blocks.{i}.b_up",
    "blk.{i}.ffn_down.weight": "blocks.{i}.w_down",
    "blk.{i}.ffn_down.bias": "blocks.{i}.b_down",
    "output_norm.weight": "norm",
    "output.weight": "head",
}
HF_LAYOUT = Layout(names=HF_NAMES, ignored=(".rotary_emb.inv_freq",))
GGUF_LAYOUT = Layout(
    names=GGUF_NAMES, ignored=ROPE_ARRAYS, essential=("blk.",)
)  # metadata tell of no other norm, no experts


def interleaved(n_head: int, head_dim: int) -> list[int]:
    """GGUF's llama stores q and k with the two halves of a head interleaved, (a0, b0, a1, b1, ...); here they are split."""
    half = head_dim // 2
    return [head * head_dim + 2 * j + side for head in range(n_head) for side in (0, 1) for j in range(half)]


def refine(source: Source, values: Values) -> None:
    """Rotation and biases."""
    f = source.fields
    if source.is_gguf:
        f.only("attention.value_length", values["head_dim"])
        f.only("rope.dimension_count", values["head_dim"])
        values["rope"] = gguf_rope(source, values)
        biases = {name: source.stores(f"blocks.{{i}}.b_{name}") for name in ("q", "o", "down")}
        values.update(qkv_bias=biases["q"], o_bias=biases["o"], mlp_bias=biases["down"])
    else:
        values["rope"] = hf_rope(source, values)
        attention = f.flag("attention_bias", False)
        values.update(qkv_bias=attention, o_bias=attention, mlp_bias=f.flag("mlp_bias", False))
    stretch(values)


def stretch(values: Values) -> None:
    """Dynamic rotation lengthens the window that a model was trained with."""
    rope = values["rope"]
    if rope.kind == "dynamic":
        values["n_ctx"] = int(values["n_ctx"] * rope.factor)


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    return {"rope_parameters": rope_to_hf(c.rope), "attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys, and the factors of rotation."""
    assert c.rope is not None
    values, arrays = rope_to_gguf(c.rope)
    return {**values, "attention.value_length": c.head_dim}, arrays


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."
        n_q, n_kv = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.w_qkv = weights.matrix(
            [Slot(name + "w_q", n_q), Slot(name + "w_k", n_kv), Slot(name + "w_v", n_kv)], c.n_embd, bias=c.qkv_bias
        )
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], n_q, bias=c.o_bias)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.w_gate_up = weights.matrix(
            [Slot(name + "w_gate", c.n_ffn), Slot(name + "w_up", c.n_ffn)],
            c.n_embd,
            bias=c.mlp_bias,
            activation=c.activation,
            gated=True,
        )
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn, bias=c.mlp_bias)


class Llama(DecoderBase):
    """A decoder of the Llama family. Immutable."""

    block = Block

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        c = config
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd, table=not c.tied_head)
        self.blocks = [self.block(weights, i, c) for i in range(c.n_layer)]
        self.norm = weights.vector("norm", c.n_embd)
        self.head = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)
        assert c.rope is not None
        rope = make_rope(self.ops, c.rope, c.n_ctx)
        self.ropes = [rope if c.has_rope(i) else None for i in range(c.n_layer)]

    def qkv(self, h: Tensor, b: Block) -> Tensor:
        """Queries, keys and values of a block, before rotation: (T, E) -> (T, (H + 2 H_kv) * D)."""
        return self.ops.linear(h, b.w_qkv)

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        return self.ops.embed(self.embed, ids)  # (T, E)

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + attend(norm(x))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.rms_norm(x, b.attn_norm, self.config.norm_eps)
        x, a = self.attend(layer, x, self.qkv(h, b), batch, self.ropes[layer], rows, watch)  # (T, H * D)
        x = ops.linear(a, b.w_o, x)  # (T, E)
        return x, x

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + mlp(norm(x))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.rms_norm(given, b.mlp_norm, self.config.norm_eps)
        return ops.linear(ops.linear(h, b.w_gate_up), b.w_down, x)

    def normed(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.ops.rms_norm(x, self.norm, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="llama",
    hf_class="LlamaForCausalLM",
    keys=KEYS,
    layouts={
        SAFETENSORS: HF_LAYOUT,
        GGUF: Layout(
            names=GGUF_NAMES,
            row_order={
                "w_q": lambda c: interleaved(c.n_head, c.head_dim),
                "w_k": lambda c: interleaved(c.n_kv_head, c.head_dim),
            },
            ignored=ROPE_ARRAYS,
            essential=GGUF_LAYOUT.essential,
        ),
    },
    build=Llama,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
)
