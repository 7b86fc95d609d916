"""Records as arrays: nothing is lost, columns say what records say, and it is fast."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.traces import some_records
from fanlight.errors import OptionError
from fanlight.kernels.ops import RowStats
from fanlight.trace.records import Guess, ProcessorEffect, StepRecord
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.columns import COLUMNS, Columns, Steps, encode, narrow
from fanlight.tracing.fitting import check_together

INF = math.inf
IDS = st.one_of(st.integers(0, 50_000), st.integers(0, 2**40))
FLOATS = st.one_of(st.floats(allow_nan=False), st.floats(allow_nan=False, width=32))
LOGITS = st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.just(-INF), FLOATS)
STATS = st.builds(RowStats, st.integers(1, 50_000), FLOATS, FLOATS, FLOATS)
LABELS = st.sampled_from(
    [("top_p(0.9)", "top_p", True), ("temperature(0.7)", "temperature", False), ("µ \ud800", "", True)]
)


@st.composite
def effects(draw: st.DrawFn, n: int, before: RowStats) -> tuple[ProcessorEffect, ...]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        label, name, removes = draw(
            LABELS | st.tuples(st.text(), st.text(), st.booleans())
        )  # mirostat's change each step
        after = draw(STATS)
        logits = tuple(draw(st.lists(LOGITS, min_size=n, max_size=n)))
        seen = before if draw(st.booleans()) else draw(STATS)
        kept = draw(st.none() | FLOATS)
        found.append(ProcessorEffect(label, removes, seen, after, logits, name, draw(FLOATS | st.just(math.nan)), kept))
        before = after
    return tuple(found)


@st.composite
def records(draw: st.DrawFn) -> StepRecord:
    ids = tuple(draw(st.lists(IDS, min_size=1, max_size=7, unique=True)))
    n = len(ids)
    raw = draw(STATS)
    return StepRecord(
        position=draw(st.integers(0, 2**33)),
        id=draw(st.sampled_from(ids)),
        candidate_ids=ids,
        raw_logits=tuple(draw(st.lists(LOGITS, min_size=n, max_size=n))),
        raw=raw,
        effects=draw(effects(n, raw)),
        raw_rank=draw(IDS),
        final_rank=draw(IDS),
        margin=draw(st.none() | FLOATS),
        eos_prob=draw(FLOATS),
        final_eos_prob=draw(FLOATS),
        n_top=draw(st.integers(0, n)),
        noise=draw(st.none() | st.lists(FLOATS, min_size=n, max_size=n).map(tuple)),
        runner_up=draw(st.none() | IDS),
        lead=draw(st.none() | FLOATS),
        guess=draw(st.none() | st.builds(Guess, st.sampled_from(["prompt_lookup", "assistant"]), IDS, st.booleans())),
        stop=draw(
            st.none() | st.builds(Stop, st.sampled_from(StopReason), st.text(), st.none() | IDS, st.none() | st.text())
        ),
    )


def values_of(steps: Any) -> list[str]:
    """Of every effect, its setting, which records do not compare; NaN is the same as NaN here."""
    return [repr(effect.value) for record in steps for effect in record.effects]


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), max_size=5))
def test_nothing_is_lost(given_records: list[StepRecord]) -> None:
    columns = encode(given_records)
    again = Columns.of("here", columns.arrays, columns.tables())
    for steps in (Steps(columns), Steps(again)):
        assert list(steps) == given_records
        assert values_of(steps) == values_of(given_records)
        assert repr(list(steps)) == repr(given_records)  # -0.0 and 0.0 are told apart; ints stay ints


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.6},
        {"do_sample": True, "mirostat": 2, "top_k": 0},
        {"do_sample": True, "top_k": 3, "repetition_penalty": 1.3, "min_p": 0.05},
        {"do_sample": True, "logit_bias": {3: -5.0}, "suppress_tokens": [5], "no_repeat_ngram_size": 1},
    ],
)
def test_what_decide_makes_comes_back(options: dict[str, Any]) -> None:
    made = some_records(31, n_vocab=101, settings=options, guesses=True)
    assert Steps.of(made) == made
    assert Steps.of(made)[-1].stop == made[-1].stop is not None
    check_together("here", encode(made))


def test_whole_rows_come_back() -> None:
    made = some_records(3, candidates=-1, n_vocab=101)
    assert len(made[0].candidate_ids) == 101
    assert Steps.of(made) == made


def test_a_processor_that_comes_and_goes() -> None:
    made = some_records(7)
    made[2] = replace(made[2], effects=())
    made[5] = replace(made[5], effects=made[5].effects[:1], noise=None, lead=None)
    steps = Steps.of(made)
    assert steps == made
    assert steps.column("n_effects").tolist() == [2, 2, 0, 2, 2, 1, 2]
    assert steps.column("final_logprob").tolist() == [record.final_logprob for record in made]


def test_logits_take_four_bytes_unless_bits_would_be_lost() -> None:
    made = some_records(2)
    assert encode(made).arrays["raw_logits"].dtype == np.float32
    made[1] = replace(made[1], raw_logits=(0.1, *made[1].raw_logits[1:]))
    columns = encode(made)
    assert columns.arrays["raw_logits"].dtype == np.float64
    assert Steps(columns) == made


def test_numbers_that_fit_are_narrow() -> None:
    assert narrow(np.array([1.5, math.nan, -INF])).dtype == np.float32
    assert narrow(np.array([1e300])).dtype == np.float64
    assert narrow(np.array([2**31 - 1])).dtype == np.int32
    assert narrow(np.array([2**31])).dtype == np.int64


@pytest.mark.parametrize("n", [0, 1, 13])
def test_columns_say_what_records_say(n: int) -> None:
    made = some_records(n, n_vocab=101, candidates=7)
    steps = Steps.of(made)
    for name in COLUMNS:
        if hasattr(StepRecord, name):
            expected = [getattr(record, name) for record in made]
            expected = [(-1 if name == "runner_up" else math.nan) if value is None else value for value in expected]
            exact = name not in ("tail_prob",)
            np.testing.assert_allclose(steps.column(name), expected, rtol=0, atol=0 if exact else 1e-12, err_msg=name)
        assert steps.column(name).shape == (n,)
    np.testing.assert_array_equal(steps.column("surprise"), [-record.raw_logprob for record in made])
    chosen = [record.candidates[record.candidate_ids.index(record.id)] for record in made]
    np.testing.assert_allclose(steps.column("raw_prob"), [candidate.raw_prob for candidate in chosen], rtol=1e-12)
    np.testing.assert_allclose(steps.column("final_prob"), [candidate.final_prob for candidate in chosen], rtol=1e-12)
    assert steps.column("n_candidates").tolist() == [len(record.candidate_ids) for record in made]


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(OptionError, match=r"no column 'entrpy'; there is position, id, .*raw_entropy"):
        Steps.of(some_records(1)).column("entrpy")


def test_steps_are_a_sequence() -> None:
    made = some_records(5)
    steps = Steps.of(made)
    assert len(steps) == 5
    assert steps[-2] == made[3]
    assert steps[1:4] == tuple(made[1:4])
    assert steps[3] is steps[3]  # made once
    assert Steps.of(steps) is steps
    assert steps != made[:4]
    assert steps != "abcde"
    with pytest.raises(IndexError):
        steps[5]


def test_encoding_a_long_run_is_fast() -> None:
    made = some_records(300, n_vocab=200, candidates=20)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        encode(made)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.015
