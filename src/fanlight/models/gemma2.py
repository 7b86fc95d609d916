"""Gemma 2: norms before and after each half of a block, every second layer with a window, soft caps. In: ids and a KV batch.

Out: logits. Knows no text. Source: Gemma Team 2024 (Gemma 2). GGUF files do not state what scores are multiplied with, nor
which layers have a window: where they are silent, what llama.cpp knows by the architecture counts (`derived_scale`, STEP).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from fanlight.kernels.ops import KVBatch, Tensor
from fanlight.models import llama
from fanlight.models.architecture import (
    FULL,
    GGUF,
    SAFETENSORS,
    SLIDING,
    Architecture,
    Key,
    Layout,
    Source,
    Values,
    gguf_rope,
    hf_layer_types,
    hf_rope,
    hf_windows,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.rope import rope_to_gguf, rope_to_hf
from fanlight.models.weights import Weights

KEYS = (
    Key("n_layer", "num_hidden_layers", "block_count"),
    Key("n_embd", "hidden_size", "embedding_length"),
    Key("n_head", "num_attention_heads", "attention.head_count", default=8),
    Key("n_kv_head", "num_key_value_heads", "attention.head_count_kv", default=4),
    Key("head_dim", "head_dim", "attention.key_length", default=256),
    Key("n_ffn", "intermediate_size", "feed_forward_length"),
    Key("n_vocab", "vocab_size", "vocab_size", default=256000),
    Key("n_ctx", "max_position_embeddings", "context_length", default=8192),
    Key("norm_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "number", 1e-6),
    Key("activation", "hidden_activation", None, "gate", "gelu_tanh"),
)
HF_NAMES = llama.HF_NAMES | {
    "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.attn_post_norm",
    "model.layers.{i}.pre_feedforward_layernorm.weight": "blocks.{i}.mlp_norm",
    "model.layers.{i}.post_feedforward_layernorm.weight": "blocks.{i}.mlp_post_norm",
}
GGUF_NAMES = llama.GGUF_NAMES | {
    "blk.{i}.post_attention_norm.weight": "blocks.{i}.attn_post_norm",
    "blk.{i}.post_ffw_norm.weight": "blocks.{i}.mlp_post_norm",
}
NORMS = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "norm")
STEP = 2
"""Every so many layers, the last sees all positions."""
WINDOW, ATTN_CAP, LOGIT_CAP = 4096, 50.0, 30.0
"""What a missing key means, for transformers and for llama.cpp."""
NO_CAP = 1e9
"""Written to GGUF where there is no cap: far from any score, tanh is the identity in float32."""
N_LAYER_27B = 46


def refine(source: Source, values: Values) -> None:
    """Rotation, windows, caps and scales."""
    f = source.fields
    values["embed_scale"] = values["n_embd"] ** 0.5
    if source.is_gguf:
        f.only("attention.value_length", values["head_dim"])
        values["rope"] = gguf_rope(source, values)
        values["windows"] = gguf_windows(source, values["n_layer"], STEP, f.size("attention.sliding_window", WINDOW))
        values["attn_scale"] = derived_scale(values, N_LAYER_27B)
    else:
        common_hf(source, values)
        values["rope"] = hf_rope(source, values)
        values["windows"] = windows_of_steps(source, values["n_layer"], STEP)
    values["attn_softcap"] = _cap(source, "attn_logit_softcapping", ATTN_CAP)
    values["logit_softcap"] = _cap(source, "final_logit_softcapping", LOGIT_CAP)
    llama.stretch(values)


def common_hf(source: Source, values: Values) -> None:
    """What config.json of Gemma 2 and of Gemma 3 says in the same words."""
    f = source.fields
    f.only("use_bidirectional_attention", False)
    values["qkv_bias"] = values["o_bias"] = f.flag("attention_bias", False)
    values["attn_scale"] = f.size("query_pre_attn_scalar", 256) ** -0.5


def _cap(source: Source, key: str, default: float) -> float:
    """null is no cap, a missing key the default."""
    stored = f"{source.arch.gguf}.{key}" if source.is_gguf else key
    cap = source.fields.cap(key) if stored in source.config else default
    return 0.0 if cap >= NO_CAP else cap


def windows_of_steps(source: Source, n_layer: int, step: int) -> tuple[int, ...]:
    """Windows by config.json; where it does not list the layers, all but the last of each `step` have one."""
    types = [SLIDING if (i + 1) % step else FULL for i in range(n_layer)]
    return hf_windows(source._replace(config={"sliding_window": WINDOW, **source.config}), n_layer, types)


def gguf_windows(source: Source, n_layer: int, step: int, window: int) -> tuple[int, ...]:
    """Windows by GGUF's sliding_window_pattern: a step (0: all layers have one), or a flag for each layer."""
    key = "attention.sliding_window_pattern"
    pattern = source.fields.value(key, step)
    if isinstance(pattern, array) and set(pattern) <= {0, 1}:
        return tuple(window if flag else 0 for flag in pattern)
    if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 0:
        raise source.fields.refuse(key, "expected a whole number, or true or false for each layer")
    return tuple(window if not pattern or (i + 1) % pattern else 0 for i in range(n_layer))


def gguf_step(c: DecoderConfig, usual: int) -> Values:
    """The key that `gguf_windows` reads, left out where it would say what is usual."""
    has = [c.window(i) > 0 for i in range(c.n_layer)]
    for step in (usual, *range(c.n_layer + 1)):
        if has == [not step or (i + 1) % step > 0 for i in range(c.n_layer)]:
            return {} if step == usual else {"attention.sliding_window_pattern": step}
    refuse_for_gguf(c, {"windows in all but every n-th layer": False})
    return {}


def derived_scale(values: Values, n_layer_27b: int) -> float:
    """What GGUF files do not state: 1 / sqrt(head_dim), but for the largest model, known by its layers."""
    own = max(values["n_embd"] // values["n_head"], 1) if values["n_layer"] == n_layer_27b else values["head_dim"]
    return float(own**-0.5)


def common_gguf(c: DecoderConfig, n_layer_27b: int) -> Values:
    """Metadata that Gemma 2 and Gemma 3 share. Errors: CheckpointError for what GGUF files of Gemma cannot say."""
    assert c.rope is not None
    values, arrays = rope_to_gguf(c.rope)
    scale = derived_scale(
        {"n_embd": c.n_embd, "n_head": c.n_head, "n_layer": c.n_layer, "head_dim": c.head_dim}, n_layer_27b
    )
    facts = {
        "no biases": not c.qkv_bias and not c.o_bias,
        "the activation gelu_tanh": c.activation == "gelu_tanh",
        f"query_pre_attn_scalar {round(scale**-2)}": c.attn_scale == scale,
        "no factors of rotation (llama3, dynamic, longrope)": not arrays and c.rope.kind != "dynamic",
    }
    refuse_for_gguf(c, facts)
    window = {"attention.sliding_window": max(c.windows)} if any(c.windows) else {}
    return {**values, **window, "attention.value_length": c.head_dim}


def common_to_hf(c: DecoderConfig) -> Values:
    """What config.json of both holds besides the keys."""
    assert c.attn_scale is not None
    return {
        "attention_bias": c.qkv_bias,
        "query_pre_attn_scalar": round(c.attn_scale**-2),
        "final_logit_softcapping": c.logit_softcap or None,
        "attn_logit_softcapping": c.attn_softcap or None,
        **(hf_layer_types(c) if any(c.windows) else {"layer_types": [FULL] * c.n_layer}),
    }


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    return {**common_to_hf(c), "rope_parameters": rope_to_hf(c.rope)}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys."""
    refuse_for_gguf(c, {"a tied head": c.tied_head, "some layer with a window": any(c.windows)})
    caps = {"attn_logit_softcapping": c.attn_softcap or NO_CAP, "final_logit_softcapping": c.logit_softcap or NO_CAP}
    return {**common_gguf(c, N_LAYER_27B), **gguf_step(c, STEP), **caps}, {}


class Block(llama.Block):
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        super().__init__(weights, i, c)
        self.attn_post_norm = weights.vector(f"blocks.{i}.attn_post_norm", c.n_embd)
        self.mlp_post_norm = weights.vector(f"blocks.{i}.mlp_post_norm", c.n_embd)


class Gemma2(llama.Llama):
    """A decoder of the Gemma 2 family. Immutable."""

    block = Block

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        return self.ops.scale(super().embedded(ids, batch), self.config.embed_scale)  # (T, E)

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + norm(attend(norm(x)))"""
        ops, b, eps = self.ops, self.blocks[layer], self.config.norm_eps
        assert isinstance(b, Block)
        h = ops.rms_norm(x, b.attn_norm, eps)
        x, a = self.attend(layer, x, self.qkv(h, b), batch, self.ropes[layer], rows, watch)  # (T, H * D)
        x = ops.add(x, ops.rms_norm(ops.linear(a, b.w_o), b.attn_post_norm, eps))  # (T, E)
        return x, x

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + norm(mlp(norm(x)))"""
        ops, b, eps = self.ops, self.blocks[layer], self.config.norm_eps
        assert isinstance(b, Block)
        h = ops.linear(ops.linear(ops.rms_norm(given, b.mlp_norm, eps), b.w_gate_up), b.w_down)
        return ops.add(x, ops.rms_norm(h, b.mlp_post_norm, eps))


ARCHITECTURE = Architecture(
    model_type="gemma2",
    hf_class="Gemma2ForCausalLM",
    keys=KEYS,
    layouts={
        # x * (1 + w) in safetensors; GGUF files hold the sum
        SAFETENSORS: Layout(names=HF_NAMES, offset=dict.fromkeys(NORMS, 1.0), ignored=llama.HF_LAYOUT.ignored),
        GGUF: Layout(names=GGUF_NAMES, ignored=llama.GGUF_LAYOUT.ignored, essential=llama.GGUF_LAYOUT.essential),
    },
    build=Gemma2,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
    tied_head=True,
)
