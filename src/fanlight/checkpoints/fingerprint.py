"""What a checkpoint's content is known by. In: a file or a folder. Out: a hash. Knows no format."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fanlight.checkpoints.files import DAMAGED
from fanlight.errors import CheckpointError

CHUNK_BYTES = 1 << 20
READ = (".safetensors", ".json")


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file; of a folder, of the names and contents of its weights and settings. Reads all of it.

    Errors: CheckpointError if it is no longer there, or cannot be read.
    """
    path = Path(path)
    found = hashlib.sha256()
    try:
        if not path.is_dir():
            _add(found, path)
            return found.hexdigest()
        for file in sorted(file for file in path.iterdir() if file.suffix in READ and file.is_file()):
            one = hashlib.sha256()
            _add(one, file)
            found.update(f"{file.name}\0{one.hexdigest()}\0".encode())
        return found.hexdigest()
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}; {DAMAGED}") from None


def _add(found: hashlib._Hash, path: Path) -> None:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
