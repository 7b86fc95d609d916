"""What the loop itself costs when sixteen texts grow at once: a step without the model, the decisions and the texts.

Timed from outside, by clocks around `forward`, `decide` and `Detokenizer.feed`; what is left of a step is the plan, the tables
of the cache, the strategies' turns and the events.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.harness import Goal, Outcome, race, seconds
from benchmarks.lineup import Lineup

FIGURE = "scheduler"
SEQUENCES, PROMPT, TOKENS = 16, 14, 64
LOOP, FORWARD, DECIDE, TEXT, PLAN = "the loop itself, %", "model, %", "decisions, %", "texts, %", "of the loop: plan, %"
STEP = "ms a step"


class Clock:
    """How long calls of some functions take in all."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""
        now = time.perf_counter

        def timed(*args: Any, **options: Any) -> Any:
            start = now()
            try:
                return call(*args, **options)
            finally:
                self.seconds += now() - start

        return timed


def run(lineup: Lineup, sequences: int = SEQUENCES, tokens: int = TOKENS) -> Outcome:
    """Percent of a step."""
    peer = lineup.fanlight_slots(n_slots=sequences)

    def share(turn: int) -> float:
        peer.begin(lineup.windows(turn, [PROMPT] * sequences))
        with clocks(peer.engine) as found:
            wall = seconds(lambda: peer.advance(tokens))
        parts = {name: 100 * clock.seconds / wall for name, clock in found.items()}
        loop = 100 - parts[FORWARD] - parts[DECIDE] - parts[TEXT]
        return Measured(loop, {**parts, STEP: 1000 * wall / tokens})

    measured = race({LOOP: share}, lineup.rounds)[LOOP]
    samples = {LOOP: plain(measured)} | {what: seen(measured, what) for what in (PLAN, FORWARD, DECIDE, TEXT, STEP)}
    spread = (min(samples[LOOP]), max(samples[LOOP]))
    goal = Goal(what="percent of a step in the loop", found=statistics.median(samples[LOOP]), high=3, spread=spread)
    return Outcome(figure=FIGURE, unit=f"{sequences} sequences, {tokens} tokens each", samples=samples, goals=[goal])


@contextmanager
def clocks(engine: Any) -> Iterator[dict[str, Clock]]:
    """Clocks around the parts of an engine's step, as long as the block lasts."""
    from fanlight.decoding.strategies import sampling
    from fanlight.text.stream import Detokenizer

    places = {
        FORWARD: (engine.decoder, "forward"),
        DECIDE: (sampling, "decide"),
        TEXT: (Detokenizer, "feed"),
        PLAN: (engine.scheduler, "plan"),
    }
    found = {name: Clock() for name in places}
    with ExitStack() as stack:
        for name, (owner, attribute) in places.items():
            stack.enter_context(patch.object(owner, attribute, found[name].around(getattr(owner, attribute))))
        yield found
