"""Float checkpoints written by transformers give transformers' logits, however the ids reach the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fanlight
from models import tiny
from models.passes import every_way

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

TOLERANCE = 2e-5  # of the range of the logits; 2e-4 is what is promised, 2e-6 what is found
RANDOM = np.random.default_rng(7)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (131, 1, 33, 64)]  # a page holds 64


def gpt2(folder: Path, dtype: str, **sizes: Any) -> Path:
    return tiny.write_folder(folder, tiny.gpt2(**sizes), dtype)


def first_gpt2(folder: Path, dtype: str) -> Path:
    """As OpenAI's own checkpoint is: no prefix, and the causal mask stored among the weights."""
    gpt2(folder, dtype)
    weights = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    old |= {f"h.{i}.attn.bias": torch.tril(torch.ones(1, 1, 131, 131)) for i in range(2)}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sharded(folder: Path, dtype: str) -> Path:
    tiny.write_folder(folder, tiny.gpt2(), dtype, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    return folder


def llama(folder: Path, dtype: str, **sizes: Any) -> Path:
    return tiny.write_folder(folder, tiny.llama(**sizes), dtype)


def old_llama(folder: Path, dtype: str) -> Path:
    """As transformers 4 wrote it: rope_theta at the top, no head_dim, and the angles stored among the weights."""
    model = tiny.llama(hidden_size=60)
    tiny.write_folder(folder, model, dtype)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    config |= {"rope_theta": 5000.0, "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(5) for i in range(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


CASES: dict[str, tuple[Callable[..., Path], str, dict[str, Any]]] = {
    "gpt2 F32": (gpt2, "F32", {}),
    "gpt2 F16": (gpt2, "F16", {}),
    "gpt2 BF16": (gpt2, "BF16", {}),
    "gpt2 untied": (gpt2, "F32", {"tie_word_embeddings": False}),
    "gpt2 4 n_embd wide": (gpt2, "BF16", {"n_inner": None, "n_embd": 48, "n_layer": 3}),
    "gpt2 without a prefix": (first_gpt2, "F32", {}),
    "gpt2 in shards": (sharded, "F16", {}),
    "llama F32": (llama, "F32", {}),
    "llama F16": (llama, "F16", {}),
    "llama BF16": (llama, "BF16", {}),
    "llama tied": (llama, "F32", {"tie_word_embeddings": True}),
    "llama, all heads with keys": (llama, "F16", {"num_key_value_heads": 6, "head_dim": 14}),
    "llama of transformers 4": (old_llama, "BF16", {}),
}


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
    span = float(expected.max() - expected.min())
    worst = float(np.abs(found - expected).max()) / span
    assert worst <= TOLERANCE, f"{what}: {worst:.2g} of the range"


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder, and transformers' logits of the prompts."""
    write, dtype, sizes = CASES[request.param]
    folder = write(tmp_path_factory.mktemp("checkpoint"), dtype, **sizes)
    return folder, tiny.logits_of_folder(folder, PROMPTS)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_logits_equal_those_of_transformers(case: tuple[Path, list[Any]], kernels: str) -> None:
    folder, expected = case
    model = fanlight.load(folder, kernels=kernels)
    assert len(set(expected[0].argmax(axis=1))) > 15, "logits that hardly vary would hide a mistake"
    assert model.describe().unread == ()
    for way, found in every_way(model.decoder, PROMPTS).items():
        for ids, ours, theirs in zip(PROMPTS, found, expected, strict=True):
            assert_close(ours, theirs, f"{len(ids)} ids {way}")
    assert_close(model.logits(PROMPTS[2]), expected[2], "Model.logits")


def test_the_window_of_an_odd_length_can_be_filled(tmp_path: Path) -> None:
    folder = gpt2(tmp_path, "F32", n_positions=61)
    prompts = [PROMPTS[0][:61], PROMPTS[0][:60]]
    model = fanlight.load(folder)
    for ours, theirs in zip(
        every_way(model.decoder, prompts)["in chunks"], tiny.logits_of_folder(folder, prompts), strict=True
    ):
        assert_close(ours, theirs, "n_positions 61")


def test_stored_types_are_kept(tmp_path: Path) -> None:
    """Half-precision weights are not widened in memory."""
    wide = fanlight.load(gpt2(tmp_path / "wide", "F32")).describe()
    for dtype in ("F16", "BF16"):
        half = fanlight.load(gpt2(tmp_path / dtype, dtype)).describe()
        assert set(half.stored_bytes) == {dtype}
        assert half.n_parameters == wide.n_parameters
        assert half.packed_bytes <= 0.6 * wide.packed_bytes
        assert half.conversions == ()
