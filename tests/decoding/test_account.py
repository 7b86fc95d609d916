"""The account of a step, with every number computed again from the rows with NumPy."""

from __future__ import annotations

import math
import pickle
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.rows import BOTH, INF, NATIVE, around, softmax
from decoding.settings_of_all_kinds import HISTORIES, N_VOCAB, SETTINGS, rows, text_of
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.step import StepSettings, decide, process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from decoding.rows import Row
    from fanlight.kernels.ops import Ops
    from fanlight.trace.records import StepRecord

MANY: dict[str, Any] = {
    "do_sample": True,
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.4,
    "bad_words_ids": [[30], [31]],
    "temperature": 0.8,
    "top_k": 24,
    "top_p": 0.95,
    "min_p": 0.11,
    "typical_p": 0.97,
    "epsilon_cutoff": 0.012,
}


def account(
    options: dict[str, Any], row: Row, ids: Sequence[int] = (1, 2, 3), ops: Ops = BOTH[0], **what: Any
) -> tuple[StepRecord, StepSettings, list[Row]]:
    """(record, settings, the row before and after each processor)."""
    config = GenerationConfig.from_options({"top_k": None} | options)
    around_it = {
        "n_vocab": len(row),
        "prompt_ids": tuple(ids[:2]),
        "seed": config.seed or 0,
        "eos_ids": (0, 5, 0),
    } | what
    ready = StepSettings.of(config, around(ops, **around_it))
    tensor = ops.tensor(row, len(row))
    record = decide(ids, tensor, ready).record
    assert record is not None
    return record, ready, [r.numpy()[0] for r in process(ids, tensor, ready.processors)]


def entropy(p: NDArray[np.float64]) -> float:
    return float(-sum(x * math.log(x) for x in p if x > 0))


def logsumexp(row: Row) -> float:
    return float(row.max()) + math.log(np.exp(row.astype(np.float64) - row.max()).sum())


def leading(row: Row, n: int) -> list[int]:
    return [token for token in np.argsort(-row, kind="stable")[:n].tolist() if row[token] > -INF]


@settings(max_examples=150, deadline=None)
@given(SETTINGS, HISTORIES, rows(), st.sampled_from([1, 2, 5, 20, -1]), st.integers(0, 10**6))
def test_every_number_of_a_record_is_right(
    options: dict[str, Any], ids: list[int], row: Row, candidates: int, seed: int
) -> None:
    options = options | {"candidates": candidates, "seed": seed}
    for ops in BOTH:
        record, ready, found = account(options, row, ids, ops, max_length=12, token_text=text_of)
        probs = [softmax(r) for r in found]
        raw, final, n = probs[0], probs[-1], N_VOCAB if candidates == -1 else candidates
        about = {"rel": 1e-4, "abs": 1e-5}

        assert (record.position, found[-1][record.id] > -INF) == (len(ids), True)
        first, last = leading(found[0], n), leading(found[-1], n)
        assert record.candidate_ids == tuple(dict.fromkeys([*first, *last, record.id]))
        assert record.n_top == len(first)
        assert record.raw_entropy == pytest.approx(entropy(raw), **about)
        assert record.final_entropy == pytest.approx(entropy(final), **about)
        assert record.n_kept == (found[-1] > -INF).sum()
        assert record.tail_prob == pytest.approx(max(0.0, 1 - raw[first].sum()), **about)
        assert record.eos_prob == pytest.approx(raw[0] + raw[5], **about)
        assert record.final_eos_prob == pytest.approx(final[0] + final[5], **about)
        assert record.raw_rank == _rank(found[0], record.id)
        assert record.final_rank == _rank(found[-1], record.id)
        others = np.delete(found[-1], record.id)
        if record.n_kept == 1:
            assert record.margin is None
        else:
            assert record.margin == pytest.approx(found[-1][record.id] - others.max(), rel=1e-6)
        for at, candidate in enumerate(record.candidates):
            assert candidate.id == record.candidate_ids[at]
            assert candidate.raw_logit == found[0][candidate.id]
            assert candidate.raw_prob == pytest.approx(raw[candidate.id], **about)
            assert candidate.final_prob == pytest.approx(final[candidate.id], **about)
            expected = [float(r[candidate.id]) - logsumexp(r) for r in found]
            assert record.logprobs(candidate.id) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        for i, (effect, processor) in enumerate(zip(record.effects, ready.processors, strict=True)):
            assert (effect.label, effect.name, effect.removes) == (processor.label, processor.name, processor.removes)
            assert effect.n_before == (found[i] > -INF).sum()
            assert effect.n_kept == (found[i + 1] > -INF).sum()
            gone = (found[i] > -INF) & (found[i + 1] == -INF)
            assert effect.removed_prob == pytest.approx(
                probs[i][gone].sum() if effect.n_kept < effect.n_before else 0, **about
            )
            assert effect.logits == tuple(found[i + 1][list(record.candidate_ids)].tolist())
        _check_draw(record, ready, found[-1], ops)
        assert pickle.loads(pickle.dumps(record)) == record


def _rank(row: Row, token: int) -> int:
    return int((row > row[token]).sum() + (row[:token] == row[token]).sum())


def _check_draw(record: StepRecord, ready: StepSettings, final: Row, ops: Ops) -> None:
    """Noise, runner-up and lead, from logits + noise of the whole row."""
    left = np.flatnonzero(final > -INF)
    scores = final[left].astype(np.float64)
    if ready.sample:
        scores = scores + np.array(ops.gumbel(ready.seed, record.position, left.tolist()))
        assert record.noise == tuple(ops.gumbel(ready.seed, record.position, record.candidate_ids))
    else:
        assert record.noise is record.lead is None
    order = left[np.argsort(-scores, kind="stable")]
    assert record.id == order[0]
    assert record.runner_up == (order[1] if len(order) > 1 else None)
    if ready.sample and len(order) > 1:
        best = np.sort(scores)[::-1]
        assert record.lead == pytest.approx(best[0] - best[1], abs=1e-9)


# -- why a token could not be chosen -----------------------------------------------------------------------------------


def test_every_candidate_that_went_knows_which_processor_took_it() -> None:
    row = np.random.default_rng(4).normal(0, 1.3, N_VOCAB).astype(np.float32)
    takers: set[str] = set()
    for ops in BOTH:
        record, ready, found = account(MANY | {"candidates": -1, "seed": 1}, row, [1, 2, 3, 2], ops)
        for token in record.candidate_ids:
            removal = record.removal(token)
            taken = [i for i in range(len(found) - 1) if found[i][token] > -INF and found[i + 1][token] == -INF]
            if not taken:
                assert removal is None
                continue
            assert removal is not None
            assert removal.label == ready.processors[taken[0]].label
            assert str(removal) == removal.rule
            takers.add(ready.processors[taken[0]].name)
    assert takers >= {"bad_words_ids", "top_k", "top_p", "min_p"}


def reasons(before: dict[str, Any], options: dict[str, Any], row: Row, ops: Ops) -> list[tuple[int, list[float], Row]]:
    """(token, the numbers that its rule says, the row that the processor saw) of what the processor of `options` took."""
    record, ready, found = account({"do_sample": True, "candidates": -1} | before | options, row, ops=ops)
    name = next(iter(options)).replace("xtc_probability", "xtc")
    at = [processor.name for processor in ready.processors].index(name)
    said = []
    for token in record.candidate_ids:
        removal = record.removal(token)
        if removal is not None and removal.label == ready.processors[at].label:
            numbers = [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", removal.rule)]
            said.append((token, numbers, found[at]))
    assert said
    return said


RANDOM = np.random.default_rng(8).normal(0, 1.5, N_VOCAB).astype(np.float32)


@pytest.mark.parametrize("before", [{}, {"temperature": 0.7, "top_k": 30}, {"repetition_penalty": 3.0}], ids=str)
@pytest.mark.parametrize("ops", BOTH, ids=lambda ops: ops.name)
def test_the_numbers_of_a_removal_are_right(before: dict[str, Any], ops: Ops) -> None:
    for token, numbers, row in reasons(before, {"top_k": 5}, RANDOM, ops):
        assert numbers == [5, _rank(row, token) + 1]
    for name, value in (("top_p", 0.6), ("top_h", 0.5), ("tfs", 0.6)):
        for token, numbers, row in reasons(before, {name: value}, RANDOM, ops):
            assert numbers == pytest.approx([value, softmax(row)[row > row[token]].sum()], abs=6e-4)
    for token, numbers, row in reasons(before, {"min_p": 0.3}, RANDOM, ops):
        prob = softmax(row)
        assert numbers == pytest.approx([0.3, prob[token], 0.3, 0.3 * prob.max()], rel=6e-3)
        assert numbers[1] < numbers[3]
    for token, numbers, row in reasons(before, {"epsilon_cutoff": 0.05}, RANDOM, ops):
        assert numbers == pytest.approx([0.05, softmax(row)[token]], rel=6e-3)
    for token, numbers, row in reasons(before, {"eta_cutoff": 0.3}, RANDOM, ops):
        prob = softmax(row)
        limit = min(0.3, math.sqrt(0.3) * math.exp(-entropy(prob)))
        assert numbers == pytest.approx([0.3, prob[token], limit, entropy(prob)], rel=6e-3)
    for token, numbers, row in reasons(before, {"top_a": 0.5}, RANDOM, ops):
        prob = softmax(row)
        assert numbers == pytest.approx([0.5, prob[token], 0.5 * prob.max() ** 2], rel=6e-3)
    for token, numbers, row in reasons(before, {"top_n_sigma": 0.9}, RANDOM, ops):
        assert numbers == pytest.approx([0.9, row.max() - row[token]], abs=6e-3)
    for token, numbers, row in reasons(before, {"typical_p": 0.5}, RANDOM, ops):
        surprise, nats = -math.log(softmax(row)[token]), entropy(softmax(row))
        assert numbers == pytest.approx([0.5, surprise, abs(surprise - nats)], abs=6e-3)
    for token, numbers, row in reasons(before, {"xtc_probability": 1.0, "xtc_threshold": 0.02}, RANDOM, ops):
        assert numbers == pytest.approx([1, softmax(row)[token]], rel=6e-3)
    for token, numbers, row in reasons(before, {"mirostat": 2, "mirostat_tau": 1.0}, RANDOM, ops):
        assert numbers == pytest.approx([1, 2, -math.log2(softmax(row)[token])], abs=6e-3)  # tau, mu, bits


def test_a_rank_that_the_record_cannot_know_is_a_least_one() -> None:
    """A penalty puts the first token behind many; of those that go with it, only the candidates are recorded."""
    row = np.linspace(3, 0, N_VOCAB, dtype=np.float32)
    options = {"do_sample": True, "repetition_penalty": 20.0, "top_k": 4}
    for candidates, rule in ((3, "top_k=4: rank at least 5"), (-1, "top_k=4: rank 31")):
        record, _, found = account(options | {"candidates": candidates}, row, [0, 0])
        assert _rank(found[1], 0) + 1 == 31
        assert str(record.removal(0)) == rule
    record, _, _ = account({"do_sample": True, "temperature": 0.5, "top_k": 1, "candidates": 3}, row, [0, 0])
    assert str(record.removal(2)) == "top_k=1: rank 3"  # a temperature puts nothing behind anything


def test_what_a_later_processor_forced_was_not_removed() -> None:
    row = np.zeros(N_VOCAB, np.float32)
    options = {"min_length": 20, "forced_eos_token_id": 5}
    record, _, found = account(options, row, [1, 2, 3], max_length=4)
    assert found[1][5] == -INF
    assert (record.id, record.n_kept) == (5, 1)
    assert record.removal(5) is None
    removal = record.removal(7)
    assert removal is not None
    assert removal.rule == "forced_eos_token_id(5): not allowed here"


# -- odd steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [math.nan, INF])
def test_a_damaged_row_that_is_mended_has_a_record(damaged: float) -> None:
    """Looking changes nothing: with remove_invalid_values such a row can be chosen from, and so it can be looked at."""
    row = np.linspace(-1, 1, N_VOCAB, dtype=np.float32)
    row[7] = damaged
    for ops in BOTH:
        options = {"remove_invalid_values": True, "repetition_penalty": 1.5}
        record, _, found = account(options, row, [3], ops)
        assert record.id == int(found[-1].argmax())
        assert record.raw_logits[record.candidate_ids.index(record.id)] == (
            row[record.id] if record.id != 7 else found[-1][7]
        )
        assert np.isfinite(record.raw_logits).all()


def test_the_whole_vocabulary_is_all_that_the_model_allows() -> None:
    row = np.random.default_rng(0).normal(0, 2, 1000).astype(np.float32)
    row[5] = -INF
    record, _, _ = account({"do_sample": True, "top_p": 0.5, "candidates": -1}, row, ops=NATIVE)
    assert sorted(record.candidate_ids) == [token for token in range(1000) if token != 5]
    assert record.tail_prob == pytest.approx(0, abs=1e-5)
    assert sum(candidate.final_prob for candidate in record.candidates) == pytest.approx(1, abs=1e-5)


def test_one_candidate_still_knows_the_runner_up() -> None:
    row = np.array([1.0, 3.0, 2.0], np.float32)
    for ops in BOTH:
        for options in ({}, {"logit_bias": {0: -1}}):
            record, _, _ = account(options | {"candidates": 1}, row, [], ops, eos_ids=())
            assert (record.id, record.runner_up, record.candidate_ids) == (1, 2, (1,))


def test_rows_are_kept_where_they_are_asked_for() -> None:
    row = np.linspace(-1, 1, N_VOCAB, dtype=np.float32)
    for ops in BOTH:
        for raw, final in ((False, False), (True, False), (False, True)):
            config = GenerationConfig(logit_bias={3: 2.0}, output_logits=raw, output_scores=final)  # type: ignore[arg-type]
            decision = decide([1], ops.tensor(row, N_VOCAB), StepSettings.of(config, around(ops)))
            assert (decision.raw is not None, decision.final is not None) == (raw, final)
            if decision.raw is not None:
                np.testing.assert_array_equal(decision.raw.numpy()[0], row)
            if decision.final is not None:
                assert decision.final.numpy()[0, 3] == row[3] + 2
