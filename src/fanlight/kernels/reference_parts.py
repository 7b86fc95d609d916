"""The parts of a matrix -> what the kernels multiply with, in NumPy. In: Parts. Out: packed types with dequantised weights.

Knows which type a part is packed as; knows no op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import KernelError
from fanlight.kernels.ops import DTYPES, PACKED_AS, QUANTIZE, Part
from fanlight.kernels.reference_repack import numbers, repack
from fanlight.kernels.reference_weights import BLOCK, BLOCKS, FLOATS, elements

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNIT = 32
"""Rows that are multiplied together: they have one type."""
MAX_ROWS = 1 << 28


def packed_parts(
    n_in: int, parts: Sequence[Part], quantize: str | None, gated: bool
) -> list[tuple[str, NDArray[np.float32]]]:
    """Of each part its packed type and its weights as packed, (n_rows, n_in). Errors: KernelError."""
    if n_in < 1:
        raise KernelError(f"pack: n_in is {n_in}, it must be positive")
    if not parts:
        raise KernelError("pack: no parts")
    if quantize is not None and quantize not in QUANTIZE:
        raise KernelError(f"pack: cannot quantize to {quantize!r}; there are {', '.join(QUANTIZE)}")
    for part in parts:
        _check(part, n_in)
    types = _types(n_in, parts, quantize, gated)
    return [(packed, _weights(part, n_in, packed)) for part, packed in zip(parts, types, strict=True)]


def _check(part: Part, n_in: int) -> None:
    data, n_rows, dtype, row_order, transposed = part
    if dtype not in DTYPES:
        raise KernelError(f"pack: weights of type {dtype!r} are unknown; there are {', '.join(DTYPES)}")
    block = elements(dtype)
    if n_in % block:
        raise KernelError(f"pack: n_in is {n_in}, {dtype} needs a positive multiple of {block}")
    if not 0 < n_rows < MAX_ROWS:
        raise KernelError(f"pack: a part has {n_rows} rows; expected 1 to {MAX_ROWS - 1}")
    expected = n_rows * n_in // block * (BLOCKS.get(dtype) or FLOATS[dtype]).itemsize
    found = memoryview(data).nbytes
    if found != expected:
        raise KernelError(f"pack: {n_rows} rows of {n_in} x {dtype} take {expected} bytes, the data has {found}")
    if transposed and block > 1:
        raise KernelError(f"pack: {dtype} cannot be transposed")
    if row_order is None:
        return
    if len(row_order) != n_rows:
        raise KernelError(f"pack: row_order has {len(row_order)} entries for {n_rows} rows")
    if not all(0 <= stored_row < n_rows for stored_row in row_order):
        raise KernelError(f"pack: row_order holds {min(row_order)} to {max(row_order)}, rows are 0 to {n_rows - 1}")


def _types(n_in: int, parts: Sequence[Part], quantize: str | None, gated: bool) -> list[str]:
    """What each part is packed as. Types meet at whole units only; else the parts share one."""
    types: list[str] = []
    n_rows, at_units = 0, True
    for part in parts:
        asked = quantize if part.dtype in FLOATS and n_in % BLOCK == 0 else None
        types.append(asked or PACKED_AS[part.dtype].dtype)
        at_units = at_units and (n_rows % UNIT == 0 or types[-1] == types[-2])
        n_rows += part.n_rows
    if gated or at_units:
        return types
    return ["Q8_0" if any(packed in BLOCKS for packed in types) else "F32"] * len(parts)


def _weights(part: Part, n_in: int, packed: str) -> NDArray[np.float32]:
    data, n_rows, dtype, row_order, transposed = part
    values = np.frombuffer(memoryview(data).cast("B"), BLOCKS.get(dtype) or FLOATS[dtype])
    if transposed:
        values = np.ascontiguousarray(values.reshape(n_in, n_rows).T).reshape(-1)
    matrix = numbers(repack(values, dtype, packed), packed).reshape(n_rows, n_in)
    return matrix if row_order is None else matrix[np.asarray(row_order)]
