"""Loops, lengths, windows beside the text, the caller's functions: the rules by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanlight.decoding.stopping import (
    LONGEST_LOOP,
    LoopDetector,
    StopReason,
    StopRules,
    asked_to_stop,
    ends_mid_sentence,
)
from fanlight.errors import OptionError


def first_loop(ids: list[int], repeats: int, min_tokens: int) -> tuple[int, int] | None:
    """The definition: (tokens until the last block has come so often in a row, its length)."""
    for end in range(1, len(ids) + 1):
        for period in range(min_tokens, end // repeats + 1):
            block = ids[end - period : end]
            if ids[end - period * repeats : end] == block * repeats:
                return end, period
    return None


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(2, 5), st.integers(1, 4))
@example([0, 1, 0, 1, 0, 1], 3, 1)
@example([0, 0, 0, 0], 2, 2)
def test_a_loop_is_noticed_where_it_is_complete(ids: list[int], repeats: int, min_tokens: int) -> None:
    detector = LoopDetector(repeats, min_tokens)
    found = None
    for n, token in enumerate(ids, 1):
        stop = detector.feed(token)
        if stop is not None:
            assert (stop.reason, stop.token) == (StopReason.LOOP, token)
            found = n, str(stop)
            break
    expected = first_loop(ids, repeats, min_tokens)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        n, period = expected
        tokens = "1 token" if period == 1 else f"{period} tokens"
        assert found == (n, f"stopped by loop_repeats={repeats}: the last {tokens} came {repeats} times in a row")


def test_the_longest_block_is_limited() -> None:
    for period, is_noticed in ((LONGEST_LOOP, True), (LONGEST_LOOP + 1, False)):
        detector = LoopDetector(2)
        stops = [detector.feed(token) for token in [*range(period)] * 2]
        assert (stops[-1] is not None) == is_noticed
        assert not any(stops[:-1])


@pytest.mark.parametrize(
    ("sizes", "n_total", "words"),
    [
        ({}, 32, None),
        ({}, 33, "cut off: the context window of 32 tokens is full"),
        ({"n_beside": 5, "whose": " (the other's)"}, 27, None),
        (
            {"n_beside": 5, "whose": " (the other's)"},
            28,
            "cut off: the context window of 32 tokens is full (the other's)",
        ),
        ({"max_length": 20}, 19, None),
        ({"max_length": 20}, 20, "cut off by max_length=20"),
        ({"deadline": 99.0, "max_time": 1.5}, 20, None),
        ({"deadline": 7.0, "max_time": 1.5}, 20, "cut off by max_time=1.5 s after 4 tokens"),
        ({"max_new_tokens": 4, "max_length": 20, "deadline": 7.0, "max_time": 1.5}, 20, "cut off by max_new_tokens=4"),
    ],
    ids=str,
)
def test_each_limit_has_its_words(sizes: dict[str, Any], n_total: int, words: str | None) -> None:
    rules = StopRules(**{"eos_ids": frozenset({2}), "max_new_tokens": None, "n_ctx": 32, **sizes})
    stop = rules.check(5, 4, n_total, now=8.0)
    assert (str(stop) if stop else None) == words


@given(
    n_ctx=st.integers(1, 40),
    n_beside=st.integers(0, 10),
    max_new_tokens=st.none() | st.integers(1, 50),
    max_length=st.none() | st.integers(2, 60),
    n_prompt=st.integers(1, 10),
)
def test_the_longest_text_is_where_the_rules_end_it(
    n_ctx: int, n_beside: int, max_new_tokens: int | None, max_length: int | None, n_prompt: int
) -> None:
    rules = StopRules(
        eos_ids=frozenset(), max_new_tokens=max_new_tokens, max_length=max_length, n_ctx=n_ctx, n_beside=n_beside
    )
    n = 1
    while rules.check(5, n, n_prompt + n) is None:
        n += 1
    longest = rules.longest(n_prompt)
    assert n_prompt + n == longest or (n == 1 and longest <= n_prompt)


@pytest.mark.parametrize(
    ("text", "breaks_off"),
    [
        ("", False),
        ("A sentence.", False),
        ('He said "Yes."  ', False),
        ("One, two", True),
        ("a list:", False),
        ("終わり。", False),
        ("終わり", True),
        ("(why?)", False),
        ("*yes!*", False),
        ("and then", True),
        (" \n", False),
    ],
)
def test_a_text_breaks_off_unless_a_sentence_ends(text: str, breaks_off: bool) -> None:
    assert ends_mid_sentence(text) is breaks_off


def test_words_say_whether_a_sentence_ended() -> None:
    rules = StopRules(eos_ids=frozenset(), max_new_tokens=4, n_ctx=32)
    assert [str(rules.check(5, 4, 9, tail=tail)) for tail in ("So it is.", "So it", None)] == [
        "cut off by max_new_tokens=4 at the end of a sentence",
        "cut off by max_new_tokens=4 in mid-sentence",
        "cut off by max_new_tokens=4",
    ]


def test_an_end_token_is_shown_as_a_word_where_there_is_one() -> None:
    rules = StopRules(eos_ids=frozenset({2}), max_new_tokens=4, n_ctx=32, token_label=lambda token: f"<{token}!>")
    assert str(rules.check(2, 4, 9)) == "stopped by end-of-sequence token <2!> after 4 tokens"


def test_the_first_function_that_says_yes_counts() -> None:
    class Judge:
        def __call__(self, ids: tuple[int, ...], text: str) -> object:
            return text == "ab"

    no, words = (lambda ids, text: None), (lambda ids, text: f"{len(ids)} ids")
    stop = asked_to_stop((no, Judge(), words), [7, 8], "ab")
    assert stop is not None
    assert (stop.reason, str(stop), stop.token) == (StopReason.CRITERION, "stopped by Judge", 8)
    assert str(asked_to_stop((no, Judge(), words), [7, 8], "a")) == "2 ids"
    assert asked_to_stop((no, lambda ids, text: "", lambda ids, text: False), [7], "") is None


@pytest.mark.parametrize("said", [1, 0, [], {}, b"", object()], ids=lambda said: type(said).__name__)
def test_a_function_says_yes_or_no_or_why(said: object) -> None:
    with pytest.raises(OptionError, match="must return true, false or a reason in words: got"):
        asked_to_stop((lambda ids, text: said,), [7], "")
