"""Rows set against rows: guidance, contrastive decoding, DoLa, beside their formulas in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.rows import BOTH, INF, built, softmax, survivors
from fanlight.decoding.contrasts import dola_candidates
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from decoding.rows import Row
    from fanlight.kernels.ops import Ops


def between(options: dict[str, Any], row: Row, rows_beside: Row, ops: Ops, **what: Any) -> Row:
    (processor,) = built(options, ops, n_vocab=len(row), **what)
    n_vocab = len(row)
    tensor, beside = ops.tensor(row, n_vocab), ops.tensor(np.ascontiguousarray(rows_beside), n_vocab)
    result: Row = processor.between([1], tensor, beside).numpy()[0]
    np.testing.assert_array_equal(tensor.numpy()[0], row)
    return result


def rows(n: int, n_vocab: int = 33) -> Row:
    return np.random.default_rng(n).normal(0, 3, (n, n_vocab)).astype(np.float32)


def test_guidance_of_one_is_off_and_of_two_goes_as_far_again() -> None:
    assert built({"guidance_scale": 1.0}) == ()
    row, negative = rows(2)
    for ops in BOTH:
        result = between({"guidance_scale": 2.0}, row, negative[None], ops)
        expected = softmax(row) ** 2 / softmax(negative)
        np.testing.assert_allclose(softmax(result), expected / expected.sum(), rtol=1e-4)


def test_what_is_removed_on_one_side_is_removed() -> None:
    row, negative = rows(2)
    row[3] = negative[4] = -INF
    for ops in BOTH:
        assert survivors(between({"guidance_scale": 2.0}, row, negative[None], ops)) == set(range(33)) - {3, 4}


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.5), (0.01, 1.0), (1.0, 0.5)])
def test_contrastive_decoding_is_its_formula_among_plausible_tokens(alpha: float, beta: float) -> None:
    row, amateur = rows(2)
    plausible = softmax(row) >= alpha * softmax(row).max()
    for ops in BOTH:
        options = {"contrastive_alpha": alpha, "contrastive_beta": beta}
        result = between(options, row, amateur[None], ops, others=frozenset({"amateur"}))
        assert survivors(result) == set(np.flatnonzero(plausible).tolist())
        expected = (1 + beta) * row - beta * amateur
        np.testing.assert_allclose(result[plausible], expected[plausible], rtol=1e-5)


def test_without_an_amateur_there_is_nothing_to_contrast_with() -> None:
    assert built({"contrastive_beta": 0.7}) == ()


@pytest.mark.parametrize("n_early", [1, 4])
def test_dola_contrasts_with_the_layer_that_differs_most(n_early: int) -> None:
    last, *early = rows(1 + n_early)
    p = softmax(last)

    def divergence(q: Row) -> float:
        middle = (p + q) / 2
        return float((p * np.log(p / middle) + q * np.log(q / middle)).sum())

    chosen = max(early, key=lambda row: divergence(softmax(row)))
    plausible = p >= 0.1 * p.max()
    expected = np.log(p) - np.log(softmax(chosen))
    for ops in BOTH:
        options = {"dola_layers": list(range(n_early))}
        result = between(options, last, np.stack(early), ops, n_layer=12)
        assert survivors(result) == set(np.flatnonzero(plausible).tolist())
        np.testing.assert_allclose(result[plausible], expected[plausible], atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "n_layer", "tied", "layers"),
    [
        ("low", 12, False, (0, 2, 4)),
        ("low", 12, True, (2, 4)),
        ("high", 12, True, (6, 8, 10)),
        ("low", 48, True, (2, 4, 6, 8, 10, 12, 14, 16, 18)),
        ("high", 48, False, (28, 30, 32, 34, 36, 38, 40, 42, 44, 46)),
        ("low", 2, True, (1,)),
        ("low", 1, True, (0,)),
        ((1, 5), 12, True, (1, 5)),
    ],
)
def test_low_and_high_are_the_layers_that_transformers_took(
    setting: Any, n_layer: int, tied: bool, layers: tuple[int, ...]
) -> None:
    assert dola_candidates(setting, n_layer, tied) == layers


def test_a_layer_that_is_not_before_the_last_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^dola_layers: layer 12 is not before the last: the model allows 0 to 11$"):
        dola_candidates((3, 12), 12, False)
