"""Records are plain data: derived numbers, comparison, pickling."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from fanlight.kernels.ops import RowStats
from fanlight.trace.records import Candidate, ProcessorEffect, StepRecord
from fanlight.trace.stop import Stop, StopReason

BEFORE = RowStats(n_kept=4, max=2.0, logsumexp=3.0, entropy=1.2)
AFTER = RowStats(n_kept=2, max=2.0, logsumexp=2.5, entropy=0.6)
RECORD = StepRecord(
    position=9,
    id=7,
    candidate_ids=(3, 7),
    raw_logits=(2.0, 1.5),
    raw=BEFORE,
    effects=(),
    raw_rank=1,
    final_rank=1,
    margin=-0.5,
    eos_prob=0.01,
)


def test_without_processors_the_final_row_is_the_raw_one() -> None:
    assert RECORD.final_logprob == RECORD.raw_logprob == -1.5
    assert RECORD.final_entropy == RECORD.raw_entropy == 1.2
    assert RECORD.candidates[1] == Candidate(7, 1.5, math.exp(-1.5), math.exp(-1.5))
    assert RECORD.n_kept == 4


def test_the_last_effect_is_the_final_row() -> None:
    first = ProcessorEffect("temperature(2)", False, BEFORE, BEFORE, (1.0, 0.75))
    last = ProcessorEffect("top_k(2)", True, BEFORE, AFTER, (1.0, -math.inf))
    record = replace(RECORD, effects=(first, last), id=3)
    assert record.final_logprob == 1.0 - 2.5
    assert [candidate.final_prob for candidate in record.candidates] == [math.exp(-1.5), 0.0]
    assert (record.n_kept, record.final_entropy) == (2, 0.6)


def test_only_a_filter_removes_probability() -> None:
    assert ProcessorEffect("top_k(2)", True, BEFORE, AFTER, ()).removed_prob == pytest.approx(1 - math.exp(-0.5))
    hotter = replace_stats(BEFORE, logsumexp=2.0)
    assert ProcessorEffect("temperature(2)", False, BEFORE, hotter, ()).removed_prob == 0
    assert ProcessorEffect("some_penalty(1)", False, BEFORE, AFTER, ()).removed_prob == 0
    rounded = replace_stats(BEFORE, logsumexp=3.0000001)  # a sum over fewer tokens that rounded up
    assert ProcessorEffect("top_k(2)", True, BEFORE, rounded._replace(n_kept=3), ()).removed_prob == 0


def replace_stats(stats: RowStats, **changes: float) -> RowStats:
    return stats._replace(**changes)  # type: ignore[arg-type]


def test_records_are_frozen_and_survive_pickling() -> None:
    record = replace(RECORD, stop=Stop(StopReason.EOS, "stopped by end-of-sequence token <id 2>"))
    assert pickle.loads(pickle.dumps(record)) == record
    assert record != RECORD
    with pytest.raises(FrozenInstanceError):
        record.id = 3  # type: ignore[misc]
