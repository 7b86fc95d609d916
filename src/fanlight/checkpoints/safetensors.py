"""A safetensors file, or a Hugging Face folder of them -> Checkpoint. Knows the container; knows no architecture.

Nothing in a file is trusted: the header is bounded, names occur once, and the arrays fill the data section without a
hole or an overlap. What does not fit is a CheckpointError that says where. Array types keep their safetensors names
("F32", "BF16", "I64", "F8_E4M3", ...); refusing those that no kernel takes is up to the caller.

Source: the safetensors format description by Hugging Face.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.checkpoints.files import DAMAGED, PICKLE, MappedFile, looks_like, map_file, shown
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

BITS: dict[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits that one element of each type takes."""

MAX_HEADER_BYTES = 100_000_000  # the format's own bound
MAX_ELEMENTS = 2**63 - 1
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_LENGTH_BYTES = 8
_ANY_BRACKETS_BYTES = 1 << 20  # JSON of this size may be as dense as it likes


def open_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Open one file; arrays stay on disk until they are read. Errors: CheckpointError."""
    file = map_file(path, "a safetensors file")
    try:
        checkpoint = _parse(file)
    finally:
        file.check_unchanged()  # the reason, then, of any other error
    return checkpoint


def _parse(file: MappedFile) -> Checkpoint:
    data_start, header = _read_header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{file.path}: '__metadata__' in the header, expected names with texts; {DAMAGED}")
    view = memoryview(file.data)
    arrays: dict[str, Array] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _read_entry(f"{file.path}: array {shown(name)}", entry)
        if data_start + end > file.size:
            raise CheckpointError(
                f"{file.path}: array {shown(name)} ends at byte {data_start + end}, but the file has {file.size} "
                f"bytes; the download is incomplete; download the file again"
            )
        arrays[name] = Array(name=name, dtype=dtype, shape=shape, data=view[data_start + begin : data_start + end])
        spans.append((begin, end, name))
    _check_no_holes(file.path, spans, data_start, file.size)
    return Checkpoint(path=file.path, format="safetensors", metadata=metadata, arrays=arrays, files=(file,))


def _read_header(file: MappedFile) -> tuple[int, dict[str, Any]]:
    """Where the data section starts, and the header as JSON."""
    path, size, head = file.path, file.size, file.data[: _LENGTH_BYTES + 256]
    if size < _LENGTH_BYTES + 2:
        raise CheckpointError(f"{path}: expected a safetensors file, found {size} bytes, too short for one; {DAMAGED}")
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        raise CheckpointError(f"{path}: expected a safetensors file (b'{{' at byte 8), found {looks_like(head)}")
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: the header length at byte 0 is {length}, expected at most {MAX_HEADER_BYTES}; check that this "
            f"is the right file"
        )
    end = _LENGTH_BYTES + length
    if end > size:
        raise CheckpointError(f"{path}: the header ends at byte {end}, but the file has {size} bytes; {DAMAGED}")
    return end, _parse_json(f"{path}: header at byte {_LENGTH_BYTES}", file.data[_LENGTH_BYTES:end])


def _parse_json(what: str, data: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise CheckpointError(f"{what} has the key {shown(key)} twice, expected once; {DAMAGED}")
                seen.add(key)
        return result

    n_brackets = data.count(b"[") + data.count(b"{")
    if len(data) > _ANY_BRACKETS_BYTES and n_brackets > len(data) // 8:  # an entry has 3 in some 60 bytes
        raise CheckpointError(
            f"{what} has {n_brackets} opening brackets in {len(data)} bytes, expected at most one in 8, since each takes "
            f"memory; check that this is the right file"
        )
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8 ({error.reason} at {error.start}); {DAMAGED}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise CheckpointError(f"{what} is not JSON that can be read ({error}); {DAMAGED}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is a JSON {type(value).__name__}, expected an object; {DAMAGED}")
    return value


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ELEMENTS


def _found(value: object) -> str:
    """A value from a header, short enough for a message whatever it is."""
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        text = ", ".join(str(item) for item in value[:8])
        return f"[{text[:80]}]" if len(value) <= 8 and len(text) <= 80 else f"[{text[:80]}, ...]"
    return f"a {type(value).__name__}"


def _read_entry(what: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """One array's entry in the header -> dtype, shape, and its first and last + 1 byte in the data section."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(f"{what}: expected an entry with dtype, shape and data_offsets; {DAMAGED}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        found = shown(dtype) if isinstance(dtype, str) else f"a {type(dtype).__name__}"
        raise CheckpointError(f"{what}: dtype is {found}, expected one of {', '.join(BITS)}; get a file of such a type")
    if not isinstance(shape, list) or not all(map(_is_natural, shape)):
        raise CheckpointError(f"{what}: shape is {_found(shape)}, expected a list of whole numbers from 0; {DAMAGED}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_natural, offsets)):
        raise CheckpointError(
            f"{what}: data_offsets is {_found(offsets)}, expected two whole numbers from 0; {DAMAGED}"
        )
    n_elements = 1
    for size in shape:  # one by one: the product of a long list of large numbers would take for ever
        n_elements *= size
        if n_elements > MAX_ELEMENTS:
            raise CheckpointError(f"{what}: shape {_found(shape)}, expected at most {MAX_ELEMENTS} elements; {DAMAGED}")
    begin, end = offsets
    n_bits = n_elements * BITS[dtype]
    if 8 * (end - begin) != n_bits:
        expected = n_bits / 8 if n_bits % 8 else n_bits // 8
        raise CheckpointError(
            f"{what}: data_offsets {offsets} hold {end - begin} bytes, expected {expected} for shape {_found(shape)} "
            f"of {dtype}; {DAMAGED}"
        )
    return dtype, tuple(shape), begin, end


def _check_no_holes(path: str, spans: list[tuple[int, int, str]], data_start: int, size: int) -> None:
    """Every byte of the data section belongs to exactly one array."""
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            fault = "overlaps the array before it" if begin < expected else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: array {shown(name)} begins at byte {data_start + begin} and {fault}, expected byte "
                f"{data_start + expected}; {DAMAGED}"
            )
        expected = end
    if data_start + expected != size:
        raise CheckpointError(
            f"{path}: the arrays end at byte {data_start + expected}, but the file at byte {size}, expected no "
            f"bytes after them; {DAMAGED}"
        )


# -- folders -----------------------------------------------------------------------------------------------------------


def open_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the weights of a Hugging Face folder: model.safetensors, or the files that its index lists.

    Metadata is the index's, then that of each file; the folder's config and tokenizer are not read.
    Errors: CheckpointError.
    """
    folder = os.fspath(path)
    try:
        names = sorted(os.listdir(folder))
    except NotADirectoryError:
        raise CheckpointError(
            f"{folder}: expected a model folder, found a file; pass the folder that holds it"
        ) from None
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: expected a model folder, found nothing at this path; check its spelling"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{shown(folder)}: expected a model folder, cannot list it ({reason}); check path and rights"
        ) from None
    if ONE_FILE in names:
        return open_safetensors(os.path.join(folder, ONE_FILE))
    if INDEX in names:
        return _open_shards(folder, names)
    raise CheckpointError(f"{folder}: expected {ONE_FILE} or {INDEX}, found {_describe(folder, names)}")


def _open_shards(folder: str, names: list[str]) -> Checkpoint:
    index_path = os.path.join(folder, INDEX)
    file = map_file(index_path, "a JSON index")
    if file.size > MAX_HEADER_BYTES:
        raise CheckpointError(f"{index_path}: {file.size} bytes, expected at most {MAX_HEADER_BYTES}; {DAMAGED}")
    index = _parse_json(index_path, file.data[:])
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or {str} != {type(name) for name in weight_map.values()}:
        raise CheckpointError(f"{index_path}: 'weight_map', expected names of arrays with names of files; {DAMAGED}")
    shard_names = sorted(set(weight_map.values()))
    for name in shard_names:  # the index of a foreign folder must not lead outside it
        if name in ("", ".", "..") or any(mark in name for mark in "/\\:\0"):
            raise CheckpointError(
                f"{index_path}: 'weight_map' names the file {shown(name)}, expected one in this folder; {DAMAGED}"
            )
    missing = [name for name in shard_names if name not in names]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of the {len(shard_names)} files that {INDEX} expects are missing: "
            f"{_some(missing)}; download them too"
        )
    shards = {name: open_safetensors(os.path.join(folder, name)) for name in shard_names}
    for array_name, shard_name in weight_map.items():
        if array_name not in shards[shard_name].arrays:
            raise CheckpointError(
                f"{os.path.join(folder, shard_name)}: array {shown(array_name)} is not in it, expected as {INDEX} says "
                f"so; download the folder again"
            )
    own_metadata = index.get("metadata")
    metadata: dict[str, Any] = dict(own_metadata) if isinstance(own_metadata, dict) else {}
    arrays: dict[str, Array] = {}
    for shard_name, shard in shards.items():
        metadata.update(shard.metadata)
        twice = arrays.keys() & shard.arrays.keys()
        if twice:
            raise CheckpointError(
                f"{os.path.join(folder, shard_name)}: array {shown(min(twice))} is in another file too, expected it "
                f"once; download the folder again"
            )
        arrays.update(shard.arrays)
    files = tuple(file for shard in shards.values() for file in shard.files)
    return Checkpoint(path=folder, format="safetensors", metadata=metadata, arrays=arrays, files=files)


def _some(names: Iterable[str], limit: int = 5) -> str:
    """A few names for a message."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(shown(name) for name in every[:limit]) + more


def _describe(folder: str, names: list[str]) -> str:
    """What a folder without weights that can be read holds, and what to do about it."""
    if any(name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json")) for name in names):
        return (
            'PyTorch weights (pytorch_model.bin); convert them to safetensors: python -c "from transformers import '
            f'AutoModelForCausalLM as M; M.from_pretrained({folder!r}).save_pretrained({folder!r})"'
        )
    for kind, do in (
        ("adapter_model.safetensors", "an adapter without its model; merge both and save the result"),
        ("tf_model.h5", "TensorFlow weights; get the model in safetensors, or convert it with transformers"),
        ("flax_model.msgpack", "Flax weights; get the model in safetensors, or convert it with transformers"),
    ):
        if kind in names:
            return f"{do} ({kind})"
    for ending, do in (
        (".gguf", "pass the path of the file itself"),
        (".safetensors", "pass the path of the file itself"),
    ):
        files = [name for name in names if name.endswith(ending)]
        if files:
            return f"{_some(files)}; {do}"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    if pickles:
        return f"{_some(pickles)}: Python pickles, {PICKLE}"
    if not names:
        return "an empty folder; download the model into it"
    return f"{_some(names)}; pass a folder that holds weights, or download them into it"
