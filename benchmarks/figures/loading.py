"""How fast models of several kinds load, and how much memory a process needs for it. The files' pages are in memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures.gpt2_medium import write_random
from benchmarks.harness import Goal, Outcome, race, ratio
from benchmarks.lineup import Lineup
from benchmarks.machine import ROOT

FIGURE = "loading"
SHARDED, SHARDED_THEIRS = "GPT-2 medium F32 in shards, GB/s", "the same in transformers, GB/s"
TOUCH = "first touch of as much memory, GB/s"
DEFAULT, EIGHT_BITS = "default model, GB/s", "default model as Q8_0, GB/s"
DEFAULT_PEAK, SHARDED_PEAK = "default model, peak / file", "GPT-2 medium, peak / files"
OURS_SCRIPT = """
import sys, time
start = time.perf_counter()
import fanlight
fanlight.load(sys.argv[1], threads=int(sys.argv[2]))
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()
print(seconds, 1024 * int(status.split("VmHWM:")[1].split()[0]))
"""
TOUCH_SCRIPT = """
import pathlib, sys, time
import numpy
n = sum(file.stat().st_size for file in pathlib.Path(sys.argv[1]).glob("*.safetensors"))
start = time.perf_counter()
numpy.ones(n // 8)
print(time.perf_counter() - start, 0)
"""
THEIR_SCRIPT = """
import sys, time
import torch, transformers
torch.set_num_threads(int(sys.argv[2]))
start = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
sum(float(p.sum()) for p in model.parameters())  # else the file is only mapped
print(time.perf_counter() - start, 0)
"""


def run(lineup: Lineup) -> Outcome:
    """Bytes of the files a second, imports and tokenizer included; peak resident bytes over bytes of the files."""
    from fanlight import export

    with tempfile.TemporaryDirectory() as scratch:
        folder, q8 = Path(scratch) / "sharded", Path(scratch) / "q8_0.gguf"
        write_random(folder, "float32", max_shard_size="300MB")
        export(lineup.gguf, q8, dtype="q8_0")
        samples = dict(
            race(
                {
                    SHARDED: rate(OURS_SCRIPT, folder, lineup.threads),
                    TOUCH: rate(TOUCH_SCRIPT, folder, lineup.threads),
                    SHARDED_THEIRS: rate(THEIR_SCRIPT, folder, lineup.threads),
                    DEFAULT: rate(OURS_SCRIPT, lineup.gguf, lineup.threads),
                    EIGHT_BITS: rate(OURS_SCRIPT, q8, lineup.threads),
                },
                lineup.rounds,
            )
        )
        samples[DEFAULT_PEAK] = [peak(lineup.gguf, lineup.threads) for _ in range(3)]
        samples[SHARDED_PEAK] = [peak(folder, lineup.threads) for _ in range(3)]
    goals = [
        Goal(
            what="GB/s of a sharded float checkpoint",
            found=sorted(samples[SHARDED])[len(samples[SHARDED]) // 2],
            low=1.0,
        ),
        ratio("times a first touch of the memory", samples, SHARDED, TOUCH),
        ratio("times transformers'", samples, SHARDED, SHARDED_THEIRS),
        Goal(what="peak over file, default model", found=max(samples[DEFAULT_PEAK]), high=1.3),
        Goal(what="peak over files, sharded", found=max(samples[SHARDED_PEAK]), high=1.3),
    ]
    return Outcome(figure=FIGURE, unit="process of its own for each load", samples=samples, goals=goals)


def rate(script: str, model: Path, threads: int) -> Callable[[int], float]:
    """GB/s of a load in a new process."""

    def measure(turn: int) -> float:
        size = touch(model)
        return size / load(script, model, threads)[0] / 1e9

    return measure


def peak(model: Path, threads: int) -> float:
    """Peak resident memory while loading, over the size of the files; Python with NumPy and the tokenizer included."""
    size = touch(model)
    return load(OURS_SCRIPT, model, threads)[1] / size


def load(script: str, model: Path, threads: int) -> tuple[float, int]:
    """Seconds and peak bytes of one load."""
    command = [sys.executable, "-c", script, str(model), str(threads)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise RuntimeError(f"loading {model}: {found.stderr[-500:]}")
    seconds, peak_bytes = found.stdout.split()[-2:]
    return float(seconds), int(peak_bytes)


def touch(model: Path) -> int:
    """Read the weights once, so that they are in memory; their size."""
    files = [model] if model.is_file() else sorted(model.glob("*.safetensors"))
    total = 0
    for file in files:
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 22):
                total += len(chunk)
    return total
