"""A path -> the bytes of a file, mapped read-only, and words for what is wrong with it. Knows no format inside out."""

from __future__ import annotations

import mmap
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from io import BufferedReader

    from fanlight.kernels._native import Guard

DAMAGED = "the file is damaged or its download is incomplete; download it again"


class MappedBytes(mmap.mmap):
    """A mapped file whose pages another program, or a failing disk, may take away while they are read.

    The guard turns such a page into zeros, where reading it would end the process; `check_unchanged` then tells. It is an
    attribute of the mapping so that it lives exactly as long, held by every window onto it.
    """

    guard: Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedFile:
    """A file in memory, page by page as it is read; as a whole where nothing can guard a mapping (no native module)."""

    path: str
    size: int  # bytes
    data: MappedBytes | bytes  # read-only

    def check_unchanged(self) -> None:
        """CheckpointError if the file was cut short, or a part of it could not be read, since it was opened.

        To be asked after the bytes were used: what was read of such a file is zeros in part.
        """
        if isinstance(self.data, bytes):
            return
        now = self.data.size()  # the file's, not the mapping's
        if now < self.size:
            raise CheckpointError(
                f"{self.path}: the file was cut short while it was read: it had {self.size} bytes, expected to keep them, and "
                f"has {now} now; wait until nothing writes to it, then load it again"
            )
        if self.data.guard.torn:
            raise CheckpointError(
                f"{self.path}: a part of the file could not be read, expected all {self.size} bytes: it was written to, or "
                "the disk fails; copy it, then load the copy"
            )


def map_file(path: str | os.PathLike[str], wanted: str) -> MappedFile:
    """Map a regular file that is not empty. `wanted` says in errors what was expected there, as in "a GGUF file"."""
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{name}: expected {wanted}, found a folder; pass the path of the file in it")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise CheckpointError(
                f"{name}: expected {wanted}, found a device or a pipe; pass the path of a file on disk"
            )
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CheckpointError(f"{name}: expected {wanted}, found an empty file; download it again")
            return MappedFile(path=name, size=size, data=_read(file, size, name))
    except FileNotFoundError:
        raise CheckpointError(f"{name}: expected {wanted}, found nothing at this path; check its spelling") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{shown(name)}: expected {wanted}, cannot open it ({reason}); check path and rights"
        ) from None


def _read(file: BufferedReader, size: int, name: str) -> MappedBytes | bytes:
    try:
        from fanlight.kernels._native import Guard
    except ImportError:
        data = file.read(size)
        if len(data) < size:
            raise CheckpointError(
                f"{name}: the file was cut short while it was read, expected {size} bytes, found {len(data)}; wait until "
                "nothing writes to it, then load it again"
            ) from None
        return data
    mapped = MappedBytes(file.fileno(), size, access=mmap.ACCESS_READ)
    mapped.guard = Guard(mapped)
    return mapped


def shown(name: str, limit: int = 80) -> str:
    """A name from a file, quoted, on one line and of bounded length, to stand in a message."""
    quoted = repr(name if len(name) <= limit else name[:limit] + "...")
    return quoted if len(quoted) <= 2 * limit else quoted[: 2 * limit] + "..."


_PICKLED = re.compile(rb"\x80[\x02-\x05]|c[\w.]+\n[\w.]+\n|\([dl]p\d|[}\]]q\0")  # since protocol 2, and before it
PICKLE = (
    "as PyTorch saves; it is not opened, since that would run what it holds; get the model as safetensors, or convert it "
    "where you trust it, with transformers' save_pretrained"
)
_LOOKS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file; open it as one, under a name that ends in .gguf"),
    (b"PK\x03\x04", "a ZIP archive, " + PICKLE),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run 'git lfs pull' in its repository"),
    (b"lmgg", "a GGML file from before GGUF; convert the original model again with a current llama.cpp"),
    (b"tjgg", "a GGML file from before GGUF; convert the original model again with a current llama.cpp"),
    (b"fmgg", "a GGML file from before GGUF; convert the original model again with a current llama.cpp"),
    (b"\x89HDF", "an HDF5 file, as Keras saves; convert it to safetensors with transformers' save_pretrained"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\0" * 8, "zeros; " + DAMAGED),
)


def looks_like(data: bytes) -> str:
    """What a file of another kind seems to be, from its first bytes, and what to do about it."""
    head = data[:256]
    if head[4:9] == b"\0\0\0\0{":  # a header length below 4 GB, and JSON
        return "a safetensors file; open it as one, under a name that ends in .safetensors"
    for magic, kind in _LOOKS:
        if head.startswith(magic):
            return kind
    if _PICKLED.match(head):
        return "a Python pickle, " + PICKLE
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, perhaps of a failed login; download the file itself"
    if text.startswith((b"{", b"[")):
        return "a JSON text; pass the file that holds the weights"
    return f"bytes {head[:8]!r} that belong to no format known here; check that this is the right file"
