"""A model's file or folder -> its kind, its size on disk, and an estimate of the memory it will take. Reads headers, no weights.

The estimate counts weights as they are stored, and keys and values of a whole window. Knows no architecture: it looks for
sizes under the names that configurations use for them, and says None where it finds none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight.errors import CheckpointError

MAX_CONFIG_BYTES = 1 << 24
FLOATS = ("F32", "F16", "BF16", "F64")
FLOAT_KV_BYTES, QUANTISED_KV_BYTES = 4, 2  # a key or value, in float32 or in half precision
ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Sizes in bytes. None: the headers do not tell."""

    format: str
    model_type: str
    disk_bytes: int
    weights_bytes: int | None
    cache_bytes_per_token: int | None
    n_ctx: int | None

    @property
    def memory_bytes(self) -> int | None:
        """Weights and the keys and values of one full window."""
        if self.weights_bytes is None or self.cache_bytes_per_token is None or self.n_ctx is None:
            return None
        return self.weights_bytes + self.cache_bytes_per_token * self.n_ctx


def footprint(path: Path) -> Footprint:
    """Of a GGUF file or a Hugging Face folder. Errors: CheckpointError."""
    return _of_folder(path) if path.is_dir() else _of_gguf(path)


def _of_gguf(path: Path) -> Footprint:
    from fanlight.checkpoints.gguf import open_gguf

    checkpoint = open_gguf(path)
    metadata, arrays = checkpoint.metadata, checkpoint.arrays
    kind = metadata.get("general.architecture")
    kind = kind if isinstance(kind, str) else ""
    sizes = {key.removeprefix(kind + "."): value for key, value in metadata.items() if key.startswith(kind + ".")}
    embed = arrays.get("token_embd.weight")
    kv_bytes = FLOAT_KV_BYTES if embed is not None and embed.dtype in FLOATS else QUANTISED_KV_BYTES
    n_head, n_embd = _size(sizes, "attention.head_count"), _size(sizes, "embedding_length")
    n_kv_head = _size(sizes, "attention.head_count_kv") or n_head
    head_dim = _size(sizes, "attention.key_length") or _ratio(n_embd, n_head)
    return Footprint(
        format="gguf",
        model_type=kind,
        disk_bytes=path.stat().st_size,
        weights_bytes=sum(array.data.nbytes for array in arrays.values()),
        cache_bytes_per_token=_product(_size(sizes, "block_count"), n_kv_head, head_dim, 2 * kv_bytes),
        n_ctx=_size(sizes, "context_length"),
    )


def _of_folder(path: Path) -> Footprint:
    config = _config(path / "config.json")
    inner = config.get("text_config")  # of models that read pictures too
    sizes = {**config, **inner} if isinstance(inner, Mapping) else config
    kind = config.get("model_type")
    kind = kind if isinstance(kind, str) else ""
    n_head, n_embd = _size(sizes, "num_attention_heads", "n_head"), _size(sizes, "hidden_size", "n_embd")
    n_kv_head = _size(sizes, "num_key_value_heads") or n_head
    head_dim = _size(sizes, "head_dim") or _ratio(n_embd, n_head)
    files = [file for file in path.iterdir() if file.is_file()]
    weights = [file.stat().st_size for file in files if file.name.endswith(".safetensors")]
    per_token = _product(_size(sizes, "num_hidden_layers", "n_layer"), n_kv_head, head_dim, 2 * FLOAT_KV_BYTES)
    return Footprint(
        format="safetensors",
        model_type=kind,
        disk_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        weights_bytes=sum(weights) if weights else None,
        cache_bytes_per_token=0 if kind in ENCODERS else per_token,
        n_ctx=_size(sizes, "max_position_embeddings", "n_positions", "n_ctx"),
    )


def _config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_CONFIG_BYTES} of JSON")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def _size(sizes: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = sizes.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0:
            value = max(value, default=None) if all(type(item) is int for item in value) else None  # one for each block
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return None


def _ratio(whole: int | None, parts: int | None) -> int | None:
    return whole // parts if whole and parts else None


def _product(*sizes: int | None) -> int | None:
    result = 1
    for size in sizes:
        if size is None:
            return None
        result *= size
    return result
