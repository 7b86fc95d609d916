"""What a strategy and the engine say to each other. Knows no model, no cache and no text.

A strategy is a generator. It yields the rows that it wants computed, a list of Wants, and is sent the Answers in that order, when
all are there: the engine computes them together with those of every other request. Between two yields it decides: it calls
`step.decide`, hands tokens to an Output, and forks, cuts and closes lines. It ends by returning.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanlight.decoding.processors import AMATEUR

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import Decision, StepSettings
    from fanlight.kernels.ops import Ops, Tensor
    from fanlight.trace.search import SearchRecord
    from fanlight.trace.stop import Stop

__all__ = ["AMATEUR", "ASSISTANT", "MAIN", "Answer", "Host", "Line", "Output", "Steps", "Want", "together"]

MAIN, ASSISTANT = "main", "assistant"
"""Which model a line belongs to."""


class Line(Protocol):
    """Ids whose keys and values are kept, as far as they were computed. A strategy may append to `ids`."""

    ids: list[int]


class Want(NamedTuple):
    """What to compute of a line: everything up to its last id, and of that the following."""

    line: Line
    n_rows: int = 1
    """Logits after each of the last n_rows ids."""
    layers: tuple[int, ...] = ()
    """States after these blocks, of the same rows."""
    final: bool = False
    """The states that the head reads, of every id computed now."""
    n_layer: int | None = None
    """Leave the model after so many blocks."""


@dataclass(slots=True)
class Answer:
    """What came of a Want."""

    logits: list[Tensor] = field(default_factory=list)
    """n_rows of (1, n_vocab)."""
    states: dict[int, list[Tensor]] = field(default_factory=dict)
    """Layer -> states of passes, together (n_rows, n_embd)."""
    final: list[Tensor] = field(default_factory=list)
    """States of passes, together (ids computed now, n_embd)."""


Steps = Generator[list[Want], list[Answer], None]


class Output(Protocol):
    """One text that the request returns, as it grows."""

    ids: list[int]
    """Prompt and text so far."""
    score: float | None
    """What texts of one request are compared by, if they are."""

    def emit(self, token: int, decision: Decision, *, may_end: bool = True) -> Stop | None:
        """The text grows by a token; why it ends with it, if it does. may_end false: others are known to follow."""

    def end(self, stop: Stop) -> None:
        """The text ends without another token."""


class Host(Protocol):
    """What a strategy may ask of the engine."""

    config: GenerationConfig
    settings: StepSettings
    prompt_ids: tuple[int, ...]
    n_ctx: int
    n_layer: int
    ops: Ops
    max_length: int
    """Tokens that prompt and text have together at most."""
    search: SearchRecord | None
    """Where a search leaves its tree."""

    @property
    def outputs(self) -> Sequence[Output]:
        """As many as the request works on."""

    def open(self, ids: Sequence[int], model: str = MAIN) -> Line:
        """A line that nothing is computed of yet."""

    def fork(self, line: Line) -> Line:
        """A line that shares all that is computed."""

    def close(self, line: Line, *, keep: bool = False) -> None:
        """Give back what it holds. keep: another request may well go on from this text."""

    def cut(self, line: Line, length: int) -> None:
        """Forget its ids from `length` on."""

    def recompute(self, line: Line, length: int = 0) -> None:
        """Forget what is computed from position `length` on; the ids stay."""

    def window(self, model: str) -> int:
        """How many ids a line of this model may have."""

    def pass_cost(self) -> float:
        """What a pass costs this text beside its rows, in rows: less among many texts, which share it."""

    def read_out(self, states: Tensor, *, norm: bool) -> Tensor:
        """States -> logits by the model's head."""

    def ends(self, token: int) -> bool:
        """Whether it ends a text."""

    def completes(self, ids: Sequence[int], token: int) -> bool:
        """Whether with this token after these ids, prompt and text, the text holds a stop string."""

    def expired(self) -> bool:
        """Whether the time is up."""


def together(parts: Mapping[int, Steps]) -> Steps:
    """Several strategies side by side, as one."""
    wanted = {}
    for key, part in parts.items():
        try:
            wanted[key] = next(part)
        except StopIteration:
            continue
    while wanted:
        answers = yield [want for wants in wanted.values() for want in wants]
        at, later = 0, {}
        for key, wants in wanted.items():
            mine, at = answers[at : at + len(wants)], at + len(wants)
            try:
                later[key] = parts[key].send(mine)
            except StopIteration:
                continue
        wanted = later
