"""What it costs to look: decode speed with the top 20 candidates of every step recorded, against without."""

from __future__ import annotations

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import Lineup

FIGURE = "accounting"
TOKENS = 128
OFF, ON = "candidates=0", "candidates=20"


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""
    peers = [lineup.fanlight.with_settings(OFF, candidates=0), lineup.fanlight.with_settings(ON, candidates=20)]
    samples = race(
        {peer.name: decode_rate(peer, lineup.window, prompt=14, tokens=TOKENS) for peer in peers}, lineup.rounds
    )
    goals = [ratio("time with accounting / without", samples, OFF, ON, high=1.05)]
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens", samples=samples, goals=goals)
