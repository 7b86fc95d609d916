"""A folder of a thousand traces of a hundred steps: seconds until it answers, and until an answer is there.

The texts are sampled by the default model, TEXTS of them; each is in the folder COPIES times, under names of their own: what an
index does with a file does not depend on the others. Every file has been read before, so that the disk has no part in it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "trace-index"
PROMPT, TOKENS, TEXTS, COPIES = 14, 100, 100, 10
INDEX, REOPEN = "index a new folder", "open it again"
STEPS, TRACES, TABLE = "ask for steps", "ask for traces", "ask in SQL, over all steps"
FILES = "the same steps, file by file"
WHERE = "entropy > 4 and rank > 0"
SQL = "SELECT rank > 0 AS other, count(*), avg(entropy) FROM steps GROUP BY other"


def run(lineup: Lineup, texts: int = TEXTS, copies: int = COPIES, tokens: int = TOKENS) -> Outcome:
    """Seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        fill(lineup, folder, texts, copies, tokens)
        return measure(folder, lineup.rounds, n_traces=texts * copies, n_steps=texts * copies * tokens)


def fill(lineup: Lineup, folder: Path, texts: int, copies: int, tokens: int) -> None:
    """Write the traces."""
    folder.mkdir()
    prompts = [list(ids) for ids in lineup.windows(0, [PROMPT] * texts)]
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "ignore_eos": True, "max_new_tokens": tokens}
    written = lineup.model.generate_many(prompts, trace=f"{folder}/", seed=1, **sampled)
    for found in written:
        assert found.trace is not None
        assert found.trace.path is not None
        file = Path(found.trace.path)
        for copy in range(1, copies):
            shutil.copy(file, file.with_name(f"{file.stem}.{copy}{file.suffix}"))


def measure(folder: Path, rounds: int, *, n_traces: int, n_steps: int) -> Outcome:
    """Index the folder, and ask. n_traces, n_steps: what is in it."""
    from fanlight.tracing.files import SUFFIX, open_trace
    from fanlight.tracing.index import NAME, TraceIndex

    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) != n_traces:
        raise RuntimeError(f"trace-index: {folder} has {len(files)} traces, expected {n_traces}")
    answers: dict[str, int] = {}

    def index(turn: int) -> float:
        (folder / NAME).unlink(missing_ok=True)
        taken = seconds(lambda: TraceIndex(folder).close())
        with TraceIndex(folder) as found:
            if found.note or found.problems or len(found) != n_traces:
                raise RuntimeError(f"trace-index: {len(found)} traces, problems {found.problems}, {found.note}")
        return taken

    def ask(name: str) -> float:
        with TraceIndex(folder) as found:
            rows: list[Sequence[Any]] = []
            questions: dict[str, Callable[[], Sequence[Any]]] = {
                STEPS: lambda: found.steps(WHERE),
                TRACES: lambda: found.traces("perplexity > 10", order="perplexity desc"),
                TABLE: lambda: found.sql(SQL).rows,
            }
            taken = seconds(lambda: rows.append(questions[name]()))
            answers[name] = len(rows[0])
            return taken

    def file_by_file(turn: int) -> float:
        found: list[int] = []

        def read() -> None:
            for file in files:
                steps = open_trace(file).steps
                found.append(sum(record.raw_entropy > 4 and record.raw_rank > 0 for record in steps))

        taken = seconds(read)
        answers[FILES] = sum(found)
        return taken

    samples = race(
        {
            INDEX: index,
            REOPEN: lambda turn: seconds(lambda: TraceIndex(folder).close()),
            STEPS: lambda turn: ask(STEPS),
            TRACES: lambda turn: ask(TRACES),
            TABLE: lambda turn: ask(TABLE),
            FILES: file_by_file,
        },
        rounds,
    )
    if answers[STEPS] != answers[FILES]:
        raise RuntimeError(f"trace-index: {answers[STEPS]} steps with the index, {answers[FILES]} file by file")
    size = sum(file.stat().st_size for file in files)
    notes: dict[str, str | float] = {
        f"steps where {WHERE}": answers[STEPS],
        "traces with a perplexity above 10": answers[TRACES],
        "MB of traces": size / 1e6,
        "MB of the index": (folder / NAME).stat().st_size / 1e6,
    }
    goals = [
        ratio("steps: times sooner than file by file", samples, FILES, STEPS),
        ratio("building the index / reading file by file once", samples, INDEX, FILES),
    ]
    unit = f"seconds, {n_traces} traces, {n_steps} steps"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals, notes=notes)
