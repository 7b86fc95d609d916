"""Full traces from Fanlight through its public API: `generate(..., trace=...)` and `score(..., trace=...)`, as they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fanlight
from benchmarks.peers.seen import N_CANDIDATES, N_LENS, Readings, Seen
from fanlight.trace.options import TraceOptions

FULL: dict[str, Any] = {"lens": N_LENS, "attention": True, "queries": "all"}
SETTINGS: dict[str, Any] = {"do_sample": False, "ignore_eos": True, "candidates": N_CANDIDATES}


class FanlightTrace:
    """A loaded model that keeps no text between calls (prefix_bytes=0), or a second run would be a free one."""

    def __init__(self, model: fanlight.Model, *, name: str) -> None:
        """name: for the table."""
        self.name, self.model = name, model

    def write(self, prompt: Sequence[int], n_new: int) -> Seen:
        """As `TracePeer.write`."""
        trace = self.model.generate(list(prompt), max_new_tokens=n_new, trace=TraceOptions(**FULL), **SETTINGS).trace
        assert trace is not None
        return seen_in(trace)

    def read(self, prompt: Sequence[int], new: Sequence[int]) -> Seen:
        """As `TracePeer.read`."""
        return seen_in(self.model.score(list(new), prompt=list(prompt), trace=TraceOptions(**FULL), **SETTINGS))


def seen_in(trace: fanlight.Trace) -> Seen:
    """A trace in the form of all engines: its arrays as they are, its accounts in arrays too."""
    lens, attention, records = trace.lens, trace.attention, trace.steps
    assert lens is not None, trace.header.missing
    assert attention is not None, trace.header.missing
    top = slice(0, N_CANDIDATES)
    sums = np.array([record.raw.logsumexp for record in records])
    steps = Readings(
        ids=np.array([record.candidate_ids[top] for record in records]),
        logprobs=np.array([record.raw_logits[top] for record in records]) - sums[:, None],
        chosen_logprobs=np.array([record.raw_logprob for record in records]),
        chosen_ranks=np.array([record.raw_rank for record in records]),
        entropies=np.array([record.raw_entropy for record in records]),
    )
    return Seen(
        ids=trace.ids,
        steps=steps,
        lens=Readings(
            ids=lens.ids,
            logprobs=lens.logprobs,
            chosen_logprobs=lens.chosen_logprobs,
            chosen_ranks=lens.chosen_ranks,
            entropies=lens.entropies,
        ),
        attention=lambda: attention.weights,
    )
