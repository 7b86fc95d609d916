"""Checkpoints that are none, damaged, absurd or of a kind that is not read: one line that says where and what, at once."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

import fanlight
from fanlight.errors import CheckpointError, FanlightError, ModelNotFound, TokenizerError
from models import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gguf import GGUFWriter

HUGE = 2**28
DEAD = object()  # the key is taken out


def refused(path: Path, *words: str, error: type[FanlightError] = CheckpointError) -> str:
    """The message: one line, with these words, soon, and without much memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(error) as caught:
            fanlight.load(path, kernels="native")
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert len(message) < 600
    assert str(path) in message
    assert seconds < 5
    assert peak < 50e6
    return message


def edit(folder: Path, **values: Any) -> Path:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not DEAD}, default=repr))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "tiny-gpt2", tiny.gpt2())


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "tiny-llama", tiny.llama())


# -- config.json ------------------------------------------------------------------------------------------------------


def test_no_config(gpt2: Path) -> None:
    (gpt2 / "config.json").unlink()
    refused(gpt2, "config.json: missing")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "JSON"),
        ("[1]", "list"),
        ("", "JSON"),
        ("\xff", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"n": ' + "9" * 5000 + "}", "JSON"),
    ],
)
def test_a_config_that_is_none(gpt2: Path, content: str, word: str) -> None:
    (gpt2 / "config.json").write_bytes(content.encode("latin-1"))
    refused(gpt2, "config.json", word)


def test_a_config_of_absurd_size(gpt2: Path) -> None:
    with (gpt2 / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    refused(gpt2, "config.json", str(1 << 40))


@pytest.mark.parametrize("kind", ["t5", None, 7, ["gpt2"], {}])
def test_unknown_architecture(gpt2: Path, kind: object) -> None:
    refused(edit(gpt2, model_type=kind), "model_type", "gpt2, gpt_neox, llama")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layer", HUGE),
        ("n_layer", 3),
        ("n_head", 5),
        ("n_head", 0),
        ("n_head", HUGE),
        ("n_embd", HUGE * 2),
        ("n_embd", "36"),
        ("n_embd", 36.5),
        ("n_embd", True),
        ("n_embd", 10**400),
        ("n_inner", HUGE),
        ("n_positions", HUGE),
        ("vocab_size", HUGE),
        ("vocab_size", DEAD),
        ("layer_norm_epsilon", 0),
        ("layer_norm_epsilon", "1e-5"),
        ("layer_norm_epsilon", float("nan")),
        ("layer_norm_epsilon", 10**400),
        ("activation_function", "swiglu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_gpt2_values_that_cannot_be(gpt2: Path, key: str, value: object) -> None:
    """Either the value itself is refused, or the first array that does not have such a shape."""
    message = refused(edit(gpt2, **{key: value}))
    assert key in message or "tensor" in message or "vocabulary" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", HUGE),
        ("hidden_size", HUGE),
        ("hidden_size", [42]),
        ("intermediate_size", HUGE),
        ("num_attention_heads", HUGE),
        ("num_attention_heads", 0),
        ("num_key_value_heads", HUGE),
        ("num_key_value_heads", 4),
        ("num_key_value_heads", [2, 2]),
        ("head_dim", HUGE),
        ("head_dim", 9),
        ("vocab_size", HUGE),
        ("max_position_embeddings", 0),
        ("rms_norm_eps", -1e-5),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 5000.0, "factor": "4"}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 0}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "5000"}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": -1.0}),
        ("rope_parameters", "default"),
        ("rope_parameters", [1]),
        ("rope_scaling", {"type": "linear", "factor": -2.0}),
        ("rope_scaling", {"type": "spiral", "factor": 2.0}),
    ],
)
def test_llama_values_that_cannot_be(llama: Path, key: str, value: object) -> None:
    message = refused(edit(llama, **{key: value}))
    assert key in message or "tensor" in message or "rope" in message or "vocabulary" in message


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_a_missing_array(gpt2: Path) -> None:
    rewrite(gpt2, lambda weights: weights.pop("transformer.h.1.mlp.c_fc.bias"))
    refused(gpt2, "'transformer.h.1.mlp.c_fc.bias' is missing")


def test_a_missing_head_is_not_taken_for_a_tied_one(llama: Path) -> None:
    refused(rewrite(llama, lambda weights: weights.pop("lm_head.weight")), "'lm_head.weight' is missing")


def test_an_array_of_another_shape(gpt2: Path) -> None:
    def transpose(weights: dict[str, torch.Tensor]) -> None:
        weights["transformer.h.0.mlp.c_fc.weight"] = weights["transformer.h.0.mlp.c_fc.weight"].T.contiguous()

    refused(rewrite(gpt2, transpose), "'transformer.h.0.mlp.c_fc.weight'", "(52, 36)", "expected (36, 52)")


def test_an_array_of_integers(gpt2: Path) -> None:
    def whole(weights: dict[str, torch.Tensor]) -> None:
        weights["transformer.wte.weight"] = weights["transformer.wte.weight"].to(torch.int32)

    refused(rewrite(gpt2, whole), "'transformer.wte.weight'", "I32", "F16")


def test_doubles_are_read_and_said(llama: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].double()

    before = fanlight.load(llama).logits([1, 2, 3])
    model = fanlight.load(rewrite(llama, widen))
    assert model.describe().conversions == ("model.embed_tokens.weight: F64 -> F32 (rounded to float32)",)
    assert np.array_equal(model.logits([1, 2, 3]), before)


def test_unread_arrays_are_said(gpt2: Path) -> None:
    def more(weights: dict[str, torch.Tensor]) -> None:
        weights["score.weight"] = torch.ones(3)
        weights["transformer.h.2.ln_1.weight"] = torch.ones(36)

    model = fanlight.load(rewrite(gpt2, more))
    assert model.describe().unread == ("score.weight", "transformer.h.2.ln_1.weight")
    assert "score.weight" in str(model.describe())
    (note,) = model.generate("a", max_new_tokens=1).notes
    assert "score.weight" in note


def test_no_weights(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    refused(gpt2, "model.safetensors")


# -- tokenizers -------------------------------------------------------------------------------------------------------


def test_no_tokenizer(gpt2: Path) -> None:
    (gpt2 / "vocab.json").unlink()
    refused(gpt2, "tokenizer.json", error=TokenizerError)


def test_a_tokenizer_larger_than_the_vocabulary(gpt2: Path) -> None:
    file = gpt2 / "vocab.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "Ġthem": tiny.N_VOCAB}))
    refused(gpt2, str(tiny.N_VOCAB), error=FanlightError)


# -- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rope.scaling.type": "spiral"}, ("rope.scaling.type", "spiral")),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": -4.0}, ("rope.scaling.factor", "-4")),
        ({"rope.scale_linear": -4.0}, ("rope.scale_linear",)),
        ({"rope.dimension_count": 8}, ("rope.dimension_count", "8", "10")),
        ({"rope.freq_base": -1.0}, ("rope.freq_base",)),
        ({"attention.key_length": 9, "attention.value_length": 9, "rope.dimension_count": 9}, ("9", "even")),
        ({"attention.head_count": HUGE}, ("tensor",)),
        ({"attention.head_count": HUGE, "attention.head_count_kv": HUGE}, ("tensor",)),
        ({"attention.head_count_kv": 4}, ("4", "6")),
        (dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), HUGE), ("tensor",)),
        ({"attention.value_length": 8}, ("value_length", "8", "10")),
        ({"block_count": HUGE}, ("blk.2.attn_norm.weight",)),
        ({"embedding_length": HUGE}, ("tensor",)),
        ({"embedding_length": 3}, ("tensor",)),
        ({"feed_forward_length": HUGE}, ("tensor",)),
        ({"vocab_size": HUGE}, ("token_embd.weight",)),
        ({"context_length": 0}, ("context_length",)),
        ({"context_length": "long"}, ("context_length",)),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, ("epsilon",)),
    ],
)
def test_gguf_values_that_cannot_be(tmp_path: Path, overrides: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(), overrides=overrides), *words)


def test_gguf_tokens_that_are_none(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(), overrides={"vocab_size": tiny.N_VOCAB})
    raw = path.read_bytes()
    at = raw.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")
    path.write_bytes(raw[:at].replace(b"llama.vocab_size", b"llama.vocab_nope") + raw[at:])
    assert fanlight.load(path).decoder.config.n_vocab == tiny.N_VOCAB  # counted, where the file does not say
    path.write_bytes(
        raw.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.nothin").replace(b"vocab_size", b"vocab_nope")
    )
    refused(path, "vocab_size", "missing")


def test_gguf_with_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(vocab_size=90, bos_token_id=None, eos_token_id=None))
    refused(path, "101 tokens", "90")


def test_gguf_with_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama())
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0rwkv", 1))
    refused(path, "tokenizer.ggml.model", "rwkv", error=TokenizerError)


def test_gguf_of_another_architecture(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama())
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma", 1))
    refused(path, "general.architecture", "'lamma'", "llama")


def test_gguf_with_a_missing_tensor(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(), tensors={"blk.1.ffn_norm.weight": None})
    refused(path, "'blk.1.ffn_norm.weight' is missing")


@pytest.mark.parametrize("tensor", ["rope_freqs.weight", "blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"])
def test_gguf_with_a_tensor_that_would_change_the_logits(tmp_path: Path, tensor: str) -> None:
    """Rope scaling and more norms show in nothing but their tensors: leaving them out would write nonsense without a word."""
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(), tensors={tensor: np.ones(4, np.float32)})
    refused(path, tensor)


def test_gguf_with_an_unsupported_type(tmp_path: Path) -> None:
    def add_iq3_s(writer: GGUFWriter) -> None:
        blocks = np.zeros((96, 110), np.uint8)  # rows of 256 weights
        writer.add_tensor("blk.0.ffn_down.weight", blocks, raw_dtype=GGMLQuantizationType.IQ3_S)

    theirs = tiny.llama(hidden_size=96, intermediate_size=256)
    path = tiny.write_gguf(tmp_path / "tiny.gguf", theirs, tensors={"blk.0.ffn_down.weight": None}, more=add_iq3_s)
    refused(path, "'blk.0.ffn_down.weight'", "IQ3_S", "Q4_K")


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing/here.gguf", "~nobody-of-that-name/model.gguf", "x" * 5000, "a\0b", ""])
def test_paths_to_nothing(name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such file or folder") as caught:
        fanlight.load(name)
    assert repr(name[:20])[:-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_of_another_kind(tmp_path: Path, gpt2: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    refused(tmp_path / "notes.txt", "GGUF")
    refused(gpt2 / "model.safetensors", "safetensors")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "config.json: missing")
