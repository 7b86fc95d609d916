"""A Trace -> one safetensors file, and back: `save_trace(trace, path)`, `open_trace(path)`. Knows no model.

Metadata hold the header as JSON; arrays hold the rest (`layout.py`, `docs/traces_format.md`). A file takes its name when it is
whole. Opening reads the header, ids and texts; the steps and what was seen inside the model are read, and checked, when they are
asked for. Every part has a checksum, and nothing is allocated for what a file merely claims.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.checkpoints.files import DAMAGED as DOWNLOAD
from fanlight.checkpoints.safetensors import open_safetensors
from fanlight.checkpoints.writing import Entry, write_safetensors
from fanlight.errors import CheckpointError, TraceError
from fanlight.trace.header import VERSION
from fanlight.tracing.layout import DAMAGED, LAYOUT, SEARCH, check_shapes, check_values, part_of
from fanlight.tracing.parts import (
    LOOKS,
    arrays_of,
    header_of,
    header_text,
    look_of,
    pieces_of,
    search_of,
    steps_of,
    texts_of,
)
from fanlight.tracing.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.checkpoints.arrays import Checkpoint

    Array = NDArray[Any]

FORMAT, SUFFIX = "fanlight.trace", ".safetensors"
_TYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64"}
_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in _TYPES.items()}
_TEXTS = ("trace", "tables")
"""Metadata that have checksums too."""


def save_trace(trace: Trace, path: str | os.PathLike[str]) -> str:
    """Write the file, whole or not at all; its path. path: a file, or a folder, where it is named by the trace's id.

    Errors: TraceError where the place cannot be written: what was there before stays.
    """
    target = check_target(path, trace.id)
    try:
        arrays, tables = arrays_of(trace)
        n_vocab = trace.header.origin.n_vocab
        shapes = {name: (_TYPES.get(str(array.dtype), str(array.dtype)), array.shape) for name, array in arrays.items()}
        sizes = check_shapes(f"trace {trace.id}", shapes)
        for name, array in arrays.items():
            check_values(f"trace {trace.id}", name, array, sizes, n_vocab)
    except TraceError as error:  # what could not be opened again is not written
        raise TraceError(f"{str(error).removesuffix(f'; {DAMAGED}')}; it is not kept") from None
    texts = {"trace": header_text(trace.header), "tables": json.dumps(tables, allow_nan=False)}
    checksums = {name: zlib.crc32(text.encode()) for name, text in texts.items()}
    entries = []
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):  # so that all of them are aligned
        data = _bytes(array)
        checksums[name] = zlib.crc32(data)
        entries.append(Entry(name, _TYPES[str(array.dtype)], array.shape, lambda data=data: data))  # type: ignore[misc]
    metadata = {"format": FORMAT, "version": str(VERSION), **texts, "checksums": json.dumps(checksums)}
    try:
        write_safetensors(target, entries, metadata)
    except CheckpointError as error:
        raise TraceError(str(error)) from None
    return str(target)


def _bytes(array: Array) -> bytes | memoryview:
    if not array.size:
        return b""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return array.reshape(-1).view(np.uint8).data


def check_target(path: str | os.PathLike[str], trace_id: str = "trace") -> Path:
    """The file that a trace with this id goes into. Makes the folder if the path is one that does not exist (ends with /).

    Errors: TraceError if nothing can be written there.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise TraceError(f"{text!r:.80}: expected the path of a file or folder; pass its name as text")
    target = Path(text)
    try:
        if text.endswith(("/", os.sep)):
            target.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", trace_id):
                raise TraceError(f"{text}: the id {trace_id!r:.80} is no name for a file; pass a file's name")
            target = target / f"{trace_id}{SUFFIX}"
        elif target.exists() and not target.is_file():
            raise TraceError(f"{text}: expected a file to write, found a device or a pipe; pass another name")
        folder = target.parent
        if not folder.is_dir():
            raise TraceError(f"{text}: the folder {folder} does not exist; make it first: mkdir -p {folder}")
    except OSError as error:
        raise TraceError(
            f"{text}: cannot be written ({error.strerror or error}); check the folder, its rights and space"
        ) from None
    if not os.access(folder, os.W_OK):
        raise TraceError(f"{text}: the folder {folder} cannot be written; check its rights, or pass another")
    return target


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """A trace from its file; its parts are read when they are asked for. Errors: TraceError, then too."""
    file = _File(_opened(path))
    where, get = file.where, file.array
    header = file.header
    ids = get("ids")
    tokens, raw = get("vocabulary/ids").tolist(), texts_of("vocabulary", get)
    parts = {part_of(name) for name in file.names}
    looks = {name: (lambda name=name: look_of(name, get)) for name in LOOKS if name in parts}
    return Trace(
        header,
        prompt_ids=get("prompt_ids").tolist(),
        ids=ids.tolist(),
        pieces=pieces_of(where, get),
        vocabulary=dict(zip(tokens, raw, strict=True)),
        steps=lambda: steps_of(where, file.names, get, file.tables),
        looks=looks,
        search=(lambda: search_of(where, get, file.tables)) if SEARCH in parts else None,
        path=where,
    )


def _opened(path: str | os.PathLike[str]) -> Checkpoint:
    if os.path.isdir(path):
        raise TraceError(
            f"{os.fspath(path)}: expected a trace's file, found a folder; open a file in it, or all of them with TraceIndex"
        )
    try:
        return open_safetensors(path)
    except CheckpointError as error:
        said = str(error).replace(f"; {DOWNLOAD}", f"; {DAMAGED}").replace("; download it again", f"; {DAMAGED}")
        said = said.replace("the download is incomplete; download the file again", DAMAGED)
        raise TraceError(said.replace("a safetensors file", "a trace, which is a safetensors file", 1)) from None


class _File:
    """An open file whose header, tables and shapes are right."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.where = where = checkpoint.path
        metadata = checkpoint.metadata
        _check_kind(where, metadata, len(checkpoint.arrays))
        for name in _TEXTS:
            if name not in metadata:
                raise TraceError(f"{where}: expected {name!r} in its metadata, found none; {DAMAGED}")
        self._checksums = _checksums(where, metadata)
        self.names = [name for name in checkpoint.arrays if name in LAYOUT]
        if self._checksums is not None:
            for name in _TEXTS:
                self._compare(name, metadata[name].encode("utf-8", "surrogatepass"))
            if differ := self._checksums.keys() ^ {*checkpoint.arrays, *_TEXTS}:
                raise TraceError(f"{where}: array {min(differ)!r:.80} has no checksum, or is missing; {DAMAGED}")
        self.header = header_of(where, metadata["trace"])
        self.tables = _object(where, "tables", metadata["tables"])
        shapes = {name: (array.dtype, array.shape) for name, array in checkpoint.arrays.items()}
        self._sizes = check_shapes(where, shapes)

    def array(self, name: str) -> Array:
        """An array that has been checked, over the bytes of the file."""
        stored = self._checkpoint.arrays[name]
        if self._checksums is not None:
            self._compare(name, stored.data)
        dtype = _DTYPES[stored.dtype]
        try:
            flat = np.frombuffer(stored.data, dtype) if len(stored.data) else np.empty(0, dtype)
            values = flat.reshape(stored.shape)
        except ValueError as error:  # a size of nothing by too much
            raise TraceError(f"{self.where}: array {name!r} cannot be read ({error}); {DAMAGED}") from None
        check_values(self.where, name, values, self._sizes, self.header.origin.n_vocab)
        try:
            self._checkpoint.check_unchanged()
        except CheckpointError as error:
            raise TraceError(str(error)) from None
        return values

    def _compare(self, name: str, data: bytes | memoryview) -> None:
        assert self._checksums is not None
        found = zlib.crc32(data)
        if self._checksums.get(name) != found:
            raise TraceError(
                f"{self.where}: {name!r} has the checksum {found}, expected {self._checksums.get(name)!r:.40}; {DAMAGED}"
            )


def _check_kind(where: str, metadata: Mapping[str, Any], n_arrays: int) -> None:
    """That it is a trace, of a version that can be read."""
    if metadata.get("format") != FORMAT:
        raise TraceError(
            f"{where}: expected a trace ('format' is {FORMAT!r} in its metadata), found another safetensors file of "
            f"{n_arrays} arrays; pass a file that a trace was saved to"
        )
    version = metadata.get("version", "")
    if not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise TraceError(f"{where}: 'version' is {version!r:.80} in its metadata, expected a number; {DAMAGED}")
    if int(version) > VERSION:
        raise TraceError(
            f"{where}: a trace of version {version}; this Fanlight reads version {VERSION}: update Fanlight, or record the "
            f"trace again with this one"
        )


def _checksums(where: str, metadata: Mapping[str, str]) -> dict[str, int] | None:
    """None: whoever wrote the file made none."""
    return _object(where, "checksums", metadata["checksums"]) if "checksums" in metadata else None


def _object(where: str, name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: {name!r} in its metadata is not JSON ({error!s:.80}); {DAMAGED}") from None
    if not isinstance(found, dict):
        raise TraceError(f"{where}: {name!r} in its metadata, expected a JSON object; {DAMAGED}")
    return found
