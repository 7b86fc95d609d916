"""A GGUF file of any bytes is read, or refused with a CheckpointError of one line that names it."""

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
    from fanlight.checkpoints import gguf
    from fanlight.errors import CheckpointError

_FOLDER = tempfile.TemporaryDirectory()
_PATH = Path(_FOLDER.name) / "m.gguf"


def target(data: bytes) -> None:
    """Open, and read everything that the header describes."""
    _PATH.unlink(missing_ok=True)  # a new file: the old one may still be mapped
    _PATH.write_bytes(data)
    try:
        checkpoint = gguf.open_gguf(_PATH)
    except CheckpointError as error:
        message = str(error)
        assert message.startswith(str(_PATH)), message
        assert message.isprintable(), message
        assert len(message) < 1000, len(message)
        return
    total = 0
    for name, array in checkpoint.arrays.items():
        assert array.name == name
        assert all(size > 0 for size in array.shape)
        total += len(bytes(array.data))
    assert total <= len(data)
    checkpoint.check_unchanged()


if __name__ == "__main__":
    main("gguf", target)
