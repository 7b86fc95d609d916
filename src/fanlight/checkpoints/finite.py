"""A checkpoint -> its first tensor that holds NaN or infinity. For when logits are NaN, and for whoever checks a file.

Reads every weight once, at the speed of memory, and of block types only the scales: their weights are whole numbers times those.

Source: where a block has its scales is in the block layouts of the ggml project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.checkpoints.files import shown
from fanlight.checkpoints.gguf_types import QUANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanlight.checkpoints.arrays import Array, Checkpoint

_CHUNK_BYTES = 1 << 20
_FLOATS: dict[str, tuple[int, int, int]] = {  # bytes, bits of the exponent, bits of the fraction
    "F16": (2, 0x7C00, 0x03FF),
    "BF16": (2, 0x7F80, 0x007F),
    "F32": (4, 0x7F800000, 0x007FFFFF),
    "F64": (8, 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
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
        found = first_in(array)
        if found is not None:
            return found
    return None


def first_in(array: Array) -> NotFinite | None:
    """The first of one tensor."""
    offsets: tuple[int, ...] = (0,)
    if array.dtype in _FLOATS:
        width, exponent, fraction = _FLOATS[array.dtype]
        stride, block = width, 1
    elif array.dtype in _SCALES:
        width, exponent, fraction = _FLOATS["F16"]
        offsets, stride, block = _SCALES[array.dtype], _BLOCKS[array.dtype].nbytes, _BLOCKS[array.dtype].elements
    else:
        return None
    at = _search()(array.data, stride, offsets, width, exponent)
    if at < 0:
        return None
    unit = array.data[at * stride : (at + 1) * stride]
    bits = [int.from_bytes(unit[offset : offset + width], "little") for offset in offsets]
    return NotFinite(array.name, _kind(bits, exponent, fraction), _place(at * block, array.shape), block)


def _search() -> Callable[[memoryview, int, Sequence[int], int, int], int]:
    """Looks for the first unit of `stride` bytes with a number that is not finite; -1: there is none."""
    try:
        from fanlight.kernels._native import first_not_finite as native
    except ImportError:
        return search_with_numpy
    return native


def search_with_numpy(data: memoryview, stride: int, offsets: Sequence[int], width: int, exponent: int) -> int:
    """What the native search does, and defines."""
    import numpy as np

    names = [f"at{offset}" for offset in offsets]
    numbers = [f"<u{width}"] * len(offsets)
    unit: Any = {"names": names, "formats": numbers, "offsets": list(offsets), "itemsize": stride}
    step = max(1, _CHUNK_BYTES // stride) * stride
    for start in range(0, data.nbytes, step):
        units: Any = np.frombuffer(data[start : start + step], dtype=np.dtype(unit))
        bad = np.logical_or.reduce([(units[name] & exponent) == exponent for name in names])
        if bad.any():
            return start // stride + int(bad.argmax())
    return -1


def _kind(bits: list[int], exponent: int, fraction: int) -> str:
    return "NaN" if any(value & exponent == exponent and value & fraction for value in bits) else "infinity"


def _place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        place.append(at)
    return tuple(reversed(place))
