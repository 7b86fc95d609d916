"""GPT-2, Phi-3, GPT-NeoX and OPT, with every switch that changes what they compute."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from models import tiny

COMMON: dict[str, Any] = {
    "num_hidden_layers": 3,
    "max_position_embeddings": 131,
    "vocab_size": tiny.N_VOCAB,
    "bos_token_id": tiny.EOS,
    "eos_token_id": tiny.EOS,
    "pad_token_id": None,
}
FIVE_SHORT, FIVE_LONG = [1.0, 1.1, 1.3, 1.2, 2.0], [1.0, 1.5, 4.0, 7.0, 9.0]
EPS = float(np.float32(2e-5))  # what a GGUF file can hold, and not a default


def phi3(**sizes: Any) -> PreTrainedModel:
    own = {
        "hidden_size": 60,
        "intermediate_size": 52,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    return tiny.randomised(Phi3ForCausalLM, Phi3Config(**{**COMMON, **own, **sizes}))


def longrope(n_original: int, n_ctx: int, **more: Any) -> dict[str, Any]:
    """Options of phi3()."""
    factors = {"short_factor": FIVE_SHORT, "long_factor": FIVE_LONG}
    return {
        "max_position_embeddings": n_ctx,
        "original_max_position_embeddings": n_original,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 5000.0, **factors, **more},
    }


def gpt_neox(**sizes: Any) -> PreTrainedModel:
    own = {
        "hidden_size": 42,
        "intermediate_size": 52,
        "num_attention_heads": 3,
        "layer_norm_eps": EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.45},
    }
    return tiny.randomised(GPTNeoXForCausalLM, GPTNeoXConfig(**{**COMMON, **own, **sizes}))


def opt(**sizes: Any) -> PreTrainedModel:
    own = {"hidden_size": 42, "ffn_dim": 52, "num_attention_heads": 3}
    model = tiny.randomised(OPTForCausalLM, OPTConfig(**{**COMMON, **own, **sizes}))
    if not model.config.do_layer_norm_before:  # let a token's own embedding weigh more than what all tokens share
        model.model.decoder.embed_tokens.weight.data *= 6
        for layer in model.model.decoder.layers:
            layer.self_attn.out_proj.weight.data *= 0.3
            layer.fc2.weight.data *= 0.3
    return model


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 5000.0}
OTHERS: dict[str, partial[PreTrainedModel]] = {
    "gpt2": partial(tiny.gpt2),
    "gpt2 with another activation": partial(tiny.gpt2, activation_function="relu", tie_word_embeddings=False),
    "phi3": partial(phi3),
    "phi3 tied, with a window": partial(phi3, tie_word_embeddings=True, sliding_window=17),
    "phi3, a part of the head rotated": partial(
        phi3,
        hidden_size=84,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.75},
    ),
    "phi3 within the original window": partial(phi3, **longrope(256, 700)),
    "phi3 within the original window, its own attention factor": partial(
        phi3, **longrope(256, 700, attention_factor=1.37)
    ),
    "gpt_neox": partial(gpt_neox),
    "gpt_neox one after the other, tied": partial(gpt_neox, use_parallel_residual=False, tie_word_embeddings=True),
    "gpt_neox without attention biases, whole heads rotated": partial(
        gpt_neox, attention_bias=False, hidden_act="gelu_new", rope_parameters={**YARN, "partial_rotary_factor": 1.0}
    ),
    "gpt_neox, dynamic rotation of a quarter": partial(
        gpt_neox, hidden_size=72, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0}
    ),
    "opt": partial(opt),
    "opt, post-norm, with a narrow embedding": partial(opt, do_layer_norm_before=False, word_embed_proj_dim=30),
    "opt without biases, GELU, own head": partial(
        opt, enable_bias=False, activation_function="gelu", tie_word_embeddings=False
    ),
    "opt without the last norm, wide embedding, own head": partial(
        opt, _remove_final_layer_norm=True, word_embed_proj_dim=50, tie_word_embeddings=False
    ),
}
