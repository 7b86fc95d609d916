"""A model -> a Hugging Face folder, or a GGUF file. In: a path, and where to write. Out: a report. Knows no decoding and no engine.

Arrays go one at a time from the source's layout to the target's: rows reordered, matrices turned, types changed where asked.
What the target cannot say is an error, never left out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.checkpoints.writing import Entry, whole_file, write_gguf, write_safetensors
from fanlight.decoding.defaults import ModelDefaults
from fanlight.errors import CheckpointError, OptionError
from fanlight.loading import open_model
from fanlight.models.architecture import (
    GGUF,
    SAFETENSORS,
    Architecture,
    Layout,
    Source,
    canonical_names,
    read_config,
    write_gguf_config,
    write_hf_config,
)
from fanlight.models.base import DecoderConfig
from fanlight.models.registry import find_architecture
from fanlight.models.weights import short
from fanlight.sources import find_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.text.tokenizer import Tokenizer

FOLDER_TYPES = ("f32", "f16", "bf16")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_1", "q4_0")
ALWAYS_F32 = ("positions", "segments")
"""Short names of matrices that llama.cpp keeps in float32, as it does every vector."""
BLOCK = 32
WEIGHTS = "model.safetensors"
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
"""general.file_type: which type most matrices have. Source: llama.cpp's llama_ftype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: str
    n_bytes: int
    n_arrays: int
    dtypes: Mapping[str, int]
    """Bytes, by type."""
    notes: tuple[str, ...] = field(default=())


def export(
    model: str | os.PathLike[str] | None, target: str | os.PathLike[str], *, dtype: str | None = None
) -> ExportReport:
    """Write the model of this name or path to `target`: a GGUF file if the name ends in .gguf, else a Hugging Face folder.

    dtype: "f32", "f16", "bf16", and for GGUF "q8_0", "q4_1", "q4_0"; None keeps each array's type where the target has it
    (a folder has float types only: others become float32, the same numbers).
    Errors: OptionError, CheckpointError, ModelNotFound, TokenizerError.
    """
    to_gguf = os.fspath(target).endswith(".gguf")
    known = GGUF_TYPES if to_gguf else FOLDER_TYPES
    if dtype is not None and dtype not in known:
        raise OptionError(
            f"dtype is {dtype!r:.40}; a {'GGUF file' if to_gguf else 'folder'} can have {', '.join(known)}"
        )
    parts = open_model(find_model(model))
    arch = find_architecture(parts.checkpoint, parts.config)
    layout = arch.layouts.get(GGUF if to_gguf else SAFETENSORS)
    if layout is None:
        raise CheckpointError(f"{parts.checkpoint.path}: GGUF has no form for {arch.model_type}; export it as a folder")
    sizes = read_config(Source(arch, parts.checkpoint, parts.config))
    job = _Job(
        arch, sizes, parts.checkpoint, arch.layouts[parts.checkpoint.format], layout, dtype and dtype.upper(), to_gguf
    )
    write = _write_file if to_gguf else _write_folder
    return write(Path(target), job, parts.tokenizer(), parts.defaults(sizes.n_ctx))


@dataclass(frozen=True, slots=True)
class _Job:
    arch: Architecture
    config: DecoderConfig
    checkpoint: Checkpoint
    source: Layout
    target: Layout
    dtype: str | None
    to_gguf: bool

    def entries(self) -> Iterator[Entry]:
        """Every array under its name in the target."""
        target_names = {name: stored for stored, name in self.target.names.items()}
        prefix = self.target.prefixes[0] if self.target.prefixes else ""
        for name, stored in canonical_names(self.source, self.checkpoint.arrays):
            if name == "head" and self.config.tied_head:
                continue
            if name == "embed" and self.config.tied_head and self.to_gguf and self.arch.gguf_head:
                yield self._entry("head", target_names["head"], self.checkpoint.arrays[stored])
            i = name.split(".")[1] if name.startswith("blocks.") else ""
            general = name.replace(f"blocks.{i}.", "blocks.{i}.", 1)
            if general not in target_names:
                raise CheckpointError(
                    f"{self.checkpoint.path}: tensor {stored!r} has no name in the other format; it cannot be exported"
                )
            there = target_names[general].replace("{i}", i)
            array = self.checkpoint.arrays[stored]
            yield self._entry(short(name), there if name == "head" else prefix + there, array)

    def _entry(self, name: str, there: str, array: Array) -> Entry:
        turned = (name in self.source.transposed) != (name in self.target.transposed)
        rows = _canonical_shape(array.shape, name in self.source.transposed)
        shape = _canonical_shape(rows, name in self.target.transposed)
        dtype = self._type(name, rows, array.dtype)
        offset = self.source.offset.get(name, 0.0) - self.target.offset.get(name, 0.0)
        order = _joined_order(self.source, self.target, name, self.config)
        if dtype == array.dtype and not turned and not offset:
            if order is None:
                return Entry(there, dtype, shape, lambda: array.data)
            return Entry(there, dtype, shape, lambda: _reordered(array.data, order))
        return Entry(there, dtype, shape, lambda: self._converted(name, array, dtype, offset, order))

    def _type(self, name: str, shape: tuple[int, ...], stored: str) -> str:
        base = name.replace("b_", "w_") if name.startswith("b_") else name
        if self.to_gguf and (len(shape) == 1 or base in ALWAYS_F32):
            return "F32"
        wanted = self.dtype or stored
        if not self.to_gguf:
            return wanted if wanted in ("F32", "F16", "BF16") else "F32"
        if wanted == "F64":
            return "F32"
        return "F16" if wanted.startswith("Q") and shape[-1] % BLOCK and wanted != stored else wanted

    def _converted(self, name: str, array: Array, dtype: str, offset: float, order: list[int] | None) -> bytes:
        from fanlight.checkpoints.gguf_quants import dequantize, quantize

        values: NDArray[np.float32] = dequantize(array)
        if name in self.source.transposed:
            values = values.T
        if order is not None:
            values = values[order]
        if offset:
            values = values + values.dtype.type(offset)
        return quantize(values.T if name in self.target.transposed else values, dtype)


def _canonical_shape(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    return shape[::-1] if transposed else shape


def _joined_order(source: Layout, target: Layout, name: str, config: DecoderConfig) -> list[int] | None:
    """Which of the source's rows stands where in the target."""
    key = name.replace("b_", "w_") if name.startswith("b_") else name
    read, write = source.row_order.get(key), target.row_order.get(key)
    if read is write:
        return None
    if read is None and write is not None:
        order = write(config)
        return [row for row, _ in sorted(enumerate(order), key=lambda item: item[1])]  # the inverse
    assert read is not None
    canonical = list(read(config))
    if write is None:
        return canonical
    back = sorted(enumerate(write(config)), key=lambda item: item[1])
    return [canonical[row] for row, _ in back]


def _reordered(data: memoryview, order: list[int]) -> bytes:
    n = len(data) // len(order)
    return b"".join(data[row * n : (row + 1) * n] for row in order)


# -- the two forms ----------------------------------------------------------------------------------------------------


def _write_file(path: Path, job: _Job, tokenizer: Tokenizer, defaults: ModelDefaults) -> ExportReport:
    from fanlight.text.gguf_export import to_gguf

    sizes, notes = job.config, []
    config, vectors = write_gguf_config(job.arch, sizes)
    window = max(sizes.windows, default=0)
    if 0 < window < sizes.n_ctx and f"{job.arch.gguf}.attention.sliding_window" not in config:
        config, vectors = write_gguf_config(job.arch, replace(sizes, n_ctx=window, n_ctx_declared=window))
        notes.append(
            f"a GGUF file of {job.arch.gguf} knows no windows: context_length is {window}, where none is needed"
        )
    entries = list(job.entries())
    entries += [Entry(name, "F32", (len(values),), _floats(values)) for name, values in vectors.items()]
    dtypes = _bytes_by_type(entries)
    most = max(dtypes, key=lambda dtype: dtypes[dtype])
    general = {"general.name": path.stem, "general.file_type": FILE_TYPES.get(most), "general.quantization_version": 2}
    metadata = {
        **config,
        **{k: v for k, v in general.items() if v is not None},
        **_gguf_defaults(defaults),
        **to_gguf(tokenizer),
    }
    n_bytes = write_gguf(path, metadata, entries)
    return ExportReport(path=str(path), n_bytes=n_bytes, n_arrays=len(entries), dtypes=dtypes, notes=tuple(notes))


def _write_folder(path: Path, job: _Job, tokenizer: Tokenizer, defaults: ModelDefaults) -> ExportReport:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path}: exists and is not an empty folder; name another place")
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder, its rights and space"
        ) from None
    try:
        entries = list(job.entries())
        dtypes = _bytes_by_type(entries)
        most = max(dtypes, key=lambda dtype: dtypes[dtype])
        config = {
            **write_hf_config(job.arch, job.config),
            "dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[most],
        }
        special = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
        ends = list(tokenizer.eos_ids)
        special["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None  # type: ignore[assignment]
        _write_json(part / "config.json", {**config, **special})
        _write_json(part / "generation_config.json", {**special, **defaults.values})
        tokenizer.save(part)
        n_bytes = write_safetensors(part / WEIGHTS, entries, {"format": "pt"})
        if path.exists():
            path.rmdir()
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ExportReport(path=str(path), n_bytes=n_bytes, n_arrays=len(entries), dtypes=dtypes)


def _floats(values: list[float]) -> Callable[[], bytes]:
    from array import array

    return lambda: array("f", values).tobytes()


def _bytes_by_type(entries: list[Entry]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in entries:
        found[entry.dtype] = found.get(entry.dtype, 0) + entry.n_bytes
    return found


def _gguf_defaults(defaults: ModelDefaults) -> dict[str, Any]:
    from fanlight.decoding.defaults import GGUF_OPTIONS

    if not defaults.values.get("do_sample"):
        return {}
    return {key: defaults.values[name] for key, name in GGUF_OPTIONS.items() if defaults.values.get(name) is not None}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")
