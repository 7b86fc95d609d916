"""Python's share of a decode step: the part of the wall time that is not spent inside native ops."""

from __future__ import annotations

import statistics

from benchmarks.harness import Goal, Outcome, race, seconds
from benchmarks.lineup import Lineup

FIGURE = "python"
TOKENS = 128
SHARE, MICROSECONDS = "share of a step, %", "microseconds a token"


def run(lineup: Lineup) -> Outcome:
    """Percent."""
    from fanlight.kernels import _native

    peer = lineup.fanlight

    def share(turn: int) -> float:
        peer.prefill(lineup.window(turn, 14))
        _native.profile(True)
        before = _native.profile_seconds()
        wall = seconds(lambda: peer.decode(TOKENS))
        native = _native.profile_seconds() - before
        _native.profile(False)
        microseconds.append(1e6 * (wall - native) / TOKENS)
        return 100 * (wall - native) / wall

    microseconds: list[float] = []
    samples = {SHARE: race({SHARE: share}, lineup.rounds)[SHARE], MICROSECONDS: microseconds[-lineup.rounds :]}
    goals = [Goal(what="percent of a step in Python", found=statistics.median(samples[SHARE]), high=4)]
    return Outcome(figure=FIGURE, unit=f"{TOKENS} tokens", samples=samples, goals=goals)
