"""Eight settings on one prompt in one run (`fanlight.comparing`), against one text alone and against eight one after the other.

Every run has a prompt of its own, so that nobody finds it computed; all are as a caller gets them, with an account of each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "compare"
PROMPT, TOKENS = 64, 128
ONE, EIGHT, APART = "one text, greedy", "eight settings, compared", "eight settings, one after the other"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"do_sample": False},
    "temperature": {"do_sample": True, "temperature": 0.7},
    "top-p": {"do_sample": True, "top_p": 0.92},
    "top-k": {"do_sample": True, "top_k": 40},
    "min-p": {"do_sample": True, "min_p": 0.05, "temperature": 1.2},
    "typical": {"do_sample": True, "typical_p": 0.9},
    "penalty": {"do_sample": False, "repetition_penalty": 1.15},
    "all of it": {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1},
}


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Seconds."""
    from fanlight.comparing.run import compare

    model, prompts = lineup.remembering, count()
    common: dict[str, Any] = {"max_new_tokens": tokens, "ignore_eos": True, "seed": 1}

    def prompt() -> list[int]:
        return list(lineup.windows(next(prompts), [PROMPT])[0])

    def compared() -> None:
        found = compare(model, prompt(), SETTINGS, **common)
        lengths = {len(text.tokens) for variant in found.variants for text in variant.texts}
        assert lengths == {tokens}, f"texts of {lengths} tokens, {tokens} were asked for"

    def apart() -> None:
        ids = prompt()
        for options in SETTINGS.values():
            model.generate(ids, **{**common, **options})

    samples = race(
        {
            ONE: lambda turn: seconds(lambda: model.generate(prompt(), do_sample=False, **common)),
            EIGHT: lambda turn: seconds(compared),
            APART: lambda turn: seconds(apart),
        },
        lineup.rounds,
    )
    goals = [
        ratio("times as long as one", samples, EIGHT, ONE, high=2.2),
        ratio("times sooner than one after the other", samples, APART, EIGHT),
    ]
    unit = f"seconds, {tokens} tokens each after {PROMPT}"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals)
