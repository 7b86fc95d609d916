"""By what rule a filter removed a token, in words and numbers. In: what the step recorded. Knows no processor's code.

Numbers are those of the row that the filter saw. Where a rule counts the tokens before one, the filter's own survivors count
exactly, and of the removed ones those that are recorded: "at least" where there may be more.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanlight.trace.records import ProcessorEffect

LN2 = log(2)


KEEP_ORDER = ("temperature", "remove_invalid_values", "renormalize_logits")
"""Processors that are no filters and leave every token where it stood among the others."""


def rule(
    effect: ProcessorEffect, before: Sequence[float], ids: Sequence[int], at: int, *, all_seen: bool = True
) -> str:
    """Why candidate number `at` went. before: the candidates' logits in the row that the filter saw.

    all_seen: every token that stands before it in that row is a candidate, or was left by the filter.
    """
    name, value, stats = effect.name, effect.value, effect.before
    logprob = before[at] - stats.logsumexp
    prob = exp(logprob)
    more = "" if all_seen else "at least "
    if name == "top_k":
        return f"top_k={value:g}: rank {more}{_n_before(effect, before, ids, at) + 1}"
    if name == "top_p":
        return f"top_p={value:g}: cumulative {more}{_mass_before(effect, before, ids, at):.3f} before it"
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
        return f"top_n_sigma={value:g}: its logit is {stats.max - before[at]:.2f} below the largest"
    if name == "typical_p":
        away = abs(-logprob - stats.entropy)
        return f"typical_p={value:g}: its surprise {-logprob:.2f} is {away:.2f} from the entropy"
    if name == "xtc":
        return f"xtc={value:g}: {_p(prob)} is above the threshold, and a less probable token is too"
    if name == "mirostat":
        return f"{effect.label}: a surprise of {-logprob / LN2:.2f} bits is too much"
    if name in ("top_h", "tfs"):
        return f"{name}={value:g}: cumulative {more}{_mass_before(effect, before, ids, at):.3f} before it"
    return f"{effect.label}: not allowed here"


def _p(prob: float) -> str:
    return f"{prob:.3g}"


def _removed_before(effect: ProcessorEffect, before: Sequence[float], ids: Sequence[int], at: int) -> list[float]:
    """Logits of the recorded tokens that stand before this one and went too."""
    minus_inf = -float("inf")
    mine = (-before[at], ids[at])
    return [
        logit
        for logit, token, now in zip(before, ids, effect.logits, strict=True)
        if now == minus_inf and logit > minus_inf and (-logit, token) < mine
    ]


def _n_before(effect: ProcessorEffect, before: Sequence[float], ids: Sequence[int], at: int) -> int:
    return effect.after.n_kept + len(_removed_before(effect, before, ids, at))


def _mass_before(effect: ProcessorEffect, before: Sequence[float], ids: Sequence[int], at: int) -> float:
    kept = exp(effect.after.logsumexp - effect.before.logsumexp)
    return kept + sum(exp(logit - effect.before.logsumexp) for logit in _removed_before(effect, before, ids, at))
