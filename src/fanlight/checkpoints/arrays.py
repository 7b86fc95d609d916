"""What every checkpoint reader returns: named arrays over the bytes of a file. Knows no model and no kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanlight.checkpoints.files import MappedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A tensor as the file stores it.

    shape is row-major, outermost first, as NumPy would say it: (rows, columns) of a matrix. For block-quantised types
    the columns are counted in weights, and `data` holds the blocks row after row.
    """

    name: str
    dtype: str  # "F32", "F16", "BF16", "F64", "Q4_0", "Q4_1", "Q8_0", ...
    shape: tuple[int, ...]
    data: memoryview  # read-only bytes, a window onto the mapped file


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model file, open: metadata and arrays. Arrays stay valid while the Checkpoint lives."""

    path: str
    format: str  # "gguf" or "safetensors"
    metadata: Mapping[str, Any]
    arrays: Mapping[str, Array]
    files: tuple[MappedFile, ...] = ()
    """What the arrays are windows onto."""

    def check_unchanged(self) -> None:
        """CheckpointError if a file was cut short, or could not be read, while its arrays were. To be asked after that."""
        for file in self.files:
            file.check_unchanged()
