"""Choosing: greedy and by noise, and where the choice stands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from fanlight.decoding.sampler import Choice, choose, pick
from fanlight.errors import NumericError
from fanlight.kernels import reference_rows
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference_rows)
INF = math.inf


def chosen(logits: list[float], *, seed: int = 0, sample: bool = False) -> Choice:
    return choose(Tensor(np.array([logits], np.float32)), seed=seed, position=3, sample=sample, ops=OPS)


def test_greedy_takes_the_largest_and_says_by_how_much() -> None:
    choice = chosen([1.0, 4.0, 2.5])
    total = math.log(math.exp(1) + math.exp(4) + math.exp(2.5))
    assert choice == (1, pytest.approx(4 - total), 0, 1.5)


def test_a_tie_goes_to_the_lowest_id_without_margin() -> None:
    assert chosen([0.0, 2.0, 2.0])[0::2] == (1, 0)
    assert chosen([0.0, 2.0, 2.0]).margin == 0


def test_the_last_token_left_has_no_margin() -> None:
    assert chosen([-INF, 2.0, -INF]) == (1, 0.0, 0, None)
    assert chosen([-INF, 2.0, -INF], sample=True) == (1, 0.0, 0, None)


def test_a_draw_knows_where_it_stands() -> None:
    logits = [0.0, 1.0, 0.5, 1.0, -INF]
    seen = {choice.id: choice for choice in (chosen(logits, seed=seed, sample=True) for seed in range(100))}
    assert {token: (choice.rank, choice.margin) for token, choice in seen.items()} == {
        0: (3, -1.0),
        1: (0, 0.0),
        2: (2, -0.5),
        3: (1, 0.0),  # behind the equal logit of a lower id
    }
    assert sum(math.exp(choice.logprob or 0.0) for choice in seen.values()) == pytest.approx(1)


def test_pick_is_the_id_that_choose_gives() -> None:
    row = Tensor(np.random.default_rng(0).normal(0, 2, (1, 33)).astype(np.float32))
    for seed in range(20):
        for sample in (False, True):
            token = pick(row, seed=seed, position=seed, sample=sample, ops=OPS)
            assert token == choose(row, seed=seed, position=seed, sample=sample, ops=OPS).id


def test_temperature_towards_zero_equals_argmax() -> None:
    row = Tensor(np.random.default_rng(0).normal(0, 1, (1, 258)).astype(np.float32))
    cold = reference_rows.temperature(row, 1e-6)
    assert {pick(cold, seed=seed, position=0, sample=True, ops=OPS) for seed in range(20)} == {OPS.argmax(row)}


@pytest.mark.parametrize("sample", [False, True])
def test_nothing_to_choose_from_is_an_error(sample: bool) -> None:
    with pytest.raises(NumericError, match="no token is left"):
        chosen([-INF, -INF], sample=sample)
