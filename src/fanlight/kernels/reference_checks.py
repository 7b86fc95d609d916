"""What the reference ops on one logits row share: the row as an array, and the checks of arguments. Knows no op.

Every check raises KernelError, or NumericError for a row that nothing can be chosen from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import KernelError, NumericError
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.kernels import ops as interface

REMOVED = np.float32(-np.inf)


def array_of(x: interface.Tensor) -> NDArray[np.float32]:
    """(rows, columns), without a copy where possible."""
    return x.array if isinstance(x, Tensor) else x.numpy()


def logits_of(row: interface.Tensor) -> NDArray[np.float32]:
    """(1, V) -> (V,)."""
    array = array_of(row)
    if array.shape[0] != 1:
        raise KernelError(f"expected one logits row, (1, n_vocab): got {array.shape}; take one with row(x, index)")
    logits: NDArray[np.float32] = array[0]
    return logits


def row_of(logits: NDArray[np.float32]) -> Tensor:
    """(V,) -> (1, V)."""
    return Tensor(logits[None])


def positive(op: str, value: float) -> np.float32:
    """The number in float32, above 0 and finite."""
    number = _float32(value)
    if not 0 < number < np.inf:
        raise KernelError(f"{op}: expected a positive float32: got {value}")
    return number


def finite_number(op: str, what: str, value: float) -> np.float32:
    """The number in float32."""
    number = _float32(value)
    if not np.isfinite(number):
        raise KernelError(f"{op}: {what} must be a finite float32: got {value}")
    return number


def amounts_of(op: str, amounts: Sequence[float] | float) -> NDArray[np.float32]:
    """What is added to logits, in float32: finite, or -inf."""
    with np.errstate(over="ignore", under="ignore"):
        numbers = np.atleast_1d(np.asarray(amounts, np.float32))
    if numbers.ndim != 1 or not (numbers < np.inf).all():
        raise KernelError(f"{op}: amounts must be finite float32 numbers, or -inf: got {amounts}")
    return numbers


def above(op: str, what: str, value: float, low: float, high: float) -> None:
    """KernelError unless low < value <= high."""
    if not low < value <= high:
        raise KernelError(f"{op}: {what} must be above {low:g} and at most {high:g}: got {value}")


def at_least(op: str, what: str, value: int, low: int) -> None:
    """KernelError unless value >= low."""
    if value < low:
        raise KernelError(f"{op}: {what} must be at least {low}: got {value}")


def ids_of(op: str, ids: Sequence[int], n_vocab: int) -> NDArray[np.int64]:
    """Token ids as an array, each in 0 .. n_vocab - 1."""
    array: NDArray[Any] = np.asarray(ids)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise KernelError(f"{op}: ids must be a sequence of integers: got {array.dtype} of shape {array.shape}")
    if len(array) and not (array.min() >= 0 and array.max() < n_vocab):
        outside = next(int(token) for token in array if not 0 <= token < n_vocab)
        raise KernelError(f"{op}: id {outside} is outside 0..{n_vocab - 1}")
    return array.astype(np.int64)


def flags_of(op: str, bits: interface.Buffer, n_vocab: int) -> NDArray[np.bool_]:
    """Bit i % 32 of little-endian word i // 32, for each token i: (V,)."""
    n_bytes = (n_vocab + 31) // 32 * 4
    try:
        packed = np.frombuffer(bits, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise KernelError(f"{op}: the bits must be a contiguous buffer: {error}") from None
    if len(packed) < n_bytes:
        raise KernelError(f"{op}: {n_vocab} tokens take {n_bytes} bytes of bits: got {len(packed)}")
    return np.unpackbits(packed[:n_bytes], bitorder="little")[:n_vocab].astype(np.bool_)


def largest_of(op: str, logits: NDArray[np.float32]) -> float:
    """The largest logit; NumericError if it is no number to choose by."""
    largest = float(logits.max()) if len(logits) else -np.inf
    if np.isnan(largest):
        damaged = int(np.isnan(logits).sum())
        raise NumericError(f"{op}: {damaged} of {len(logits)} logits are NaN; the model's weights may be damaged")
    if largest == np.inf:
        raise NumericError(
            f"{op}: token {int(np.argmax(logits))} has the logit +inf; the model's arithmetic overflowed"
        )
    if largest == -np.inf:
        raise NumericError(f"{op}: no token is left: all {len(logits)} logits are -inf; loosen the filters")
    return largest


def is_sound(logits: NDArray[np.float32]) -> bool:
    """Whether something is left and all that is left is a finite number."""
    return bool(len(logits)) and bool(np.isfinite(logits.max()))


def _float32(value: float) -> np.float32:
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(value)
