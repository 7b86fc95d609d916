"""By what rule a filter removed a token, in words and numbers. In: what the step recorded. Knows no processor's code.

Numbers are those of the row that the filter saw. Where a rule counts the tokens before one, the filter's own survivors count
exactly, and of the removed ones those that are recorded: "at least" where there may be more.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isinf, log
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanlight.trace.records import ProcessorEffect

LN2 = log(2)


KEEP_ORDER = ("temperature", "remove_invalid_values", "renormalize_logits", "log_softmax")
"""Processors that are no filters and leave every token where it stood among the others."""


class Ahead(NamedTuple):
    """What stands before a token in the row that a filter saw."""

    n: int
    """Tokens: those that the filter left, and the recorded ones that went too."""
    mass: float
    """Their probability."""
    is_all: bool
    """Whether there may be no others."""


def rule(effect: ProcessorEffect, logit: float, ahead: Ahead) -> str:
    """Why a token went. logit: its own, in the row that the filter saw."""
    name, value, stats = effect.name, effect.value, effect.before
    logprob = logit - stats.logsumexp
    prob = exp(logprob)
    more = "" if ahead.is_all else "at least "
    if name == "top_k":
        return f"top_k={value:g}: rank {more}{ahead.n + 1}"
    if name == "top_p":
        return f"top_p={value:g}: cumulative {more}{ahead.mass:.3f} before it"
    if name == "min_p":
        return f"min_p={value:g}: {_p(prob)} is below {value:g} of the largest, {_p(value * exp(stats.max - stats.logsumexp))}"
    if name == "epsilon_cutoff":
        return f"epsilon_cutoff={value:g}: {_p(prob)} is below it"
    if name == "eta_cutoff":
        eta = min(value, value**0.5 * exp(-stats.entropy))
        return f"eta_cutoff={value:g}: {_p(prob)} is below {_p(eta)} at an entropy of {stats.entropy:.2f}"
    if name == "top_a":
        return f"top_a={value:g}: {_p(prob)} is below {_p(value * exp(2 * (stats.max - stats.logsumexp)))}"
    if name == "top_n_sigma":
        return f"top_n_sigma={value:g}: its logit is {stats.max - logit:.2f} below the largest"
    if name == "typical_p":
        away = abs(-logprob - stats.entropy)
        return f"typical_p={value:g}: its surprise {-logprob:.2f} is {away:.2f} from the entropy"
    if name == "xtc":
        return f"xtc={value:g}: {_p(prob)} is above the threshold, and a less probable token is too"
    if name == "mirostat":
        return f"{effect.label}: a surprise of {-logprob / LN2:.2f} bits is too much"
    if name in ("top_h", "tfs"):
        return f"{name}={value:g}: cumulative {more}{ahead.mass:.3f} before it"
    if name in ("dola_layers", "contrastive_decoding"):
        return f"{effect.label}: {_p(prob)} is implausible beside the largest, {_p(exp(stats.max - stats.logsumexp))}"
    return f"{effect.label}: not allowed here"


def _p(prob: float) -> str:
    return f"{prob:.3g}"


def aheads(effect: ProcessorEffect, before: Sequence[float], ids: Sequence[int], is_all: bool) -> dict[int, Ahead]:
    """Of every candidate that this filter removed, by its place among them. before: the candidates' logits that the filter saw.

    is_all: whether every token that stands before one of them in that row is a candidate, or was left by the filter.
    """
    gone = [i for i, (was, now) in enumerate(zip(before, effect.logits, strict=True)) if isinf(now) and not isinf(was)]
    gone.sort(key=lambda i: (-before[i], ids[i]))
    n, mass, found = effect.after.n_kept, 1 - effect.removed_prob, {}
    for i in gone:
        found[i] = Ahead(n, mass, is_all)
        n, mass = n + 1, mass + exp(before[i] - effect.before.logsumexp)
    return found
