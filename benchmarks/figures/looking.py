"""What it costs to look inside: the whole call with lens, attention and the rest in its trace, against one without any account.

No text is kept between calls, so that the pass that looks reads the prompt again too; the text is the same every time, which
every run checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "looking"
PROMPT, TOKENS = 14, 128
PLAIN = "candidates=0"
LENS, NEW, ALL = "lens", "all attention, of the new tokens", "all attention, of every token"
EVERYTHING = "everything"
LOOKS: Mapping[str, Mapping[str, Any]] = {
    LENS: {"lens": True},
    NEW: {"attention": True, "queries": "new"},
    ALL: {"attention": True, "queries": "all"},
    "contributions": {"contributions": True},
    "norms": {"norms": True},
    "timings": {"timings": True},
    EVERYTHING: {
        "lens": True,
        "attention": True,
        "queries": "all",
        "contributions": True,
        "norms": True,
        "timings": True,
    },
}
MOST = {LENS: 1.5, NEW: 1.5, ALL: 1.5}


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Seconds."""
    from fanlight.trace.options import TraceOptions

    texts: dict[int, tuple[int, ...]] = {}

    def writing(**options: Any) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            prompt = list(lineup.window(turn, PROMPT))
            found: list[Any] = []
            greedy = {"do_sample": False, "ignore_eos": True, "max_new_tokens": tokens, **options}
            taken = seconds(lambda: found.append(lineup.model.generate(prompt, **greedy)))
            written = found[0]
            if texts.setdefault(turn, written.ids) != written.ids or len(written.ids) != tokens:
                raise RuntimeError(f"looking: {options} changed the text of round {turn}")
            if written.trace is not None and written.trace.header.missing:
                raise RuntimeError(f"looking: {options} gave a trace without {written.trace.header.missing}")
            return taken

        return measure

    looks = {name: writing(trace=TraceOptions(**look)) for name, look in LOOKS.items()}
    samples = race({PLAIN: writing(candidates=0), **looks}, lineup.rounds)
    goals = [
        ratio(f"time with {name} / without any account", samples, name, PLAIN, high=MOST.get(name)) for name in LOOKS
    ]
    unit = f"seconds of the whole call, {tokens} tokens after {PROMPT}"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals)
