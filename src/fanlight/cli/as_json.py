"""Records and generations as JSON: strictly valid, an infinite logit being null. In: objects of the API. Out: text."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from fanlight.tracing.plain import finite, record_json, stop_json, with_removals

if TYPE_CHECKING:
    from fanlight.api import Generation, Step
    from fanlight.decoding.config import GenerationConfig

__all__ = ["config_json", "dumps", "generation_json", "record_json", "step_json", "stop_json"]


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
    return finite(value) if isinstance(value, float) else value


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
    record = step.decision.record
    texts = [candidate.text for candidate in step.candidates]
    return {**head, **with_removals(record_json(record, texts), record)}
