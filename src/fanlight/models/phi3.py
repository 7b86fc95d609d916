"""Phi-3 to Phi-4: Llama with fused matrices, two sets of rotation factors. In: ids and a KV batch. Out: logits. Knows no text.

Sources: Abdin et al. 2024 (Phi-3); Ding et al. 2024 (LongRoPE). The window is the one that the short factors are made for, unless
a longer one is asked for: then the long factors hold, for all positions. Names and meaning of the GGUF form are llama.cpp's.
"""

from __future__ import annotations

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
)
from fanlight.models.base import DecoderConfig
from fanlight.models.rope import rope_to_hf
from fanlight.models.weights import Slot, Weights

DEFAULTS = {"n_ctx": 4096, "norm_eps": 1e-5}
KEYS = tuple(key._replace(default=DEFAULTS.get(key.field, key.default)) for key in llama.KEYS)
HF_NAMES = {
    "model.embed_tokens.weight": "embed",
    "model.layers.{i}.input_layernorm.weight": "blocks.{i}.attn_norm",
    "model.layers.{i}.self_attn.qkv_proj.weight": "blocks.{i}.w_qkv",
    "model.layers.{i}.self_attn.o_proj.weight": "blocks.{i}.w_o",
    "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.mlp_norm",
    "model.layers.{i}.mlp.gate_up_proj.weight": "blocks.{i}.w_gate_up",
    "model.layers.{i}.mlp.down_proj.weight": "blocks.{i}.w_down",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
}
GGUF_NAMES = {
    "token_embd.weight": "embed",
    "blk.{i}.attn_norm.weight": "blocks.{i}.attn_norm",
    "blk.{i}.attn_qkv.weight": "blocks.{i}.w_qkv",
    "blk.{i}.attn_output.weight": "blocks.{i}.w_o",
    "blk.{i}.ffn_norm.weight": "blocks.{i}.mlp_norm",
    "blk.{i}.ffn_up.weight": "blocks.{i}.w_gate_up",
    "blk.{i}.ffn_down.weight": "blocks.{i}.w_down",
    "output_norm.weight": "norm",
    "output.weight": "head",
}


def refine(source: Source, values: Values) -> None:
    """Rotation, the context window, and the window of attention, which is the same for all layers."""
    f = source.fields
    values["rope"] = rope = gguf_rope(source, values) if source.is_gguf else hf_rope(source, values)
    if rope.kind == "longrope" and rope.n_original:
        values["n_ctx"] = min(values["n_ctx"], rope.n_original)
    llama.stretch(values)
    key = "attention.sliding_window" if source.is_gguf else "sliding_window"
    if f.value(key, 0) != 0:  # GGUF: 0 for none, as in files of Phi-4
        values["windows"] = (f.size(key),) * values["n_layer"]


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    original = {"original_max_position_embeddings": c.rope.n_original} if c.rope.n_original else {}
    return {"rope_parameters": rope_to_hf(c.rope), "sliding_window": max(c.windows, default=None), **original}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys, and the factors of rotation."""
    values, arrays = llama.to_gguf(c)
    return {**values, "attention.sliding_window": max(c.windows, default=0)}, arrays


class Block(llama.Block):
    """The weights of one layer: queries, keys and values are stored as one array, gate and up as another."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."
        n_q, n_kv = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.w_qkv = weights.matrix([Slot(name + "w_qkv", n_q + 2 * n_kv)], c.n_embd)
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], n_q)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        gate, up = (Slot(name + "w_gate_up", c.n_ffn, first, 2 * c.n_ffn) for first in (0, c.n_ffn))
        self.w_gate_up = weights.matrix([gate, up], c.n_embd, activation=c.activation, gated=True)
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn)


class Phi3(llama.Llama):
    """A decoder of the Phi-3 family. Immutable."""

    block = Block


ARCHITECTURE = Architecture(
    model_type="phi3",
    hf_class="Phi3ForCausalLM",
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(names=HF_NAMES, ignored=llama.HF_LAYOUT.ignored),
        GGUF: Layout(names=GGUF_NAMES, ignored=llama.GGUF_LAYOUT.ignored, essential=llama.GGUF_LAYOUT.essential),
    },
    build=Phi3,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
)
