"""Pieces -> the bytes of a GGUF file, right or wrong on purpose. Follows the format's description; knows no reader."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


class Entry(NamedTuple):
    """One metadata entry; `payload` follows the type number as it is."""

    key: bytes
    kind: int
    payload: bytes


class Tensor(NamedTuple):
    """One tensor: dims innermost first. Without an offset it is placed after the one before it."""

    name: bytes
    dims: Sequence[int]
    type: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def number(key: str, kind: int, value: float) -> Entry:
    return Entry(key.encode(), kind, struct.pack("<" + FORMS[kind], value))


def text(key: str, value: str | bytes) -> Entry:
    return Entry(key.encode(), STRING, string(value))


def array(key: str, kind: int, payloads: Sequence[bytes]) -> Entry:
    return Entry(key.encode(), ARRAY, u32(kind) + u64(len(payloads)) + b"".join(payloads))


def numbers(key: str, kind: int, values: Sequence[float]) -> Entry:
    return array(key, kind, [struct.pack("<" + FORMS[kind], value) for value in values])


def texts(key: str, values: Sequence[str | bytes]) -> Entry:
    return array(key, STRING, [string(value) for value in values])


def padded(data: bytes, alignment: int) -> bytes:
    return data + b"\0" * (-len(data) % alignment)


def build(
    entries: Sequence[Entry] = (),
    tensors: Sequence[Tensor] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_entries: int | None = None,
    alignment: int = 32,
) -> bytes:
    """The file. Counts can be made to lie."""
    header = magic + u32(version)
    header += u64(len(tensors) if n_tensors is None else n_tensors)
    header += u64(len(entries) if n_entries is None else n_entries)
    for entry in entries:
        header += string(entry.key) + u32(entry.kind) + entry.payload
    data = b""
    for tensor in tensors:
        data = padded(data, alignment)
        header += string(tensor.name) + u32(len(tensor.dims) if tensor.n_dims is None else tensor.n_dims)
        header += b"".join(u64(dim) for dim in tensor.dims)
        header += u32(tensor.type) + u64(len(data) if tensor.offset is None else tensor.offset)
        data += tensor.data
    return padded(header, alignment) + padded(data, alignment)
