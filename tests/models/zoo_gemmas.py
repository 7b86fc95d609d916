"""Gemma 2, Gemma 3 and OLMo 2, with every switch that they have."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
)

from models.zoo_llamas import make, scaled

SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA: dict[str, Any] = {
    "head_dim": 10,
    "query_pre_attn_scalar": 10,
    "num_hidden_layers": 4,
    "tie_word_embeddings": True,
    "sliding_window": 17,  # a page holds 64
}
ROTATIONS = {
    FULL: {"rope_type": "default", "rope_theta": 80000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
}


def two(**values: Any) -> dict[str, Any]:
    """A scaled rotation in the layers that see all."""
    return {"rope_parameters": {**ROTATIONS, FULL: {"rope_theta": 80000.0, **values}}}


def gemma(model: type[PreTrainedModel], config: type, **sizes: Any) -> PreTrainedModel:
    """Norms multiply by 1 + w: by 0.5 to 1.5, as those of other models; twice that loses digits, in transformers too."""
    made = make(model, config, **sizes)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("norm.weight"):
                weight -= 1
    return made


gemma2 = partial(gemma, Gemma2ForCausalLM, Gemma2Config, **GEMMA)
gemma3 = partial(
    gemma, Gemma3ForCausalLM, Gemma3TextConfig, **{**GEMMA, "num_hidden_layers": 7, "rope_parameters": ROTATIONS}
)
olmo2 = partial(make, Olmo2ForCausalLM, Olmo2Config)

GEMMAS: dict[str, partial[PreTrainedModel]] = {
    "gemma2": gemma2,
    "gemma2 with tight caps": partial(gemma2, attn_logit_softcapping=1.5, final_logit_softcapping=4.0),
    "gemma2 without caps": partial(gemma2, attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma2 with biases, silu and its own head": partial(
        gemma2, attention_bias=True, hidden_activation="silu", tie_word_embeddings=False
    ),
    "gemma2 with its own scale and windows over a page": partial(gemma2, query_pre_attn_scalar=37, sliding_window=70),
    "gemma2 with its own layers, linear rotation": partial(
        gemma2, layer_types=[FULL, SLIDING, SLIDING, FULL], sliding_window=64, **scaled("linear", factor=2.5)
    ),
    "gemma2 without windows": partial(gemma2, layer_types=[FULL] * 4),
    "gemma3": gemma3,
    "gemma3, linear rotation": partial(gemma3, **two(rope_type="linear", factor=8.0)),
    "gemma3 with a cap, its own scale and head": partial(
        gemma3, final_logit_softcapping=6.0, query_pre_attn_scalar=24, tie_word_embeddings=False, sliding_window=64
    ),
    "gemma3 with biases and its own layers": partial(
        gemma3,
        attention_bias=True,
        num_hidden_layers=4,
        layer_types=[SLIDING, FULL, SLIDING, SLIDING],
        sliding_window=9,
    ),
    "gemma3 with windows alone": partial(gemma3, num_hidden_layers=3, sliding_window=65),
    "gemma3 without windows": partial(gemma3, num_hidden_layers=2, layer_types=[FULL] * 2),
    "olmo2": olmo2,
    "olmo2 with biases, tied": partial(olmo2, attention_bias=True, tie_word_embeddings=True, num_key_value_heads=6),
    "olmo2, yarn": partial(olmo2, **scaled("yarn", factor=4.0, original_max_position_embeddings=32)),
}

UNSAYABLE = {
    "gemma2 with biases, silu and its own head": "a tied head",
    "gemma2 with its own scale and windows over a page": "query_pre_attn_scalar 10",
    "gemma2 with its own layers, linear rotation": "every n-th layer",
    "gemma2 without windows": "some layer with a window",
    "gemma3 with a cap, its own scale and head": "query_pre_attn_scalar 10",
    "gemma3 with biases and its own layers": "no biases",
    "olmo2 with biases, tied": "no biases",
}
"""What GGUF files of these cannot say, and what they have instead."""
