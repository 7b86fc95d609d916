"""Penalties that transformers has not: frequency, presence, their ranges, and DRY."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.rows import BOTH, REFERENCE, built, run

ZERO = np.zeros(33, np.float32)


def change(options: dict[str, Any], ids: list[int], **what: Any) -> dict[int, float]:
    """Token -> what its logit of 0 became, where that is something else; the same on both ops."""
    rows = [run(built(options, ops, **what), ZERO, ids) for ops in BOTH]
    np.testing.assert_array_equal(*rows)
    return {token: round(float(logit), 5) for token, logit in enumerate(rows[0]) if logit}


# -- frequency and presence --------------------------------------------------------------------------------------------


def test_frequency_counts_and_presence_does_not() -> None:
    ids = [5, 6, 5, 7, 5]
    assert change({"frequency_penalty": 0.5}, ids) == {5: -1.5, 6: -0.5, 7: -0.5}
    assert change({"presence_penalty": 0.5}, ids) == {5: -0.5, 6: -0.5, 7: -0.5}
    assert change({"presence_penalty": 0.5, "frequency_penalty": -1}, ids) == {5: 2.5, 6: 0.5, 7: 0.5}
    assert change({"frequency_penalty": 0.5}, []) == {}


def test_the_prompt_counts_where_the_setting_says_so() -> None:
    """By default it counts for repetition_penalty, as in transformers, and not for the other two, as in OpenAI's API."""
    prompt, ids = (1, 2, 1), [1, 2, 1, 3, 1]
    for name in ("frequency_penalty", "presence_penalty"):
        assert change({name: 1}, ids, prompt_ids=prompt) == {1: -1, 3: -1}
        assert change({name: 1, "penalize_prompt": False}, ids, prompt_ids=prompt) == {1: -1, 3: -1}
    assert change({"frequency_penalty": 1, "penalize_prompt": True}, ids, prompt_ids=prompt) == {1: -3, 2: -1, 3: -1}
    ones = np.ones(33, np.float32)
    for counts, seen in ((None, {1, 2, 3}), (True, {1, 2, 3}), (False, {1, 3})):
        for ops in BOTH:
            processors = built({"repetition_penalty": 2, "penalize_prompt": counts}, ops, prompt_ids=prompt)
            assert set(np.flatnonzero(run(processors, ones, ids) == 0.5).tolist()) == seen


@pytest.mark.parametrize(
    ("last", "seen"), [(0, {1, 2, 3, 4}), (1, {4}), (2, {3, 4}), (3, {2, 3, 4}), (99, {1, 2, 3, 4})]
)
def test_a_range_looks_at_the_last_tokens_only(last: int, seen: set[int]) -> None:
    options = {"repetition_penalty_range": last, "penalize_prompt": True}
    assert change({"presence_penalty": 1, **options}, [1, 2, 3, 4]) == dict.fromkeys(seen, -1)
    in_text = seen & {3, 4}
    options["penalize_prompt"] = False
    assert change({"presence_penalty": 1, **options}, [1, 2, 3, 4], prompt_ids=(1, 2)) == dict.fromkeys(in_text, -1)


# -- DRY -----------------------------------------------------------------------------------------------------------------


def dry(ids: list[int], **options: Any) -> dict[int, float]:
    texts = options.pop("texts", None)
    found = change(
        {"dry_multiplier": 1, "dry_base": 2, "dry_allowed_length": 2} | options,
        ids,
        token_text=None if texts is None else texts.__getitem__,
    )
    return {token: -amount for token, amount in found.items()}


def test_dry_takes_from_what_would_carry_on_a_repeat() -> None:
    assert dry([1, 2, 3, 1, 2]) == {3: 1}  # "1 2" came before, 3 followed: 1 * 2^(2 - 2)
    assert dry([9, 1, 2, 3, 9, 1, 2]) == {3: 2}  # three tokens
    assert dry([9, 1, 2, 3, 9, 1, 2], dry_multiplier=0.8, dry_base=1.75) == {3: 1.4}
    assert dry([1, 2, 3, 4, 2]) == {}  # one token is allowed
    assert dry([1, 2, 3, 4, 2], dry_allowed_length=1) == {3: 1}
    assert dry([1, 2, 3, 1, 2], dry_allowed_length=3) == {}
    assert dry([1, 2, 1, 2, 1, 2]) == {1: 4}  # a repeat may overlap what it repeats
    assert dry([7, 7, 7]) == {7: 1}
    assert dry([1]) == {}
    assert dry([]) == {}


def test_of_several_repeats_the_longest_counts() -> None:
    ids = [5, 1, 2, 3, 8, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2]
    assert dry(ids) == {3: 2, 4: 1}


def test_dry_looks_back_as_far_as_it_is_told() -> None:
    ids = [1, 2, 3, 4, 5, 6, 1, 2]
    assert dry(ids) == {3: 1}
    assert dry(ids, dry_penalty_last_n=8) == {3: 1}
    assert dry(ids, dry_penalty_last_n=7) == {}


def test_no_repeat_reaches_over_a_breaker() -> None:
    texts = {1: "a", 2: "b", 3: "c", 4: ",\n", 5: "d", 6: '"x'}
    assert dry([5, 4, 1, 2, 3, 5, 4, 1, 2]) == {3: 4}  # the texts are not known: nothing breaks
    assert dry([5, 4, 1, 2, 3, 5, 4, 1, 2], texts=texts) == {3: 1}  # only "1 2" counts
    assert dry([1, 2, 4, 1, 2], texts=texts) == {}  # a breaker is never taken from
    assert dry([1, 4, 2, 1, 4], texts=texts) == {}  # and nothing repeats through one at the end
    assert dry([1, 6, 2, 3, 1, 6, 2], texts=texts) == {}
    assert dry([1, 6, 2, 3, 1, 6, 2], texts=texts, dry_sequence_breakers=["\n"]) == {3: 2}
    assert dry([1, 6, 2, 3, 1, 6, 2], texts=texts, dry_sequence_breakers=[]) == {3: 2}


def slow_dry(ids: list[int], breakers: set[int], last_n: int) -> dict[int, int]:
    """The definition: for each earlier place, how far back the text before it equals the text's end."""
    tail = ids[-last_n:] if last_n else ids
    found: dict[int, int] = {}
    for place in range(1, len(tail)):
        length = 0
        while length < place and tail[place - 1 - length] == tail[-1 - length] and tail[-1 - length] not in breakers:
            length += 1
        if length and tail[place] not in breakers:
            found[tail[place]] = max(found.get(tail[place], 0), length)
    return {token: length for token, length in found.items() if length >= 2}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.integers(0, 6),
    st.sets(st.integers(0, 3), max_size=2),
    st.integers(0, 30),
)
def test_dry_is_its_definition(start: list[int], loop: list[int], times: int, breakers: set[int], last_n: int) -> None:
    ids = start + loop * times
    options = {"dry_multiplier": 1, "dry_base": 2, "dry_penalty_last_n": last_n, "dry_sequence_breakers": ["!"]}
    (processor,) = built(options, token_text=lambda token: "!" if token in breakers else "x")
    expected = {token: 2.0 ** (n - 2) for token, n in slow_dry(ids, breakers, last_n).items()}
    assert processor.penalties(ids) == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("base", [1.0, 1.005, 1.75, 1e6])
@pytest.mark.parametrize("loop", [[7], [1, 2], list(range(30)), [1, 1, 1, 2]], ids=str)
def test_a_repetitive_text_is_no_burden_and_no_overflow(base: float, loop: list[int]) -> None:
    ids = (loop * 2000)[:2000]
    options = {"dry_multiplier": 1e6, "dry_base": base}
    (processor,) = built(options, REFERENCE)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        row = run([processor], ZERO, ids)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    assert np.isfinite(row).all()
    following = loop[2000 % len(loop)]
    assert row[following] == row.min() < -1e5
