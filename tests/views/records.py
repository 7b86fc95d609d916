"""Records made by hand, from logits, for the tests of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log

from fanlight.kernels.ops import RowStats
from fanlight.trace.records import ProcessorEffect, StepRecord
from fanlight.trace.stop import Stop


def stats(logits: Sequence[float]) -> RowStats:
    kept = [logit for logit in logits if logit > -inf]
    top = max(kept)
    logsumexp = top + log(sum(exp(logit - top) for logit in kept))
    entropy = -sum(exp(logit - logsumexp) * (logit - logsumexp) for logit in kept)
    return RowStats(len(kept), top, logsumexp, entropy)


def record(
    probs: Sequence[float],
    *,
    chosen: int = 0,
    shown: int = 3,
    effects: Sequence[tuple[str, bool, Sequence[float]]] = (),
    stop: Stop | None = None,
) -> StepRecord:
    """Token i has probability probs[i], in descending order. effects: (label, removes, probabilities after it)."""
    rows = [[log(p) if p else -inf for p in row] for row in (probs, *(after for _, _, after in effects))]
    ids = list(range(min(shown, len(probs)))) + ([chosen] if chosen >= shown else [])
    made = tuple(
        ProcessorEffect(label, removes, stats(before), stats(after), tuple(after[i] for i in ids))
        for (label, removes, _), before, after in zip(effects, rows, rows[1:], strict=False)
    )
    return StepRecord(
        position=5,
        id=chosen,
        candidate_ids=tuple(ids),
        raw_logits=tuple(rows[0][i] for i in ids),
        raw=stats(rows[0]),
        effects=made,
        raw_rank=chosen,
        final_rank=sum(other > rows[-1][chosen] for other in rows[-1]),
        margin=None,
        eos_prob=probs[-1],
        stop=stop,
    )


def label(token: int) -> str:
    return f"␣tok{token}"
