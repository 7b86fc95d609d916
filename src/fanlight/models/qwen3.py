"""Qwen3: Llama with a norm on every head of queries and keys. In: ids and a KV batch. Out: logits. Knows no text.

Source: Yang et al. 2025 (Qwen3).
"""

from __future__ import annotations

from fanlight.kernels.ops import Tensor
from fanlight.models import llama
from fanlight.models.architecture import (
    GGUF,
    SAFETENSORS,
    Architecture,
    Layout,
    Source,
    Values,
    gguf_rope,
    hf_layer_types,
    hf_rope,
)
from fanlight.models.base import DecoderConfig
from fanlight.models.qwen2 import upper_windows
from fanlight.models.rope import rope_to_hf
from fanlight.models.weights import Weights

HF_NAMES = llama.HF_NAMES | {
    "model.layers.{i}.self_attn.q_norm.weight": "blocks.{i}.q_norm",
    "model.layers.{i}.self_attn.k_norm.weight": "blocks.{i}.k_norm",
}
GGUF_NAMES = llama.GGUF_NAMES | {
    "blk.{i}.attn_q_norm.weight": "blocks.{i}.q_norm",
    "blk.{i}.attn_k_norm.weight": "blocks.{i}.k_norm",
}


def refine(source: Source, values: Values) -> None:
    """Rotation, biases and windows."""
    f = source.fields
    if source.is_gguf:
        values["rope"] = gguf_rope(source, values)
        values.update(qkv_bias=source.stores("blocks.{i}.b_q"), o_bias=source.stores("blocks.{i}.b_o"))
    else:
        bias = f.flag("attention_bias", False)
        values.update(rope=hf_rope(source, values), qkv_bias=bias, o_bias=bias)
        values["windows"] = upper_windows(source, values["n_layer"])
    llama.stretch(values)


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    windows = {"use_sliding_window": bool(c.windows), **hf_layer_types(c)}
    return {"rope_parameters": rope_to_hf(c.rope), "attention_bias": c.qkv_bias, **windows}


class Block(llama.Block):
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        super().__init__(weights, i, c)
        q, k = (bytes(weights.floats(f"blocks.{i}.{name}_norm", c.head_dim)) for name in ("q", "k"))
        self.qk_norm = weights.ops.tensor(q * c.n_head + k * c.n_kv_head, (c.n_head + c.n_kv_head) * c.head_dim)


class Qwen3(llama.Llama):
    """A decoder of the Qwen3 family. Immutable."""

    block = Block

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.widths = [config.head_dim] * (config.n_head + config.n_kv_head)

    def qkv(self, h: Tensor, b: llama.Block) -> Tensor:
        """Queries, keys and values; every head of the first two normalised by itself."""
        assert isinstance(b, Block)
        return self.ops.span_norm(self.ops.linear(h, b.w_qkv), b.qk_norm, self.widths, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="qwen3",
    hf_class="Qwen3ForCausalLM",
    keys=llama.KEYS,
    layouts={
        SAFETENSORS: Layout(names=HF_NAMES, ignored=llama.HF_LAYOUT.ignored),
        GGUF: Layout(names=GGUF_NAMES, ignored=llama.GGUF_LAYOUT.ignored, essential=llama.GGUF_LAYOUT.essential),
    },
    build=Qwen3,
    refine=refine,
    to_hf=to_hf,
    to_gguf=llama.to_gguf,
)
