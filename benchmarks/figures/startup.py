"""From the start of a process to its first token, tokenizer included, the file's pages in memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Goal, Outcome, race, ratio
from benchmarks.lineup import N_CTX, PROMPT, Lineup
from benchmarks.machine import ROOT

FIGURE = "startup"
FANLIGHT, LLAMA = "fanlight generate", "llama-cpp-python, Llama()"
LLAMA_SCRIPT = """
import sys
from llama_cpp import Llama
threads = int(sys.argv[3])
model = Llama(sys.argv[1], n_ctx=int(sys.argv[2]), n_threads=threads, n_threads_batch=threads, verbose=False)
for piece in model(sys.argv[4], max_tokens=1, temperature=0, stream=True):
    print(piece["choices"][0]["text"], flush=True)
"""


def run(lineup: Lineup) -> Outcome:
    """Seconds until the process has printed its one new token and ended."""
    command = Path(sys.executable).with_name("fanlight")
    ours = [command, "generate", "--model", lineup.gguf, "--threads", lineup.threads, "--max-new-tokens", 1, PROMPT]
    theirs = [sys.executable, "-c", LLAMA_SCRIPT, lineup.gguf, N_CTX, lineup.threads, PROMPT]
    samples = race(
        {FANLIGHT: lambda turn: until_printed(ours), LLAMA: lambda turn: until_printed(theirs)}, 2 * lineup.rounds
    )
    goals = [
        Goal(what="seconds", found=statistics.median(samples[FANLIGHT]), high=0.35),
        ratio("times llama-cpp-python's", samples, FANLIGHT, LLAMA, high=0.6),
    ]
    return Outcome(figure=FIGURE, unit="seconds", samples=samples, goals=goals)


def until_printed(command: Sequence[object]) -> float:
    """Seconds until a process prints the last of its output, which is the first new token."""
    start = time.perf_counter()
    last = start
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = b""
        while chunk := os.read(process.stdout.fileno(), 4096):
            if chunk.strip():
                last = time.perf_counter()
            printed += chunk
        error = process.stderr.read()
    if process.returncode != 0 or not printed.strip():
        raise RuntimeError(
            f"{command[0]} ended with {process.returncode}, {len(printed)} bytes printed: {error.decode()[-500:]}"
        )
    return last - start
