"""A GGUF file (version 2 or 3, little-endian) -> Checkpoint. Knows the container; knows no architecture, no tokenizer.

Metadata values become plain Python: numbers, bools, str; an array of strings is a list of str; an array of numbers is
an array.array (bools: of 0 and 1); an array of arrays is a list. Bytes that are not UTF-8 come as lone surrogates, so
that `s.encode("utf-8", "surrogateescape")` gives the file's bytes back. Keys and tensor names must be UTF-8.

Nothing in the file is trusted: every count, length, dimension and offset is checked against the size of the file
before anything is allocated for it, and what does not fit is a CheckpointError that says where.

Source: the GGUF specification in the ggml project.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.checkpoints.files import DAMAGED, MappedBytes, MappedFile, looks_like, map_file, shown
from fanlight.checkpoints.gguf_types import QUANTS, WITHDRAWN
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    import os

VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
MAX_ELEMENTS = 2**63 - 1
DEFAULT_ALIGNMENT = 32
MAX_HEADER_BYTES = 1 << 26  # some 4 times that of the largest vocabularies; a file of 16 GB need not have one of 8
MAX_ENTRIES = 1 << 16  # of metadata; arrays within arrays count as well
MAX_TENSORS = 1 << 17
STRING_BATCH = 2048  # a batch stays in the cache; and one odd string slows down its batch only

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, tuple[struct.Struct, str]] = {  # value type -> how to read one, array.array's typecode
    0: (struct.Struct("<B"), "B"),
    1: (struct.Struct("<b"), "b"),
    2: (struct.Struct("<H"), "H"),
    3: (struct.Struct("<h"), "h"),
    4: (struct.Struct("<I"), "I"),
    5: (struct.Struct("<i"), "i"),
    6: (struct.Struct("<f"), "f"),
    _BOOL: (struct.Struct("<B"), "B"),
    10: (struct.Struct("<Q"), "Q"),
    11: (struct.Struct("<q"), "q"),
    12: (struct.Struct("<d"), "d"),
}
_U32, _U64 = _NUMBERS[4][0], _NUMBERS[10][0]

_DIMS_TYPE_OFFSET = [struct.Struct(f"<{n}QIQ") for n in range(MAX_DIMS + 1)]

_LEAST_ENTRY_BYTES = 8 + 4 + 1  # metadata: key length, value type, a value of one byte
_LEAST_TENSOR_BYTES = 8 + 4 + 4 + 8  # tensor: name length, number of dims, type, offset
_LEAST_ARRAY_BYTES = 4 + 8  # element type, count


def open_gguf(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file; tensors stay on disk until they are read. Errors: CheckpointError."""
    file = map_file(path, "a GGUF file")
    try:
        checkpoint = _parse(_Cursor(file), file)
    finally:
        file.check_unchanged()  # the reason, then, of any other error
    return checkpoint


def _parse(cursor: _Cursor, file: MappedFile) -> Checkpoint:
    n_tensors, n_entries = _read_start(cursor)
    metadata = _read_metadata(cursor, n_entries)
    infos = [_read_info(cursor) for _ in range(n_tensors)]
    arrays = _locate(cursor, infos, _alignment(cursor, metadata))
    n_parts = metadata.get("split.count", 1)
    if isinstance(n_parts, int) and n_parts > 1:
        raise cursor.error(
            f"it is one of {n_parts} parts ('split.count'), expected a whole model; join the parts with llama.cpp's "
            f"'llama-gguf-split --merge' and open the result"
        )
    return Checkpoint(path=file.path, format="gguf", metadata=metadata, arrays=arrays, files=(file,))


class _Cursor:
    """Reads forward through the header. No read goes past the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.path = file.path
        self.data = file.data
        self.file_size = file.size
        self.size = min(file.size, MAX_HEADER_BYTES)  # what there is to read forward through
        self.end = "the file" if self.size == file.size else f"the header (at most {MAX_HEADER_BYTES} bytes)"
        self.pos = 0
        self.n_arrays = 0  # within arrays

    @property
    def left(self) -> int:
        return self.size - self.pos

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def numbers(self, form: struct.Struct, what: str) -> tuple[Any, ...]:
        if form.size > self.left:
            raise self.error(
                f"{what} at byte {self.pos} takes {form.size} bytes, but {self.end} ends at byte {self.size}; {DAMAGED}"
            )
        values = form.unpack_from(self.data, self.pos)
        self.pos += form.size
        return values

    def number(self, form: struct.Struct, what: str) -> Any:
        return self.numbers(form, what)[0]

    def raw_string(self, what: str) -> bytes:
        length = self.number(_U64, f"the length of {what}")
        if length > self.left:
            raise self.error(
                f"{what} at byte {self.pos} claims to be {length} bytes long, but {self.left} are left of {self.end}; {DAMAGED}"
            )
        start, self.pos = self.pos, self.pos + length
        return self.data[start : self.pos]

    def name(self, what: str) -> str:
        start = self.pos
        try:
            return self.raw_string(what).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} at byte {start} is not UTF-8 ({error.reason}); {DAMAGED}") from None

    def count(self, least_bytes: int, what: str, limit: int = MAX_HEADER_BYTES) -> int:
        """A number of things that take at least so many bytes each."""
        start = self.pos
        n: int = self.number(_U64, f"the number of {what}")
        return self.checked_count(n, start, least_bytes, what, limit)

    def checked_count(self, n: int, start: int, least_bytes: int, what: str, limit: int) -> int:
        most = self.left // least_bytes
        if limit < n <= most:
            raise self.error(f"there are {n} {what} at byte {start}, expected at most {limit}; {DAMAGED}")
        if n > most:
            raise self.error(
                f"the header claims at byte {start} that there are {n} {what}, but the {self.left} bytes left of "
                f"{self.end} hold at most {most}; {DAMAGED}"
            )
        return n


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """Magic, version and counts -> (number of tensors, number of metadata entries)."""
    magic = cursor.data[:4]
    if magic != b"GGUF":
        if cursor.size < 4:
            raise cursor.error(f"expected a GGUF file, found {cursor.size} bytes, too short for one; {DAMAGED}")
        raise cursor.error(f"expected a GGUF file (b'GGUF' at byte 0), found {looks_like(cursor.data[:256])}")
    cursor.pos = 4
    version = cursor.number(_U32, "the version")
    if version not in VERSIONS:
        if version and not version & 0xFFFF:
            raise cursor.error(
                "the version at byte 4 shows a big-endian GGUF file, expected a little-endian one; get that, or "
                "convert it with the gguf package's 'gguf-convert-endian'"
            )
        do = "convert the original model again with a current llama.cpp" if version < 2 else "get a newer Fanlight"
        raise cursor.error(f"GGUF version {version} at byte 4, expected version 2 or 3; {do}")
    n_tensors = cursor.number(_U64, "the number of tensors")
    n_entries = cursor.count(_LEAST_ENTRY_BYTES, "metadata entries", MAX_ENTRIES)
    return cursor.checked_count(n_tensors, 8, _LEAST_TENSOR_BYTES, "tensors", MAX_TENSORS), n_entries


# -- metadata ----------------------------------------------------------------------------------------------------------


def _read_metadata(cursor: _Cursor, n_entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(n_entries):
        start = cursor.pos
        key = cursor.name(f"the key of metadata entry {index}")
        if key in metadata:
            raise cursor.error(f"metadata key {shown(key)} at byte {start} occurs twice, expected once; {DAMAGED}")
        what = f"metadata value {shown(key)}"
        metadata[key] = _read_value(cursor, cursor.number(_U32, f"the type of {what}"), what)
    return metadata


def _read_value(cursor: _Cursor, kind: int, what: str, depth: int = 0) -> Any:
    start = cursor.pos
    if kind == _STRING:
        return cursor.raw_string(what).decode("utf-8", "surrogateescape")
    if kind == _ARRAY:
        return _read_array(cursor, what, depth + 1)
    if kind not in _NUMBERS:
        raise cursor.error(f"{what} at byte {start} has type {kind}, expected a type from 0 to 12; {DAMAGED}")
    value = cursor.number(_NUMBERS[kind][0], what)
    if kind != _BOOL:
        return value
    if value > 1:
        raise cursor.error(f"{what} at byte {start} is the bool {value}, expected 0 or 1; {DAMAGED}")
    return value == 1


def _read_array(cursor: _Cursor, what: str, depth: int) -> list[Any] | array[Any]:
    start = cursor.pos
    if depth > MAX_ARRAY_DEPTH:
        raise cursor.error(
            f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep at byte {start}, expected at most that; {DAMAGED}"
        )
    kind = cursor.number(_U32, f"the element type of {what}")
    if kind == _STRING:
        return _read_strings(cursor, cursor.count(8, f"strings in {what}"), what)
    if kind == _ARRAY:
        n = cursor.count(_LEAST_ARRAY_BYTES, f"arrays in {what}", MAX_ENTRIES - cursor.n_arrays)
        cursor.n_arrays += n
        return [_read_array(cursor, what, depth + 1) for _ in range(n)]
    if kind not in _NUMBERS:
        raise cursor.error(
            f"{what} at byte {start} has elements of type {kind}, expected a type from 0 to 12; {DAMAGED}"
        )
    form, typecode = _NUMBERS[kind]
    n = cursor.count(form.size, f"numbers in {what}")
    start, cursor.pos = cursor.pos, cursor.pos + n * form.size
    values: array[Any] = array(typecode)
    values.frombytes(cursor.data[start : cursor.pos])
    if sys.byteorder == "big":
        values.byteswap()
    if kind == _BOOL and n and max(values) > 1:
        raise cursor.error(f"{what} at byte {start} holds the bool {max(values)}, expected 0 or 1; {DAMAGED}")
    return values


def _read_strings(cursor: _Cursor, n: int, what: str) -> list[str]:
    strings: list[str] = []
    while len(strings) < n:
        batch = min(STRING_BATCH, n - len(strings))
        quick = _short_strings(cursor.data, cursor.pos, batch)
        if quick is None:
            for i in range(len(strings), len(strings) + batch):
                strings.append(cursor.raw_string(f"string {i} of {what}").decode("utf-8", "surrogateescape"))
        else:
            strings += quick[0]
            cursor.pos = quick[1]
    return strings


def _short_strings(data: MappedBytes | bytes, pos: int, n: int) -> tuple[list[str], int] | None:
    """`n` strings from byte `pos` on, and where they end: if all are below 256 bytes and none holds a NUL, else None.

    A vocabulary with its merges is 100,000 strings, most of the time it takes to open a model. So this takes the lowest
    byte of every length for the length, decodes all strings at once, and then proves that this was right.
    """
    start = pos
    try:
        raw = [data[pos + 8 : (pos := pos + 8 + data[pos])] for _ in repeat(None, n)]
    except IndexError:
        return None
    strings = b"\0".join(raw).decode("utf-8", "surrogateescape").split("\0")
    if pos > min(len(data), MAX_HEADER_BYTES) or len(strings) != n:
        return None
    # No string holds a NUL, so all NULs are in the lengths: 7 each (8 where it is 0) mean that the upper 7 bytes are 0.
    if data[start:pos].count(0) != 7 * n + strings.count(""):
        return None
    return strings, pos


# -- tensors -----------------------------------------------------------------------------------------------------------


class _Info(NamedTuple):
    """What the header says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the start of the data section
    nbytes: int


def _read_info(cursor: _Cursor) -> _Info:
    start = cursor.pos
    name = cursor.name("a tensor's name")
    what = f"tensor {shown(name)}"
    n_dims = cursor.number(_U32, f"the number of dims of {what}")
    if n_dims > MAX_DIMS:
        raise cursor.error(f"{what} at byte {start} has {n_dims} dims, expected at most {MAX_DIMS}; {DAMAGED}")
    *dims, kind, offset = cursor.numbers(_DIMS_TYPE_OFFSET[n_dims], f"the description of {what}")  # innermost dim first
    n_elements = math.prod(dims)
    if not 0 < n_elements <= MAX_ELEMENTS:
        raise cursor.error(
            f"{what} at byte {start} has the dims {dims}, expected 1 to {MAX_ELEMENTS} elements in all; {DAMAGED}"
        )
    quant = QUANTS.get(kind)
    if quant is None:
        found = f"{WITHDRAWN[kind]}, a withdrawn type" if kind in WITHDRAWN else "not known here"
        raise cursor.error(
            f"{what} at byte {start} has type number {kind} ({found}), expected one such as Q8_0, Q4_1 or F16; "
            f"get the model in such a type"
        )
    n_columns = dims[0] if dims else 1
    if n_columns % quant.elements:
        raise cursor.error(
            f"{what} at byte {start} has rows of {n_columns} weights, expected a multiple of {quant.elements} as "
            f"{quant.name} stores blocks of that many; {DAMAGED}"
        )
    nbytes = n_elements // quant.elements * quant.nbytes
    return _Info(name, quant.name, tuple(reversed(dims)), offset, nbytes)


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(value, int) and 8 <= value < 1 << 32 and value & (value - 1) == 0:
        return value
    found = shown(value) if isinstance(value, str) else value if isinstance(value, (bool, int, float)) else "an array"
    raise cursor.error(f"metadata value 'general.alignment' is {found}, expected a power of two from 8 on; {DAMAGED}")


def _locate(cursor: _Cursor, infos: list[_Info], alignment: int) -> dict[str, Array]:
    """Windows onto the data section, which begins at the next multiple of the alignment."""
    data_start = -(-cursor.pos // alignment) * alignment
    view = memoryview(cursor.data)
    arrays: dict[str, Array] = {}
    for name, dtype, shape, offset, nbytes in infos:
        what = f"tensor {shown(name)}"
        if name in arrays:
            raise cursor.error(f"{what} occurs twice, expected once; {DAMAGED}")
        if offset % alignment:
            raise cursor.error(
                f"{what} has offset {offset}, expected a multiple of the alignment {alignment}; {DAMAGED}"
            )
        start, end = data_start + offset, data_start + offset + nbytes
        if end > cursor.file_size:
            raise cursor.error(
                f"{what} ends at byte {end}, but the file has {cursor.file_size} bytes; the download is incomplete; "
                f"download the file again"
            )
        arrays[name] = Array(name=name, dtype=dtype, shape=shape, data=view[start:end])
    in_order = sorted(infos, key=lambda info: info.offset)
    for first, second in pairwise(in_order):
        if first.offset + first.nbytes > second.offset:
            raise cursor.error(
                f"tensor {shown(first.name)} ends at byte {data_start + first.offset + first.nbytes}, but tensor "
                f"{shown(second.name)} begins at byte {data_start + second.offset}, expected no overlap; {DAMAGED}"
            )
    return arrays
