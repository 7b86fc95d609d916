"""A measured value that remembers what else was seen in the same run. Knows no engine and no race.

A race keeps one value a run, and makes disturbed runs again; what belongs to a run must go with its value, or the two part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Measured(float):
    """A value with others beside it."""

    beside: Mapping[str, float]

    def __new__(cls, value: float, beside: Mapping[str, float]) -> Measured:
        """beside: what else was seen, by name."""
        made = super().__new__(cls, value)
        made.beside = dict(beside)
        return made


def plain(values: Sequence[float]) -> list[float]:
    """The values alone."""
    return [float(value) for value in values]


def seen(values: Sequence[float], what: str) -> list[float]:
    """What else was seen, run by run. All values are Measured."""
    found = []
    for value in values:
        assert isinstance(value, Measured), "a contender of this race returns Measured values"
        found.append(value.beside[what])
    return found
