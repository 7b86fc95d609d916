"""Samplers of llama.cpp and text-generation-webui, beside their formulas in a few lines of NumPy."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.rows import BOTH, INF, SIZES, all_rows, built, plain_rows, run, softmax, survivors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from decoding.rows import Row

PROBS = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
KNOWN = np.log(PROBS).astype(np.float32)


def sampled(options: dict[str, Any], row: Row, ops: Any = BOTH[0], ids: tuple[int, ...] = (1,), **what: Any) -> Row:
    return run(built({"do_sample": True} | options, ops, n_vocab=len(row), **what), row, ids)


def kept(options: dict[str, Any], row: Row = KNOWN) -> set[int]:
    """Which tokens stay; the same on both ops, and their logits are what they were."""
    found = []
    for ops in BOTH:
        result = sampled(options, row, ops)
        np.testing.assert_array_equal(result[result > -INF], row[result > -INF])
        found.append(survivors(result))
    assert found[0] == found[1]
    return found[0]


def entropy_of(p: NDArray[np.float64]) -> float:
    return float(-sum(x * math.log(x) for x in p if x > 0))


# -- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("n_vocab", [7, 33, 1000])
def test_dynamic_temperature_follows_the_entropy(exponent: float, n_vocab: int) -> None:
    options = {"temperature": 0.9, "dynatemp_range": 0.5, "dynatemp_exponent": exponent}
    for ops in BOTH:
        for row in plain_rows(n_vocab):
            share = entropy_of(softmax(row)) / math.log(n_vocab)
            temperature = 0.4 + 1.0 * share**exponent
            np.testing.assert_allclose(sampled(options, row, ops), row / temperature, rtol=1e-4)


def test_dynamic_temperature_at_its_ends() -> None:
    flat, certain = np.zeros(7, np.float32), np.array([90, 0, 0], np.float32)
    for ops in BOTH:
        assert (sampled({"dynatemp_range": 0.5}, flat + 3, ops) == 2).all()  # 3 / 1.5
        np.testing.assert_allclose(sampled({"dynatemp_range": 0.5}, certain, ops), certain / 0.5)
        below = sampled({"temperature": 0.3, "dynatemp_range": 0.5}, certain, ops)  # never below 0
        assert np.isfinite(below).all()
        assert softmax(below)[0] == 1
        one_left = np.array([-INF, 2.0, -INF], np.float32)
        assert survivors(sampled({"dynatemp_range": 0.5}, one_left, ops)) == {1}


@pytest.mark.parametrize(("factor", "curve"), [(0.3, 1.0), (2.0, 1.0), (0.3, 2.5), (1.2, 4.0)])
def test_smoothing_is_a_square_and_a_cube_of_the_distance(factor: float, curve: float) -> None:
    options = {"smoothing_factor": factor, "smoothing_curve": curve}
    for ops in BOTH:
        for row in plain_rows(33):
            d = row.astype(np.float64) - row.max()
            expected = row.max() - factor * (3 - curve) / 2 * d**2 + factor * (curve - 1) / 2 * d**3
            np.testing.assert_allclose(sampled(options, row, ops), expected, rtol=1e-4, atol=1e-4)


# -- filters ---------------------------------------------------------------------------------------------------------


def test_each_filter_on_a_row_that_is_known() -> None:
    assert kept({"top_a": 0.3}) == {0, 1, 2, 3, 4}  # at least 0.3 * 0.4^2 = 0.048
    assert kept({"top_a": 0.4}) == {0, 1, 2, 3}  # 0.064
    assert kept({"top_a": 1.0}) == {0, 1}  # 0.16
    assert kept({"top_n_sigma": 1.0}) == {0, 1}  # deviation 0.797: from -1.714
    assert kept({"top_n_sigma": 2.0}) == {0, 1, 2, 3}  # from -2.511
    assert kept({"top_n_sigma": 1e-9}) == {0}
    assert kept({"tfs": 0.9}) == {0, 1, 2}  # curvature 0.05, 0.05, 0.01, 0.02: shares 0.38, 0.77, 0.85, 1
    assert kept({"tfs": 0.8}) == {0, 1}
    assert kept({"tfs": 0.1}) == {0}


def sigma_limit(row: Row, n: float) -> NDArray[np.bool_]:
    left = row[row > -INF].astype(np.float64)
    return row.astype(np.float64) >= left.max() - n * math.sqrt(((left - left.mean()) ** 2).mean())


def tail_free(row: Row, z: float) -> int:
    """How many tokens stay."""
    p = np.sort(softmax(row)[row > -INF])[::-1]
    if len(p) <= 2:
        return len(p)
    second = np.abs(np.diff(np.diff(p)))
    shares = second / second.sum() if second.sum() > 1e-6 else np.full(len(second), 1 / len(second))
    spent = 0.0
    for i, share in enumerate(shares):
        spent += share
        if spent > z and i >= 1:
            return i
    return len(p)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_filters_are_their_formulas(n_vocab: int) -> None:
    for ops in BOTH:
        for name, row in all_rows(n_vocab):
            where, p = f"{ops.name}, {name}", softmax(row)
            for a in (0.0137, 0.513, 1.0):
                result = survivors(sampled({"top_a": a}, row, ops))
                if len(set(p.tolist())) == n_vocab or a < 1:  # 1 on a row that is certain hangs on the last bit
                    assert result == set(np.flatnonzero((p >= a * p.max() ** 2) & (row > -INF)).tolist()), (where, a)
            for n in (0.517, 1.013, 2.517) if name != "tiny" else ():  # squares that float32 does not hold
                expected = set(np.flatnonzero(sigma_limit(row, n)).tolist())
                assert survivors(sampled({"top_n_sigma": n}, row, ops)) == expected, (where, n)
            for z in (0.137, 0.5137, 0.9513):
                assert len(survivors(sampled({"tfs": z}, row, ops))) == tail_free(row, z), (where, z)


# -- XTC -----------------------------------------------------------------------------------------------------------------


def test_xtc_excludes_the_top_choices_but_the_least_of_them() -> None:
    assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.2}) == {1, 2, 3, 4, 5}
    assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.09}) == {3, 4, 5}
    assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.0}) == {5}
    assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.3}) == {0, 1, 2, 3, 4, 5}  # alone above it
    assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.5}) == {0, 1, 2, 3, 4, 5}
    assert kept({"xtc_probability": 0.0, "xtc_threshold": 0.1}) == {0, 1, 2, 3, 4, 5}


def test_xtc_leaves_the_row_alone_where_too_few_would_stay() -> None:
    """As llama.cpp counts it: the least of the top choices, and all below the threshold."""
    for n, left in ((3, {3, 4, 5}), (4, {0, 1, 2, 3, 4, 5})):
        assert kept({"xtc_probability": 1.0, "xtc_threshold": 0.09, "min_tokens_to_keep": n}) == left


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.93])
def test_xtc_strikes_as_often_as_it_was_told(probability: float) -> None:
    n = 4000
    for ops in BOTH:
        (xtc,) = built({"do_sample": True, "xtc_probability": probability}, ops, n_vocab=6, seed=5)
        strikes = [xtc.strikes(position) for position in range(n)]  # type: ignore[attr-defined]
        assert abs(sum(strikes) - n * probability) < 4 * math.sqrt(n * probability * (1 - probability))
    pairs = list(pairwise(strikes))
    share = sum(a and b for a, b in pairs) / len(pairs)
    assert abs(share - probability**2) < 0.03  # one position says nothing of the next


@pytest.mark.parametrize("seed", [-1, 2**64 + 5, 2**63])
def test_xtc_takes_any_integer_as_a_seed(seed: int) -> None:
    options = {"do_sample": True, "xtc_probability": 0.5}
    found = [[p.strikes(i) for i in range(50)] for ops in BOTH for p in built(options, ops, seed=seed)]  # type: ignore[attr-defined]
    assert found[0] == found[1]
    assert found[0] == [p.strikes(i) for p in built(options, seed=seed % 2**64) for i in range(50)]  # type: ignore[attr-defined]
