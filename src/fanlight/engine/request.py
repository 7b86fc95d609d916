"""What the engine is asked for and what it hands back. Knows no scheduling and no forward pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanlight.errors import OptionError
from fanlight.trace.stop import Stop

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import Decision
    from fanlight.errors import FanlightError
    from fanlight.models.base import Decoder
    from fanlight.trace.search import SearchRecord


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
class Helpers:
    """Other models that a request wants beside the engine's own. Each has the same vocabulary."""

    assistant: Decoder | None = None
    """Guesses tokens ahead."""
    amateur: Decoder | None = None
    """Contrastive decoding: what it says too does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and its settings, as accepted."""

    id: int
    prompt_ids: tuple[int, ...]
    config: GenerationConfig
    seed: int
    """config.seed, or the one drawn for this request: with it the text can be made again."""
    helpers: Helpers = field(default_factory=Helpers)
    priority: int = 0
    given: tuple[int, ...] | None = None
    """A text that is not chosen but given: the account is of it."""
    begin: tuple[int, ...] = ()
    """What every text of it begins with: given too, and the model goes on from there."""

    @property
    def n_outputs(self) -> int:
        """How many texts it is working on; of best_of, only some are returned."""
        return max(self.config.num_return_sequences, self.config.best_of)

    def seed_of(self, output: int) -> int:
        """What the noise of one of its texts is drawn with; the first one's is `seed`, the others survive JSON."""
        return (self.seed + output * 0x9E3779B97F4A7C15) % 2**48 if output else self.seed


class Usage(NamedTuple):
    """What a request cost."""

    n_reused: int
    """Tokens whose keys and values were there already, from requests before it or beside it."""
    n_computed: int
    """Tokens that went through the model, guesses and repetitions after an eviction included."""
    seconds_saved: float | None = None
    """By guessing ahead, as far as passes without guesses tell; None if it had none, or did not guess."""


class StepEvent(NamedTuple):
    """One step of one request, or the end of one of its texts without a step."""

    request_id: int
    index: int  # type: ignore[assignment]  # of the step, over what tuples call so
    """0 for the first new token."""
    id: int | None
    """The new token; None if the text ended without one."""
    decision: Decision | None
    text: str
    """What became safe to show. Joined, these are the request's text: no stop string, no end-of-sequence token."""
    stop: Stop | None = None
    """Set on a text's last event, unless `error` is."""
    error: FanlightError | None = None
    """This request failed and has ended; others go on."""
    output: int = 0
    """Which of the request's texts."""
    is_last: bool = True
    """With `stop`: whether it was the last of the request's texts."""
    score: float | None = None
    """With `stop`: what texts of one request are compared by, if they are."""
    search: SearchRecord | None = None
    """With the last `stop`: the tree that a search went through, if it was recorded."""
    usage: Usage | None = None
    """With the request's last event."""

    @property
    def ends_request(self) -> bool:
        """Whether no other event of this request follows."""
        return self.error is not None or (self.stop is not None and self.is_last)
