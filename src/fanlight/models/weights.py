"""A checkpoint's arrays -> packed matrices and vectors, under the model's own names. Keeps count of what was read.

In: a Checkpoint, a name map, ops. Out: what `ops.pack` and `ops.tensor` return. Knows no architecture.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fanlight.checkpoints.arrays import Array, Checkpoint
from fanlight.errors import CheckpointError
from fanlight.kernels.ops import DTYPES, Linear, Ops, Part, Tensor

ROWS_PER_CONVERSION = 4096
_BLOCK = re.compile(r"blocks\.(\d+)\.")


class Slot(NamedTuple):
    """One array's place in a packed matrix."""

    name: str
    n_out: int
    row_order: Callable[[], Sequence[int]] | None = None
    """Called once the array is known to have such a shape: a configuration may claim any."""


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
    """Arrays that were stored in a type without a kernel of its own."""
    unread: list[str] = field(default_factory=list)


class Weights:
    """Reads a checkpoint under canonical names. Missing or misshapen arrays raise CheckpointError with the stored name."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str], ops: Ops) -> None:
        """names: stored name -> canonical name, "{i}" standing for a block's number in both."""
        self.ops = ops
        self.report = LoadReport(path=checkpoint.path, format=checkpoint.format)
        self._checkpoint = checkpoint
        self._stored_names = {canonical: stored for stored, canonical in names.items()}
        self._unread = set(checkpoint.arrays)

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
        return found

    def vector(self, name: str, n: int) -> Tensor:
        """A float vector as a tensor (1, n)."""
        return self.ops.tensor(self.floats(name, n), n)

    def floats(self, name: str, n: int) -> bytes | memoryview:
        """A float vector as float32 bytes."""
        return self._as_float32(self.take(name, (n,)))

    def matrix(
        self,
        slots: Sequence[Slot],
        n_in: int,
        *,
        bias: Sequence[Slot] = (),
        activation: str = "none",
        gated: bool = False,
        transposed: bool = False,
    ) -> Linear:
        """Stack arrays (n_out, n_in) into one packed matrix; transposed: stored as (n_in, n_out)."""
        arrays = [self.take(slot.name, (n_in, slot.n_out) if transposed else (slot.n_out, n_in)) for slot in slots]
        parts = [
            Part(stored.data, slot.n_out, self._packable(stored), slot.row_order and slot.row_order(), transposed)
            for stored, slot in zip(arrays, slots, strict=True)
        ]
        bias_bytes = b"".join(self.floats(slot.name, slot.n_out) for slot in bias) if bias else None
        packed = self.ops.pack(n_in, parts, bias=bias_bytes, activation=activation, gated=gated, mapped=True)
        self.report.conversions += [
            f"{stored.name}: {stored.dtype} -> {dtype}"
            for stored, dtype in zip(arrays, packed.part_dtypes, strict=True)
            if stored.dtype != dtype
        ]
        self.report.packed_bytes += packed.nbytes
        return packed

    def finish(self, ignored: Sequence[str] = (), essential: Sequence[str] = ()) -> LoadReport:
        """The report. ignored: endings of stored names that hold no weights.

        essential: beginnings of stored names. An unread array among them is a CheckpointError: it belongs to a computation
        that this architecture does not have, and the logits would be wrong.
        """
        self.report.unread = sorted(name for name in self._unread if not name.endswith(tuple(ignored)))
        for name in self.report.unread:
            if name.startswith(tuple(essential)):
                raise CheckpointError(
                    f"{self.report.path}: tensor {name!r} is not part of this architecture as Fanlight implements it; "
                    "without it the logits would be wrong: get another model"
                )
        return self.report

    def _stored(self, name: str) -> str:
        """As in: blocks.3.w_q -> blk.3.attn_q.weight."""
        i = _BLOCK.match(name)
        return self._stored_names[_BLOCK.sub("blocks.{i}.", name)].replace("{i}", i[1] if i else "")

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
