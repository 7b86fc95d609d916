"""A name or path -> decoder, tokenizer, settings, and a report of what was read. Knows no engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.checkpoints.files import DAMAGED
from fanlight.decoding.defaults import ModelDefaults, defaults_from_gguf, defaults_from_hf
from fanlight.errors import CheckpointError, FanlightError, OptionError, TokenizerError
from fanlight.kernels.ops import QUANTIZE, Ops
from fanlight.models.base import Decoder
from fanlight.models.registry import ENCODERS, MODEL_TYPES, build_decoder, own_types
from fanlight.models.weights import LoadReport
from fanlight.sources import Source, find_source
from fanlight.text.tokenizer import AnyTokenizer, Tokenizer

if TYPE_CHECKING:
    from fanlight.decoding.constraints import Vocabulary

MAX_CONFIG_BYTES = 1 << 24
BACKENDS = ("auto", "native", "hf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a model consists of."""

    name: str
    decoder: Decoder
    tokenizer: AnyTokenizer
    report: LoadReport
    defaults: ModelDefaults = field(default_factory=ModelDefaults)


class VocabularyOf:
    """The bytes of all tokens, as a grammar needs them; made once, when they are asked for."""

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self._tokenizer = tokenizer
        self._made: Vocabulary | None = None

    def __call__(self) -> Vocabulary:
        if self._made is None:
            from fanlight.decoding.constraints import Vocabulary

            tokenizer = self._tokenizer
            tokens = tuple(map(tokenizer.token_bytes, range(tokenizer.n_vocab)))
            self._made = Vocabulary(tokens, tokenizer.special_ids, tokenizer.eos_ids)
        return self._made


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load, rather than what. Raises OptionError, which names the option, its range and the value."""

    quantize: str | None = None
    """The type that float matrices become: "q8_0", "q4_1". None: they stay."""
    n_ctx: int | None = None
    """The context window, up to the model's. None: the model's (of rotations with two ranges, the shorter)."""
    backend: str = "auto"
    """"native": Fanlight's own code. "hf": transformers. "auto": native where Fanlight knows the architecture, else hf."""
    device: str | None = None
    """Where transformers computes: "cpu", "cuda:0", "mps". None: the CPU."""

    def __post_init__(self) -> None:
        types = [name.lower() for name in QUANTIZE]
        if self.quantize is not None and self.quantize not in types:
            raise OptionError(f"quantize is {self.quantize!r:.80}; it can be {' or '.join(types)}, or None")
        if self.n_ctx is not None and (
            isinstance(self.n_ctx, bool) or not isinstance(self.n_ctx, int) or self.n_ctx < 1
        ):
            raise OptionError(f"n_ctx must be a whole number from 1: got {self.n_ctx!r:.80}")
        if self.backend not in BACKENDS:
            raise OptionError(f"backend is {self.backend!r:.80}; it can be {', '.join(BACKENDS)}")
        if self.device is not None and self.backend != "hf":
            raise OptionError(
                f"device is {self.device!r:.80}, and backend {self.backend}: native kernels use the CPU; add backend hf"
            )
        for name in ("quantize", "n_ctx"):
            if self.backend == "hf" and getattr(self, name) is not None:
                raise OptionError(f"{name} has no effect with backend hf: leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint with all that belongs to it, before anything is computed from it."""

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    """GGUF metadata, or the content of config.json."""
    tokenizer: Callable[[], Tokenizer]
    """Builds it, which takes a while."""
    defaults: Callable[[int], ModelDefaults]
    """Of a window of this length."""


def open_model(path: Path) -> Opened:
    """Open a GGUF file or a Hugging Face folder. Errors: CheckpointError; what `tokenizer` and `defaults` raise, later."""
    from fanlight.checkpoints.gguf import open_gguf

    checkpoint = open_checkpoint(path) if path.is_dir() else open_gguf(path)
    if path.is_dir():
        config = read_json(path / "config.json")
        tokenizer = partial(Tokenizer.from_folder, path, n_vocab=_vocabulary_size(config))
        return Opened(
            checkpoint=checkpoint, config=config, tokenizer=tokenizer, defaults=partial(_folder_defaults, path)
        )
    metadata = checkpoint.metadata
    return Opened(
        checkpoint=checkpoint,
        config=metadata,
        tokenizer=partial(_gguf_tokenizer, path, metadata),
        defaults=lambda n_ctx: defaults_from_gguf(metadata, str(path)),
    )


def open_checkpoint(path: Path) -> Checkpoint:
    """The arrays of a GGUF file, of a folder, or of the only safetensors file of one. Errors: CheckpointError."""
    if path.is_dir():
        from fanlight.checkpoints.safetensors import open_folder

        return open_folder(path)
    if path.suffix == ".safetensors":
        from fanlight.checkpoints.safetensors import open_safetensors

        return open_safetensors(path)
    from fanlight.checkpoints.gguf import open_gguf

    return open_gguf(path)


def load_parts(name: str | os.PathLike[str] | None, ops: Ops, options: LoadOptions | None = None) -> Loaded:
    """Read the model of this name or path.

    Errors: ModelNotFound, DownloadError, CheckpointError, TokenizerError, OptionError, MissingExtra.
    """
    source, how = find_source(name), options or LoadOptions()
    if source.path.is_dir() and _wants_transformers(source.path, how):
        return _load_hf(source, ops, how)
    if how.backend == "hf":
        raise OptionError(f"{source.path}: backend hf takes a Hugging Face folder, not a GGUF file; leave backend out")
    opened, quantize = open_model(source.path), how.quantize and how.quantize.upper()
    with reading(opened.checkpoint, ops) as reports:
        decoder, report = build_decoder(opened.checkpoint, opened.config, ops, quantize=quantize, n_ctx=how.n_ctx)
        reports.append(report)
        return _joined(source, decoder, opened.tokenizer(), report, opened.defaults)  # while native code packs weights


@contextmanager
def reading(checkpoint: Checkpoint, ops: Ops) -> Iterator[list[LoadReport]]:
    """Around everything that reads the arrays: at the end all of it was read, from files that stayed as they were, and of
    the matrices of the reports that were put into the list, all are numbers.
    """
    reports: list[LoadReport] = []
    try:
        yield reports
    finally:
        ops.finish_packing()  # it reads the file's pages
        checkpoint.check_unchanged()  # the reason, then, of any other error
    if not all(matrix.is_finite for report in reports for matrix in report.matrices):
        from fanlight.checkpoints.finite import first_not_finite

        found = first_not_finite(checkpoint) or "some weights do not fit float32"
        raise CheckpointError(f"{checkpoint.path}: {found}, expected finite numbers; {DAMAGED}")


def find_damage(report: LoadReport) -> str:
    """The first weight of the file that was read which is NaN or infinite, in words; "" if there is none, or no file any more."""
    from fanlight.checkpoints.finite import first_not_finite

    path = Path(report.path)
    if report.format not in ("gguf", "safetensors"):
        return ""
    try:
        return str(first_not_finite(open_checkpoint(path)) or "")
    except FanlightError:
        return ""


def checked_threads(threads: int) -> int:
    """A number of threads. Errors: OptionError."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
        raise OptionError(f"threads must be an integer from 1 to 256: got {threads!r}")
    return threads


def holds_encoder(path: Path) -> bool:
    """Whether a folder or GGUF file is of an encoder. Errors: CheckpointError."""
    if path.is_dir():
        return read_json(path / "config.json").get("model_type") in ENCODERS
    return open_model(path).config.get("general.architecture") in ENCODERS


def _wants_transformers(folder: Path, how: LoadOptions) -> bool:
    if how.backend != "auto":
        return how.backend == "hf"
    config = read_json(folder / "config.json")
    if config.get("model_type") in MODEL_TYPES + ENCODERS or not isinstance(config.get("model_type"), str):
        return False
    from fanlight.models import hf

    return hf.installed()


def _load_hf(source: Source, ops: Ops, how: LoadOptions) -> Loaded:
    from fanlight.models.hf import load_hf

    config = read_json(source.path / "config.json")
    try:
        decoder, report = load_hf(source.path, ops, how.device, None)
    except CheckpointError as error:
        if how.backend == "hf":
            raise
        raise CheckpointError(f"{error} (model_type is {config['model_type']!r}; {own_types()})") from error
    tokenizer = Tokenizer.from_folder(source.path, n_vocab=_vocabulary_size(config))
    return _joined(source, decoder, tokenizer, report, partial(_folder_defaults, source.path))


def _gguf_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_gguf(metadata)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _folder_defaults(path: Path, n_ctx: int) -> ModelDefaults:
    file = path / "generation_config.json"
    return defaults_from_hf(read_json(file), str(file), n_ctx) if file.is_file() else ModelDefaults()


def _vocabulary_size(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    return size if isinstance(size, int) else None


def _joined(
    source: Source,
    decoder: Decoder,
    tokenizer: AnyTokenizer,
    report: LoadReport,
    defaults: Callable[[int], ModelDefaults],
) -> Loaded:
    sizes = decoder.config
    if tokenizer.n_vocab > sizes.n_vocab:
        raise CheckpointError(
            f"{source.path}: the tokenizer has {tokenizer.n_vocab} tokens, the model's vocabulary {sizes.n_vocab}; "
            "they do not belong together"
        )
    report.model_type = sizes.model_type
    return Loaded(name=source.name, decoder=decoder, tokenizer=tokenizer, report=report, defaults=defaults(sizes.n_ctx))


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
