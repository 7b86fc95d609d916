"""Measures of texts as sequences of tokens: perplexity, distinct-n, repetition, loops, Self-BLEU. Knows no model and no record.

A token is anything that can be hashed; here it is the model's own id, so that no language needs a word splitter of its own. None
means that there is nothing to measure: no text, no n-gram.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import exp, fsum, log, sqrt
from typing import NamedTuple

Tokens = Sequence[Hashable]
BLEU_ORDER = 4
MISSING = 0.1
"""What counts as the number of matches where no n-gram of an order matches: smoothing 1 of Chen and Cherry 2014."""
LONGEST_UNIT = 256
"""Tokens: a loop whose part is longer is not looked for."""


class Loop(NamedTuple):
    """A part of a text that follows itself."""

    start: int
    """The index of its first token."""
    unit: int
    """Tokens of the part that is repeated."""
    n_tokens: int
    """Tokens of the whole run, an unfinished last repetition counted."""

    @property
    def repeats(self) -> float:
        """How often the part stands there, 2 or more."""
        return self.n_tokens / self.unit


class Spread(NamedTuple):
    """A mean over several things, and how far to trust it."""

    mean: float
    error: float | None
    """The standard error: the sample's standard deviation over the square root of n; None below two things."""
    n: int


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[Hashable, ...]]:
    """Every run of n tokens, and how often it comes."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def perplexity(logprobs: Sequence[float]) -> float | None:
    """exp of minus the mean log-probability (nats) of the tokens that were written."""
    return exp(-fsum(logprobs) / len(logprobs)) if logprobs else None


def distinct(texts: Iterable[Tokens], n: int) -> float | None:
    """Distinct-n: different n-grams over all n-grams of the texts together, above 0 and at most 1.

    Source: Li et al. 2016, who divide by the number of tokens; by the number of n-grams, 1 means that none comes twice. It falls
    with the length and the number of the texts: compare what has as much text.
    """
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(text, n))
    return len(counts) / counts.total() if counts else None


def repetition(tokens: Tokens, n: int = 4) -> float | None:
    """seq-rep-n: the share of n-grams that came before in the same text, 0..1. Source: Welleck et al. 2020."""
    found = distinct([tokens], n)
    return None if found is None else 1 - found


def longest_loop(tokens: Tokens) -> Loop | None:
    """The longest run in which a part follows itself at least once, with the shortest part that explains it; None: there is none.

    Of equals, the one with the shorter part, then the earlier one. Parts of up to LONGEST_UNIT tokens are looked for.
    """
    best: Loop | None = None
    size = len(tokens)
    for unit in range(1, min(LONGEST_UNIT, size // 2) + 1):
        run = 0
        for i in range(unit, size + 1):
            if i < size and tokens[i] == tokens[i - unit]:
                run += 1
                continue
            if run >= unit and (best is None or run + unit > best.n_tokens):
                best = Loop(i - run - unit, unit, run + unit)
            run = 0
    return best


def self_bleu(texts: Sequence[Tokens], order: int = BLEU_ORDER) -> float | None:
    """Self-BLEU: the mean BLEU of every text against all the others, 0..1; 1: they are all the same. Source: Zhu et al. 2018.

    BLEU is Papineni et al.'s of 2002, with n-grams of 1 to `order`: matches clipped by the reference that has most, the geometric
    mean of the precisions, the penalty for being shorter than the reference next in length. An order without a match counts as
    MISSING matches, a text without any common token as 0; orders longer than the text are left out. An empty text is like
    another empty one, and like nothing else.
    """
    if len(texts) < 2:
        return None
    most = [_two_most(texts, n) for n in range(1, order + 1)]
    lengths = [len(text) for text in texts]
    scores = []
    for i, text in enumerate(texts):
        others = lengths[:i] + lengths[i + 1 :]
        if not text:
            scores.append(float(0 in others))
            continue
        logs = []
        for n in range(1, min(order, len(text)) + 1):
            counts = ngrams(text, n)
            matches = sum(min(count, most[n - 1][gram].beside(i)) for gram, count in counts.items())
            if n == 1 and not matches:
                break
            logs.append(log((matches or MISSING) / counts.total()))
        if not logs:
            scores.append(0.0)
            continue
        nearest = min(others, key=lambda length: (abs(length - len(text)), length))
        penalty = min(0.0, 1 - nearest / len(text))
        scores.append(exp(penalty + fsum(logs) / len(logs)))
    return fsum(scores) / len(scores)


class _Most(NamedTuple):
    """How often an n-gram comes in the text that has most of it, and in the next."""

    first: int
    owner: int
    second: int

    def beside(self, text: int) -> int:
        """The most in any other text."""
        return self.second if text == self.owner else self.first


def _two_most(texts: Sequence[Tokens], n: int) -> dict[tuple[Hashable, ...], _Most]:
    found: dict[tuple[Hashable, ...], _Most] = {}
    for i, text in enumerate(texts):
        for gram, count in ngrams(text, n).items():
            old = found.get(gram)
            if old is None:
                found[gram] = _Most(count, i, 0)
            elif count > old.first:
                found[gram] = _Most(count, i, old.first)
            elif count > old.second:
                found[gram] = old._replace(second=count)
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return fsum(there) / len(there) if there else None


def spread(values: Iterable[float | None]) -> Spread | None:
    """The mean of those that are there, with its standard error."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    n, middle = len(there), fsum(there) / len(there)
    if n == 1:
        return Spread(middle, None, 1)
    variance = fsum((value - middle) ** 2 for value in there) / (n - 1)
    return Spread(middle, sqrt(variance / n), n)


def parting(mine: Tokens, theirs: Tokens) -> int | None:
    """The index of the first token at which two texts part, be it that one of them has ended; None: they are the same."""
    for i, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a != b:
            return i
    return None if len(mine) == len(theirs) else min(len(mine), len(theirs))


def frontier(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """The Pareto frontier of (cost, gain): the indices of the points that no other betters, the cheapest first.

    A point betters another if it costs no more and gains no less, and is not the same in both. None: a point that was not
    measured, which betters nothing.
    """
    known = [(point, i) for i, point in enumerate(points) if point is not None]
    found: list[int] = []
    best_gain, best_cost = float("-inf"), float("-inf")
    for (cost, gain), i in sorted(known, key=lambda item: (item[0][0], -item[0][1], item[1])):
        if gain > best_gain or (gain == best_gain and cost == best_cost):
            found.append(i)
            best_gain, best_cost = gain, cost
    return found
