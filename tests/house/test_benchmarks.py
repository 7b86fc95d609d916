"""The races are fair and their figures are what they say: on contenders and logits whose results are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, quiet
from benchmarks.figures.quality import compare
from benchmarks.harness import Goal, Outcome


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(quiet.Others, "share", lambda self: 0.0)


def test_contenders_alternate_and_the_order_flips() -> None:
    order: list[str] = []

    def contender(name: str, turn: int) -> float:
        order.append(f"{name}{turn}")
        return float(turn)

    samples = harness.race({"a": lambda t: contender("a", t), "b": lambda t: contender("b", t)}, rounds=2)
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert samples == {"a": [1.0, 2.0], "b": [1.0, 2.0]}  # round 0 was the warm-up


def test_a_ratio_is_taken_within_the_rounds() -> None:
    goal = harness.ratio("times", {"a": [2.0, 9.0, 40.0], "b": [1.0, 3.0, 10.0]}, "a", "b", low=3.5)
    assert (goal.found, goal.spread, goal.met) == (3.0, (2.0, 4.0), False)
    assert Goal(what="", found=0.99, low=0.98, high=1.0).met


def test_a_disturbed_run_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, values = iter([0.9, 0.5, 0.01, 0.0]), iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(quiet.Others, "share", lambda self: next(shares))
    assert quiet.undisturbed(lambda: next(values)) == 3.0


def test_on_a_machine_that_is_never_quiet_the_least_disturbed_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.3, *[0.8] * quiet.MAX_TRIES])
    values = iter(range(1, 100))
    monkeypatch.setattr(quiet.Others, "share", lambda self: next(shares))
    assert quiet.undisturbed(lambda: float(next(values))) == 2.0


def test_equal_logits_are_perfect_and_a_shift_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 31)).astype(np.float32) * 3
    ids = list(range(7))
    assert compare(logits, logits + np.float32(2), ids) == pytest.approx((1.0, 0.0, 1.0), abs=1e-5)


def test_a_divergence_is_that_of_the_definition() -> None:
    p, q = np.array([[0.5, 0.25, 0.25]] * 2), np.array([[0.25, 0.5, 0.25]] * 2)
    same, kl, ratio = compare(np.log(p).astype(np.float32), np.log(q).astype(np.float32), [2, 0])
    assert same == 0.0
    assert kl == pytest.approx(0.5 * np.log(2) + 0.25 * np.log(0.5), abs=1e-6)
    assert ratio == pytest.approx(2.0, abs=1e-5)  # token 0 after token 2: 0.5 against 0.25


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    outcome = Outcome(figure="f", unit="u", samples={"a": [3.0, 1.0, 2.0]}, goals=[Goal(what="g", found=1, low=2)])
    harness.save(outcome, tmp_path / "new" / "results.jsonl", others=0.25)
    line = json.loads((tmp_path / "new" / "results.jsonl").read_text(encoding="utf-8"))
    assert line["median"] == {"a": 2.0}
    assert line["goals"][0]["met"] is False
    assert {"date", "command", "cpu", "cores", "versions", "commit", "cores_busy_with_other_work"} <= set(
        line["measured"]
    )
