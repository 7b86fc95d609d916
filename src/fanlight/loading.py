"""A name or path -> decoder, tokenizer, and a report of what was read. Knows no decoding and no engine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.errors import CheckpointError, TokenizerError
from fanlight.kernels.ops import Ops
from fanlight.models.base import Decoder
from fanlight.models.registry import build_decoder
from fanlight.models.weights import LoadReport
from fanlight.sources import Source, find_source
from fanlight.text.tokenizer import AnyTokenizer, Tokenizer

MAX_CONFIG_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a model consists of."""

    name: str
    decoder: Decoder
    tokenizer: AnyTokenizer
    report: LoadReport


def load_parts(name: str | os.PathLike[str] | None, ops: Ops) -> Loaded:
    """Read the model of this name or path. Errors: ModelNotFound, DownloadError, CheckpointError, TokenizerError."""
    source = find_source(name)
    try:
        return _load_folder(source, ops) if source.path.is_dir() else _load_gguf(source, ops)
    finally:
        ops.finish_packing()  # it reads the file's pages


def _load_gguf(source: Source, ops: Ops) -> Loaded:
    from fanlight.checkpoints.gguf import open_gguf

    path = source.path
    checkpoint = open_gguf(path)
    decoder, report = build_decoder(checkpoint, checkpoint.metadata, ops)
    tokenizer = _gguf_tokenizer(path, checkpoint.metadata)  # while native code packs weights
    return _joined(source, decoder, tokenizer, report)


def _gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_gguf(metadata)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _load_folder(source: Source, ops: Ops) -> Loaded:
    from fanlight.checkpoints.safetensors import open_folder

    path = source.path
    config = read_json(path / "config.json")
    checkpoint: Checkpoint = open_folder(path)
    decoder, report = build_decoder(checkpoint, config, ops)
    return _joined(source, decoder, Tokenizer.from_folder(path, n_vocab=_vocabulary_size(config)), report)


def _vocabulary_size(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    return size if isinstance(size, int) else None


def _joined(source: Source, decoder: Decoder, tokenizer: AnyTokenizer, report: LoadReport) -> Loaded:
    if tokenizer.n_vocab > decoder.config.n_vocab:
        raise CheckpointError(
            f"{source.path}: the tokenizer has {tokenizer.n_vocab} tokens, the model's vocabulary {decoder.config.n_vocab}; "
            "they do not belong together"
        )
    report.model_type = decoder.config.model_type
    return Loaded(name=source.name, decoder=decoder, tokenizer=tokenizer, report=report)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size. Errors: CheckpointError."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_CONFIG_BYTES} of JSON")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; a model folder needs config.json beside its weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value
