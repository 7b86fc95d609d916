"""A safetensors file, or the index of a folder, of any bytes is read, or refused with a CheckpointError of one line."""

from __future__ import annotations

import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from harness import main

if "--replay" not in sys.argv and __name__ == "__main__":
    import atheris  # type: ignore[import-not-found,unused-ignore]

    instrumented = atheris.instrument_imports(include=["fanlight", "json"])
else:
    instrumented = nullcontext()
with instrumented:
    from fanlight.checkpoints import safetensors
    from fanlight.errors import CheckpointError

_FOLDER = tempfile.TemporaryDirectory()
_PATH = Path(_FOLDER.name)


def target(data: bytes) -> None:
    """Open a file of the bytes; a file under a header length that fits; and an index of the bytes beside that file."""
    _read(data, b"{}")
    _read(len(data).to_bytes(8, "little") + data, b"{}")
    _read(len(data).to_bytes(8, "little") + data, data)


def _read(shard: bytes, index: bytes) -> None:
    for name, content in (("a.safetensors", shard), (safetensors.INDEX, index)):
        (_PATH / name).unlink(missing_ok=True)  # a new file: the old one may still be mapped
        (_PATH / name).write_bytes(content)
    for path, open_it in ((_PATH / "a.safetensors", safetensors.open_safetensors), (_PATH, safetensors.open_folder)):
        try:
            checkpoint = open_it(path)
        except CheckpointError as error:
            message = str(error)
            assert message.startswith(str(_PATH)), message
            assert message.isprintable(), message
            assert len(message) < 1500, len(message)
            continue
        assert sum(len(bytes(array.data)) for array in checkpoint.arrays.values()) <= len(shard)
        checkpoint.check_unchanged()


if __name__ == "__main__":
    main("safetensors", target)
