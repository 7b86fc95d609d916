"""Two traces side by side: `diff(a, b) -> Difference`. Knows no model and no terminal; `str()` of it is an account in words.

Where both texts are the same before a step, both models were asked the same there: their logprobs are compared up to and with the
first step that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.trace.header import Origin

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

SHOWN_TEXT = 60
Pair = tuple[Any, Any]


class Chosen(NamedTuple):
    """What one trace chose at a step, and how probable that was in both; None: that step did not record the token."""

    id: int
    label: str
    """On one line, spaces visible."""
    prob_in_a: float | None
    """Raw, as the model had it."""
    prob_in_b: float | None
    final_prob_in_a: float | None
    final_prob_in_b: float | None


class Parting(NamedTuple):
    """The first step that differs. None: that text had ended."""

    step: int
    a: Chosen | None
    b: Chosen | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs; a pair is what a has and what b has."""

    ids: tuple[str, str]
    """Of the traces."""
    texts: tuple[str, str]
    n_steps: tuple[int, int]
    prompts: Pair | None
    """None: the same, id for id."""
    seeds: Pair | None
    settings: Mapping[str, Pair]
    """Those that differ; one that is not set counts with its default."""
    origins: Mapping[str, Pair]
    """What of model, kernels, version and platform differs."""
    parting: Parting | None
    """None: the same tokens to the end."""
    n_compared: int
    """Steps with the same text before them, whose distributions can be compared."""
    largest_difference: float
    """Of the raw logprobs of tokens that both recorded, over these steps, in nats."""
    largest_at: int | None
    """The step where that is; None: all are equal."""
    bit_equal: bool
    """All numbers of the raw rows that both recorded are the same, bit for bit."""

    @property
    def same_request(self) -> bool:
        """The same prompt, settings and seed."""
        return self.prompts is None and self.seeds is None and not self.settings

    @property
    def same_text(self) -> bool:
        """The same tokens."""
        return self.parting is None and self.prompts is None

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def diff(a: Trace, b: Trace) -> Difference:
    """Compare two traces: what was asked, what computed it, where the texts part, and how far apart the distributions were."""
    prompts = (a.header.prompt, b.header.prompt) if a.prompt_ids != b.prompt_ids else None
    seeds = (a.header.seed, b.header.seed) if a.header.seed != b.header.seed else None
    parting = _parting(a, b)
    n_compared, largest, at, bit_equal = (0, 0.0, None, True) if prompts else _compared(a, b, parting)
    return Difference(
        ids=(a.id, b.id),
        texts=(a.text, b.text),
        n_steps=(a.n_steps, b.n_steps),
        prompts=prompts,
        seeds=seeds,
        settings=_settings(a.header.settings, b.header.settings),
        origins={
            field.name: pair
            for field in fields(Origin)
            if (pair := (getattr(a.header.origin, field.name), getattr(b.header.origin, field.name)))[0] != pair[1]
        },
        parting=parting,
        n_compared=n_compared,
        largest_difference=largest,
        largest_at=at,
        bit_equal=bit_equal,
    )


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    from fanlight.decoding.config import DEFAULTS

    names = dict.fromkeys((*a, *b))
    pairs = {
        name: (a.get(name, DEFAULTS.get(name)), b.get(name, DEFAULTS.get(name))) for name in names if name != "seed"
    }
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def _parting(a: Trace, b: Trace) -> Parting | None:
    shorter = min(a.n_steps, b.n_steps)
    step = next((i for i in range(shorter) if not _same_token(a, a.ids[i], b, b.ids[i])), shorter)
    if step == a.n_steps == b.n_steps:
        return None
    return Parting(step, _chosen(a, a, b, step), _chosen(b, a, b, step))


def _same_token(a: Trace, token: int, b: Trace, other: int) -> bool:
    """Of models with vocabularies of their own, an id may stand for something else."""
    return token == other and a.token_bytes(token) == b.token_bytes(other)


def _chosen(of: Trace, a: Trace, b: Trace, step: int) -> Chosen | None:
    if step >= of.n_steps:
        return None
    token = of.ids[step]
    probs = [_probs(trace, step, token, of) for trace in (a, b)]
    return Chosen(token, of.token_label(token), probs[0][0], probs[1][0], probs[0][1], probs[1][1])


def _probs(trace: Trace, step: int, token: int, of: Trace) -> tuple[float | None, float | None]:
    """Raw and final, of a token of another trace."""
    if step >= trace.n_steps or not _same_token(trace, token, of, token):
        return None, None
    record = trace.steps[step]
    if token not in record.candidate_ids:
        return None, None
    logprobs = record.logprobs(token)
    return exp(logprobs[0]), exp(logprobs[-1])


def _compared(a: Trace, b: Trace, parting: Parting | None) -> tuple[int, float, int | None, bool]:
    """How many steps were compared, the largest difference and where it is, whether all bits are the same."""
    n = min(a.n_steps, b.n_steps, a.n_steps if parting is None else parting.step + 1)
    largest, at, bit_equal = 0.0, None, True
    for step in range(n):
        one, other = a.steps[step], b.steps[step]
        away, same = _apart(one, other, {token for token in one.candidate_ids if _same_token(a, token, b, token)})
        bit_equal = bit_equal and same
        if away > largest:
            largest, at = away, step
    return n, largest, at, bit_equal


def _apart(a: StepRecord, b: StepRecord, tokens: set[int]) -> tuple[float, bool]:
    """The largest difference of raw logprobs of these tokens, where both recorded them; whether the raw rows are the same."""
    ours = {token: logit for token, logit in zip(a.candidate_ids, a.raw_logits, strict=True) if token in tokens}
    theirs = dict(zip(b.candidate_ids, b.raw_logits, strict=True))
    pairs = [(logit, theirs[token]) for token, logit in ours.items() if token in theirs]
    away = [
        0.0
        if one == other and a.raw.logsumexp == b.raw.logsumexp
        else abs(one - a.raw.logsumexp - other + b.raw.logsumexp)
        for one, other in pairs
        if one == other or (abs(one) < float("inf") and abs(other) < float("inf"))
    ]
    same = a.raw == b.raw and all(one == other for one, other in pairs)
    return max((x for x in away if x == x), default=0.0), same


# -- in words ----------------------------------------------------------------------------------------------------------


def _lines(d: Difference) -> list[str]:
    lines = [
        f"a: {d.ids[0]}, {_tokens(d.n_steps[0])}: {_cut(d.texts[0])}",
        f"b: {d.ids[1]}, {_tokens(d.n_steps[1])}: {_cut(d.texts[1])}",
    ]
    if d.same_request:
        lines.append("The same request: prompt, settings and seed.")
    else:
        if d.prompts:
            lines.append(f"Prompts differ: {_cut(d.prompts[0])} and {_cut(d.prompts[1])}.")
        lines += [f"{name}: {one!r:.80} and {other!r:.80}" for name, (one, other) in d.settings.items()]
        if d.seeds:
            lines.append(f"seed: {d.seeds[0]} and {d.seeds[1]}")
    lines += [f"{name}: {one!r:.80} and {other!r:.80}" for name, (one, other) in d.origins.items()]
    if not d.origins:
        lines.append("The same model, kernels and version.")
    lines += _about_parting(d)
    if d.n_compared:
        lines.append(_about_numbers(d))
    return lines


def _about_parting(d: Difference) -> list[str]:
    if d.parting is None:
        return ["The same tokens" + (", after different prompts." if d.prompts else " to the end.")]
    step, a, b = d.parting
    same = "No token is the same before it" if step == 0 else f"The first {_tokens(step)} are the same"
    lines = [f"{same if step != 1 else 'The first token is the same'}; step {step} differs:"]
    for name, chosen in (("a", a), ("b", b)):
        if chosen is None:
            lines.append(f"  {name} had ended")
            continue
        raw = f"{_prob(chosen.prob_in_a)} in a, {_prob(chosen.prob_in_b)} in b"
        final = f"{_prob(chosen.final_prob_in_a)} and {_prob(chosen.final_prob_in_b)}"
        lines.append(f"  {name} chose {chosen.label!r} ({chosen.id}): {raw}; after all processors {final}")
    return lines


def _about_numbers(d: Difference) -> str:
    where = f"over {d.n_compared} step{'s' if d.n_compared != 1 else ''} with the same text before them"
    if d.bit_equal:
        return f"The model's own distributions are equal bit for bit, {where}."
    if d.largest_at is None:
        return f"The recorded logprobs are equal, {where}; sums over the whole rows are not."
    return f"The model's own logprobs differ by up to {d.largest_difference:.3g} nats (step {d.largest_at}), {where}."


def _prob(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:.3g}"


def _tokens(n: int) -> str:
    return f"{n} token" if n == 1 else f"{n} tokens"


def _cut(text: str | None) -> str:
    if text is None:
        return "(ids)"
    return repr(text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…")
