"""One text of a request, as it grows: from tokens to events. Knows no scheduling and no forward pass."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fanlight.decoding.stopping import (
    LoopDetector,
    Stop,
    StopRules,
    StopStrings,
    asked_to_stop,
    stop_string,
)
from fanlight.engine.request import StepEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanlight.decoding.step import Decision
    from fanlight.engine.request import Request, TextStream

TAIL = 16
"""Characters that tell whether a sentence is over."""


class Output:
    """See decoding.strategies.base.Output."""

    __slots__ = (
        "_criteria",
        "_deadline",
        "_detokenizer",
        "_loop",
        "_pieces",
        "_put",
        "_request",
        "_rules",
        "_skip",
        "_stop_strings",
        "_tail",
        "ended",
        "ids",
        "index",
        "n_new",
        "score",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        *,
        rules: StopRules,
        detokenizer: TextStream | None,
        put: Callable[[StepEvent], None],
        skip: str = "",
    ) -> None:
        """put: takes the events. skip: what of the text's beginning the prompt held already (token healing)."""
        config = request.config
        self.index = index
        self.ids = list(request.prompt_ids)
        self.n_new = 0
        self.ended = False
        self.score: float | None = None
        self._request, self._rules, self._detokenizer, self._put, self._skip = request, rules, detokenizer, put, skip
        self._stop_strings = StopStrings(config.stop_strings, config.include_stop_string)
        self._loop = LoopDetector(config.loop_repeats, config.loop_min_tokens) if config.loop_repeats else None
        self._criteria = config.stopping_criteria
        self._pieces: list[str] = []
        self._tail = ""

    def emit(self, token: int, decision: Decision, *, may_end: bool = True) -> Stop | None:
        """See decoding.strategies.base.Output."""
        text, stop = self._append(token, may_end)
        record = decision.record
        if record is not None and (stop is not None or decision.guess is not None):
            decision = decision._replace(record=replace(record, stop=stop, guess=decision.guess))
        if stop is not None:
            self.ended = True
        self._put(
            StepEvent(self._request.id, self.n_new - 1, token, decision, text, stop, None, self.index, True, self.score)
        )
        return stop

    def end(self, stop: Stop) -> None:
        """See decoding.strategies.base.Output."""
        self.ended = True
        self._put(
            StepEvent(self._request.id, self.n_new, None, None, self._rest(), stop, None, self.index, True, self.score)
        )

    def _append(self, token: int, may_end: bool) -> tuple[str, Stop | None]:
        """Take a chosen token: the text that may be shown with it, and the reason if it is the last."""
        self.ids.append(token)
        self.n_new += 1
        rules, detokenizer = self._rules, self._detokenizer
        is_eos = token in rules.eos_ids
        now = time.monotonic() if rules.deadline is not None else 0.0
        if detokenizer is None:
            stop = rules.check(token, self.n_new, len(self.ids), now=now) if may_end else None
            return "", stop or self._asked(token, "")
        piece = "" if is_eos else detokenizer.feed(token)
        if piece:
            if self._skip:
                piece = self._without_prefix(piece)
            self._tail = (self._tail + piece)[-TAIL:]
        stop = rules.check(token, self.n_new, len(self.ids), tail=self._tail, now=now) if may_end else None
        stop = stop or self._asked(token, piece)
        if stop is not None:
            piece += detokenizer.flush()
        text, found = self._stop_strings.feed(piece)
        if found is not None:
            return text, stop_string(found, self.n_new)
        return (text if stop is None else text + self._stop_strings.flush()), stop

    def _asked(self, token: int, piece: str) -> Stop | None:
        """The rules that only some requests have."""
        looped = self._loop.feed(token) if self._loop is not None else None
        if looped is not None or not self._criteria:
            return looped
        self._pieces.append(piece)
        if len(self._pieces) > 64:
            self._pieces = ["".join(self._pieces)]
        return asked_to_stop(self._criteria, self.ids, "".join(self._pieces))

    def _without_prefix(self, piece: str) -> str:
        n = min(len(piece), len(self._skip))
        self._skip = self._skip[n:]
        return piece[n:]

    def _rest(self) -> str:
        """The text not shown yet, when the text ends without another token."""
        if self._detokenizer is None:
            return ""
        return self._stop_strings.feed(self._detokenizer.flush())[0] + self._stop_strings.flush()
