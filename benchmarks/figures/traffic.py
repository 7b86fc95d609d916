"""Requests that come over time, and how long each takes. In: a text's ids and a seed, a SlotsPeer. Out: when tokens came.

Lengths are drawn evenly on a logarithmic scale, gaps as a Poisson process has them (exponential), both by a fixed seed: the
schedule is the same in every round and for every engine; only the stretches of text are others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.figures.beside import Measured
from benchmarks.peers.base import SlotsPeer
from benchmarks.peers.llama_server import Ask

SEED = 20261127
PROMPTS, ANSWERS = (16, 384), (24, 128)
"""Tokens in and out, the smallest and the largest."""
MEAN_GAP_SECONDS = 0.05
FIRST, LAST_FIRST, EACH = "s to the first", "s, 95 % of firsts", "ms a token"


class Shape(NamedTuple):
    """One request of a schedule, before it has a text."""

    n_prompt: int
    n_new: int
    at: float


def schedule(n: int, *, mean_gap: float = MEAN_GAP_SECONDS, seed: int = SEED) -> list[Shape]:
    """n requests in the order in which they come, the first at 0 seconds."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(mean_gap, n)
    prompts, answers = (np.exp(rng.uniform(np.log(low), np.log(high), n)) for low, high in (PROMPTS, ANSWERS))
    at = np.concatenate([[0.0], np.cumsum(gaps[:-1])])
    return [Shape(round(p), round(a), float(t)) for p, a, t in zip(prompts, answers, at, strict=True)]


def with_texts(
    shapes: Sequence[Shape], windows: Callable[[int, Sequence[int]], list[Sequence[int]]], turn: int
) -> list[Ask]:
    """The requests of a round."""
    texts = windows(turn, [shape.n_prompt for shape in shapes])
    return [Ask(ids, shape.n_new, shape.at) for ids, shape in zip(texts, shapes, strict=True)]


def serve(peer: SlotsPeer, asks: Sequence[Ask]) -> list[list[float]]:
    """Submit each request when its time has come, and step until all have ended; when each one's tokens came, in seconds."""
    peer.clear()
    order = sorted(range(len(asks)), key=lambda i: asks[i].at)
    times: list[list[float]] = [[] for _ in asks]
    start = time.perf_counter()
    while order or peer.has_work:
        now = time.perf_counter() - start
        while order and asks[order[0]].at <= now:
            which = order.pop(0)
            peer.submit(which, asks[which].ids, asks[which].n_new)
        if not peer.has_work:
            time.sleep(max(0.0, asks[order[0]].at - now))
            continue
        chosen = peer.step()
        now = time.perf_counter() - start
        for key, _ in chosen:
            assert isinstance(key, int)
            times[key].append(now)
    return times


def summary(asks: Sequence[Ask], times: Sequence[Sequence[float]]) -> Measured:
    """Seconds until the last token of all; beside it how long a request waits for its first token, and for each further one."""
    first = [came[0] - ask.at for ask, came in zip(asks, times, strict=True)]
    each = [
        1000 * (came[-1] - came[0]) / (ask.n_new - 1) for ask, came in zip(asks, times, strict=True) if ask.n_new > 1
    ]
    beside = {
        FIRST: statistics.median(first),
        LAST_FIRST: float(np.percentile(first, 95)),
        EACH: statistics.median(each),
    }
    return Measured(max(came[-1] for came in times), beside)
