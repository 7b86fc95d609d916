"""Prefill speed on the default model: a prompt of 512 tokens up to the first new one."""

from __future__ import annotations

from benchmarks.figures.rates import prefill_rate
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import OURS, Q4_0, Q4_1, TRANSFORMERS, TRANSFORMERS_BF16, Lineup
from benchmarks.peers.base import Peer

FIGURE = "prefill"
PROMPT = 512


def run(lineup: Lineup) -> Outcome:
    """Prompt tokens per second."""
    peers: dict[str, Peer] = {
        OURS: lineup.fanlight,
        Q4_1: lineup.llama_q4_1,
        Q4_0: lineup.llama_q4_0,
        TRANSFORMERS: lineup.transformers,
        TRANSFORMERS_BF16: lineup.transformers_bf16,
    }
    samples = race(
        {name: prefill_rate(peer, lineup.window, prompt=PROMPT) for name, peer in peers.items()}, lineup.rounds
    )
    goals = [
        ratio("times llama.cpp Q4_1", samples, OURS, Q4_1, low=6.0),
        ratio("times llama.cpp Q4_0", samples, OURS, Q4_0, low=2.2),
        ratio("times transformers", samples, OURS, TRANSFORMERS),
        ratio("times transformers in bfloat16", samples, OURS, TRANSFORMERS_BF16),
    ]
    return Outcome(figure=FIGURE, unit=f"prompt tokens/s, {PROMPT} tokens", samples=samples, goals=goals)
