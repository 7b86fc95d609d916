"""Configuration values, checked. In: GGUF metadata or config.json. Knows no architecture."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import GATES

LARGEST_SIZE = 1 << 28
HF_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"),
    "gelu": ("gelu", "gelu_python"),
    "relu": ("relu",),
}
"""Activation -> what config.json may call it; the first is written."""


class Fields:
    """Typed access to a mapping, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, Any], path: str, prefix: str = "") -> None:
        self._values, self._path, self._prefix = values, path, prefix

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_SIZE:
            raise self._refuse(key, value, f"expected a whole number from 1 to {LARGEST_SIZE}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self._refuse(key, value, "expected a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "expected true or false")
        return value

    def cap(self, key: str, default: float | None = None) -> float:
        """A positive number; 0 where it is 0 or missing."""
        value = self._get(key, 0.0)
        return 0.0 if value == 0 and not isinstance(value, bool) else self.number(key, default or None)

    def activation(self, key: str, default: str | None = None, among: Sequence[str] = tuple(HF_ACTIVATIONS)) -> str:
        """An activation, in the words of the ops; the default is in these words too."""
        value = self._get(key, HF_ACTIVATIONS[default][0] if default else None)
        for name in among:
            if value in HF_ACTIVATIONS[name]:
                return name
        known = ", ".join(word for name in among for word in HF_ACTIVATIONS[name])
        raise self._refuse(key, value, f"Fanlight's implementation knows {known}")

    def gate(self, key: str, default: str | None = None) -> str:
        """An activation that a gated matrix can have."""
        return self.activation(key, default, GATES)

    def read(self, kind: str, key: str, default: Any = None) -> Any:
        """A value of this kind: the name of one of the methods above."""
        return getattr(self, kind)(key, default)

    def value(self, key: str, default: Any = None) -> Any:
        """Whatever is there, unchecked."""
        found = self._values.get(self._prefix + key)
        return default if found is None else found

    def refuse(self, key: str, expected: str) -> CheckpointError:
        """An error about what is there."""
        return self._refuse(key, self.value(key), expected)

    def group(self, key: str) -> Mapping[str, Any]:
        """Values under a key of their own; none if it is missing."""
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise self._refuse(key, value, "expected an object")
        return value

    def only(self, key: str, *known: object) -> None:
        """Refuse a value that the architecture's file does not implement; a missing key counts as known."""
        value = self._get(key, known[0])
        if value not in known:
            raise self._refuse(key, value, f"Fanlight's implementation knows {' or '.join(map(repr, known))}")

    def _get(self, key: str, default: object) -> Any:
        value = self._values.get(self._prefix + key)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(
                f"{self._path}: {self._prefix}{key} is missing; the file is not a model of this architecture"
            )
        return default

    def _refuse(self, key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {self._prefix}{key} is {repr(value)[:80]}; {expected}")
