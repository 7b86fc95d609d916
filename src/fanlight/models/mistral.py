"""Mistral: Llama whose layers see a window of the last positions. In: ids and a KV batch. Out: logits. Knows no text.

Source: Jiang et al. 2023 (Mistral 7B). GGUF files of it say that they are "llama", and know no window.
"""

from __future__ import annotations

from fanlight.models import llama
from fanlight.models.architecture import Architecture, Source, Values, hf_rope
from fanlight.models.base import DecoderConfig
from fanlight.models.rope import rope_to_hf

DEFAULT_WINDOW = 4096  # of transformers, where config.json has no such key; null means none


def refine(source: Source, values: Values) -> None:
    """Rotation, and the window, which is the same for all layers."""
    values["rope"] = hf_rope(source, values)
    llama.stretch(values)
    if source.config.get("sliding_window", DEFAULT_WINDOW) is not None:
        values["windows"] = (source.fields.size("sliding_window", DEFAULT_WINDOW),) * values["n_layer"]


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    return {"rope_parameters": rope_to_hf(c.rope), "sliding_window": max(c.windows, default=None)}


ARCHITECTURE = Architecture(
    model_type="mistral",
    hf_class="MistralForCausalLM",
    keys=llama.KEYS,
    layouts=llama.ARCHITECTURE.layouts,
    build=llama.Llama,
    refine=refine,
    to_hf=to_hf,
    to_gguf=llama.to_gguf,
    gguf_name="llama",
)
