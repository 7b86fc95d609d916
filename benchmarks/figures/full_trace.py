"""Seconds to a full trace, against transformers with all its outputs and TransformerLens' run_with_cache, on the same weights.

A full trace is what `benchmarks.peers.seen` says: an account of every new token (20 candidates, rank, entropy), the attention
weights of all layers, heads and positions, the logit lens after every block (5 tokens, the chosen one's rank and log probability,
entropy). Two tasks: *written*, from a prompt to the text and its trace, each engine with its own greedy text; *given*, the trace
of a text that is there, the one that Fanlight wrote, the same for all.

transformers writes in both ways that its users have: one `generate` with output_attentions, output_hidden_states and
output_scores; or the text alone, then one pass over it. TransformerLens takes a text: where there is none, the time to write it
is counted. Both get the default model exported as float32 (transformers once more in bfloat16), and Fanlight runs the file as it
comes, and the float32 copy beside it. What the sides saw is compared afterwards, and reported.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.harness import Goal, Outcome, race, ratio
from benchmarks.lineup import OURS, Lineup
from benchmarks.peers.seen import Seen, TracePeer, agreement, check, n_same

FIGURE = "full-trace"
PROMPT, TOKENS = 14, 128
WRITTEN, GIVEN = "written", "given"
OURS_F32, HF, HF_BF16, HF_TWICE, LENS = (
    "fanlight float32",
    "transformers float32",
    "transformers bfloat16",
    "transformers float32, text first",
    "TransformerLens float32",
)
SAME = "tokens as Fanlight's"
TIMES = 10.0
"""How much sooner Fanlight should be."""
Task = Callable[[int], Seen]


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        return measure(peers_of(lineup, Path(scratch)), lineup.window, lineup.rounds, tokens)


def peers_of(lineup: Lineup, folder: Path) -> dict[str, TracePeer]:
    """By name. folder: where the float32 copy goes."""
    from benchmarks.peers.fanlight import Fanlight
    from benchmarks.peers.fanlight_trace import FanlightTrace
    from benchmarks.peers.transformer_lens import TransformerLens
    from benchmarks.peers.transformers_trace import TransformersTrace
    from fanlight import export

    export(lineup.gguf, folder / "float32", dtype="f32")
    copy, threads = folder / "float32", lineup.threads
    return {
        OURS: FanlightTrace(lineup.model, name=OURS),
        OURS_F32: FanlightTrace(Fanlight(copy, name=OURS_F32, threads=threads).model, name=OURS_F32),
        HF: TransformersTrace(copy, name=HF, threads=threads),
        HF_BF16: TransformersTrace(copy, name=HF_BF16, threads=threads, dtype="bfloat16"),
        LENS: TransformerLens(copy, name=LENS, threads=threads),
    }


def measure(
    peers: Mapping[str, TracePeer], window: Callable[[int, int], Sequence[int]], rounds: int, tokens: int
) -> Outcome:
    """Race the peers, on texts of this length."""
    texts: dict[int, tuple[int, ...]] = {}
    last: dict[str, Seen] = {}

    def prompt(turn: int) -> list[int]:
        return list(window(turn, PROMPT))

    def text(turn: int) -> tuple[int, ...]:
        if turn not in texts:
            texts[turn] = peers[OURS].write(prompt(turn), tokens).ids
        return texts[turn]

    def timed(name: str, task: Task) -> Callable[[int], float]:
        def measured(turn: int) -> float:
            expected = text(turn)
            start = time.perf_counter()
            found = task(turn)
            taken = time.perf_counter() - start
            check(found, n_prompt=PROMPT, n_new=tokens, name=name)
            last[name] = found
            return Measured(taken, {SAME: n_same(found.ids, expected)})

        return measured

    def writing(peer: TracePeer) -> Task:
        return lambda turn: peer.write(prompt(turn), tokens)

    def reading(peer: TracePeer) -> Task:
        return lambda turn: peer.read(prompt(turn), text(turn))

    tasks: dict[str, Task] = {}
    for name, peer in peers.items():
        tasks[f"{WRITTEN}: {name}"] = writing(peer)
        tasks[f"{GIVEN}: {name}"] = reading(peer)
    twice = getattr(peers[HF], "write_then_read")  # noqa: B009  # of this peer alone
    tasks[f"{WRITTEN}: {HF_TWICE}"] = lambda turn: twice(prompt(turn), tokens)
    raced = race({name: timed(name, task) for name, task in tasks.items()}, rounds)
    samples = {name: plain(values) for name, values in raced.items()}
    goals: list[Goal] = []
    for task in (WRITTEN, GIVEN):
        for name in (HF, HF_TWICE, HF_BF16, LENS):
            if (theirs := f"{task}: {name}") in samples:
                low = TIMES if name in (HF, LENS) else None
                goals.append(ratio(f"{task}: times sooner than {name}", samples, theirs, f"{task}: {OURS}", low=low))
        for name in (HF, LENS):
            what = f"{task}: in float32 too, times sooner than {name}"
            goals.append(ratio(what, samples, f"{task}: {name}", f"{task}: {OURS_F32}"))
    notes: dict[str, str | float] = {}
    for name in samples:
        if name.startswith(WRITTEN) and name != f"{WRITTEN}: {OURS}":
            notes[f"{name}: {SAME}, of {tokens}, median"] = statistics.median(seen(raced[name], SAME))
    for ours, theirs in ((OURS, HF), (OURS_F32, HF), (OURS_F32, LENS)):
        for what, value in agreement(last[f"{GIVEN}: {ours}"], last[f"{GIVEN}: {theirs}"]).items():
            notes[f"{ours} and {theirs}: {what}"] = value
    unit = f"seconds to a full trace, {tokens} tokens after {PROMPT}"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals, notes=notes)
