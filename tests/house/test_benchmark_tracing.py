"""The figures of seeing are what they say: full traces of several engines are of the same thing, and what is missing is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fanlight
from benchmarks import harness, quiet
from benchmarks.figures import full_trace, looking, recording, report, trace_index
from benchmarks.lineup import Lineup
from benchmarks.peers.fanlight_trace import FanlightTrace
from benchmarks.peers.seen import N_LENS, Readings, Seen, agreement, check, n_same
from benchmarks.peers.torch_readings import accounts, lens
from benchmarks.peers.transformers_trace import TransformersTrace, joined
from fakes.traces import a_trace
from fanlight.tracing.files import save_trace
from models import tiny

PROMPT = [5, 40, 7, 22, 9, 61, 61, 3, 77, 12, 50, 8, 99, 31]
NEW = [17, 4, 4, 90, 33, 2, 71]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(quiet.Others, "share", lambda self: 0.0)


# -- what transformers leaves to its user ---------------------------------------------------------------------------------


def test_an_account_is_that_of_the_definition() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    found = accounts(logits + 7, torch.tensor([1, 0]), 3)
    assert found.ids[0, :2].tolist() == [0, 1]
    assert found.ids[1].tolist() == [3, 2, 1]
    assert np.exp(found.logprobs[1]) == pytest.approx([0.4, 0.3, 0.2])
    assert np.exp(found.chosen_logprobs) == pytest.approx([0.25, 0.1])
    assert found.chosen_ranks.tolist() == [1, 3]
    assert found.entropies[0] == pytest.approx(1.75 * np.log(2))


def test_a_layer_is_read_through_norm_and_head_and_the_last_one_as_it_is() -> None:
    head = torch.randn(31, 3)
    states = [torch.randn(7, 3), torch.randn(7, 3)]
    last, tokens = torch.randn(7, 31), torch.arange(7)
    found = lens(states, last, tokens, lambda x: 2 * x, lambda x: x @ head.T)
    assert found.ids.shape == (7, 3, N_LENS)
    assert found.ids[:, 0, 0].tolist() == (2 * states[0] @ head.T).argmax(dim=1).tolist()
    assert found.ids[:, 2, 0].tolist() == last.argmax(dim=1).tolist()
    assert found.chosen_logprobs[:, 2] == pytest.approx(last.log_softmax(dim=1)[range(7), range(7)].numpy(), abs=1e-5)


def test_weights_of_passes_are_put_where_they_belong() -> None:
    whole = torch.rand(2, 3, 5, 5).tril()  # layers, heads
    passes = [
        [layer[:, :3, :3] for layer in whole],
        *([layer[:, i : i + 1, : i + 1] for layer in whole] for i in (3, 4)),
    ]
    assert np.array_equal(joined(passes), whole.numpy())
    assert np.array_equal(joined([list(whole)]), whole.numpy())


# -- whether two traces are of the same thing -----------------------------------------------------------------------------


def made(n_prompt: int = 3, n_new: int = 4, n_layer: int = 2) -> Seen:
    def readings(*shape: int, k: int) -> Readings:
        ids = np.tile(np.arange(k), (*shape, 1))
        zeros = np.zeros(shape, np.float32)
        return Readings(
            ids=ids, logprobs=-ids.astype(np.float32), chosen_logprobs=zeros, chosen_ranks=zeros, entropies=zeros
        )

    n_seen = n_prompt + n_new - 1
    weights = np.tile(np.tril(np.ones((n_seen, n_seen))) / np.arange(1, n_seen + 1)[:, None], (n_layer, 3, 1, 1))
    return Seen(
        ids=tuple(range(n_new)),
        steps=readings(n_new, k=20),
        lens=readings(n_new, n_layer + 1, k=N_LENS),
        attention=lambda: weights,
    )


def test_a_full_trace_passes_and_one_that_lacks_something_does_not() -> None:
    whole = made()
    check(whole, n_prompt=3, n_new=4, name="whole")
    without: dict[str, Seen] = {
        "new tokens": replace(whole, ids=whole.ids[1:]),
        "accounts": replace(whole, steps=replace(whole.steps, ids=whole.steps.ids[:, :7])),
        "lens": replace(whole, lens=replace(whole.lens, ids=whole.lens.ids[:, 1:])),
        "attention": replace(whole, attention=lambda: whole.attention()[..., 1:, :]),
        "sums to 1": replace(whole, attention=lambda: whole.attention() * 0.9),
        "nan": replace(whole, attention=lambda: whole.attention() * np.nan),
    }
    for what, seen in without.items():
        with pytest.raises(RuntimeError, match=f"full trace of broken: .*{what}"):
            check(seen, n_prompt=3, n_new=4, name="broken")


def test_agreement_sees_what_differs() -> None:
    ours = made()
    same = agreement(ours, made())
    assert [value == 1 for value in same.values()] == [True, True, False, False]
    assert list(same.values())[2:] == [0, 0]
    ids = ours.lens.ids.copy()
    ids[0, 0, 0] += 1
    theirs = replace(ours, lens=replace(ours.lens, ids=ids, entropies=ours.lens.entropies + 0.5))
    found = agreement(ours, replace(theirs, attention=lambda: ours.attention() + 0.25))
    assert list(found.values()) == pytest.approx([1.0, 11 / 12, 0.5, 0.25])


def test_tokens_are_the_same_until_one_differs() -> None:
    assert n_same([1, 2, 3], [1, 2, 3]) == 3
    assert n_same([1, 2, 3], [1, 7, 3]) == 1
    assert n_same([], [1]) == 0


# -- the peers, on a tiny model in float32 --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_folder(folder, tiny.llama())
    ours = fanlight.load(folder, threads=1, prefix_bytes=0)
    return {
        full_trace.OURS: FanlightTrace(ours, name=full_trace.OURS),
        full_trace.OURS_F32: FanlightTrace(ours, name=full_trace.OURS_F32),
        full_trace.HF: TransformersTrace(folder, name=full_trace.HF, threads=1),
    }


def test_both_engines_see_the_same_in_a_text_that_is_there(peers: dict[str, Any]) -> None:
    ours, theirs = (peers[name].read(PROMPT, NEW) for name in (full_trace.OURS, full_trace.HF))
    for seen in (ours, theirs):
        check(seen, n_prompt=len(PROMPT), n_new=len(NEW), name="tiny")
        assert list(seen.ids) == NEW
    same_account, same_lens, entropy, attention = agreement(ours, theirs).values()
    assert (same_account, same_lens) == (1, 1)
    assert entropy < 1e-4
    assert attention < 1e-3  # Fanlight keeps float16
    assert ours.steps.logprobs == pytest.approx(theirs.steps.logprobs, abs=1e-3)
    assert ours.lens.chosen_logprobs == pytest.approx(theirs.lens.chosen_logprobs, abs=1e-3)
    assert np.array_equal(ours.lens.chosen_ranks, theirs.lens.chosen_ranks)


@pytest.mark.parametrize("way", ["write", "write_then_read"])
def test_both_engines_write_the_same_and_see_the_same(way: str, peers: dict[str, Any]) -> None:
    ours = peers[full_trace.OURS].write(PROMPT, 9)
    theirs = getattr(peers[full_trace.HF], way)(PROMPT, 9)
    assert ours.ids == theirs.ids
    check(theirs, n_prompt=len(PROMPT), n_new=9, name=way)
    same_account, same_lens, entropy, attention = agreement(ours, theirs).values()
    assert (same_account, same_lens) == (1, 1)
    assert entropy < 1e-4
    assert attention < 1e-3


class Fake:
    """Takes so many seconds of a clock of its own, and sees nothing."""

    now = 0.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def write(self, prompt: Sequence[int], n_new: int) -> Seen:
        Fake.now += self.seconds
        return made(n_prompt=len(prompt), n_new=n_new)

    write_then_read = write

    def read(self, prompt: Sequence[int], new: Sequence[int]) -> Seen:
        return self.write(prompt, len(new))


def test_a_ratio_is_how_much_sooner_fanlight_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_trace, "time", SimpleNamespace(perf_counter=lambda: Fake.now))
    names = (full_trace.OURS, full_trace.OURS_F32, full_trace.HF, full_trace.HF_BF16, full_trace.LENS)
    peers = {name: Fake(taken) for name, taken in zip(names, (1.0, 2.0, 15.0, 5.0, 3.0), strict=True)}
    goals = full_trace.measure(peers, lambda turn, n: PROMPT[:n], rounds=2, tokens=5).goals
    found = {goal.what: (goal.found, goal.met) for goal in goals}
    for task in (full_trace.WRITTEN, full_trace.GIVEN):
        assert found[f"{task}: times sooner than {full_trace.HF}"] == (pytest.approx(15), True)
        assert found[f"{task}: times sooner than {full_trace.LENS}"] == (pytest.approx(3), False)
        assert found[f"{task}: times sooner than {full_trace.HF_BF16}"] == (pytest.approx(5), True)
        assert found[f"{task}: in float32 too, times sooner than {full_trace.HF}"] == (pytest.approx(7.5), True)


def test_a_race_of_full_traces_has_every_task_and_says_who_is_late(peers: dict[str, Any]) -> None:
    outcome = full_trace.measure(
        {**peers, full_trace.LENS: peers[full_trace.HF]}, lambda turn, n: PROMPT[:n], rounds=1, tokens=5
    )
    tasks = {f"{task}: {name}" for task in (full_trace.WRITTEN, full_trace.GIVEN) for name in (*peers, full_trace.LENS)}
    assert set(outcome.samples) == tasks | {f"{full_trace.WRITTEN}: {full_trace.HF_TWICE}"}
    bounded = [goal.what for goal in outcome.goals if goal.low is not None]
    assert bounded == [
        f"{task}: times sooner than {name}"
        for task in (full_trace.WRITTEN, full_trace.GIVEN)
        for name in (full_trace.HF, full_trace.LENS)
    ]
    assert outcome.notes[f"written: {full_trace.HF}: {full_trace.SAME}, of 5, median"] == 5
    assert all(value > 0 for values in outcome.samples.values() for value in values)


# -- the figures, small ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lineup() -> Lineup:
    return Lineup(threads=2, rounds=1)


FIGURES: dict[str, Callable[[Lineup], harness.Outcome]] = {
    "recording": lambda lineup: recording.run(lineup, tokens=9),
    "looking": lambda lineup: looking.run(lineup, tokens=3),
    "trace-index": lambda lineup: trace_index.run(lineup, texts=3, copies=2, tokens=5),
    "report": lambda lineup: report.run(lineup, tokens=7),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_runs_and_its_samples_can_be_saved(name: str, lineup: Lineup, tmp_path: Path) -> None:
    outcome = FIGURES[name](lineup)
    assert outcome.figure == name
    assert outcome.goals
    assert all(value > 0 for values in outcome.samples.values() for value in values)
    harness.save(outcome, tmp_path / "results.jsonl", others=None)
    assert (tmp_path / "results.jsonl").stat().st_size > 0


def test_an_index_is_asked_what_the_files_say(tmp_path: Path) -> None:
    for seed in range(3):
        save_trace(a_trace(n_steps=11, n_vocab=301, seed=seed), tmp_path)
    outcome = trace_index.measure(tmp_path, 1, n_traces=3, n_steps=33)
    assert outcome.notes[f"steps where {trace_index.WHERE}"] == sum(
        record.raw_entropy > 4 and record.raw_rank > 0
        for seed in range(3)
        for record in a_trace(n_steps=11, n_vocab=301, seed=seed).steps
    )
    with pytest.raises(RuntimeError, match="has 3 traces, expected 4"):
        trace_index.measure(tmp_path, 1, n_traces=4, n_steps=33)


def test_a_page_without_all_its_tokens_is_no_measurement(tmp_path: Path) -> None:
    from fanlight.views.report import write_report

    write_report(a_trace(n_steps=7, n_prompt=5), tmp_path / "page.html")
    (taken,) = report.opened(tmp_path / "page.html", 12, 1)
    assert 0 < taken < 60
    with pytest.raises(RuntimeError, match="12 tokens on the page, expected 13"):
        report.opened(tmp_path / "page.html", 13, 1)
