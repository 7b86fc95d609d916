"""Whether other programs used the processor during a measurement. Reads the operating system's clocks; knows no engine.

Engines whose threads spin at barriers become slower by factors when a core is taken from them, so a run that was
disturbed says nothing about any of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

MAX_SHARE = 0.1
"""Of one core. What others may take before a run counts as disturbed."""
MAX_TRIES = 6
STAT = Path("/proc/stat")


class Others:
    """Counts, from its creation on, the processor time that was not this process's nor its finished children's."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """Cores that others kept busy on average; None where the system does not tell."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (own_seconds() - self._own)
        return max(0.0, others / (time.perf_counter() - self._wall))


def undisturbed(measure: Callable[[], float]) -> float:
    """The value of the first run that nobody disturbed; after MAX_TRIES, that of the least disturbed one."""
    tries: list[tuple[float, float]] = []
    for _ in range(MAX_TRIES):
        others = Others()
        value = measure()
        share = others.share() or 0.0
        if share <= MAX_SHARE:
            return value
        tries.append((share, value))
    return min(tries)[1]


def own_seconds() -> float:
    """Processor time of this process, its threads, and its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def busy_seconds() -> float | None:
    """Processor time of all programs since the machine started, the host's other guests included; Linux only."""
    try:
        fields = STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
