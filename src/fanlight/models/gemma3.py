"""Gemma 3: Gemma 2 with norms on the heads of queries and keys, and two rotations. In: ids and a KV batch. Out: logits.

Five layers of six see a window and turn fast, the sixth sees all and turns slowly; no cap on scores. Of a checkpoint with a
vision part, the text part is read. Knows no text and no image. Source: Gemma Team 2025 (Gemma 3).
"""

from __future__ import annotations

from dataclasses import replace

from fanlight.kernels.ops import Tensor
from fanlight.models import gemma2, llama
from fanlight.models.architecture import (
    FULL,
    GGUF,
    SAFETENSORS,
    SLIDING,
    Architecture,
    Layout,
    Source,
    Values,
    gguf_rope,
    hf_rope,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig
from fanlight.models.decoder import make_rope
from fanlight.models.qwen3 import GGUF_NAMES as QK_GGUF_NAMES
from fanlight.models.qwen3 import HF_NAMES as QK_HF_NAMES
from fanlight.models.rope import RopeConfig, rope_to_hf
from fanlight.models.weights import Weights

KEYS = tuple(
    key._replace(default={"n_vocab": 262208, "n_ctx": 131072}.get(key.field, key.default)) for key in gemma2.KEYS
)
HF_NAMES = {stored.removeprefix("model."): name for stored, name in (QK_HF_NAMES | gemma2.HF_NAMES).items()}
GGUF_NAMES = QK_GGUF_NAMES | gemma2.GGUF_NAMES
PREFIXES = ("model.", "model.language_model.", "language_model.model.")
"""Text alone; beside a vision part, as transformers calls it now and before."""
NORMS = (*gemma2.NORMS, "q_norm", "k_norm")
STEP = 6
THETA, LOCAL_THETA = 1e6, 1e4
N_LAYER_27B = 62


def refine(source: Source, values: Values) -> None:
    """Both rotations, windows, cap and scales."""
    f, n_layer = source.fields, values["n_layer"]
    values["embed_scale"] = values["n_embd"] ** 0.5
    if source.is_gguf:
        f.only("attention.value_length", values["head_dim"])
        values["rope"] = gguf_rope(source, values)
        theta = f.number("rope.freq_base_swa", LOCAL_THETA)
        values["local_rope"] = RopeConfig(theta=theta, n_rotated=values["rope"].n_rotated, head_dim=values["head_dim"])
        if f.value("attention.sliding_window"):
            values["windows"] = gemma2.gguf_windows(source, n_layer, STEP, f.size("attention.sliding_window"))
        values["attn_scale"] = gemma2.derived_scale(values, N_LAYER_27B)
    else:
        gemma2.common_hf(source, values)
        values["rope"] = hf_rope(source, values, FULL, THETA)
        values["local_rope"] = hf_rope(source, values, SLIDING, LOCAL_THETA)
        values["windows"] = gemma2.windows_of_steps(source, n_layer, f.size("sliding_window_pattern", STEP))
        if f.cap("attn_logit_softcapping"):
            raise f.refuse("attn_logit_softcapping", "Gemma 3 has none")
    values["logit_softcap"] = f.cap("final_logit_softcapping")
    llama.stretch(values)


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    assert c.local_rope is not None
    return {
        **gemma2.common_to_hf(c),
        "rope_parameters": {FULL: rope_to_hf(c.rope), SLIDING: rope_to_hf(c.local_rope)},
    }


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys."""
    assert c.local_rope is not None
    plain = replace(c.local_rope, kind="default", factor=1.0) == c.local_rope
    refuse_for_gguf(c, {"unscaled rotation in layers with a window": plain or not any(c.windows)})
    values = {**gemma2.common_gguf(c, N_LAYER_27B), "rope.freq_base_swa": c.local_rope.theta}
    step = gemma2.gguf_step(c, STEP) if any(c.windows) else {}
    return {**values, **step, "final_logit_softcapping": c.logit_softcap or None}, {}


class Block(gemma2.Block):
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        super().__init__(weights, i, c)
        q, k = (bytes(weights.floats(f"blocks.{i}.{name}_norm", c.head_dim)) for name in ("q", "k"))
        self.qk_norm = weights.ops.tensor(q * c.n_head + k * c.n_kv_head, (c.n_head + c.n_kv_head) * c.head_dim)


class Gemma3(gemma2.Gemma2):
    """A decoder of the Gemma 3 family. Immutable."""

    block = Block

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.widths = [config.head_dim] * (config.n_head + config.n_kv_head)
        assert config.local_rope is not None
        local = make_rope(self.ops, config.local_rope, config.n_ctx)
        self.ropes = [local if config.window(i) else rope for i, rope in enumerate(self.ropes)]

    def qkv(self, h: Tensor, b: llama.Block) -> Tensor:
        """Queries, keys and values; every head of the first two normalised by itself."""
        assert isinstance(b, Block)
        return self.ops.span_norm(self.ops.linear(h, b.w_qkv), b.qk_norm, self.widths, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    hf_class="Gemma3ForCausalLM",
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(
            names=HF_NAMES, prefixes=PREFIXES, offset=dict.fromkeys(NORMS, 1.0), ignored=llama.HF_LAYOUT.ignored
        ),
        GGUF: Layout(names=GGUF_NAMES, ignored=llama.GGUF_LAYOUT.ignored, essential=llama.GGUF_LAYOUT.essential),
    },
    build=Gemma3,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
    gguf_name="gemma3",
    tied_head=True,
)
