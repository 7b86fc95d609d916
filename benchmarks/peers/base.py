"""What a benchmark asks of an engine. Knows no engine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol


class Peer(Protocol):
    """One model in one engine, loaded. Greedy, one sequence; the end-of-text token does not end it."""

    name: str

    def prefill(self, ids: Sequence[int]) -> int:
        """Forget what was before, read the prompt, return the arg max of the last position's logits."""

    def decode(self, n: int) -> list[int]:
        """The next n tokens, each from a forward pass of its own over the one before."""


class BatchPeer(Protocol):
    """One model in one engine, for several sequences at once. Greedy; the end-of-text token does not end one."""

    name: str

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Forget what was before, read the prompts, choose the first new token of each."""

    def advance(self, n: int) -> list[list[int]]:
        """The next n tokens of every sequence: n passes, each over the last token of all of them."""


class SlotsPeer(Protocol):
    """One model in one engine that takes requests at any time. Greedy; the end-of-text token does not end one."""

    name: str

    def clear(self) -> None:
        """Forget all requests, and all that was computed for them."""

    def submit(self, key: Hashable, ids: Sequence[int], n_new: int) -> None:
        """A request for n_new tokens; it joins as soon as there is room for it."""

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""

    def step(self) -> list[tuple[Hashable, int]]:
        """One pass for all that can advance: (key, token) of each token that was chosen."""
