"""How much time guessing ahead has saved. In: passes with their seconds. Out: a difference. Knows no model and no clock."""

from __future__ import annotations


class Pace:
    """Of one request: what its tokens cost in passes that guessed nothing, and in all."""

    __slots__ = ("_n_guessed_rows", "_n_lines", "_n_tokens", "_plain_seconds", "_plain_tokens", "_seconds")

    def __init__(self) -> None:
        self._n_lines = self._n_guessed_rows = 0  # of the pass that is going on
        self._n_tokens = self._plain_tokens = 0
        self._seconds = self._plain_seconds = 0.0

    def computes(self, n_rows: int, *, guesses: bool) -> None:
        """The pass computes n_rows of a line, the last of them for the next token. guesses: it is a drafter's."""
        self._n_lines += 1
        self._n_guessed_rows += n_rows if guesses else n_rows - 1

    def passed(self, seconds: float, n_tokens: int, *, counts: bool = True) -> None:
        """The pass is over and gave the texts n_tokens. counts: no prompt was in it, whose time would not be theirs."""
        if self._n_lines and counts:
            self._seconds += seconds
            self._n_tokens += n_tokens
            if not self._n_guessed_rows:
                self._plain_seconds += seconds
                self._plain_tokens += n_tokens
        self._n_lines = self._n_guessed_rows = 0

    @property
    def seconds_saved(self) -> float | None:
        """Against all passes being like those that guessed nothing; None if there was none to compare with."""
        if not self._plain_tokens:
            return None
        return self._n_tokens * self._plain_seconds / self._plain_tokens - self._seconds
