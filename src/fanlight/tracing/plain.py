"""Records as plain values for JSON, where a number that is not finite is null. In: records and stops. Out: dicts. Knows no file."""

from __future__ import annotations

from math import exp, isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.kernels.ops import RowStats
    from fanlight.trace.records import StepRecord
    from fanlight.trace.stop import Stop


def stop_json(stop: Stop) -> dict[str, Any]:
    """Why a text ended."""
    return {"reason": stop.reason.value, "detail": stop.detail, "token": stop.token, "string": stop.string}


def record_json(record: StepRecord, texts: Sequence[str]) -> dict[str, Any]:
    """What a step saw. texts: of the candidates."""
    final_logits = record.final_logits
    candidates = record.candidates
    chosen = candidates[record.candidate_ids.index(record.id)]
    return {
        "position": record.position,
        "raw_prob": chosen.raw_prob,
        "final_prob": chosen.final_prob,
        "raw_logprob": finite(record.raw_logprob),
        "final_logprob": finite(record.final_logprob),
        "raw_rank": record.raw_rank,
        "final_rank": record.final_rank,
        "margin": None if record.margin is None else finite(record.margin),
        "lead": None if record.lead is None else finite(record.lead),
        "runner_up": record.runner_up,
        "tail_prob": record.tail_prob,
        "eos_prob": record.eos_prob,
        "final_eos_prob": record.final_eos_prob,
        "raw": _stats(record.raw),
        "final": _stats(record.final),
        "candidates": [
            {
                "id": candidate.id,
                "token": text,
                "raw_logit": finite(candidate.raw_logit),
                "final_logit": finite(final_logit),
                "raw_prob": candidate.raw_prob,
                "final_prob": candidate.final_prob,
                "noise": None if record.noise is None else finite(record.noise[at]),
            }
            for at, (candidate, text, final_logit) in enumerate(zip(candidates, texts, final_logits, strict=True))
        ],
        "effects": [
            {
                "label": effect.label,
                "removes": effect.removes,
                "n_before": effect.n_before,
                "n_kept": effect.n_kept,
                "removed_prob": effect.removed_prob,
                "entropy_before": effect.before.entropy,
                "entropy_after": effect.entropy_after,
                "logits": [finite(logit) for logit in effect.logits],
                "probs": [exp(logit - effect.after.logsumexp) for logit in effect.logits],
            }
            for effect in record.effects
        ],
    }


def with_removals(found: dict[str, Any], record: StepRecord) -> dict[str, Any]:
    """What `record_json` gave, each candidate that was removed with the processor that did it and its rule."""
    removals = record.removals()
    for row in found["candidates"]:
        removal = removals.get(row["id"])
        if removal is not None:
            row["removed_by"], row["rule"] = removal.label, removal.rule
    return found


def _stats(stats: RowStats) -> dict[str, Any]:
    return {name: finite(value) for name, value in stats._asdict().items()}


def finite(value: float) -> float | None:
    """The number; None if it is not finite."""
    return value if isfinite(value) else None
