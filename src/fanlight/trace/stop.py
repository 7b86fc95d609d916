"""Why a text ended, as data. `decoding.stopping` makes these; knows no rule itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StopReason(Enum):
    """The kinds of ending; the value is what goes into files."""

    EOS = "eos"
    MAX_NEW_TOKENS = "max_new_tokens"
    MAX_LENGTH = "max_length"
    MAX_TIME = "max_time"
    STOP_STRING = "stop_string"
    CRITERION = "criterion"
    LOOP = "loop"
    CONTEXT_WINDOW = "context_window"
    CANCELLED = "cancelled"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Stop:
    """A reason, and the same in words: `str(stop)` is `detail`."""

    reason: StopReason
    detail: str
    token: int | None = None
    """The token that ended the text, if one did."""
    string: str | None = None
    """The stop string that did."""

    def __str__(self) -> str:
        return self.detail
