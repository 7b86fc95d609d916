"""Time per token and memory as a text grows to the whole window: both should follow a straight line. Draws a picture of both.

Time is that of a decode step after so many tokens; memory that of a process of its own that reads a longer and longer prompt.
The line is the least-squares one through the medians; how far a point lies from it is a share of what the line says there.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures.resident import in_its_own_process, resident_bytes
from benchmarks.harness import Goal, Outcome, race, seconds
from benchmarks.lineup import Lineup
from benchmarks.machine import ROOT, cpu_name

FIGURE = "growth"
CONTEXTS = (128, 1024, 2048, 3072, 4096, 5120, 6144, 7168, 8128)
TOKENS = 16
PREFIX_BYTES = 1 << 30
PICTURE = ROOT / "benchmarks" / "results" / "context.png"
INK, BLUE, ORANGE = "#333333", "#0072B2", "#D55E00"  # Okabe and Ito's colours, told apart by everybody


class Line(NamedTuple):
    """y = start + slope * x, and how well that says it."""

    start: float
    slope: float
    furthest: float
    """The largest distance of a point from it, as a share of what it says there."""

    def at(self, x: float) -> float:
        """What it says."""
        return self.start + self.slope * x


def straight(x: Sequence[float], y: Sequence[float]) -> Line:
    """The least-squares line through at least two points."""
    slope, start = np.polyfit(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), 1)
    said = start + slope * np.asarray(x)
    return Line(float(start), float(slope), float(np.max(np.abs(np.asarray(y) - said) / np.abs(said))))


def run(lineup: Lineup, contexts: Sequence[int] = CONTEXTS, picture: Path = PICTURE) -> Outcome:
    """Milliseconds a token, and megabytes."""
    peer = lineup.fanlight_slots(n_slots=1, prefix_bytes=PREFIX_BYTES)

    def time_at(n: int) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            peer.begin(lineup.windows(0, [n]))
            took = seconds(lambda: peer.advance(TOKENS))
            peer.clear()
            return 1000 * took / TOKENS

        return measure

    timed = race({f"ms a token at {n}": time_at(n) for n in contexts}, lineup.rounds)
    resident = dict(in_its_own_process("benchmarks.figures.growth", lineup.threads, *contexts))
    samples = {**timed, **{f"MB at {n}": [resident[str(n)] / 1e6] for n in contexts}}
    times = [statistics.median(values) for values in timed.values()]
    memory = [resident[str(n)] / 1e6 for n in contexts]
    time_line, memory_line = straight(contexts, times), straight(contexts, memory)
    draw(contexts, timed, memory, (time_line, memory_line)).savefig(picture, dpi=150)
    goals = [
        Goal(what="time: furthest from a straight line", found=time_line.furthest, high=0.1),
        Goal(what="memory: furthest from a straight line", found=memory_line.furthest, high=0.1),
    ]
    notes: dict[str, str | float] = {
        "ms a token with an empty cache, by the line": time_line.start,
        "microseconds more for each thousand tokens": 1e6 * time_line.slope,
        "KB of memory for each token": 1000 * memory_line.slope,
        "picture": picture.name,
    }
    return Outcome(figure=FIGURE, unit=f"{TOKENS} tokens after so many", samples=samples, goals=goals, notes=notes)


def draw(contexts: Sequence[int], timed: Any, memory: Sequence[float], lines: tuple[Line, Line]) -> Any:
    """A matplotlib Figure: time with the range of its rounds, and memory, each with its line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    medians = [statistics.median(values) for values in timed.values()]
    below = [middle - min(values) for middle, values in zip(medians, timed.values(), strict=True)]
    above = [max(values) - middle for middle, values in zip(medians, timed.values(), strict=True)]
    left.errorbar(contexts, medians, yerr=[below, above], fmt="o", color=BLUE, capsize=3, label="median and range")
    left.set(title="Time", ylabel="milliseconds a token")
    right.plot(contexts, memory, "o", color=ORANGE, label="resident memory")
    right.set(title="Memory", ylabel="MB")
    for axes, line, colour in ((left, lines[0], BLUE), (right, lines[1], ORANGE)):
        ends = [0, max(contexts)]
        axes.plot(ends, [line.at(x) for x in ends], color=colour, alpha=0.5, linewidth=1.2, label="straight line")
        axes.set(xlabel="tokens in the cache", xlim=(0, 1.05 * ends[1]), ylim=(0, 1.12 * axes.get_ylim()[1]))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
    figure.suptitle(f"Decoding as the text grows: SmolLM2-135M on {cpu_name().split(' family')[0]}", color=INK)
    return figure


def measure(threads: int, contexts: Sequence[int]) -> list[tuple[str, int]]:
    """Read a prompt of each length, the shortest first, and a token after it; resident bytes while each is in the cache."""
    lineup = Lineup(threads=threads, rounds=1)
    peer = lineup.fanlight_slots(n_slots=1)
    found = []
    for n in sorted(contexts):
        peer.clear()
        gc.collect()  # a text that was begun and never ended goes with the garbage collector
        peer.begin(lineup.windows(0, [n]))
        found.append((str(n), resident_bytes()))
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), [int(n) for n in sys.argv[2:]])))
