"""Records are plain data: derived numbers, comparison, pickling."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from fanlight.kernels.ops import RowStats
from fanlight.trace.records import Candidate, Guess, ProcessorEffect, Removal, StepRecord
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


def test_the_probability_that_a_processor_removes() -> None:
    assert ProcessorEffect("top_k(2)", True, BEFORE, AFTER, ()).removed_prob == pytest.approx(1 - math.exp(-0.5))
    hotter = replace_stats(BEFORE, logsumexp=2.0)
    assert ProcessorEffect("temperature(2)", False, BEFORE, hotter, ()).removed_prob == 0
    some_bias = ProcessorEffect("some_bias(1)", False, BEFORE, hotter._replace(n_kept=2), (), kept_logsumexp=2.5)
    assert some_bias.removed_prob == pytest.approx(
        1 - math.exp(-0.5)
    )  # of the logits before it, whatever it made of them
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


def test_a_processor_without_a_number_makes_no_record_unequal() -> None:
    effect = ProcessorEffect("mine", False, BEFORE, BEFORE, (2.0, 1.5), "mine", math.nan)
    record = replace(RECORD, effects=(effect,))
    assert pickle.loads(pickle.dumps(record)) == record


# -- why a candidate went --------------------------------------------------------------------------------------------------

THREE = replace(RECORD, candidate_ids=(3, 7, 9), raw_logits=(2.0, 1.5, 1.0), n_top=3, id=3)


def effect(name: str, *logits: float, removes: bool = True, value: float = 2.0) -> ProcessorEffect:
    kept = sum(logit > -math.inf for logit in logits) if removes else 4
    return ProcessorEffect(f"{name}({value:g})", removes, BEFORE, AFTER._replace(n_kept=kept), logits, name, value)


def test_the_processor_that_removed_a_candidate_is_named_with_its_rule() -> None:
    record = replace(
        THREE,
        effects=(
            effect("temperature", 1.0, 0.75, 0.5, removes=False),
            effect("top_k", 1.0, 0.75, -math.inf),
            effect("some_filter", 1.0, -math.inf, -math.inf),
        ),
    )
    assert record.removal(3) is None
    assert record.removal(9) == Removal("top_k(2)", "top_k=2: rank 3")
    assert record.removal(7) == Removal("some_filter(2)", "some_filter(2): not allowed here")
    with pytest.raises(KeyError, match="token 4 is not among the 3 candidates of this step"):
        record.removal(4)
    with pytest.raises(KeyError, match="token 4"):
        record.logprobs(4)


def test_a_token_that_came_back_is_judged_by_what_came_after() -> None:
    gone, back = (
        effect("min_length", 2.0, -math.inf, 1.0),
        effect("forced_eos", -math.inf, 0.0, -math.inf, removes=False),
    )
    record = replace(THREE, effects=(gone, back))
    assert record.removal(7) is None
    assert str(record.removal(3)) == "forced_eos(2): not allowed here"
    again = replace(THREE, effects=(gone, back, effect("top_k", -math.inf, -math.inf, -math.inf)))
    assert (again.removal(7) or Removal("", "")).label == "top_k(2)"


@pytest.mark.parametrize(
    ("first", "n_top", "said"),
    [
        (effect("temperature", 1.0, 0.75, 0.5, removes=False), 3, "rank 2"),
        (effect("top_p", 2.0, 1.5, 1.0), 3, "rank 2"),
        (effect("repetition_penalty", 1.0, 0.75, 0.5, removes=False), 3, "rank at least 2"),
        (effect("repetition_penalty", 1.0, 0.75, 0.5, removes=False), 4, "rank 2"),  # all 4 tokens are candidates
        (effect("mine", 1.0, 0.75, 0.5, removes=False), 3, "rank at least 2"),
    ],
)
def test_a_rank_is_sure_where_no_unseen_token_can_stand_before(first: ProcessorEffect, n_top: int, said: str) -> None:
    last = effect("top_k", 1.0, -math.inf, -math.inf)
    record = replace(THREE, n_top=n_top, effects=(first, last))
    assert str(record.removal(7)) == f"top_k=2: {said}"


def test_a_guess_and_a_stop_are_part_of_a_record() -> None:
    guessed = replace(RECORD, guess=Guess("prompt_lookup", 7, True))
    assert guessed != RECORD
    assert pickle.loads(pickle.dumps(guessed)) == guessed


def test_the_tail_is_what_the_most_probable_leave() -> None:
    assert RECORD.tail_prob == 1  # none of its candidates is known as one of the most probable
    assert replace(RECORD, n_top=1).tail_prob == pytest.approx(1 - math.exp(-1))
    assert replace(RECORD, n_top=2).tail_prob == pytest.approx(1 - math.exp(-1) - math.exp(-1.5))
