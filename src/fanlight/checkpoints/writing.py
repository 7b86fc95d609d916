"""Named arrays -> a safetensors or a GGUF file. In: entries whose bytes are made one at a time. Knows no model, no tokenizer.

Sizes are known before the bytes: the header goes first, and no more than one array is in memory. A file appears under its name
when it is whole, or not at all.

Source: the safetensors format description; the GGUF specification in the ggml project.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import IO, Any, NamedTuple

from fanlight.checkpoints.gguf_types import QUANTS
from fanlight.checkpoints.safetensors import BITS
from fanlight.errors import CheckpointError

ALIGNMENT = 32
_PARTS = count()
_TYPE_NUMBERS = {quant.name: number for number, quant in QUANTS.items()}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q"}


class Entry(NamedTuple):
    """One array to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Row-major, in weights."""
    make: Callable[[], bytes | memoryview]
    """Its bytes, as the type stores them."""

    @property
    def n_bytes(self) -> int:
        """How many bytes `make` gives."""
        n = 1
        for size in self.shape:
            n *= size
        if self.dtype not in _TYPE_NUMBERS:
            return n * BITS[self.dtype] // 8  # a type of safetensors alone
        quant = QUANTS[_TYPE_NUMBERS[self.dtype]]
        return n // quant.elements * quant.nbytes


def write_safetensors(path: str | os.PathLike[str], entries: Sequence[Entry], metadata: Mapping[str, str]) -> int:
    """Write the file; its size in bytes. Errors: CheckpointError where the place cannot be written."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.n_bytes],
        }
        end += entry.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            _write_entry(file, entry)
        return file.tell()


def write_gguf(path: str | os.PathLike[str], metadata: Mapping[str, Any], entries: Sequence[Entry]) -> int:
    """Write a GGUF file of version 3; its size in bytes.

    metadata: bool, int, float (stored as float32), str, or lists of one of them. Errors: CheckpointError where the place
    cannot be written, or a value has no form in GGUF.
    """
    with whole_file(path) as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _value(key, value))
        offset = 0
        for entry in entries:
            dims = entry.shape[::-1]
            file.write(_string(entry.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
            file.write(struct.pack("<IQ", _TYPE_NUMBERS[entry.dtype], offset))
            offset += entry.n_bytes + -entry.n_bytes % ALIGNMENT
        for entry in entries:
            file.write(bytes(-file.tell() % ALIGNMENT))
            _write_entry(file, entry)
        file.write(bytes(-file.tell() % ALIGNMENT))
        return file.tell()


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when all went well; otherwise nothing is left."""
    name = os.fspath(path)
    part = f"{name}.part-{os.getpid()}-{next(_PARTS)}"  # another thread may write a file of the same name
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name)
    except OSError as error:
        raise CheckpointError(
            f"{name}: cannot be written ({error.strerror or error}); check the folder, its rights and space"
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(part)


def _write_entry(file: IO[bytes], entry: Entry) -> None:
    data = entry.make()
    assert len(data) == entry.n_bytes, f"{entry.name}: {len(data)} bytes, {entry.n_bytes} announced"
    file.write(data)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")  # as the reader gives what is no UTF-8
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Any) -> bytes:
    if not isinstance(value, (list, tuple)):
        kind = _kind(key, [value])
        return struct.pack("<I", kind) + _packed(kind, [value])
    kind = _kind(key, value)
    if kind == 4 and max(value) < 2**31:
        kind = 5  # as llama.cpp expects of lists
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + _packed(kind, value)


def _packed(kind: int, values: Sequence[Any]) -> bytes:
    if kind == _STRING:
        return b"".join(map(_string, values))
    if kind == _BOOL:
        return bytes(values)
    return struct.pack(f"<{len(values)}{_NUMBERS[kind][1]}", *values)


def _kind(key: str, values: Iterable[Any]) -> int:
    """The type number that holds all of these."""
    values = list(values)
    if all(isinstance(value, bool) for value in values):
        return _BOOL
    if all(isinstance(value, str) for value in values):
        return _STRING
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        if low >= 0:
            return 4 if high < 2**32 else 10
        return 5 if low >= -(2**31) and high < 2**31 else 11
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return 6
    raise CheckpointError(f"metadata {key!r}: {values!r:.80} has no form in GGUF")
