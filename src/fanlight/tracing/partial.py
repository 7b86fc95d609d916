"""A logits row of which only a part is known: what can be said of it all the same. Knows no model, no text and no processor.

In: the logits of some tokens; of the others (the tail) a bound for each, how many they are, and how probable together.
Whatever the tail really is, what is said holds: a token that `must` be there is there, one that is neither stored nor in the
tail is not, and no tail token exceeds its bound.

Of a sum of p^a over a tail of n tokens with a known sum of p and a bound on each, the extremes are: all equal, and all at the
bound (Jensen; p^a is convex for a > 1, concave for a < 1). So temperatures, and cuts that compare with a sum, have bounds too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, log1p
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.kernels.ops import RowStats

SLACK = 1e-6
"""Relative: more than the kernels' sums (2e-7 on rows of all kinds), or float32 logits that are divided, are ever off."""


class Open(Exception):
    """What is not stored could decide here; says how."""


class Interval(NamedTuple):
    """Two numbers with the true one between them."""

    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether there is nothing between them."""
        return self.low == self.high


NOTHING = Interval(-inf, -inf)


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A row of n_vocab logits, partly known. Immutable."""

    row: NDArray[np.float32]
    """Of stored tokens their logit, of tail tokens a bound that they do not exceed; -inf: not there."""
    stored: NDArray[np.bool_]
    must: NDArray[np.bool_]
    """Stored tokens that are there for certain."""
    n: int = 0
    """Tail tokens that may be there, at most."""
    counts: bool = True
    """Whether exactly n of them are there."""
    mass: Interval = NOTHING
    """Logarithm of the sum of exp(logit) over the tail."""
    close: NDArray[np.float32] | None = None
    """Bounds for the tail tokens that are among the first n_close of the order, where these are lower."""
    n_close: int = 0
    stats: RowStats | None = None
    """Sums over the true row, where they are known."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Stored tokens that may be there."""
        return self.stored & (self.row > -inf)

    @property
    def tail(self) -> NDArray[np.bool_]:
        """Other tokens that may be there."""
        return ~self.stored & (self.row > -inf)

    @property
    def is_certain(self) -> bool:
        """Whether of every stored token it is known if it is there."""
        return bool((self.must == self.present).all())

    @property
    def is_exact(self) -> bool:
        """Whether the row is what it says."""
        return self.n == 0 and self.is_certain

    @property
    def largest(self) -> Interval:
        """The largest logit."""
        must = self.row[self.must]
        return Interval(float(must.max()) if len(must) else -inf, float(self.row.max()))

    @property
    def logsumexp(self) -> Interval:
        """Over all that are there."""
        if self.stats is not None:
            return Interval(self.stats.logsumexp, self.stats.logsumexp)
        low = added(logsumexp_of(self.row[self.must]), self.mass.low)
        high = added(logsumexp_of(self.row[self.present]), self.mass.high)
        return Interval(low - SLACK, high + SLACK) if self.n or low != high else Interval(low, high)

    @property
    def mean(self) -> Interval:
        """Expected logit under the softmax. Raises Open."""
        if self.stats is not None:
            exact = self.stats.logsumexp - self.stats.entropy
            return Interval(exact - SLACK * (1 + abs(exact)), exact + SLACK * (1 + abs(exact)))
        if not self.is_certain:
            raise Open("it is not certain which of the stored tokens are left")
        top = float(self.row.max())
        shifted = self.row[self.present].astype(np.float64) - top
        weights = np.exp(shifted)
        total, known = float(weights.sum()), float(weights @ shifted)
        if not self.n:
            return Interval(top + known / total, top + known / total)
        less, more = exp(self.mass.low - top), exp(self.mass.high - top)
        if not total + less > 0:
            raise Open("it is not certain that any token is left that is stored")
        bound = float(self.row[self.tail].max()) - top
        flattest = min(more, self.n / np.e)  # p log(p / n) falls up to there
        low = (known + flattest * log(max(flattest, 1e-300) / self.n)) / (total + less)
        high = (known + less * bound) / (total + more)
        slack = SLACK * (1 + abs(top))
        return Interval(top + low - slack, top + high + slack)

    @property
    def entropy(self) -> Interval:
        """Raises Open."""
        if self.stats is not None:
            return Interval(self.stats.entropy, self.stats.entropy)
        sums, mean = self.logsumexp, self.mean
        return Interval(max(0.0, sums.low - mean.high), sums.high - mean.low)

    @property
    def deviation(self) -> Interval:
        """Standard deviation of the logits left: what is not stored may lie as low as it likes, so that it has no upper limit."""
        logits = self.row[self.present].astype(np.float64)
        if self.is_exact:
            exact = float(logits.std())
            return Interval(exact, exact)
        if not self.is_certain or not self.counts:
            return Interval(0.0, inf)
        middle, n = float(logits.mean()), len(logits) + self.n
        tail = min(
            self.mass.high - log(self.n), middle
        )  # their mean is at most that (Jensen); there, the deviation is least
        mean = (len(logits) * middle + self.n * tail) / n
        square = (float(((logits - mean) ** 2).sum()) + self.n * (tail - mean) ** 2) / n
        return Interval(max(0.0, float(np.sqrt(square)) * (1 - SLACK)), inf)

    def prob(self, token: int) -> Interval:
        """Of a token."""
        sums, logit = self.logsumexp, float(self.row[token])
        if logit == -inf:
            return Interval(0.0, 0.0)
        low = exp(min(0.0, logit - sums.high)) if self.must[token] else 0.0
        return Interval(low, min(1.0, exp(min(0.0, logit - sums.low))) if sums.low > -inf else 1.0)

    # -- what is learned ----------------------------------------------------------------------------------------------

    def learn(self, ids: Sequence[int], logits: Sequence[float], stats: RowStats) -> Partial:
        """With the true logits of the tokens that a record stores, and the true sums. What was known of others is a bound."""
        row, stored = self.row.copy(), np.zeros_like(self.stored)
        row[list(ids)], stored[list(ids)] = logits, True
        must = stored & (row > -inf)
        n = max(0, stats.n_kept - int(must.sum()))
        mass = tail_mass(row[must], stats.logsumexp) if n else NOTHING
        bounded = np.minimum(row, np.float32(mass.high + SLACK * (1 + abs(mass.high)))) if n else np.float32(-inf)
        row = np.where(stored, row, bounded).astype(np.float32)
        return replace(self, row=row, stored=stored, must=must, n=n, counts=True, mass=mass, stats=stats).tidy()

    def bound(self, bounds: NDArray[np.float64], n_first: int | None) -> Partial:
        """With bounds of tail tokens. n_first: they hold for those among so many first ones; None: for all."""
        lower = np.where(self.stored, self.row, np.minimum(self.row, rounded_up(bounds))).astype(np.float32)
        if n_first is None:
            return replace(self, row=lower).tidy()
        return replace(self, close=lower, n_close=n_first)

    def tidy(self) -> Partial:
        """Without a tail where no token can be in it."""
        n = min(self.n, int(self.tail.sum()))
        if n:
            return replace(self, n=n)
        row = np.where(self.stored, self.row, np.float32(-inf)).astype(np.float32)
        return replace(self, row=row, n=0, counts=True, mass=NOTHING, close=None, n_close=0)

    def without_bounds(self) -> Partial:
        """Nothing more is known of single tokens of the tail than what they have together."""
        row = np.where(self.stored, self.row, np.float32(inf if self.n else -inf))
        return replace(self, row=row, close=None, mass=Interval(-inf, inf) if self.n else NOTHING, stats=None)


def tail_mass(stored: NDArray[np.float32], logsumexp: float) -> Interval:
    """Of the other tokens, from the sum over all."""
    share = exp(min(0.0, logsumexp_of(stored) - logsumexp))
    low, high = 1 - share - SLACK, 1 - share + SLACK
    return Interval(logsumexp + log(low) if low > 0 else -inf, logsumexp + log(high))


def scaled(mass: Interval, n: int, bound: float, power: float) -> Interval:
    """Logarithm of the sum of p^power over n tokens at most, from that of the sum of p; no log p is above the bound."""
    if n == 0 or mass.high == -inf:
        return NOTHING
    even = Interval(*(power * side + (1 - power) * log(n) for side in mass))
    full = Interval(*(side + bound * (power - 1) for side in mass))
    low, high = (even.low, full.high) if power > 1 else (full.low, even.high)
    slack = SLACK * (1 + abs(bound * power))
    high = min(high, log(n) + bound * power) + slack
    return Interval(min(low - slack, high), high)


def logsumexp_of(logits: NDArray[np.float32]) -> float:
    """Of any logits; -inf for none."""
    if not len(logits) or (top := float(logits.max())) == -inf:
        return -inf
    return top + log(float(np.exp(logits.astype(np.float64) - top).sum()))


def added(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    large, small = max(a, b), min(a, b)
    return large if small == -inf or large == inf else large + log1p(exp(small - large))


def rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32, none smaller than it was."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    return np.where(found < values, np.nextafter(found, np.float32(inf)), found).astype(np.float32)
