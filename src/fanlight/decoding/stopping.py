"""When a text ends. In: ids and pieces of text. Out: a Stop that says why in words, the text that is safe to show.

Knows no model and no tokenizer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fanlight.errors import FanlightError, OptionError
from fanlight.trace.stop import Stop, StopReason

__all__ = [
    "CANCELLED",
    "LoopDetector",
    "Stop",
    "StopReason",
    "StopRules",
    "StopStrings",
    "asked_to_stop",
    "stop_given",
    "stop_max_new_tokens",
    "stop_string",
]

CANCELLED = Stop(StopReason.CANCELLED, "the request was cancelled")
LONGEST_LOOP = 512
"""Tokens of the longest block whose repeats are noticed."""


def _tokens(n: int) -> str:
    return f"{n} token" if n == 1 else f"{n} tokens"


def _where(mid_sentence: bool | None) -> str:
    return "" if mid_sentence is None else " in mid-sentence" if mid_sentence else " at the end of a sentence"


def stop_max_new_tokens(n: int, mid_sentence: bool | None = None) -> Stop:
    """The request asked for no more. mid_sentence: whether the text breaks off within a sentence; None: there is no text."""
    return Stop(StopReason.MAX_NEW_TOKENS, f"cut off by max_new_tokens={n}{_where(mid_sentence)}")


def stop_given(n: int) -> Stop:
    """A text that was given, not written, ends."""
    return Stop(StopReason.GIVEN, f"the given text ends after {_tokens(n)}")


def stop_string(string: str, n_new: int) -> Stop:
    """The text reached a stop string."""
    return Stop(StopReason.STOP_STRING, f"stopped by the stop string {string!r} after {_tokens(n_new)}", string=string)


def asked_to_stop(criteria: Sequence[Callable[..., Any]], ids: Sequence[int], text: str) -> Stop | None:
    """What the caller's functions say: the first that returns true, or a text, ends it. Errors: OptionError for anything else."""
    for criterion in criteria:
        name = getattr(criterion, "__name__", type(criterion).__name__)
        try:
            said = criterion(tuple(ids), text)
        except Exception as error:
            raise FanlightError(f"stopping_criteria: {name} raised {error!r}") from error
        if said is False or said is None or (isinstance(said, str) and not said):
            continue
        if not isinstance(said, (bool, str)) and type(said).__name__ in ("bool", "bool_"):  # NumPy's
            said = bool(said)
            if not said:
                continue
        if said is not True and not isinstance(said, str):
            raise OptionError(
                f"stopping_criteria: {name} must return true, false or a reason in words: got {said!r:.80}"
            )
        return Stop(StopReason.CRITERION, said if isinstance(said, str) else f"stopped by {name}", ids[-1])
    return None


def ends_mid_sentence(text: str) -> bool:
    """Whether a text breaks off within a sentence, as far as its last characters tell."""
    end = text.rstrip(" \t\r\"'\u201d\u2019)]}*_`")
    return bool(end) and end[-1] not in ".!?\u2026:;\n\u3002\uff01\uff1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """The rules that need ids alone."""

    eos_ids: frozenset[int]
    max_new_tokens: int | None
    n_ctx: int
    n_beside: int = 0
    """Tokens that a line beside the text, which goes along with it, has more than the text."""
    whose: str = ""
    """For the message: whose window it is, if not the text's own."""
    max_length: int | None = None
    deadline: float | None = None
    """On the clock that `check` is given."""
    max_time: float | None = None
    """What the deadline was made from, for the message."""
    token_label: Callable[[int], str] | None = None
    """A token as a word, for the message."""

    def check(self, token: int, n_new: int, n_total: int, *, tail: str | None = None, now: float = 0.0) -> Stop | None:
        """After a token was chosen: n_new tokens are generated, n_total in the sequence, both with this one.

        tail: the end of the text, for the message. The last token need not fit the window: nothing is computed from it.
        """
        if token in self.eos_ids:
            name = self.token_label(token) if self.token_label else f"<id {token}>"
            return Stop(StopReason.EOS, f"stopped by end-of-sequence token {name} after {_tokens(n_new)}", token)
        is_long = self.max_new_tokens is not None and n_new >= self.max_new_tokens
        is_long |= self.max_length is not None and n_total >= self.max_length
        if not (
            is_long or n_total + self.n_beside > self.n_ctx or (self.deadline is not None and now >= self.deadline)
        ):
            return None
        mid = ends_mid_sentence(tail) if tail is not None else None
        if self.max_new_tokens is not None and n_new >= self.max_new_tokens:
            return stop_max_new_tokens(self.max_new_tokens, mid)
        if self.max_length is not None and n_total >= self.max_length:
            return Stop(StopReason.MAX_LENGTH, f"cut off by max_length={self.max_length}{_where(mid)}")
        if n_total + self.n_beside > self.n_ctx:
            detail = f"cut off{_where(mid)}: the context window of {self.n_ctx} tokens is full{self.whose}"
            return Stop(StopReason.CONTEXT_WINDOW, detail)
        return Stop(StopReason.MAX_TIME, f"cut off by max_time={self.max_time:g} s after {_tokens(n_new)}{_where(mid)}")

    def longest(self, n_prompt: int) -> int:
        """Tokens that a text has at most, the prompt counted; the last of them may lie beyond the window."""
        limits = [self.n_ctx - self.n_beside + 1]
        if self.max_new_tokens is not None:
            limits.append(n_prompt + self.max_new_tokens)
        if self.max_length is not None:
            limits.append(self.max_length)
        return min(limits)


class LoopDetector:
    """Notices that the last tokens are one block, several times in a row. Takes time in proportion to LONGEST_LOOP a token."""

    def __init__(self, repeats: int, min_tokens: int = 1) -> None:
        """repeats: from 2. min_tokens: of the block."""
        self._repeats, self._min_tokens = repeats, min_tokens
        self._ids: list[int] = []
        self._runs = [0] * (LONGEST_LOOP + 1)  # by period: how many tokens in a row equal the one a period before

    def feed(self, token: int) -> Stop | None:
        """After a token; the shortest block counts."""
        ids, runs = self._ids, self._runs
        found = 0
        for period in range(1, min(len(ids), LONGEST_LOOP) + 1):
            if ids[-period] == token:
                runs[period] += 1
                if not found and period >= self._min_tokens and runs[period] >= period * (self._repeats - 1):
                    found = period
            else:
                runs[period] = 0
        ids.append(token)
        if not found:
            return None
        detail = (
            f"stopped by loop_repeats={self._repeats}: the last {_tokens(found)} came {self._repeats} times in a row"
        )
        return Stop(StopReason.LOOP, detail, token)


class StopStrings:
    """Finds the first stop string in a text that comes in pieces, and holds back only what may still become one.

    First means: completed first; of two completed by the same character, the longer. How the text is cut into pieces
    makes no difference. The time is linear in the text, however many strings there are. Source: Aho and Corasick 1975.

    A state of the automaton is a prefix of a stop string, and the current one is the longest that the text ends with:
    its length is exactly what must be held back.
    """

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        """include: the text ends after the string, instead of before it."""
        self._include = include
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]  # the longest proper suffix of the state that is a state too
        self._length = [0]
        self._match: list[str | None] = [None]  # the longest stop string that the state ends with
        for string in strings:
            self._add(string)
        self._link()
        self._state = 0
        self._held = ""
        self._matched: str | None = None

    def feed(self, piece: str) -> tuple[str, str | None]:
        """(text to show now, the stop string if one is complete). What follows it is dropped; it stays if `include` says so."""
        if len(self._next) == 1:
            return piece, None
        if self._matched is not None:
            return "", self._matched
        text = self._held + piece
        state = self._state
        for end, character in enumerate(piece, len(self._held) + 1):
            while state and character not in self._next[state]:
                state = self._fallback[state]
            state = self._next[state].get(character, 0)
            match = self._match[state]
            if match is not None:
                self._matched, self._held = match, ""
                return text[: end if self._include else end - len(match)], match
        self._state = state
        safe = len(text) - self._length[state]
        self._held = text[safe:]
        return text[:safe], None

    def flush(self) -> str:
        """The text held back, once no more comes."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            after = self._next[state].get(character)
            if after is None:
                after = self._next[state][character] = len(self._next)
                self._next.append({})
                self._fallback.append(0)
                self._length.append(self._length[state] + 1)
                self._match.append(None)
            state = after
        self._match[state] = string

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:  # breadth first: shorter states have their fallback before longer ones need it
            state = queue.popleft()
            for character, after in self._next[state].items():
                back = self._fallback[state]
                while back and character not in self._next[back]:
                    back = self._fallback[back]
                self._fallback[after] = self._next[back].get(character, 0)
                if self._match[after] is None:
                    self._match[after] = self._match[self._fallback[after]]
                queue.append(after)
