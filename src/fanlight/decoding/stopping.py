"""When a text ends. In: ids and pieces of text. Out: a Stop that says why in words, the text that is safe to show.

Knows no model and no tokenizer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanlight.trace.stop import Stop, StopReason

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CANCELLED", "Stop", "StopReason", "StopRules", "StopStrings", "stop_max_new_tokens", "stop_string"]

CANCELLED = Stop(StopReason.CANCELLED, "the request was cancelled")


def stop_max_new_tokens(n: int) -> Stop:
    """The request asked for no more."""
    return Stop(StopReason.MAX_NEW_TOKENS, f"max_new_tokens = {n} reached")


def stop_string(string: str) -> Stop:
    """The text reached a stop string."""
    return Stop(StopReason.STOP_STRING, f"the model wrote the stop string {string!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """The rules that need ids alone."""

    eos_ids: frozenset[int]
    max_new_tokens: int
    n_ctx: int

    def check(self, token: int, n_new: int, n_total: int) -> Stop | None:
        """After a token was chosen: n_new tokens are generated, n_total in the sequence, both with this one.

        The last token need not fit the window: nothing is computed from it.
        """
        if token in self.eos_ids:
            return Stop(StopReason.EOS, f"the model wrote its end-of-sequence token <id {token}>")
        if n_new >= self.max_new_tokens:
            return stop_max_new_tokens(self.max_new_tokens)
        if n_total > self.n_ctx:
            return Stop(StopReason.CONTEXT_WINDOW, f"the context window of {self.n_ctx} tokens is full")
        return None


class StopStrings:
    """Finds the first stop string in a text that comes in pieces, and holds back only what may still become one.

    First means: completed first; of two completed by the same character, the longer. How the text is cut into pieces
    makes no difference. The time is linear in the text, however many strings there are. Source: Aho and Corasick 1975.

    A state of the automaton is a prefix of a stop string, and the current one is the longest that the text ends with:
    its length is exactly what must be held back.
    """

    def __init__(self, strings: Sequence[str]) -> None:
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
        """(text to show now, the stop string if one is complete). The text ends before it; what follows is dropped."""
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
                return text[: end - len(match)], match
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
