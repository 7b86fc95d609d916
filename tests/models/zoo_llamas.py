"""Llama and what is built on it: Mistral, Qwen2, Qwen3, SmolLM3, with every rotation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from models import tiny

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131,
    "rms_norm_eps": float(np.float32(1e-5)),
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "vocab_size": tiny.N_VOCAB,
    "bos_token_id": tiny.EOS,
    "eos_token_id": tiny.EOS,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


def make(model: type[PreTrainedModel], config: type, **sizes: Any) -> PreTrainedModel:
    return tiny.randomised(model, config(**{**SIZES, **sizes}))


def scaled(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **values}}


mistral = partial(make, MistralForCausalLM, MistralConfig)
qwen2 = partial(make, Qwen2ForCausalLM, Qwen2Config)
qwen3 = partial(make, Qwen3ForCausalLM, Qwen3Config, head_dim=10)
smollm3 = partial(make, SmolLM3ForCausalLM, SmolLM3Config, num_hidden_layers=5)
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

LLAMAS: dict[str, partial[PreTrainedModel]] = {
    "llama with biases": partial(tiny.llama, attention_bias=True, mlp_bias=True),
    "llama, linear rotation": partial(tiny.llama, **scaled("linear", factor=2.5)),
    "llama, dynamic rotation": partial(tiny.llama, **scaled("dynamic", factor=2.0)),
    "llama, yarn": partial(tiny.llama, **scaled("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama, llama3 rotation": partial(tiny.llama, **scaled("llama3", **LLAMA3)),
    "mistral with a window": partial(mistral, sliding_window=17),
    "mistral with a window over a page": partial(mistral, sliding_window=70, head_dim=10),
    "mistral without a window": partial(mistral, sliding_window=None),
    "qwen2": qwen2,
    "qwen2 tied": partial(qwen2, tie_word_embeddings=True),
    "qwen2 with windows above": partial(qwen2, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": qwen3,
    "qwen3 with biases and windows": partial(
        qwen3, attention_bias=True, use_sliding_window=True, sliding_window=20, max_window_layers=2
    ),
    "smollm3": partial(smollm3, tie_word_embeddings=True),
    "smollm3 with its own layers and windows": partial(
        smollm3, no_rope_layers=[0, 1, 1, 0, 1], use_sliding_window=True, sliding_window=33
    ),
}
