"""Decode speed with 4,096 tokens in the cache, keys and values in half precision and in int8, against that at 128.

The prompt is read once for each; later rounds take it from the prefix cache, since only what follows is measured.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "long-context"
SHORT, LONG, TOKENS = 128, 4096, 32
PREFIX_BYTES = 1 << 30


def run(lineup: Lineup, long: int = LONG, tokens: int = TOKENS) -> Outcome:
    """Tokens per second of one sequence."""
    peers = {
        cache_type: lineup.fanlight_slots(name=cache_type, n_slots=1, cache_type=cache_type, prefix_bytes=PREFIX_BYTES)
        for cache_type in ("f16", "int8")
    }

    def rate(cache_type: str, n: int) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            peer = peers[cache_type]
            peer.begin(lineup.windows(0, [n]))
            took = seconds(lambda: peer.advance(tokens))
            peer.clear()
            return tokens / took

        return measure

    names = {(cache_type, n): f"{cache_type} at {n}" for cache_type in peers for n in (SHORT, long)}
    samples = race({name: rate(*what) for what, name in names.items()}, lineup.rounds)
    goals = [
        ratio("int8 / f16, far", samples, names["int8", long], names["f16", long], low=1.3),
        ratio("int8 / f16, near", samples, names["int8", SHORT], names["f16", SHORT]),
        ratio("far / near, f16", samples, names["f16", long], names["f16", SHORT], low=0.5),
        ratio("far / near, int8", samples, names["int8", long], names["int8", SHORT]),
    ]
    return Outcome(figure=FIGURE, unit=f"tokens/s, {tokens} tokens", samples=samples, goals=goals)
