"""Tiny random models of architectures that Fanlight has no file for. In: a model type. Out: transformers' model."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from models import tiny

LLAMA_LIKE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 52,
    "max_position_embeddings": 131,
}
GPT_LIKE = {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 131}
EXPERTS = {"num_experts_per_tok": 2}
CASES: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 6},  # positions by ALiBi
    "falcon": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6},  # one head of keys
    "gpt_bigcode": GPT_LIKE,
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": 131},
    "starcoder2": {**LLAMA_LIKE, "sliding_window": 16},
    "cohere": LLAMA_LIKE,
    "stablelm": LLAMA_LIKE,
    "mixtral": {**LLAMA_LIKE, **EXPERTS, "num_local_experts": 4},
    "mamba": {"hidden_size": 48, "num_hidden_layers": 2, "state_size": 7, "time_step_rank": 5},  # no attention at all
    "jamba": {  # attention and states, experts and none
        **LLAMA_LIKE,
        **EXPERTS,
        "num_hidden_layers": 4,
        "num_experts": 4,
        "use_mamba_kernels": False,
        "mamba_d_state": 7,
        "mamba_dt_rank": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "rwkv": {"hidden_size": 48, "num_hidden_layers": 2, "attention_hidden_size": 48, "context_length": 131},
    "openai-gpt": GPT_LIKE,  # has no cache
}


def random_model(model_type: str, **sizes: Any) -> Any:
    """Of CASES, or of any type with its sizes."""
    config = AutoConfig.for_model(model_type, **CASES.get(model_type, {}), **sizes, vocab_size=tiny.N_VOCAB)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tiny.EOS
    return tiny.randomised(AutoModelForCausalLM.from_config, config)
