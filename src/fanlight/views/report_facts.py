"""What the head of a page says of a Trace, in words. In: a Trace. Out: strings. Knows no HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import exp
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanlight.trace.header import Header
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

LONGEST_VALUE = 300
"""Signs of a setting's value."""


def facts_of(trace: Trace, records: Sequence[StepRecord]) -> dict[str, Any]:
    """For the page's data."""
    header = trace.header
    return {
        "title": title(trace),
        "facts": [list(fact) for fact in facts(trace, records)],
        "computedBy": [list(fact) for fact in computed_by(header)],
        "settings": [list(setting) for setting in settings(header)],
        "notes": notes(header),
        "trouble": trouble(header),
    }


def title(trace: Trace) -> str:
    """In a line: how many tokens of whom."""
    header = trace.header
    n = count(trace.n_steps, "token")
    return f"{n}, scored by {header.origin.model}" if header.is_given else f"{n} by {header.origin.model}"


def trouble(header: Header) -> str:
    """Why the text is not all that was to come; "": it is."""
    if header.complete:
        return ""
    return f"This trace is incomplete: {header.problem or 'the run was cut off'}. What follows did come."


def facts(trace: Trace, records: Sequence[StepRecord]) -> list[tuple[str, str]]:
    """What a reader asks first: name and value."""
    header = trace.header
    found = [("ended", str(header.stop))] if not header.is_given else []
    ppl = perplexity(records)
    if ppl is not None:
        found.append(("perplexity", number(ppl)))
        found.append(("mean entropy", f"{sum(r.raw_entropy for r in records) / len(records):.2f} nats"))
    if header.score is not None:
        found.append(("score", f"{header.score:.3f}"))
    if not header.is_given:
        found.append(("seed", str(header.seed)))
    if header.request_seed != header.seed and not header.is_given:
        found.append(("seed of the request", str(header.request_seed)))
    found.append(("prompt", count(len(trace.prompt_ids), "token") + _reused(header)))
    n_read = len(trace.prompt_ids) - header.n_reused
    if header.prefill_seconds > 0:
        found.append(("first token", f"{seconds(header.prefill_seconds)}{_rate(n_read, header.prefill_seconds)}"))
    if header.decode_seconds > 0 and trace.n_steps > 1:
        found.append(("decode", f"{seconds(header.decode_seconds)}{_rate(trace.n_steps - 1, header.decode_seconds)}"))
    if trace.search is not None:
        found.append(("search", f"{trace.search.kind}, {count(len(trace.search.nodes), 'node')}"))
    guesses = [record.guess for record in records if record.guess is not None]
    if guesses:
        right = sum(guess.right for guess in guesses)
        found.append(
            ("guessed ahead", f"{right} of {len(guesses)} right ({', '.join(sorted({g.drafter for g in guesses}))})")
        )
    if header.parent is not None:
        parent = header.parent
        found.append(("branch of", f"{parent.id} from step {parent.step} on: {parent.change}"))
    return found


def computed_by(header: Header) -> list[tuple[str, str]]:
    """What computed it: name and value."""
    o = header.origin
    sizes = (("n_layer", o.n_layer), ("n_head", o.n_head), ("n_vocab", o.n_vocab), ("n_ctx", o.n_ctx))
    found = [
        ("model", o.model),
        ("architecture", o.architecture),
        ("sizes", ", ".join(f"{name} {size:,}" for name, size in sizes if size)),
        ("fingerprint", o.fingerprint),
        ("kernels", o.kernels),
        ("weights", o.conversions),
        ("positions", o.rotation),
        ("cache", o.cache_type),
        ("with", ", ".join(header.helpers)),
        ("fanlight", o.fanlight),
        ("platform", o.platform),
        ("created", header.created),
        ("trace", header.id),
    ]
    return [(name, value) for name, value in found if value]


def settings(header: Header) -> list[tuple[str, str, str]]:
    """Those that are not the default's: name, value, where it came from."""
    rows = [(name, words(value), header.setting_origins.get(name, "")) for name, value in header.settings.items()]
    return [
        *rows,
        *((name, "code, which no file holds", "call") for name in header.unkept if name not in header.settings),
    ]


def notes(header: Header) -> list[str]:
    """The run's own, and what was asked for and cannot be had."""
    return [*header.notes, *(f"no {what}: {why}" for what, why in header.missing.items())]


def words(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, str):
        found = value
    else:
        try:
            found = json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError):
            found = str(dict(value)) if isinstance(value, Mapping) else str(value)
    return found if len(found) <= LONGEST_VALUE else found[: LONGEST_VALUE - 1] + "…"


def count(n: int, what: str) -> str:
    """ "1 token", "300 tokens"."""
    return f"{n:,} {what}" + ("s" if n != 1 else "")


def number(value: float) -> str:
    """Short: "4.06", "1,234"."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e7 else f"{value:.2e}"


def seconds(value: float) -> str:
    """ "3.2 ms", "1.24 s"."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _rate(n: int, time: float) -> str:
    return f", {n / time:,.0f} tokens/s" if n > 0 else ""


def _reused(header: Header) -> str:
    return f", {header.n_reused:,} known before" if header.n_reused else ""


def perplexity(records: Sequence[StepRecord]) -> float | None:
    """Of the text under the model itself; None: it has no token, or one that the model holds impossible."""
    if not records:
        return None
    mean = -sum(record.raw_logprob for record in records) / len(records)
    return exp(mean) if mean < 700 else None
