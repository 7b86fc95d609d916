"""The second turn of a chat: time to its first token when the first turn is still in the cache, and when nothing is.

Each run is a chat of its own about the same text, begun by other words. What is reused and what is computed is read from the
results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import TEXT, Lineup

FIGURE = "reuse"
TOKENS, FIRST_ANSWER = 8, 48
WITH, WITHOUT = "with the first turn in the cache", "without"
REUSED, COMPUTED = "tokens reused", "tokens computed"


def run(lineup: Lineup, characters: int = 2000) -> Outcome:
    """Seconds to the first token of the second answer."""
    text = TEXT.read_text(encoding="utf-8")[:characters]
    n_chats = 0

    def second_turn(model: Any) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            nonlocal n_chats
            n_chats += 1  # nobody has read this chat's beginning before, not even in a run that is made again
            messages = [{"role": "user", "content": f"Note {n_chats}. {text}\n\nWho is this about?"}]
            options: dict[str, Any] = {"do_sample": False, "candidates": 0}
            first = model.chat(messages, max_new_tokens=FIRST_ANSWER, **options)
            messages += [
                {"role": "assistant", "content": first.text},
                {"role": "user", "content": "And what did she build?"},
            ]
            second = model.chat(messages, max_new_tokens=TOKENS, **options)
            return Measured(second.prefill_seconds, {REUSED: second.usage.n_reused, COMPUTED: second.usage.n_computed})

        return measure

    raced = race({WITH: second_turn(lineup.remembering), WITHOUT: second_turn(lineup.model)}, lineup.rounds)
    samples = {name: plain(values) for name, values in raced.items()}
    samples |= {f"{what}, {name}": seen(values, what) for name, values in raced.items() for what in (REUSED, COMPUTED)}
    goals = [ratio("times sooner", samples, WITHOUT, WITH)]
    return Outcome(figure=FIGURE, unit="seconds to the first token", samples=samples, goals=goals)
