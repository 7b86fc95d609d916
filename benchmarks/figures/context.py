"""Decode speed on the default model with 900 tokens in the cache, where attention costs as much as the weights."""

from __future__ import annotations

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import OURS, Q4_0, Q4_1, Lineup
from benchmarks.peers.base import Peer

FIGURE = "context"
PROMPT, TOKENS = 900, 64


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""
    peers: dict[str, Peer] = {OURS: lineup.fanlight, Q4_1: lineup.llama_q4_1, Q4_0: lineup.llama_q4_0}
    samples = race(
        {name: decode_rate(peer, lineup.window, prompt=PROMPT, tokens=TOKENS) for name, peer in peers.items()},
        lineup.rounds,
    )
    goals = [
        ratio("times llama.cpp Q4_1", samples, OURS, Q4_1, low=2.2),
        ratio("times llama.cpp Q4_0", samples, OURS, Q4_0, low=1.4),
    ]
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens after {PROMPT}", samples=samples, goals=goals)
