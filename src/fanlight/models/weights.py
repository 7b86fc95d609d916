"""A checkpoint's arrays -> packed matrices and vectors, under the model's own names. Keeps count of what was read.

In: a Checkpoint, a Layout, ops. Out: what `ops.pack` and `ops.tensor` return. Knows no architecture.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.checkpoints.files import DAMAGED
from fanlight.errors import CheckpointError
from fanlight.kernels.ops import DTYPES, PACKED_AS, Linear, Ops, Part, Tensor
from fanlight.models.architecture import Layout, stored_names
from fanlight.models.base import DecoderConfig

ROWS_PER_CONVERSION = 4096
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def short(name: str) -> str:
    """A canonical name without its block: "blocks.3.w_q" -> "w_q"."""
    return _BLOCK.sub("", name)


class Slot(NamedTuple):
    """One array's place in a packed matrix."""

    name: str
    n_out: int
    first_row: int = 0
    """Where the rows begin in an array that holds others too."""
    n_stored: int = 0
    """How many rows that array has; 0: just these."""


class StoredArray(NamedTuple):
    """One array as it was read."""

    name: str
    """The canonical one: "blocks.0.w_q"."""
    stored_name: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int


@dataclass(slots=True)
class LoadReport:
    """What loading read, changed and left unread."""

    path: str
    format: str
    model_type: str = ""
    n_parameters: int = 0
    packed_bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    """Bytes as stored, by type."""
    conversions: list[str] = field(default_factory=list)
    """Arrays whose type changed on the way into memory, and how; a line for each kind of change."""
    unread: list[str] = field(default_factory=list)
    arrays: list[StoredArray] = field(default_factory=list)
    """Everything that was read, in the order of use."""
    matrices: list[Linear] = field(default_factory=list, repr=False)
    """As they were packed."""
    fingerprint: str = ""
    """Of the files, where somebody asked for it."""


class Weights:
    """Reads a checkpoint under canonical names. Missing or misshapen arrays raise CheckpointError with the stored name."""

    def __init__(
        self, checkpoint: Checkpoint, layout: Layout, config: DecoderConfig, ops: Ops, quantize: str | None = None
    ) -> None:
        """quantize: the type that float matrices become ("Q8_0", "Q4_1"); None: they stay."""
        self.ops = ops
        self.report = LoadReport(path=checkpoint.path, format=checkpoint.format)
        self.packed: list[Linear] = []
        """Every matrix but pure tables, in the order of use."""
        self._checkpoint, self._layout, self._config, self._quantize = checkpoint, layout, config, quantize
        self._stored_names = stored_names(layout, checkpoint.arrays)
        self._unread = set(checkpoint.arrays)
        self._changed: dict[str, list[str]] = {}

    @property
    def cache_dtype(self) -> str:
        """Float checkpoints keep keys and values in float32; quantised ones in half, whose rounding is far below their own."""
        return "F32" if self.dtype("embed") in FLOAT_TYPES and not self._quantize else "F16"

    def has(self, name: str) -> bool:
        """Whether the checkpoint has this array."""
        return self._stored(name) in self._checkpoint.arrays

    def dtype(self, name: str) -> str:
        """The type that this array is stored in; "" if it is missing."""
        found = self._checkpoint.arrays.get(self._stored(name))
        return found.dtype if found else ""

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of this canonical name, its shape checked."""
        stored = self._stored(name)
        found = self._checkpoint.arrays.get(stored)
        if found is None:
            raise CheckpointError(
                f"{self.report.path}: tensor {stored!r} is missing; the file is incomplete or of another architecture"
            )
        if found.shape != shape:
            raise CheckpointError(
                f"{self.report.path}: tensor {stored!r} has shape {found.shape}, expected {shape}; "
                "the configuration does not match the weights"
            )
        if stored in self._unread:
            self._unread.discard(stored)
            n = 1
            for size in shape:
                n *= size
            self.report.n_parameters += n
            self.report.dtypes[found.dtype] = self.report.dtypes.get(found.dtype, 0) + found.data.nbytes
            self.report.arrays.append(StoredArray(name, stored, shape, found.dtype, found.data.nbytes))
        return found

    def vector(self, name: str, n: int) -> Tensor:
        """A float vector as a tensor (1, n)."""
        return self.ops.tensor(self.floats(name, n), n)

    def floats(self, name: str, n: int) -> bytes | memoryview:
        """A float vector as float32 bytes, as the architecture means it."""
        stored = self.take(name, (n,))
        self._refuse_damage(stored)
        raw = self._as_float32(stored)
        offset = self._layout.offset.get(short(name))
        return array("f", [x + offset for x in array("f", bytes(raw))]).tobytes() if offset else raw

    def matrix(
        self,
        slots: Sequence[Slot],
        n_in: int,
        *,
        bias: bool = False,
        activation: str = "none",
        gated: bool = False,
        table: bool = False,
    ) -> Linear:
        """Stack arrays (n_out, n_in) into one packed matrix.

        bias: "w_..." have a "b_..." each. table: rows are only looked up, so that a decode step does not read the matrix.
        """
        arrays = [self._rows(slot, n_in) for slot in slots]
        parts = [
            Part(
                stored.data,
                slot.n_out,
                self._packable(stored),
                self._row_order(slot),
                short(slot.name) in self._layout.transposed,
            )
            for stored, slot in zip(arrays, slots, strict=True)
        ]
        bias_bytes = b"".join(self._bias(slot) for slot in slots) if bias else None
        packed = self.ops.pack(
            n_in, parts, quantize=self._quantize, bias=bias_bytes, activation=activation, gated=gated, mapped=True
        )
        for stored, dtype in zip(arrays, packed.part_dtypes, strict=True):
            self._note(stored, dtype)
        self.report.packed_bytes += packed.nbytes
        self.report.matrices.append(packed)
        if not table:
            self.packed.append(packed)
        return packed

    def _rows(self, slot: Slot, n_in: int) -> Array:
        n_stored = slot.n_stored or slot.n_out
        if short(slot.name) in self._layout.transposed:
            return self.take(slot.name, (n_in, n_stored))
        found = self.take(slot.name, (n_stored, n_in))
        if not slot.n_stored:
            return found
        row_bytes = found.data.nbytes // n_stored
        window = found.data[slot.first_row * row_bytes : (slot.first_row + slot.n_out) * row_bytes]
        return replace(found, shape=(slot.n_out, n_in), data=window)

    def _row_order(self, slot: Slot) -> Sequence[int] | None:
        order = self._layout.row_order.get(short(slot.name))  # only now: the array is known to have such a shape
        return None if order is None else order(self._config)

    def _bias(self, slot: Slot) -> bytes:
        values = self.floats(slot.name.replace("w_", "b_"), slot.n_stored or slot.n_out)
        order = self._row_order(slot)
        if order is not None:
            stored = array("f", bytes(values))
            return array("f", [stored[row] for row in order]).tobytes()
        return bytes(values)[4 * slot.first_row : 4 * (slot.first_row + slot.n_out)]

    def _note(self, stored: Array, dtype: str) -> None:
        """Keep count of the arrays that are in memory as another type."""
        if stored.dtype == dtype:
            return
        known = PACKED_AS[stored.dtype]
        asked = self._quantize if stored.dtype in FLOAT_TYPES else None
        how = "as asked for" if dtype == asked else known.how if dtype == known.dtype else "as the rest of its matrix"
        self._changed.setdefault(f"{stored.dtype} -> {dtype} ({how})", []).append(stored.name)

    def finish(self) -> LoadReport:
        """The report. An unread array that the layout calls essential is a CheckpointError: it belongs to a computation
        that this architecture does not have, and the logits would be wrong.
        """
        self.report.conversions = [
            f"{names[0] if len(names) == 1 else f'{len(names)} arrays'}: {what}"
            for what, names in self._changed.items()
        ]
        self.report.unread = sorted(name for name in self._unread if not name.endswith(self._layout.ignored))
        for name in self.report.unread:
            if name.startswith(self._layout.essential):
                raise CheckpointError(
                    f"{self.report.path}: tensor {name!r} is not part of this architecture as Fanlight implements it; "
                    "without it the logits would be wrong: get another model"
                )
        return self.report

    def _stored(self, name: str) -> str:
        """As in: blocks.3.w_q -> blk.3.attn_q.weight."""
        i = _BLOCK.match(name)
        return self._stored_names[_BLOCK.sub("blocks.{i}.", name)].replace("{i}", i[1] if i else "")

    def _refuse_damage(self, stored: Array) -> None:
        """CheckpointError for a vector that holds NaN or infinity. Of matrices, packing sees it."""
        from fanlight.checkpoints.finite import first_in

        found = first_in(stored)
        if found is not None:
            raise CheckpointError(f"{self.report.path}: {found}, expected finite numbers; {DAMAGED}")

    def _packable(self, stored: Array) -> str:
        """The array's type, if there is arithmetic for it."""
        if stored.dtype in DTYPES:
            return stored.dtype
        raise CheckpointError(
            f"{self.report.path}: tensor {stored.name!r} has type {stored.dtype}; Fanlight computes with {', '.join(DTYPES)}: "
            "get the model in one of these types"
        )

    def _as_float32(self, stored: Array) -> bytes | memoryview:
        """A float type as float32 bytes, without NumPy where that is easy; block types through their definition."""
        if stored.dtype == "F32":
            return stored.data
        if stored.dtype == "BF16" and stored.data.nbytes <= ROWS_PER_CONVERSION * 2:
            return array("I", [half << 16 for half in array("H", bytes(stored.data))]).tobytes()
        if stored.dtype == "F16" and stored.data.nbytes <= ROWS_PER_CONVERSION * 2:
            return array("f", struct.unpack(f"<{stored.data.nbytes // 2}e", stored.data)).tobytes()
        if stored.dtype == "F64":
            return array("f", array("d", bytes(stored.data))).tobytes()
        self._packable(stored)
        from fanlight.checkpoints.gguf_quants import dequantize

        return dequantize(stored).tobytes()
