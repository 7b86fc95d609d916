"""What sampling costs: decode speed under temperature, top-k, top-p and repetition penalty, against greedy."""

from __future__ import annotations

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import Lineup

FIGURE = "sampling"
TOKENS = 128
GREEDY, SAMPLED = "greedy", "temperature, top-k, top-p, penalty"
SETTINGS = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 1}


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""
    peers = [lineup.fanlight.with_settings(GREEDY), lineup.fanlight.with_settings(SAMPLED, **SETTINGS)]
    samples = race(
        {peer.name: decode_rate(peer, lineup.window, prompt=14, tokens=TOKENS) for peer in peers}, lineup.rounds
    )
    goals = [ratio("time sampled / greedy", samples, GREEDY, SAMPLED, high=1.08)]
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens", samples=samples, goals=goals)
