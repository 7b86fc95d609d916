"""Mirostat and adaptive-p over several steps, beside the papers' formulas in plain Python; they remember without changing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.rows import BOTH, INF, all_rows, around, built, plain_rows, run, softmax, survivors
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import build_processors
from fanlight.decoding.step import StepSettings, decide

if TYPE_CHECKING:
    from decoding.rows import Row
    from fanlight.kernels.ops import Ops


def steps(options: dict[str, Any], rows: list[Row], ops: Ops) -> list[tuple[Any, int, Row]]:
    """(the processor, the token chosen, the final row) of each step, through `decide`."""
    config = GenerationConfig.from_options({"do_sample": True, "top_k": None, "output_scores": True} | options)
    settings = StepSettings.of(config, around(ops, n_vocab=len(rows[0]), seed=3))
    ids, found = [0], []
    for row in rows:
        decision = decide(ids, ops.tensor(row, len(row)), settings)
        assert decision.processors is not None
        assert decision.final is not None
        found.append((settings.processors[-1], decision.choice.id, decision.final.numpy()[0]))
        settings = replace(settings, processors=decision.processors)
        ids.append(decision.choice.id)
    return found


# -- mirostat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "eta"), [(5.0, 0.1), (2.0, 0.5), (0.7, 1.0)])
def test_mirostat_2_keeps_what_surprises_less_than_mu(tau: float, eta: float) -> None:
    rows = list(plain_rows(33, 12))
    for ops in BOTH:
        mu = 2 * tau
        for (processor, token, final), row in zip(steps(_mirostat(2, tau, eta), rows, ops), rows, strict=True):
            assert processor.mu == pytest.approx(mu, rel=1e-5)
            surprise = -np.log2(softmax(row))
            expected = set(np.flatnonzero(surprise <= mu).tolist()) or {int(row.argmax())}
            assert survivors(final) == expected
            mu -= eta * (-math.log2(softmax(final)[token]) - tau)


def zipf_k(row: Row, mu: float) -> int:
    """How many tokens the first version keeps: Basu et al. 2021, algorithm 1, with its 100 tokens."""
    n = int((row > -INF).sum())
    p = np.sort(softmax(row))[::-1][: min(100, n)]
    i = np.arange(1, len(p))
    t, b = np.log((i + 1) / i), np.log(p[:-1] / p[1:])
    s = (t @ b) / (t @ t)
    e = s - 1
    return max(1, min(n, int((e * 2**mu / (1 - n**-e)) ** (1 / s))))


@pytest.mark.parametrize(("tau", "eta"), [(3.0, 0.1), (1.5, 0.6)])
@pytest.mark.parametrize("n_vocab", [7, 33, 1000])
def test_mirostat_1_keeps_k_tokens_by_zipfs_law(n_vocab: int, tau: float, eta: float) -> None:
    rows = list(plain_rows(n_vocab, 12))
    for ops in BOTH:
        mu, seen = 2 * tau, set()
        for (processor, token, final), row in zip(steps(_mirostat(1, tau, eta), rows, ops), rows, strict=True):
            assert processor.mu == pytest.approx(mu, rel=1e-5)
            assert len(survivors(final)) == zipf_k(row, mu)
            seen.add(len(survivors(final)))
            mu -= eta * (-math.log2(softmax(final)[token]) - tau)
        assert len(seen) > 2


def test_mirostat_keeps_the_surprise_near_its_aim() -> None:
    rows = [np.random.default_rng(i).normal(0, 3, 1000).astype(np.float32) for i in range(300)]
    for version in (1, 2):
        found = steps(_mirostat(version, 2.5, 0.2), rows, BOTH[1])
        surprises = [-math.log2(softmax(final)[token]) for _, token, final in found[50:]]
        assert np.mean(surprises) == pytest.approx(2.5, abs=0.2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [1e-6, 5.0, 1e6])
def test_no_row_and_no_aim_is_too_odd_for_mirostat(version: int, tau: float) -> None:
    for n_vocab in (1, 7, 1000):
        for name, row in all_rows(n_vocab):
            for ops in BOTH:
                result = run(built({"do_sample": True} | _mirostat(version, tau, 0.1), ops, n_vocab=n_vocab), row)
                assert survivors(result), name
                if tau == 1e6 and version == 2 and name != "huge":
                    np.testing.assert_array_equal(result, row)


def test_mirostat_makes_the_cut_alone_unless_top_k_was_asked_for() -> None:
    def names(**options: Any) -> list[str]:
        config = GenerationConfig.from_options({"do_sample": True, "mirostat": 2} | options)
        return [p.name for p in build_processors(config, around())]

    assert names() == ["mirostat"]
    assert names(top_k=50) == ["top_k", "mirostat"]


def _mirostat(version: int, tau: float, eta: float) -> dict[str, Any]:
    return {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta}


# -- adaptive-p ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "decay"), [(0.3, 0.9), (0.05, 0.0), (0.8, 0.99)])
def test_adaptive_p_favours_a_probability_that_follows_what_was_chosen(target: float, decay: float) -> None:
    rows = list(plain_rows(33, 12))
    options = {"adaptive_target": target, "adaptive_decay": decay}
    for ops in BOTH:
        total, weight = target / (1 - decay), 1 / (1 - decay)
        for (processor, token, final), row in zip(steps(options, rows, ops), rows, strict=True):
            now = min(1, max(0, 2 * target - total / weight))
            assert processor.now == pytest.approx(now, abs=1e-5)
            distance = np.abs(softmax(row) - now) / 0.3
            np.testing.assert_allclose(final, 5 - 10 * distance**2 / (1 + distance), rtol=1e-4, atol=1e-4)
            total, weight = decay * total + softmax(row)[token], decay * weight + 1


def test_adaptive_p_sees_the_row_that_other_filters_left() -> None:
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    for ops in BOTH:
        found = steps({"adaptive_target": 0.4, "top_k": 2}, [row, row], ops)
        assert all(survivors(final) == {0, 1} for _, _, final in found)
        (_, token, _), (later, _, _) = found
        chosen = (0.5, 0.3)[token] / 0.8
        assert later.now == pytest.approx(0.8 - (0.9 * 4 + chosen) / (0.9 * 10 + 1), abs=1e-6)


# -- both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.3}], ids=str)
def test_what_remembers_stays_as_it_was(options: dict[str, Any]) -> None:
    """So that two continuations of one text can share it."""
    row = next(iter(plain_rows(33)))
    for ops in BOTH:
        (processor,) = built({"do_sample": True} | options, ops)
        tensor = ops.tensor(row, 33)
        first = processor([1], tensor)
        label, numbers = processor.label, first.numpy()
        likely, unlikely = (processor.after(t, tensor, first) for t in (int(row.argmax()), min(survivors(numbers[0]))))
        assert processor.label == label
        np.testing.assert_array_equal(processor([1], tensor).numpy(), numbers)
        assert likely.label != unlikely.label
        assert likely.value == processor.value
