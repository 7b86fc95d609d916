"""What holds for any settings, any row and any history: processors are pure, filters only remove and never all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.rows import BOTH, INF, around, built, softmax
from decoding.settings_of_all_kinds import HISTORIES, N_VOCAB, SETTINGS, rows, text_of
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.step import StepSettings, decide, process

if TYPE_CHECKING:
    from decoding.rows import Row
    from fanlight.kernels.ops import Ops


def surroundings(ops: Ops, ids: list[int], seed: int = 3) -> Surroundings:
    """Of a request whose prompt is the first half of the ids."""
    prompt = tuple(ids[: (len(ids) + 1) // 2])
    return around(ops, n_vocab=N_VOCAB, prompt_ids=prompt, eos_ids=(0, 5), max_length=12, seed=seed, token_text=text_of)


def processed(ops: Ops, options: dict[str, Any], ids: list[int], row: Row) -> tuple[Any, list[Row]]:
    where = surroundings(ops, ids)
    processors = built(options, **{name: getattr(where, name) for name in Surroundings.__slots__})
    return processors, [r.numpy()[0] for r in process(ids, ops.tensor(row, N_VOCAB), processors)]


@settings(max_examples=200, deadline=None)
@given(SETTINGS, HISTORIES, rows())
def test_processors_are_pure_and_filters_remove_and_nothing_else(
    options: dict[str, Any], ids: list[int], row: Row
) -> None:
    for ops in BOTH:
        before, history = row.copy(), list(ids)
        processors, found = processed(ops, options, ids, row)
        again = [r.numpy()[0] for r in process(tuple(ids), ops.tensor(row, N_VOCAB), processors)]
        np.testing.assert_array_equal(found[0], before)
        np.testing.assert_array_equal(row, before)
        assert ids == history
        for processor, was, now, once_more in zip(processors, found[:-1], found[1:], again[1:], strict=True):
            np.testing.assert_array_equal(now, once_more, err_msg=processor.label)
            left = now > -INF
            assert left.any(), processor.label
            assert not np.isnan(now).any(), processor.label
            if not processor.name.startswith("forced"):
                assert (was[left] > -INF).all(), f"{processor.label} brought a token back"
            if processor.removes:
                np.testing.assert_array_equal(now[left], was[left], err_msg=processor.label)
                least = getattr(processor, "min_keep", 1)
                assert left.sum() >= min(least, (was > -INF).sum()), processor.label
        assert abs(softmax(found[-1]).sum() - 1) < 1e-9


@settings(max_examples=200, deadline=None)
@given(SETTINGS, HISTORIES, rows())
def test_native_and_reference_ops_leave_the_same_tokens(options: dict[str, Any], ids: list[int], row: Row) -> None:
    (processors, ours), (_, theirs) = (processed(ops, options, ids, row) for ops in BOTH)
    for processor, a, b in zip(processors, ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a > -INF, b > -INF, err_msg=processor.label)
        left = a > -INF
        np.testing.assert_allclose(a[left], b[left], rtol=1e-4, atol=1e-4, err_msg=processor.label)


@settings(max_examples=150, deadline=None)
@given(SETTINGS, HISTORIES, rows(), st.integers(-5, 2**65))
def test_recording_changes_no_choice(options: dict[str, Any], ids: list[int], row: Row, seed: int) -> None:
    for ops in BOTH:
        tensor = ops.tensor(row, N_VOCAB)
        config = GenerationConfig.from_options(options)
        ready = StepSettings.of(config, surroundings(ops, ids, seed))
        chosen = []
        for candidates in (0, 1, 7, -1):
            decision = decide(ids, tensor, replace(ready, candidates=candidates))
            chosen.append((decision.choice.id, [p.label for p in decision.processors or ()]))
            assert (decision.record is None) == (candidates == 0)
        assert chosen[1:] == chosen[:-1]


@settings(max_examples=100, deadline=None)
@given(SETTINGS, HISTORIES, rows())
def test_the_choice_is_one_of_those_that_are_left(options: dict[str, Any], ids: list[int], row: Row) -> None:
    for ops in BOTH:
        _, found = processed(ops, options, ids, row)
        ready = StepSettings.of(GenerationConfig.from_options({"top_k": None} | options), surroundings(ops, ids))
        choice = decide(ids, ops.tensor(row, N_VOCAB), ready).choice
        assert found[-1][choice.id] > -INF
        if not ready.sample:
            assert choice.id == int(found[-1].argmax())
