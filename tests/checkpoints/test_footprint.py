"""Sizes from headers: what a model takes on disk and in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fanlight.checkpoints.footprint import footprint
from fanlight.errors import CheckpointError

GPT2 = {"model_type": "gpt2", "n_layer": 3, "n_head": 5, "n_embd": 35, "n_positions": 77}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_size": 48,
    "head_dim": 10,
    "max_position_embeddings": 131,
}


def folder_of(folder: Path, config: Any, **files: int) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name, size in files.items():
        (folder / f"{name}.safetensors").write_bytes(b"x" * size)
    return folder


@pytest.mark.parametrize(
    ("config", "per_token", "n_ctx"),
    [
        (GPT2, 3 * 2 * 5 * 7 * 4, 77),
        (LLAMA, 3 * 2 * 2 * 10 * 4, 131),
        ({"model_type": "gemma3", "text_config": LLAMA | {"model_type": "gemma3_text"}}, 3 * 2 * 2 * 10 * 4, 131),
        ({**LLAMA, "model_type": "bert"}, 0, 131),
        ({"model_type": "mystery"}, None, None),
        ({**LLAMA, "num_hidden_layers": -1, "max_position_embeddings": "many"}, None, None),
        ({**LLAMA, "num_attention_heads": 0, "num_key_value_heads": None}, None, 131),
    ],
)
def test_a_folder(tmp_path: Path, config: dict[str, Any], per_token: int | None, n_ctx: int | None) -> None:
    found = footprint(folder_of(tmp_path, config, model_1=700, model_2=33))
    assert (found.format, found.model_type, found.weights_bytes) == ("safetensors", config["model_type"], 733)
    assert found.disk_bytes == 733 + len(json.dumps(config))
    assert (found.cache_bytes_per_token, found.n_ctx) == (per_token, n_ctx)
    assert found.memory_bytes == (None if per_token is None or n_ctx is None else 733 + per_token * n_ctx)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        footprint(tmp_path)


@pytest.mark.parametrize(("dtype", "kv_bytes"), [("F32", 4), ("Q8_0", 2)])
def test_the_estimate_of_a_gguf_file_is_what_the_model_says(tmp_path: Path, dtype: str, kv_bytes: int) -> None:
    import fanlight
    from models import tiny

    theirs = tiny.llama(
        hidden_size=96, intermediate_size=160, num_attention_heads=3, num_key_value_heads=1, head_dim=32
    )
    path = tiny.write_gguf(tmp_path / "a.gguf", theirs, dtype)
    found, about = footprint(path), fanlight.load(path).describe()
    assert found.cache_bytes_per_token == 2 * 2 * 32 * kv_bytes
    assert found.cache_bytes_per_token == pytest.approx(about.cache_bytes_per_token, rel=0.1)
    assert (found.model_type, found.n_ctx, found.disk_bytes) == ("llama", about.n_ctx, path.stat().st_size)
    assert found.weights_bytes == sum(about.stored_bytes.values())
    assert found.memory_bytes == found.weights_bytes + found.cache_bytes_per_token * about.n_ctx


def test_the_estimate_of_a_folder_is_what_the_model_says(tmp_path: Path) -> None:
    import fanlight
    from models import tiny

    folder = tiny.write_folder(tmp_path / "gpt2", tiny.gpt2(n_embd=96, n_head=3))
    found, about = footprint(folder), fanlight.load(folder).describe()
    assert found.cache_bytes_per_token == pytest.approx(about.cache_bytes_per_token, rel=0.1)
    assert found.n_ctx == about.n_ctx
    assert found.weights_bytes == pytest.approx(sum(about.stored_bytes.values()), rel=0.1)
