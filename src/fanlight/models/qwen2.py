"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values. In: ids and a KV batch. Out: logits. Knows no text.

Source: Yang et al. 2024 (Qwen2).
"""

from __future__ import annotations

from fanlight.models import llama
from fanlight.models.architecture import (
    FULL,
    GGUF,
    SAFETENSORS,
    SLIDING,
    Architecture,
    Source,
    Values,
    gguf_rope,
    hf_layer_types,
    hf_rope,
    hf_windows,
)
from fanlight.models.base import DecoderConfig
from fanlight.models.rope import rope_to_hf


def refine(source: Source, values: Values) -> None:
    """Rotation and windows; the biases are always there."""
    values["qkv_bias"] = True
    if source.is_gguf:
        values["rope"] = gguf_rope(source, values)
    else:
        values["rope"] = hf_rope(source, values)
        values["windows"] = upper_windows(source, values["n_layer"])
    llama.stretch(values)


def upper_windows(source: Source, n_layer: int) -> tuple[int, ...]:
    """use_sliding_window gives the layers from max_window_layers on a window."""
    f = source.fields
    if not f.flag("use_sliding_window", False):
        return ()
    first = f.value("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise f.refuse("max_window_layers", "expected a whole number")
    return hf_windows(source, n_layer, [SLIDING if i >= first else FULL for i in range(n_layer)])


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    return {"rope_parameters": rope_to_hf(c.rope), "use_sliding_window": bool(c.windows), **hf_layer_types(c)}


ARCHITECTURE = Architecture(
    model_type="qwen2",
    hf_class="Qwen2ForCausalLM",
    keys=llama.KEYS,
    layouts={SAFETENSORS: llama.HF_LAYOUT, GGUF: llama.GGUF_LAYOUT},
    build=llama.Llama,
    refine=refine,
    to_hf=to_hf,
    to_gguf=llama.to_gguf,
)
