"""A checkpoint -> its first tensor that holds NaN or infinity. For when logits are NaN, and for whoever checks a file.

Reads every weight once, at the speed of memory, and of block types only the scales: their weights are whole numbers times those.

Source: where a block has its scales is in the block layouts of the ggml project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.checkpoints.files import shown
from fanlight.checkpoints.gguf_types import QUANTS

if TYPE_CHECKING:
    from fanlight.checkpoints.arrays import Array, Checkpoint

_CHUNK_BYTES = 1 << 20
_FLOATS: dict[str, tuple[str, int, int]] = {  # stored as, bits of the exponent, bits of the fraction
    "F16": ("<u2", 0x7C00, 0x03FF),
    "BF16": ("<u2", 0x7F80, 0x007F),
    "F32": ("<u4", 0x7F800000, 0x007FFFFF),
    "F64": ("<u8", 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
}
_SCALES: dict[str, tuple[int, ...]] = {  # bytes of a block at which its F16 scales and minima begin
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q8_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ1_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
_BLOCKS = {quant.name: quant for quant in QUANTS.values()}


class NotFinite(NamedTuple):
    """A weight that is no number, or the first weight of a block whose scale is none."""

    name: str
    value: str  # "NaN" or "infinity"
    place: tuple[int, ...]  # of the weight in the tensor, row-major; of a block: of its first weight
    block: int  # weights that share the scale; 1: a weight of its own

    def __str__(self) -> str:
        """As a part of a message."""
        where = "a block's scale, at weight" if self.block > 1 else "weight"
        return f"tensor {shown(self.name)} holds {self.value} ({where} {list(self.place)})"


def first_not_finite(checkpoint: Checkpoint) -> NotFinite | None:
    """The first in the file's order of tensors; None if every weight of a type known here is a number."""
    for array in checkpoint.arrays.values():
        found = _first_in(array)
        if found is not None:
            return found
    return None


def _first_in(array: Array) -> NotFinite | None:
    import numpy as np

    n_bytes = array.data.nbytes
    if array.dtype in _FLOATS:
        stored, exponent, fraction = _FLOATS[array.dtype]
        offsets, size, block = (0,), np.dtype(stored).itemsize, 1
    elif array.dtype in _SCALES:
        stored, exponent, fraction = _FLOATS["F16"]
        offsets, size, block = _SCALES[array.dtype], _BLOCKS[array.dtype].nbytes, _BLOCKS[array.dtype].elements
    else:
        return None
    step = _CHUNK_BYTES // size * size
    for start in range(0, n_bytes, step):
        units = np.frombuffer(array.data[start : start + step], dtype=np.dtype(_unit(stored, offsets, size)))
        bits = [units[f"at{offset}"] for offset in offsets]
        bad = np.logical_or.reduce([(values & exponent) == exponent for values in bits])
        if bad.any():
            at = int(bad.argmax())
            return NotFinite(
                name=array.name,
                value=_kind([int(values[at]) for values in bits], exponent, fraction),
                place=_place((start // size + at) * block, array.shape),
                block=block,
            )
    return None


def _unit(stored: str, offsets: tuple[int, ...], size: int) -> dict[str, Any]:
    """A NumPy type of one weight, or of one block, with its numbers by their place."""
    names = [f"at{offset}" for offset in offsets]
    return {"names": names, "formats": [stored] * len(offsets), "offsets": list(offsets), "itemsize": size}


def _kind(bits: list[int], exponent: int, fraction: int) -> str:
    return "NaN" if any(value & exponent == exponent and value & fraction for value in bits) else "infinity"


def _place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        place.append(at)
    return tuple(reversed(place))
