"""Tokens per second of one peer, the two ways every figure needs them. Knows the Peer protocol only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.harness import seconds
from benchmarks.peers.base import Peer

Window = Callable[[int, int], Sequence[int]]
"""(round, n) -> n prompt ids."""


def decode_rate(peer: Peer, window: Window, *, prompt: int, tokens: int) -> Callable[[int], float]:
    """Tokens per second after a prompt of `prompt` tokens, whose prefill is not counted."""

    def measure(turn: int) -> float:
        peer.prefill(window(turn, prompt))
        return tokens / seconds(lambda: peer.decode(tokens))

    return measure


def prefill_rate(peer: Peer, window: Window, *, prompt: int) -> Callable[[int], float]:
    """Prompt tokens per second, up to and with the choice of the first new token."""

    def measure(turn: int) -> float:
        ids = window(turn, prompt)
        return prompt / seconds(lambda: peer.prefill(ids))

    return measure
