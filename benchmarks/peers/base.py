"""What a benchmark asks of an engine. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Peer(Protocol):
    """One model in one engine, loaded. Greedy, one sequence; the end-of-text token does not end it."""

    name: str

    def prefill(self, ids: Sequence[int]) -> int:
        """Forget what was before, read the prompt, return the arg max of the last position's logits."""

    def decode(self, n: int) -> list[int]:
        """The next n tokens, each from a forward pass of its own over the one before."""
