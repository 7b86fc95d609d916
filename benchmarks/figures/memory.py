"""Peak memory of a process that loads the default model and fills a window of 1,024 tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import N_CTX, OURS, Q4_0, Q4_1, Lineup
from benchmarks.machine import ROOT
from benchmarks.peers.base import Peer

FIGURE = "memory"
PREFILLED, DECODED = 900, 100


def run(lineup: Lineup) -> Outcome:
    """Megabytes."""
    lineup.gguf_q4_0  # noqa: B018  # made now, not by the process that is measured
    samples = race({name: peak_of(name, lineup) for name in (OURS, Q4_1, Q4_0)}, 3, warm_up=0)
    goals = [
        ratio("times llama.cpp Q4_1", samples, OURS, Q4_1, high=1.0),
        ratio("times llama.cpp Q4_0", samples, OURS, Q4_0),
    ]
    return Outcome(
        figure=FIGURE, unit=f"MB, {PREFILLED} tokens in and {DECODED} out, n_ctx {N_CTX}", samples=samples, goals=goals
    )


def peak_of(name: str, lineup: Lineup) -> Callable[[int], float]:
    """Megabytes that a process of its own needs."""

    def measure_once(turn: int) -> float:
        ids = ",".join(map(str, lineup.window(turn, PREFILLED)))
        command = [sys.executable, "-m", "benchmarks.figures.memory", name, str(lineup.threads), ids]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise RuntimeError(f"memory of {name}: {found.stderr[-500:]}")
        return float(found.stdout) / 1e6

    return measure_once


def measure(name: str, threads: int, ids: Sequence[int]) -> int:
    """Do the work; this process's peak resident bytes."""
    lineup = Lineup(threads=threads, rounds=1)
    attributes = {OURS: "fanlight", Q4_1: "llama_q4_1", Q4_0: "llama_q4_0"}
    peer: Peer = getattr(lineup, attributes[name])
    peer.prefill(ids)
    peer.decode(DECODED)
    return peak_bytes()


def peak_bytes() -> int:
    """Of this process. ru_maxrss would count the parent as well: on Linux it survives exec, VmHWM does not."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (FileNotFoundError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), [int(token) for token in sys.argv[3].split(",")]))
