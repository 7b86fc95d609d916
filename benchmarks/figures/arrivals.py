"""Thirty-two unequal prompts that come over time: Fanlight against llama.cpp's server with as many slots.

Fanlight and one llama.cpp run within this process, through the same loop; llama.cpp's server is asked over HTTP by streaming
requests, as it is made to be used. It is started for each run, so that nothing runs beside the others, and answers a request in
every slot before the clock starts. Whether llama.cpp's sequences share a buffer is tried first, and the faster way raced.
Without a llama-server (see `peers/llama_server.py`) the loop stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from benchmarks.figures.beside import plain, seen
from benchmarks.figures.traffic import EACH, FIRST, LAST_FIRST, MEAN_GAP_SECONDS, schedule, serve, summary, with_texts
from benchmarks.harness import Goal, Outcome, race, ratio
from benchmarks.lineup import OURS, SLOT_CTX, SLOTS, Lineup
from benchmarks.machine import ROOT
from benchmarks.peers.llama_server import Ask, LlamaServer, find

FIGURE = "arrivals"
SERVER, LOOP = "llama-server", "llama.cpp in a loop"
TOTAL = "s in all"


def run(lineup: Lineup, n: int = SLOTS) -> Outcome:
    """Seconds."""
    shapes, kind, program = schedule(n), lineup.llama_best.kind, find(ROOT)

    def asks(turn: int) -> list[Ask]:
        return with_texts(shapes, lineup.windows, turn)

    heat: dict[bool, float] = {}
    for unified in (False, True):
        with closing(lineup.llama_slots(kind, n_slots=n, unified=unified)) as peer:
            heat[unified] = float(summary(asks(0), serve(peer, asks(0))))
    unified = heat[True] < heat[False]
    ours, theirs = lineup.fanlight_slots(n_slots=n), lineup.llama_slots(kind, n_slots=n, unified=unified)

    def over_http(turn: int) -> float:
        assert program is not None
        wanted = asks(turn)
        with LlamaServer(
            program, lineup.gguf_as(kind), threads=lineup.threads, n_slots=n, n_ctx=SLOT_CTX, unified=unified
        ) as server:
            server.ask([Ask(ids, 4) for ids in lineup.windows(turn + 1, [16] * n)])
            return summary(wanted, server.ask(wanted))

    contenders: dict[str, Callable[[int], float]] = {
        OURS: lambda turn: summary(asks(turn), serve(ours, asks(turn))),
        LOOP: lambda turn: summary(asks(turn), serve(theirs, asks(turn))),
    }
    if program is not None:
        contenders[SERVER] = over_http
    raced = race(contenders, lineup.rounds)
    theirs.close()
    samples: Mapping[str, list[float]] = {
        f"{name}: {what}": plain(values) if what == TOTAL else seen(values, what)
        for name, values in raced.items()
        for what in (TOTAL, FIRST, LAST_FIRST, EACH)
    }
    low = None if program is not None else 2.0
    goals: list[Goal] = []
    if program is not None:
        goals += [
            ratio("times llama-server", samples, f"{SERVER}: {TOTAL}", f"{OURS}: {TOTAL}", low=2.0),
            ratio("times sooner the first token", samples, f"{SERVER}: {FIRST}", f"{OURS}: {FIRST}"),
            ratio("times sooner each token", samples, f"{SERVER}: {EACH}", f"{OURS}: {EACH}"),
        ]
    goals.append(ratio("times llama.cpp in a loop", samples, f"{LOOP}: {TOTAL}", f"{OURS}: {TOTAL}", low=low))
    notes: dict[str, str | float] = {
        "heat with a buffer each, s": heat[False],
        "heat with one buffer, s": heat[True],
        "llama.cpp's type": f"{kind}, {'one buffer' if unified else 'a buffer each'}",
        "tokens in and out": f"{sum(s.n_prompt for s in shapes)}, {sum(s.n_new for s in shapes)}",
        "the last one comes after, s": shapes[-1].at,
        "llama-server": str(program.name) if program else "not found: make llama-server, or set LLAMA_SERVER",
    }
    unit = f"{n} requests, a mean gap of {MEAN_GAP_SECONDS:g} s, {n} slots"
    return Outcome(figure=FIGURE, unit=unit, samples=samples, goals=goals, notes=notes)
