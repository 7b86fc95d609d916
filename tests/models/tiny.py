"""Tiny models with random weights -> folders and GGUF files, and their logits, all by other people's libraries.

Sizes are awkward and unequal, weights large enough for logits that vary, biases and norms not what they start as.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fanlight.checkpoints.gguf_quants import quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

torch.set_num_threads(1)  # its threads spin while they wait: on a busy machine two are slower than one

MERGES = ("Ġ t", "h e", "i n", "e r", "Ġt he")
TOKENS = ("Ġ", *map(chr, range(33, 127)), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>")
N_VOCAB = len(TOKENS)  # 101
EOS = N_VOCAB - 1
TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LLAMA_GGUF = {
    "model.embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}


# -- models -----------------------------------------------------------------------------------------------------------


def gpt2(**sizes: Any) -> GPT2LMHeadModel:
    own = {"n_embd": 36, "n_head": 3, "n_layer": 2, "n_positions": 131, "n_inner": 52, "vocab_size": N_VOCAB}
    return randomised(GPT2LMHeadModel, GPT2Config(**{**own, "bos_token_id": EOS, "eos_token_id": EOS, **sizes}))


def llama(**sizes: Any) -> LlamaForCausalLM:
    own = {
        "hidden_size": 42,
        "intermediate_size": 52,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 131,
        "rms_norm_eps": float(np.float32(1e-5)),  # what a GGUF file can hold
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "vocab_size": N_VOCAB,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }
    return randomised(LlamaForCausalLM, LlamaConfig(**{**own, **sizes}))


def randomised(kind: Callable[[Any], PreTrainedModel], config: Any) -> Any:
    torch.manual_seed(20240229)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.1)
            elif weight.ndim == 1:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(0, 0.3)
    return model


# -- files ------------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, model: PreTrainedModel, dtype: str = "F32", *, bos: bool = True, **options: Any) -> Path:
    """A Hugging Face folder. options: those of save_pretrained. bos: whether the vocabulary has <|endoftext|>."""
    model.to(TORCH_DTYPES[dtype]).save_pretrained(folder, **options)
    model.float()
    tokens = TOKENS if bos else TOKENS[:-1]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return folder


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    dtype: str = "F32",
    *,
    overrides: dict[str, int | float | str] | None = None,
    tensors: dict[str, NDArray[np.float32] | None] | None = None,
    types: dict[str, str] | None = None,
    more: Callable[[GGUFWriter], None] = lambda writer: None,
) -> Path:
    """What llama.cpp's converter would write.

    overrides: metadata. tensors: instead of the model's, or beside them; None leaves one out. types: of single tensors.
    """
    c = model.config
    writer = GGUFWriter(path, "llama")
    sizes: dict[str, int | float | str] = {
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "rope.dimension_count": c.head_dim,
        "rope.freq_base": c.rope_parameters["rope_theta"],
        "vocab_size": c.vocab_size,
    }
    for key, value in {**sizes, **(overrides or {})}.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"llama.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.NORMAL] * EOS + [TokenType.CONTROL])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(EOS)
    writer.add_eos_token_id(EOS)
    for name, values in {**gguf_tensors(model), **(tensors or {})}.items():
        if values is None:
            continue
        own = (types or {}).get(name, "F32" if values.ndim == 1 else dtype)
        if own == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, stored(values, own), raw_dtype=GGMLQuantizationType[own])
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, NDArray[np.float32]]:
    """Weights under GGUF's names, q and k with the halves of each head interleaved."""
    found = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        short = name.removesuffix(".weight")
        block = ""
        if short.startswith("model.layers."):
            _, _, i, short = short.split(".", 3)
            block = f"blk.{i}."
        values = np.ascontiguousarray(weight.numpy())
        if short in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = values.reshape(-1, 2, model.config.head_dim // 2, values.shape[1])  # (H, half, D / 2, E)
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        found[block + LLAMA_GGUF[short]] = values
    return {name + ".weight": values for name, values in found.items()}


def stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """(rows, bytes of a row)."""
    return np.frombuffer(quantize(values, dtype), np.uint8).reshape(len(values), -1)


def rounded(model: LlamaForCausalLM, dtype: str) -> LlamaForCausalLM:
    """The model with its matrices as a file of this type can hold them, by gguf's own dequantisation."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                values = dequantize(stored(weight.numpy(), dtype), GGMLQuantizationType[dtype])
                weight.copy_(torch.from_numpy(np.array(values)))
    return model


# -- logits -----------------------------------------------------------------------------------------------------------


def logits_of_folder(folder: Path, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """transformers' on the stored weights, in float32."""
    return logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), prompts)


def logits_of(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """(n_ids, n_vocab) for each prompt."""
    with torch.no_grad():
        return [model(torch.tensor([list(ids)])).logits[0].numpy() for ids in prompts]
