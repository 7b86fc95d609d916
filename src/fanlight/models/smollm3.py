"""SmolLM3: Llama in which every fourth layer knows no positions. In: ids and a KV batch. Out: logits. Knows no text.

Source: Bakouch et al. 2025 (SmolLM3); Yang et al. 2025 for attention without positions in some layers.
"""

from __future__ import annotations

from fanlight.models import llama
from fanlight.models.architecture import (
    FULL,
    SLIDING,
    Architecture,
    Source,
    Values,
    hf_layer_types,
    hf_windows,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig

STEP = 4
"""GGUF files do not state it: llama.cpp knows it by the architecture."""


def refine(source: Source, values: Values) -> None:
    """Llama's, and which layers know positions."""
    llama.refine(source, values)
    f, n_layer = source.fields, values["n_layer"]
    step = STEP if source.is_gguf else f.size("no_rope_layer_interval", STEP)
    knows: list[object] = [int((i + 1) % step != 0) for i in range(n_layer)]
    if not source.is_gguf:
        knows = f.value("no_rope_layers", knows)
        if not isinstance(knows, list) or not all(item in (0, 1) for item in knows):
            raise f.refuse("no_rope_layers", "expected a list of 0 and 1")
        if f.flag("use_sliding_window", False):
            values["windows"] = hf_windows(source, n_layer, [FULL if known else SLIDING for known in knows])
    values["rope_layers"] = tuple(map(bool, knows))


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    windows = {"use_sliding_window": bool(c.windows), **hf_layer_types(c)}
    return {**llama.to_hf(c), "no_rope_layers": [int(known) for known in c.rope_layers], **windows}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Llama's."""
    every_fourth = tuple((i + 1) % STEP != 0 for i in range(c.n_layer))
    refuse_for_gguf(c, {"no positions in every fourth layer": c.rope_layers == every_fourth})
    return llama.to_gguf(c)


ARCHITECTURE = Architecture(
    model_type="smollm3",
    hf_class="SmolLM3ForCausalLM",
    keys=llama.KEYS,
    layouts=llama.ARCHITECTURE.layouts,
    build=llama.Llama,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
    tied_head=True,
)
