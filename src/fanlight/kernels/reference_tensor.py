"""The matrix that reference ops take and return. In: a NumPy array. Knows no op."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from fanlight.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def check_indices(what: str, indices: Sequence[int], n: int) -> None:
    """KernelError for an index outside 0 .. n - 1."""
    for index in indices:
        if not 0 <= index < n:
            raise KernelError(f"{what} {index} is outside 0 to {n - 1}")


class Tensor:
    """A frozen float32 matrix (rows, columns)."""

    __slots__ = ("array",)
    array: NDArray[np.float32]

    def __init__(self, array: NDArray[np.float32]) -> None:
        if array.ndim != 2 or array.dtype != np.float32:
            raise KernelError(f"a tensor is a float32 matrix of two axes: got {array.dtype} of shape {array.shape}")
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.array.shape
        return rows, columns

    def numpy(self) -> NDArray[np.float32]:
        """A copy, (rows, columns)."""
        return self.array.copy()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Tensor is frozen: {name!r} cannot be set; make a new one")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape})"
