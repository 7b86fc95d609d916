"""What the account of the steps costs: the whole call with a trace in memory, and in a file, against one without.

The file's size is that of a greedy text; a sampled text with penalties and filters, whose steps keep what each of them did, is
weighed too. The first trace of a loaded model reads its files for their fingerprint: the races begin after that, and a note says
how long it takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.harness import Goal, Outcome, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "recording"
PROMPT, TOKENS = 14, 128
OFF, MEMORY, FILE = "candidates=0", "trace=True", "trace=FILE"
BYTES = "bytes a token"
ONCE = "seconds more, once a loaded model, for its fingerprint"
MAX_SLOWER, MAX_BYTES = 1.05, 4096
SAMPLED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.02,
    "repetition_penalty": 1.1,
    "seed": 7,
}


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Seconds."""
    from fanlight.checkpoints.fingerprint import fingerprint

    texts: dict[int, tuple[int, ...]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "run.safetensors"

        def write(turn: int, **options: Any) -> float:
            prompt = list(lineup.window(turn, PROMPT))
            found: list[Any] = []
            greedy = {"do_sample": False, "ignore_eos": True, "max_new_tokens": tokens, **options}
            taken = seconds(lambda: found.append(lineup.model.generate(prompt, **greedy)))
            ids = found[0].ids
            if texts.setdefault(turn, ids) != ids or len(ids) != tokens:
                raise RuntimeError(f"recording: {options} changed the text of round {turn}")
            return taken

        def kept(turn: int) -> float:
            file.unlink(missing_ok=True)
            taken = write(turn, trace=file)
            return Measured(taken, {BYTES: file.stat().st_size / tokens})

        contenders: dict[str, Callable[[int], float]] = {
            OFF: lambda turn: write(turn, candidates=0),
            MEMORY: lambda turn: write(turn, trace=True),
            FILE: kept,
        }
        raced = race(contenders, 2 * lineup.rounds)
        samples = {name: plain(values) for name, values in raced.items()}
        sizes = {"greedy": seen(raced[FILE], BYTES), "sampled": [sampled(lineup, file, tokens)]}
    samples |= {f"{BYTES}, {what}": values for what, values in sizes.items()}
    goals = [
        ratio("time with a trace / without an account", samples, MEMORY, OFF, high=MAX_SLOWER),
        ratio("time with a trace in a file / without an account", samples, FILE, OFF, high=MAX_SLOWER),
        *(
            Goal(what=f"{BYTES}, {what}, the largest", found=max(values), high=MAX_BYTES)
            for what, values in sizes.items()
        ),
    ]
    unit = f"seconds of the whole call, {tokens} tokens after {PROMPT}"
    notes = {ONCE: seconds(lambda: fingerprint(lineup.gguf))}
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals, notes=notes)


def sampled(lineup: Lineup, file: Path, tokens: int) -> float:
    """Bytes a token where penalties, temperature and filters are on."""
    file.unlink(missing_ok=True)
    prompt = list(lineup.window(0, PROMPT))
    found = lineup.model.generate(prompt, ignore_eos=True, max_new_tokens=tokens, trace=file, **SAMPLED)
    return file.stat().st_size / len(found.ids)
