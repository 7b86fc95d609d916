"""Ten thousand short prompts through `Model.generate_each`: whether memory stays flat, and tokens per second.

One run in a process of its own: that many requests are their own repetition. Prompts are made as they are taken, results are
dropped as they come, the resident memory is read all the while. What a model needs once, such as the beginnings that it keeps
up to a limit, is there when WARM_SHARE of the prompts have been answered; from then on memory should not grow.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import TypedDict

from benchmarks.figures.resident import in_its_own_process, resident_bytes
from benchmarks.harness import Goal, Outcome
from benchmarks.lineup import Lineup

FIGURE = "many"
PROMPTS, TOKENS, BATCH, PARTS = 10_000, 16, 16, 50
WARM_SHARE = 0.2
RATE, MEMORY = "tokens/s", "resident MB"
THINGS = (
    "river",
    "clock",
    "lighthouse",
    "market",
    "bridge",
    "teacher",
    "garden",
    "winter",
    "harbour",
    "letter",
    "engine",
)


class Part(TypedDict):
    """A stretch of the run."""

    done: int
    tokens: int
    seconds: float
    resident: int


def run(lineup: Lineup, prompts: int = PROMPTS) -> Outcome:
    """Tokens per second and megabytes, along the run."""
    parts: list[Part] = in_its_own_process("benchmarks.figures.many", lineup.threads, prompts)
    warm = [part for part in parts if part["done"] > WARM_SHARE * prompts]
    early, late = warm[: max(1, len(warm) // 4)], warm[-max(1, len(warm) // 4) :]
    before, after = (statistics.median(part["resident"] for part in some) for some in (early, late))
    samples = {
        RATE: [part["tokens"] / part["seconds"] for part in parts],
        MEMORY: [part["resident"] / 1e6 for part in parts],
    }
    goals = [
        Goal(what="memory at the end / after the start", found=after / before, high=1.01),
        Goal(what="errors", found=float(prompts - parts[-1]["done"]), high=0),
    ]
    notes: dict[str, str | float] = {
        "seconds in all": sum(part["seconds"] for part in parts),
        "tokens/s over all": sum(part["tokens"] for part in parts) / sum(part["seconds"] for part in parts),
        "MB more at the end, per thousand prompts": (after - before) / 1e6 / (prompts * 0.6 / 1000),
    }
    return Outcome(
        figure=FIGURE,
        unit=f"{prompts} prompts, {TOKENS} tokens each, {BATCH} in a pass, {len(parts)} values along the run",
        samples=samples,
        goals=goals,
        notes=notes,
    )


def measure(threads: int, n: int) -> list[Part]:
    """Do the work."""
    import fanlight
    from fanlight.jobs import Job

    model = fanlight.load(Lineup(threads=threads, rounds=1).gguf, threads=threads)
    config = model.settings(do_sample=False, candidates=0, ignore_eos=True, max_new_tokens=TOKENS)

    def jobs() -> Iterator[Job]:
        for i in range(n):
            things = [THINGS[(i // len(THINGS) ** k) % len(THINGS)] for k in range(4)]
            yield Job(i, f"Number {i}: the {things[0]}, the {things[1]}, the {things[2]} and the {things[3]}", config)

    parts: list[Part] = []
    done = tokens = 0
    start, step = time.perf_counter(), max(4 * BATCH, n // PARTS)  # texts of one length end sixteen at a time
    for i, outcome in enumerate(model.generate_each(jobs(), max_batch=BATCH), 1):
        if outcome.generation is not None:
            done += 1
            tokens += len(outcome.generation.ids)
        if i % step == 0 or i == n:
            now = time.perf_counter()
            parts.append({"done": done, "tokens": tokens, "seconds": now - start, "resident": resident_bytes()})
            start, tokens = now, 0
    return parts


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
