"""What the engine is asked for, what it hands back, and the state between. Knows no scheduling and no forward pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Protocol

from fanlight.decoding.stopping import Stop, StopReason, StopRules, StopStrings, stop_string
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.cache.paged import CacheSlot
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import Decision, StepSettings
    from fanlight.errors import FanlightError


class TextStream(Protocol):
    """What turns ids into text, as `text.stream.Detokenizer` does."""

    def feed(self, token: int) -> str:
        """The text that is complete with this token; never half a character."""

    def flush(self) -> str:
        """The rest."""


DetokenizerFactory = Callable[[tuple[int, ...]], TextStream]
"""Takes the ids of the prompt, which the text continues."""


def checked_ids(what: str, ids: Iterable[int], n_vocab: int) -> tuple[int, ...]:
    """The ids as plain integers, all of them in the vocabulary. OptionError otherwise; `what` names them."""
    try:
        checked = tuple(map(index, ids))
    except TypeError:
        raise OptionError(f"{what} must be token ids: got {ids!r:.80}") from None
    if checked and not (min(checked) >= 0 and max(checked) < n_vocab):
        outside = next(token for token in checked if not 0 <= token < n_vocab)
        raise OptionError(f"{what}: id {outside} is not in the model's vocabulary, 0 to {n_vocab - 1}")
    return checked


def seed_of(config: GenerationConfig) -> int:
    """The seed that is asked for, or a fresh one below 2^48, which survives JSON."""
    return config.seed if config.seed is not None else int.from_bytes(os.urandom(6), "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and its settings, as accepted."""

    id: int
    prompt_ids: tuple[int, ...]
    config: GenerationConfig
    seed: int
    """config.seed, or the one drawn for this request: with it the text can be made again."""


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One step of one request, or its end without a step."""

    request_id: int
    index: int
    """0 for the first new token."""
    id: int | None
    """The new token; None if the request ended without one."""
    decision: Decision | None
    text: str
    """What became safe to show. Joined, these are the request's text: no stop string, no end-of-sequence token."""
    stop: Stop | None = None
    """Set on a request's last event, unless `error` is."""
    error: FanlightError | None = None
    """This request failed and has ended; others go on."""


class Sequence:
    """A request on its way: its ids so far, its place in the cache, and what of its text is not shown yet."""

    __slots__ = ("_detokenizer", "_rules", "_stop_strings", "ended", "ids", "n_new", "request", "settings", "slot")

    def __init__(
        self,
        request: Request,
        *,
        settings: StepSettings,
        rules: StopRules,
        slot: CacheSlot,
        detokenizer: TextStream | None,
    ) -> None:
        self.request = request
        self.settings = settings
        self.slot = slot
        self.ids = list(request.prompt_ids)
        self.n_new = 0
        self.ended = False
        self._rules = rules
        self._detokenizer = detokenizer
        self._stop_strings = StopStrings(request.config.stop_strings)

    @property
    def n_pending(self) -> int:
        """Ids that are not in the cache yet: 1 while decoding, more before."""
        return len(self.ids) - self.slot.length

    def append(self, token: int) -> tuple[str, Stop | None]:
        """Take a chosen token: the text that may be shown with it, and the reason if it is the last."""
        self.ids.append(token)
        self.n_new += 1
        stop = self._rules.check(token, self.n_new, len(self.ids))
        detokenizer = self._detokenizer
        if detokenizer is None:
            return "", stop
        is_eos = stop is not None and stop.reason is StopReason.EOS
        piece = "" if is_eos else detokenizer.feed(token)
        if stop is not None:
            piece += detokenizer.flush()
        text, found = self._stop_strings.feed(piece)
        if found is not None:
            return text, stop_string(found)
        return (text if stop is None else text + self._stop_strings.flush()), stop

    def rest(self) -> str:
        """The text not shown yet, when the request ends without another token."""
        if self._detokenizer is None:
            return ""
        return self._stop_strings.feed(self._detokenizer.flush())[0] + self._stop_strings.flush()
