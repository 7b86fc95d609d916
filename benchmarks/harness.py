"""Alternating rounds -> samples -> medians, ratios, goals, a table and JSON lines. Knows no engine and no model.

Contenders of one figure run in one process, in turn, in an order that flips every round, so that a slow minute of the
machine falls on all of them; a run during which other programs used the processor is made again. What is compared is the
ratio within a round; its median and its range are reported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.quiet import undisturbed

Samples = Mapping[str, Sequence[float]]
"""Contender -> one value a round, in the order of the rounds."""

SETTLE_SECONDS = 0.05
"""A pause before each run, longer than any engine's idle threads spin: they must not take a core from the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure should reach, and what it reached."""

    what: str
    found: float
    low: float | None = None
    high: float | None = None
    spread: tuple[float, float] | None = None
    """Smallest and largest of the rounds, where `found` is their median."""

    @property
    def met(self) -> bool:
        """Whether `found` lies within the bounds."""
        return (self.low is None or self.found >= self.low) and (self.high is None or self.found <= self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One figure, measured."""

    figure: str
    unit: str
    samples: Samples
    goals: Sequence[Goal] = ()
    notes: Mapping[str, str | float] = field(default_factory=dict)


def race(contenders: Mapping[str, Callable[[int], float]], rounds: int, *, warm_up: int = 1) -> Samples:
    """Run each contender once a round; it gets the round's number and returns its value. Warm-up rounds are dropped."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + warm_up):
        names = list(contenders)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            time.sleep(SETTLE_SECONDS)
            value = undisturbed(partial(contenders[name], turn))
            if turn >= warm_up:
                samples[name].append(value)
        progress(f"round {max(0, turn - warm_up + 1)}/{rounds}")
    progress("")
    return samples


def ratio(
    what: str, samples: Samples, ours: str, theirs: str, *, low: float | None = None, high: float | None = None
) -> Goal:
    """The goal that ours / theirs, round by round, has its median within the bounds."""
    ratios = [a / b for a, b in zip(samples[ours], samples[theirs], strict=True)]
    return Goal(what=what, found=statistics.median(ratios), low=low, high=high, spread=(min(ratios), max(ratios)))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes, by the wall clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def progress(text: str) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def show(outcome: Outcome) -> None:
    """Print a figure: a line a contender, a line a goal."""
    print(f"\n{outcome.figure} ({outcome.unit})")
    for name, values in outcome.samples.items():
        print(f"  {name:<28} {number(statistics.median(values)):>9}   {number(min(values))} .. {number(max(values))}")
    for key, value in outcome.notes.items():
        print(f"  {key}: {value if isinstance(value, str) else number(value)}")
    for goal in outcome.goals:
        spread = f"   {number(goal.spread[0])} .. {number(goal.spread[1])}" if goal.spread else ""
        print(f"  {'ok    ' if goal.met else 'MISSED'} {goal.what}: {number(goal.found)} ({bounds(goal)}){spread}")


def save(outcome: Outcome, path: Path, *, others: float | None) -> None:
    """Append a figure to a file of JSON lines, with the command, date, machine and versions it was measured with."""
    line = asdict(outcome)
    for goal, kept in zip(outcome.goals, line["goals"], strict=True):
        kept["met"] = goal.met
    line["median"] = {name: statistics.median(values) for name, values in outcome.samples.items()}
    line["measured"] = describe_machine() | {"cores_busy_with_other_work": others}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def number(value: float) -> str:
    """Three or four digits that matter."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"


def bounds(goal: Goal) -> str:
    """A goal's bounds in words."""
    parts = [f">= {goal.low:g}"] if goal.low is not None else []
    parts += [f"<= {goal.high:g}"] if goal.high is not None else []
    return " and ".join(parts) or "no bound"
