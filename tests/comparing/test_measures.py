"""Measures of token sequences: cases made by hand, properties, and a second plain implementation of Self-BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.comparing.measures import (
    MISSING,
    Loop,
    Spread,
    distinct,
    frontier,
    longest_loop,
    mean,
    parting,
    perplexity,
    repetition,
    self_bleu,
    spread,
)

TOKENS = st.lists(st.integers(0, 4), max_size=33)
TEXTS = st.lists(TOKENS, min_size=2, max_size=7)


def plain_bleu(text: Sequence[int], others: Sequence[Sequence[int]], order: int = 4) -> float:
    """BLEU step by step: every n-gram of every reference is counted anew."""
    if not text:
        return 1.0 if any(not other for other in others) else 0.0
    precisions = []
    for n in range(1, min(order, len(text)) + 1):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        hits = 0
        for gram in set(grams):
            most = 0
            for other in others:
                most = max(most, sum(tuple(other[i : i + n]) == gram for i in range(len(other) - n + 1)))
            hits += min(grams.count(gram), most)
        if n == 1 and hits == 0:
            return 0.0
        precisions.append((hits if hits else MISSING) / len(grams))
    gap = min(abs(len(other) - len(text)) for other in others)
    nearest = min(len(other) for other in others if abs(len(other) - len(text)) == gap)
    shortness = 1.0 if len(text) >= nearest else exp(1 - nearest / len(text))
    return shortness * prod(precisions) ** (1 / len(precisions))


def test_perplexity_of_a_uniform_choice_is_the_number_of_choices() -> None:
    assert perplexity([-log(7)] * 5) == pytest.approx(7)
    assert perplexity([log(0.5), log(0.125)]) == pytest.approx(4)
    assert perplexity([]) is None


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["aab"], 1, 2 / 3),
        (["aab"], 2, 1.0),
        (["abab"], 2, 2 / 3),
        (["ab", "ab"], 2, 0.5),  # across the texts
        (["ab", "ba"], 2, 1.0),  # no n-gram goes from one text to the next
        (["ab"], 3, None),
        ([], 1, None),
    ],
)
def test_distinct_n_by_hand(texts: list[str], n: int, expected: float | None) -> None:
    assert distinct(texts, n) == pytest.approx(expected)


def test_repetition_counts_what_came_before() -> None:
    assert repetition("abcdabcd", 4) == pytest.approx(1 / 5)
    assert repetition("aaaaaa", 4) == pytest.approx(2 / 3)
    assert repetition("abcdefg", 4) == 0
    assert repetition("abc", 4) is None


@given(TOKENS, st.integers(1, 4))
def test_repetition_and_distinct_make_one(text: list[int], n: int) -> None:
    found, share = distinct([text], n), repetition(text, n)
    if len(text) < n:
        assert found is share is None
    else:
        assert found is not None
        assert share is not None
        assert 0 < found <= 1
        assert found + share == pytest.approx(1)


@given(TEXTS, st.integers(1, 3))
def test_more_of_the_same_texts_is_less_distinct(texts: list[list[int]], n: int) -> None:
    once, twice = distinct(texts, n), distinct(texts * 2, n)
    assert (once is None) == (twice is None)
    if once is not None:
        assert twice == pytest.approx(once / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcabcab", Loop(0, 3, 8)),  # an unfinished repetition counts
        ("xxabababyy", Loop(2, 2, 6)),
        ("aaaa", Loop(0, 1, 4)),  # the shortest part that explains it
        ("abcdcd", Loop(2, 2, 4)),
        ("aabb", Loop(0, 1, 2)),  # the earlier of equals
        ("abca", None),
        ("a", None),
        ("", None),
    ],
)
def test_the_longest_loop_by_hand(text: str, expected: Loop | None) -> None:
    assert longest_loop(text) == expected


@given(TOKENS)
def test_a_loop_repeats_what_it_says_and_no_run_is_longer(text: list[int]) -> None:
    found = longest_loop(text)
    runs = [
        n
        for unit in range(1, len(text) // 2 + 1)
        for start in range(len(text))
        for n in range(2 * unit, len(text) - start + 1)
        if all(text[start + i] == text[start + i - unit] for i in range(unit, n))
    ]
    assert (found.n_tokens if found else 0) == max(runs, default=0)
    if found:
        run = text[found.start : found.start + found.n_tokens]
        assert all(run[i] == run[i - found.unit] for i in range(found.unit, len(run)))
        assert found.repeats >= 2


@given(TEXTS, st.integers(1, 4))
def test_self_bleu_is_that_of_a_plain_implementation(texts: list[list[int]], order: int) -> None:
    scores = [plain_bleu(text, texts[:i] + texts[i + 1 :], order) for i, text in enumerate(texts)]
    assert self_bleu(texts, order) == pytest.approx(sum(scores) / len(scores))


@given(TOKENS, st.integers(2, 5))
def test_equal_texts_have_a_self_bleu_of_one(text: list[int], n: int) -> None:
    assert self_bleu([text] * n) == pytest.approx(1)


def test_texts_without_a_common_token_have_a_self_bleu_of_zero() -> None:
    assert self_bleu(["abcd", "efgh", "ijkl"]) == 0


def test_self_bleu_by_hand() -> None:
    # "abcx" against "abcd": 3/4, 2/3, 1/2, and MISSING/1
    assert self_bleu(["abcd", "abcx"]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * MISSING) ** (1 / 4))
    # "ab" against "abcd": all match, too short by half; "abcd" against "ab": 2/4, 1/3, MISSING/2, MISSING/1
    both = exp(1 - 4 / 2), (2 / 4 * 1 / 3 * MISSING / 2 * MISSING) ** (1 / 4)
    assert self_bleu(["ab", "abcd"]) == pytest.approx(sum(both) / 2)


def test_self_bleu_needs_two_texts() -> None:
    assert self_bleu(["abc"]) is None
    assert self_bleu([]) is None
    assert self_bleu(["", "abc"]) == 0


@given(TEXTS, st.randoms())
def test_self_bleu_does_not_depend_on_the_order(texts: list[list[int]], random: object) -> None:
    other = list(texts)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert self_bleu(other) == pytest.approx(self_bleu(texts))


def test_texts_part_at_the_first_difference() -> None:
    assert parting("abcx", "abcd") == 3
    assert parting("ab", "abc") == 2
    assert parting("abc", "ab") == 2
    assert parting("", "a") == 0
    assert parting("abc", "abc") is None
    assert parting("", "") is None


@given(TOKENS, TOKENS)
def test_before_they_part_texts_are_the_same(a: list[int], b: list[int]) -> None:
    index = parting(a, b)
    assert index == parting(b, a)
    if index is None:
        assert a == b
    else:
        assert a[:index] == b[:index]
        assert a[index : index + 1] != b[index : index + 1]


def test_the_frontier_by_hand() -> None:
    points = [(3.0, 0.5), (2.0, 0.4), (4.0, 0.5), None, (2.0, 0.3), (5.0, 0.9), (2.0, 0.4)]
    assert frontier(points) == [1, 6, 0, 5]


@given(st.lists(st.none() | st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=17))
def test_nothing_betters_a_point_of_the_frontier_and_something_every_other(
    points: list[tuple[int, int] | None],
) -> None:
    def betters(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    found = frontier(points)  # type: ignore[arg-type]
    for i, point in enumerate(points):
        if point is None:
            assert i not in found
        else:
            assert (i in found) == (not any(other is not None and betters(other, point) for other in points))
    costs = [points[i][0] for i in found]  # type: ignore[index]
    assert costs == sorted(costs)


def test_a_spread_is_a_mean_and_its_standard_error() -> None:
    assert spread([1.0, None, 2.0, 6.0]) == Spread(3.0, pytest.approx((7 / 3) ** 0.5), 3)
    assert spread([4.0]) == Spread(4.0, None, 1)
    assert spread([None]) is None
    assert mean([None, 1.0, 2.0]) == 1.5
    assert mean([]) is None
