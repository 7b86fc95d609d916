"""Stop rules, and stop strings in a text that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanlight.decoding.stopping import CANCELLED, StopReason, StopRules, StopStrings

SHORT = st.text("abc", min_size=1, max_size=4)
TEXTS = st.lists(st.text("abc", max_size=6), max_size=8)


def first_stop(text: str, strings: list[str]) -> tuple[str, str | None]:
    """The definition: the match that ends first, the longest of those; the text before it."""
    for end in range(1, len(text) + 1):
        ending = [string for string in strings if text[:end].endswith(string)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def held_back(text: str, strings: list[str]) -> int:
    """How much of the end may still become a stop string."""
    return max((n for string in strings for n in range(len(string)) if text.endswith(string[:n])), default=0)


@given(st.lists(SHORT, max_size=5), TEXTS)
@example(["aab", "ab", "b"], ["a", "aa", "cab"])
@example(["abab", "ba"], ["aba"])
@example(["abc", "b"], ["a", "b"])
@example(["abax", "bz", "ac"], ["aba", "c"])  # "aba" falls back on "a", though "ab" falls back on "b"
def test_cutting_the_text_into_pieces_makes_no_difference(strings: list[str], pieces: list[str]) -> None:
    stops = StopStrings(strings)
    shown, seen = "", ""
    for piece in pieces:
        seen += piece
        text, found = stops.feed(piece)
        shown += text
        expected, match = first_stop(seen, strings)
        assert found == match
        if match is not None:
            assert shown == expected
            assert stops.feed("more") == ("", match)
            assert stops.flush() == ""
            return
        assert shown == seen[: len(seen) - held_back(seen, strings)]  # no more is held back than must be
    assert shown + stops.flush() == seen
    assert stops.flush() == ""


def test_without_stop_strings_nothing_is_held_back() -> None:
    stops = StopStrings(())
    assert stops.feed("any text") == ("any text", None)
    assert stops.flush() == ""


def test_characters_outside_the_basic_plane_count_as_one() -> None:
    stops = StopStrings(["🙂é"])
    assert stops.feed("x🙂") == ("x", None)
    assert stops.feed("é!") == ("", "🙂é")


def test_many_long_strings_that_almost_match_everywhere() -> None:
    """Trying every string at every character would take minutes here."""
    stops = StopStrings(["a" * 500 + chr(0x4E00 + i) for i in range(400)])
    shown = "".join(stops.feed("aaa")[0] for _ in range(10_000))
    assert len(shown) == 30_000 - 500
    assert stops.feed("a" + chr(0x4E00 + 399)) == ("a", "a" * 500 + chr(0x4E00 + 399))


def test_flush_begins_a_new_text() -> None:
    stops = StopStrings(["ab"])
    assert stops.feed("a") == ("", None)
    assert stops.flush() == "a"
    assert stops.feed("b") == ("b", None)


@pytest.mark.parametrize(
    ("token", "n_new", "n_total", "reason", "words"),
    [
        (5, 1, 4, None, ""),
        (2, 1, 4, StopReason.EOS, "stopped by end-of-sequence token <id 2> after 1 token"),
        (5, 20, 24, StopReason.MAX_NEW_TOKENS, "cut off by max_new_tokens=20"),
        (5, 7, 32, None, ""),  # the last token need not fit
        (5, 7, 33, StopReason.CONTEXT_WINDOW, "cut off: the context window of 32 tokens is full"),
        (3, 20, 33, StopReason.EOS, "stopped by end-of-sequence token <id 3> after 20 tokens"),
        (5, 20, 33, StopReason.MAX_NEW_TOKENS, "cut off by max_new_tokens=20"),
    ],
)
def test_each_rule_says_why_in_words(
    token: int, n_new: int, n_total: int, reason: StopReason | None, words: str
) -> None:
    rules = StopRules(eos_ids=frozenset({2, 3}), max_new_tokens=20, n_ctx=32)
    stop = rules.check(token, n_new, n_total)
    assert (stop.reason if stop else None) == reason
    assert (str(stop) if stop else "") == words


def test_every_reason_can_be_stored_and_read_again() -> None:
    assert [StopReason(reason.value) for reason in StopReason] == list(StopReason)
    assert str(CANCELLED) == "the request was cancelled"
