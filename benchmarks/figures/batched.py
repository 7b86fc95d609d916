"""Several sequences in one pass: tokens per second of 1 to 32 of them, against one alone and against llama.cpp's batches.

llama.cpp runs on the type of the same model that it is fastest with here (`best_type.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import OURS, SLOTS, Lineup
from benchmarks.peers.base import BatchPeer

FIGURE = "batched"
SIZES = (1, 2, 4, 8, 16, 32)
PROMPT, TOKENS = 14, 64
LLAMA = "llama.cpp"


def run(lineup: Lineup, sizes: tuple[int, ...] = SIZES, tokens: int = TOKENS) -> Outcome:
    """Tokens per second of all sequences together."""
    best = lineup.llama_best
    ours = lineup.fanlight_slots()
    theirs = lineup.llama_slots(best.kind, n_slots=SLOTS, unified=best.unified)
    peers: dict[str, BatchPeer] = {OURS: ours, LLAMA: theirs}
    contenders = {f"{name} x {n}": _rate(lineup, peer, n, tokens) for n in sizes for name, peer in peers.items()}
    samples = race(contenders, lineup.rounds)
    theirs.close()
    goals = []
    for n in sizes:
        mine = f"{OURS} x {n}"
        if n > 1:
            goals.append(ratio(f"{n} sequences: times one", samples, mine, f"{OURS} x 1", low=4 if n == 8 else None))
        low = 2.5 if n == 8 else None
        goals.append(ratio(f"{n} sequences: times llama.cpp", samples, mine, f"{LLAMA} x {n}", low=low))
    kind = f"{best.kind}, {'one buffer' if best.unified else 'a buffer each'}"
    notes = {"llama.cpp's type": kind, **best.notes()}
    unit = f"tokens/s, {tokens} tokens each after {PROMPT}"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals, notes=notes)


def _rate(lineup: Lineup, peer: BatchPeer, n: int, tokens: int) -> Callable[[int], float]:
    def measure(turn: int) -> float:
        peer.begin(lineup.windows(turn, [PROMPT] * n))
        return n * tokens / seconds(lambda: peer.advance(tokens))

    return measure
