"""What processors certainly do to a row of which a part is known. In: a Partial, a processor. Out: a Partial, or Open is raised.

The rules themselves are those of `decoding`; here is what follows from them for a row between bounds. What changes each token by
itself runs on the kernels. Knows no model, no text and no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, inf, log, log1p
from typing import TYPE_CHECKING, Literal

import numpy as np

from fanlight.decoding.filters import XTC, Cutoff, EpsilonCutoff, MinP, TopA, TopH, TopK, TopNSigma, TopP, TypicalP
from fanlight.decoding.remembering import Mirostat2
from fanlight.decoding.shapes import DynamicTemperature, InvalidValues, Renormalize, Smoothing, Temperature
from fanlight.decoding.watermark import WatermarkProcessor
from fanlight.tracing.partial import NOTHING, SLACK, Interval, Open, Partial, added, logsumexp_of, rounded_up, scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.decoding.processors import Processor
    from fanlight.kernels.ops import Ops, Tensor

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Side = Literal["left", "right"]

TOP_H_TOKENS = 100
BY_TOKEN = frozenset(
    {
        *("sequence_bias", "logit_bias", "encoder_repetition_penalty", "repetition_penalty", "frequency_penalty"),
        *("presence_penalty", "dry", "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens"),
        *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    }
)
"""Processors that change a token's logit by a rule of its own, and a larger one never to a smaller result."""


def through(state: Partial, processor: Processor, ids: Sequence[int], ops: Ops) -> Partial:
    """The row after a processor. Raises Open where that cannot be told."""
    if isinstance(processor, InvalidValues):  # what is recorded is finite
        return state
    if isinstance(processor, Renormalize):
        return _renormalize(state)
    if isinstance(processor, (Temperature, DynamicTemperature)):
        return _temperature(state, processor, ops)
    if isinstance(processor, TopK):
        return top_k(state, max(int(processor.value), processor.min_keep))
    if isinstance(processor, TopP):
        return top_p(state, processor.value, processor.min_keep)
    if isinstance(processor, TypicalP):
        return typical_p(state, processor.value, processor.min_keep)
    limit = _limit(state, processor)
    if limit is not None:
        return above(state, limit, getattr(processor, "min_keep", 1))
    if isinstance(processor, XTC):
        return _xtc(state, processor, ids, ops)
    if isinstance(processor, TopH) and processor.min_keep <= TOP_H_TOKENS:
        return _top_h(state, processor, ids, ops)
    if processor.name in BY_TOKEN or (isinstance(processor, WatermarkProcessor) and not processor.lists.is_selfhash):
        return _by_token(state, processor, ids, ops)
    if isinstance(processor, Smoothing) and processor.curve <= 3 and state.largest.is_exact:
        after = _by_token(state, processor, (), ops)
        return replace(after, mass=Interval(-inf, _bounded_mass(after)))
    if processor.name == "exponential_decay_length_penalty":
        return _by_token(state, processor, ids, ops)
    raise Open(f"{processor.label} depends on every token")


def _limit(state: Partial, processor: Processor) -> Interval | None:
    """Of a filter that keeps what reaches a limit: the limit."""
    if isinstance(processor, MinP):
        return Interval(*(side + log(processor.value) for side in state.largest))
    if isinstance(processor, TopNSigma):
        least, most = state.deviation
        low, high = state.largest
        return Interval(low - processor.value * most, high - processor.value * least)
    sums = state.logsumexp if isinstance(processor, (TopA, Cutoff, Mirostat2)) else NOTHING
    if isinstance(processor, TopA):
        low, high = state.largest
        return Interval(log(processor.value) + 2 * low - sums.high, log(processor.value) + 2 * high - sums.low)
    if type(processor) is Mirostat2:
        by = processor.mu * log(2)
        return Interval(sums.low - by, sums.high - by)
    if isinstance(processor, Cutoff):
        eta = log(processor.value)
        asked = Interval(eta, eta)
        if not isinstance(processor, EpsilonCutoff):
            entropy = state.entropy
            asked = Interval(min(eta, 0.5 * eta - entropy.high), min(eta, 0.5 * eta - entropy.low))
        low, high = sums.low + asked.low, sums.high + asked.high
        if processor.min_keep > 1:  # the least of those that stay all the same is not known
            return Interval(-inf, high)
        return Interval(min(low, state.largest.low), min(high, state.largest.high))
    return None


def _temperature(state: Partial, processor: Temperature | DynamicTemperature, ops: Ops) -> Partial:
    if isinstance(processor, DynamicTemperature):
        if state.stats is None:
            raise Open(f"{processor.label} follows the entropy of all tokens")
        stats = state.stats
        share = stats.entropy / log(stats.n_kept) if stats.n_kept > 1 else 0.0
        value = max(processor.low + (processor.high - processor.low) * share**processor.exponent, SLACK)
    else:
        value = processor.value
    tail = state.tail
    bound = float(state.row[tail].max()) if tail.any() else -inf
    row = _run(state.row, lambda x: ops.temperature(x, value), ops)
    close = None if state.close is None else _run(state.close, lambda x: ops.temperature(x, value), ops)
    mass = scaled(state.mass, state.n, bound, 1 / value)
    return replace(state, row=row, close=close, mass=mass, stats=None).tidy()


def _by_token(state: Partial, processor: Processor, ids: Sequence[int], ops: Ops) -> Partial:
    row = _run(state.row, lambda x: processor(ids, x), ops)
    close = None if state.close is None else _run(state.close, lambda x: processor(ids, x), ops)
    if processor.name.startswith("forced_") and not np.array_equal(row, state.row):  # whatever it was, it is this now
        there = row > -inf
        return Partial(row, np.ones_like(state.stored), there)
    tail = state.tail
    touched = tail & (row != state.row)
    if processor.name == "exponential_decay_length_penalty" and touched.any():
        raise Open(f"{processor.label} depends on how probable the end of the text was")
    touched[list({token for token in ids if tail[token]})] = True  # a bound of 0 hides a factor
    less, more = state.mass
    if touched.any():
        gone = logsumexp_of(state.row[touched])
        less = less + log1p(-exp(gone - less)) if less > gone else -inf
        grown = touched & ~(row < state.row)
        more = added(more, logsumexp_of(row[grown]))
    must = state.must & (row > -inf)
    n_gone = int((tail & (row == -inf)).sum())
    counts = state.counts and not n_gone
    changed = touched.any() or not np.array_equal(row, state.row)
    stats = None if changed else state.stats
    # other logits, another order: which tokens are the first of it is not known any more
    n_close, close = (0, None) if changed else (state.n_close, close)
    mass = Interval(less, more)
    return replace(
        state, row=row, must=must, counts=counts, mass=mass, stats=stats, close=close, n_close=n_close
    ).tidy()


def _renormalize(state: Partial) -> Partial:
    """Where the sum is not known, the same row: the shift is the same for all tokens."""
    if state.stats is None:
        return state
    by = state.stats.logsumexp
    row = np.where(state.stored, state.row - np.float32(by), rounded_up(state.row.astype(np.float64) - by)).astype(
        np.float32
    )
    return replace(state, row=row, close=None, mass=Interval(*(side - by for side in state.mass)), stats=None)


def _xtc(state: Partial, processor: XTC, ids: Sequence[int], ops: Ops) -> Partial:
    if not processor.strikes(len(ids)):
        return state
    sums = state.logsumexp
    by = log(processor.threshold) if processor.threshold > 0 else -inf
    low, high = sums.low + by - SLACK * (1 + abs(sums.low)), sums.high + by + SLACK * (1 + abs(sums.high))
    reached = state.row >= low
    if processor.min_keep > 1 or (reached & ~(state.must & (state.row >= high))).any():
        raise Open(f"{processor.label}: which tokens are above the threshold depends on those that are not stored")
    row = _run(state.row, lambda x: ops.drop_above(x, high), ops)
    return replace(state, row=row, must=state.must & (row > -inf), close=None, n_close=0, stats=None)


def _top_h(state: Partial, processor: TopH, ids: Sequence[int], ops: Ops) -> Partial:
    """It looks at the first 100 tokens alone."""
    first = np.lexsort((np.arange(len(state.row)), -state.row))[:TOP_H_TOKENS]
    if len(first) < TOP_H_TOKENS or not state.must[first].all():
        raise Open(f"{processor.label} depends on the first {TOP_H_TOKENS} tokens")
    row = _run(state.row, lambda x: processor(ids, x), ops)
    return replace(state, row=row, must=state.must & (row > -inf), stats=None).tidy()


def above(state: Partial, limit: Interval, min_keep: int) -> Partial:
    """Only tokens stay that reach the limit, and the first min_keep."""
    low, high = limit.low - SLACK * (1 + abs(limit.low)), limit.high + SLACK * (1 + abs(limit.high))
    sure = state.must & (state.row >= high)
    if min_keep > 1 and sure.sum() < min_keep:
        return _uncertain(state, sure)
    first = state.must & (state.row == state.row.max())
    first = first if first.sum() == 1 == (state.row == state.row.max()).sum() else np.zeros_like(first)
    return _cut(state, sure | first, state.present & ((state.row >= low) | first), state.row >= low)


def top_k(state: Partial, k: int) -> Partial:
    """Only the k largest stay, and those equal to the k-th."""
    row = state.row
    must, at = np.sort(row[state.must]), np.flatnonzero(state.present)
    present, tail, logits = np.sort(row[at]), np.sort(row[state.tail]), row[at]
    n_surely = len(must) - np.searchsorted(must, logits, side="right")  # that are larger for certain
    n_maybe = len(present) - np.searchsorted(present, logits, side="right")
    n_maybe = n_maybe + np.minimum(state.n, len(tail) - np.searchsorted(tail, logits, side="right"))
    kth = float(must[-k]) if k <= len(must) else -inf
    sure, maybe = state.must & _flags(row, at, n_maybe < k), _flags(row, at, n_surely < k)
    after = _cut(state, sure, maybe, row >= kth)
    if after.close is not None and k < after.n_close:  # of those equal to the k-th, all stay
        after = replace(after, row=np.minimum(after.row, after.close)).tidy()
    return after


def top_p(state: Partial, p: float, min_keep: int) -> Partial:
    """Only the most probable stay whose probabilities together reach p."""
    row, shift = state.row, float(state.row.max())
    total = _share(state, p, shift)
    at = np.flatnonzero(state.present)
    at = at[np.argsort(-row[at], kind="stable")]  # ties: lowest id first
    weights = np.exp(row[at].astype(np.float64) - shift)
    surely, must = np.where(state.must[at], weights, 0), state.must[at]
    tail = np.sort(row[state.tail])
    above = np.concatenate([np.cumsum(np.exp(tail[::-1].astype(np.float64) - shift))[::-1], [0.0]])
    most = exp(min(700.0, state.mass.high - shift)) * (1 + SLACK)
    before = _before(weights) + np.minimum(above[np.searchsorted(tail, row[at], side="left")], most)
    sure = state.must & _flags(row, at, before < total.low)
    maybe = _flags(row, at, _before(surely) < total.high)
    if min_keep > 1 and sure.sum() < min_keep:
        return _uncertain(state, sure)
    reached = np.flatnonzero(np.cumsum(surely[must]) >= total.high)
    last = float(row[at][must][reached[0]]) if len(reached) else -inf
    return _cut(state, sure, maybe, row >= last)


def typical_p(state: Partial, p: float, min_keep: int) -> Partial:
    """Those stay whose logit is nearest to the mean, until they reach p."""
    row, shift, mean = state.row, float(state.row.max()), state.mean
    total = _share(state, p, shift)
    at = np.flatnonzero(state.present)
    logits = row[at].astype(np.float64)
    weights, must = np.exp(logits - shift), state.must[at]
    nearest = np.maximum(0, np.maximum(mean.low - logits, logits - mean.high))
    furthest = np.maximum(np.abs(logits - mean.low), np.abs(logits - mean.high))
    tail = row[state.tail].astype(np.float64)  # a tail token may be anywhere below its bound
    most = exp(min(700.0, state.mass.high - shift)) * (1 + SLACK)
    tail_nearer = _sum_of(np.maximum(0, mean.low - tail), np.exp(tail - shift))(furthest, "right")
    nearer = _sum_of(nearest, weights)(furthest, "right") - weights + np.minimum(tail_nearer, most)
    surely = _sum_of(furthest[must], weights[must])
    sure = state.must & _flags(row, at, nearer < total.low)
    maybe = _flags(row, at, surely(nearest, "left") < total.high)
    if min_keep > 1 and sure.sum() < min_keep:
        return _uncertain(state, sure)
    order = np.argsort(furthest[must], kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[must][order]) >= total.high)
    last = float(furthest[must][order][reached[0]]) if len(reached) else inf
    return _cut(state, sure, maybe, mean.low - row.astype(np.float64) <= last)


# -- shared --------------------------------------------------------------------------------------------------------------


def _cut(state: Partial, sure: Flags, maybe: Flags, stays: Flags) -> Partial:
    """After a filter that certainly leaves `sure`, maybe `maybe` of the stored tokens, and of the tail at most `stays`."""
    left = np.where(state.stored, maybe, stays)
    row = np.where(left, state.row, np.float32(-inf)).astype(np.float32)
    close = None if state.close is None else np.where(left, state.close, np.float32(-inf)).astype(np.float32)
    after = replace(state, row=row, must=sure, close=close)
    return _uncertain(after, sure).tidy() if state.n else replace(after, stats=None)


def _uncertain(state: Partial, sure: Flags) -> Partial:
    """Of the others, some may have gone."""
    return replace(state, must=sure, counts=not state.n, mass=Interval(-inf, state.mass.high), stats=None)


def _run(row: NDArray[np.float32], op: Callable[[Tensor], Tensor], ops: Ops) -> NDArray[np.float32]:
    found: NDArray[np.float32] = op(ops.tensor(np.ascontiguousarray(row), len(row))).numpy()[0]
    return found.copy()


def _bounded_mass(state: Partial) -> float:
    """The most that the tail can have: its bounds, the largest first, as many as there are tokens."""
    bounds = np.sort(state.row[state.tail])[::-1][: state.n]
    return logsumexp_of(bounds) + SLACK


def _before(weights: Floats) -> Floats:
    """Of each place, the sum over those before it."""
    found: Floats = np.cumsum(weights) - weights
    return found


def _share(state: Partial, p: float, shift: float) -> Interval:
    """p times the sum over all."""
    if shift == inf:
        raise Open("nothing is known of the tokens that are not stored")
    sums = state.logsumexp
    return Interval(exp(sums.low - shift) * (1 - SLACK) * p, exp(sums.high - shift) * (1 + SLACK) * p)


def _flags(row: NDArray[np.float32], at: NDArray[np.intp], values: NDArray[np.bool_]) -> Flags:
    found = np.zeros(len(row), bool)
    found[at] = values
    return found


def _sum_of(keys: Floats, weights: Floats) -> Callable[[Floats, Side], Floats]:
    """The sum of the weights whose keys are below ("left") a value, or at most ("right") that."""
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], np.concatenate([[0.0], np.cumsum(weights[order])])

    def of(values: Floats, side: Side) -> Floats:
        found: Floats = sums[np.searchsorted(keys, values, side=side)]
        return found

    return of
