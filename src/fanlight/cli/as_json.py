"""Records and generations as JSON: strictly valid, an infinite logit being null. In: objects of the API. Out: text."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from math import exp, isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.api import Generation, Step
    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import RowStats
    from fanlight.trace.records import StepRecord
    from fanlight.trace.stop import Stop


def dumps(value: Any) -> str:
    """One line of JSON; ASCII, so that no encoding can spoil it."""
    return json.dumps(value, allow_nan=False)


def config_json(config: GenerationConfig) -> dict[str, Any]:
    """Every setting by its name."""
    return {name: _plain(value) for name, value in config.values().items()}


def _plain(value: Any) -> Any:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def stop_json(stop: Stop) -> dict[str, Any]:
    """Why a text ended."""
    return {"reason": stop.reason.value, "detail": stop.detail, "token": stop.token, "string": stop.string}


def generation_json(result: Generation, *, model: str, prompt: str, load_seconds: float) -> dict[str, Any]:
    """A text with the account of every step."""
    return {
        "model": model,
        "prompt": prompt,
        "prompt_ids": list(result.prompt_ids),
        "text": result.text,
        "ids": list(result.ids),
        "stop": stop_json(result.stop),
        "seed": result.request_seed,
        "text_seed": result.seed,
        "config": config_json(result.config),
        "origins": dict(result.config.origins),
        "notes": list(result.notes),
        "usage": {"n_reused": result.usage.n_reused, "n_computed": result.usage.n_computed},
        **_more(result),
        "timings": {
            "load_seconds": load_seconds,
            "prefill_seconds": result.prefill_seconds,
            "decode_seconds": result.decode_seconds,
        },
        "steps": [step_json(step) for step in result.steps],
    }


def _more(result: Generation) -> dict[str, Any]:
    """What only some texts have."""
    found: dict[str, Any] = {}
    if result.score is not None:
        found["score"] = result.score
    if result.votes is not None:
        found |= {"answer": result.answer, "votes": result.votes}
    if result.speculation is not None:
        found["speculation"] = {**result.speculation._asdict(), "tokens_per_pass": result.speculation.tokens_per_pass}
    if result.search is not None:
        found["search"] = asdict(result.search)
    if result.others:
        found["others"] = [
            {
                "text": other.text,
                "ids": list(other.ids),
                "stop": stop_json(other.stop),
                "text_seed": other.seed,
                "steps": [step_json(step) for step in other.steps],
                **_more(other),
            }
            for other in result.others
        ]
    return found


def step_json(step: Step) -> dict[str, Any]:
    """One chosen token; its record too, if there is one."""
    head: dict[str, Any] = {"index": step.index, "id": step.id, "token": step.token, "text": step.text}
    if step.decision.guess is not None:
        head["guess"] = step.decision.guess._asdict()
    if step.decision.record is None:
        return head
    candidates = step.candidates
    found = record_json(step.decision.record, [candidate.text for candidate in candidates])
    for row, candidate in zip(found["candidates"], candidates, strict=True):
        if candidate.removal is not None:
            row["removed_by"], row["rule"] = candidate.removal.label, candidate.removal.rule
    return {**head, **found}


def record_json(record: StepRecord, texts: Sequence[str]) -> dict[str, Any]:
    """What a step saw. texts: of the candidates."""
    final_logits = record.final_logits
    return {
        "position": record.position,
        "raw_prob": record.candidates[record.candidate_ids.index(record.id)].raw_prob,
        "final_prob": record.candidates[record.candidate_ids.index(record.id)].final_prob,
        "raw_logprob": record.raw_logprob,
        "final_logprob": record.final_logprob,
        "raw_rank": record.raw_rank,
        "final_rank": record.final_rank,
        "margin": record.margin,
        "lead": record.lead,
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
                "raw_logit": _finite(candidate.raw_logit),
                "final_logit": _finite(final_logit),
                "raw_prob": candidate.raw_prob,
                "final_prob": candidate.final_prob,
                "noise": None if record.noise is None else record.noise[at],
            }
            for at, (candidate, text, final_logit) in enumerate(
                zip(record.candidates, texts, final_logits, strict=True)
            )
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
                "logits": [_finite(logit) for logit in effect.logits],
                "probs": [exp(logit - effect.after.logsumexp) for logit in effect.logits],
            }
            for effect in record.effects
        ],
    }


def _stats(stats: RowStats) -> dict[str, Any]:
    return {name: _finite(value) for name, value in stats._asdict().items()}


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
