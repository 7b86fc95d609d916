"""One line of ids on its way through a model: what is computed of it, and what is wanted. Knows no strategy and no text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.decoding.strategies.base import Answer, Want

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanlight.cache.paged import CacheSlot
    from fanlight.engine.lane import Lane
    from fanlight.engine.run import Run


DECODE_ROWS = 32
"""Rows of one sequence that go ahead of all prompts; more of them take their turn."""


class Sequence:
    """See decoding.strategies.base.Line. The scheduler's unit."""

    __slots__ = (
        "answer",
        "closed",
        "ids",
        "is_fresh",
        "is_here",
        "is_prompt",
        "lane",
        "n_full",
        "rank",
        "run",
        "slot",
        "want",
    )

    def __init__(self, run: Run, lane: Lane, ids: Iterable[int], slot: CacheSlot) -> None:
        self.run, self.lane, self.slot = run, lane, slot
        self.ids = list(ids)
        self.n_full = 0
        """Positions that went through all layers; beyond them, some may have gone through the first ones."""
        self.want: Want | None = None
        self.answer: Answer | None = None
        self.closed = False
        self.is_here = False
        """Whether the scheduler has it."""
        self.is_prompt = True
        """Whether it never had an answer: what it computes is worth waiting for."""
        self.is_fresh = True
        """Whether nothing of it was ever computed here."""
        self.rank = run.rank
        """Its place among all: (when it came, in passes; the number of its request)."""

    @property
    def n_pending(self) -> int:
        """Ids to be computed: 1 while decoding, more before; 0 if nothing is wanted."""
        return len(self.ids) - self.slot.length if self.want is not None else 0

    @property
    def is_decoding(self) -> bool:
        """Whether all that is left to compute are a few rows whose logits are wanted."""
        if self.want is None:
            return False
        n = len(self.ids) - self.slot.length
        return n == 1 or 0 < n <= min(self.want.n_rows, DECODE_ROWS)

    def ask(self, want: Want) -> None:
        """Take up a want. What only the first layers computed is forgotten, unless the same is wanted again."""
        self.want, self.answer = want, Answer()
        if want.n_layer is None and self.slot.length > self.n_full:
            self.lane.cache.rewind(self.slot, self.n_full)
        computed = len(self.ids) - want.n_rows
        if self.slot.length > computed:  # those rows were computed before, and are wanted again
            self.forget(computed)

    # -- what others have computed, or may go on from ---------------------------------------------------------------------

    @property
    def may_adopt(self) -> bool:
        """Whether nothing of it is computed, and nothing is wanted of every position."""
        return self.want is not None and not self.want.final and not self.slot.length

    @property
    def n_adoptable(self) -> int:
        """How many positions may come from elsewhere: no logits are wanted of them."""
        return len(self.ids) - (self.want.n_rows if self.want is not None else 0)

    def adopt(self) -> None:
        """Take over what is known of its beginning."""
        if not self.may_adopt:
            return
        self.n_full = self.lane.cache.adopt(self.slot, self.ids, self.n_adoptable)

    def admitted(self) -> None:
        """It runs from now on, with what it has adopted."""
        if self.is_fresh:
            self.run.n_reused += self.n_full
            self.is_fresh = False

    def remember(self, *, whole: bool) -> None:
        """Let others go on from what is computed: from everything, or from the pages that are full."""
        cache = self.lane.cache
        if cache.prefixes is None:
            return
        n = min(self.n_full, self.slot.length, len(self.ids))
        n = n if whole else n // cache.page_tokens * cache.page_tokens
        cache.remember(self.slot, self.ids[:n])

    def forget(self, length: int) -> None:
        """Positions from `length` on are no longer computed; the pages stay."""
        if self.slot.length > length:
            self.lane.cache.rewind(self.slot, length)
        self.n_full = min(self.n_full, length)

    def evict(self) -> None:
        """Everything is to be computed again, as far as it is not known when it is."""
        self.remember(whole=False)
        self.lane.cache.release(self.slot)
        self.n_full = 0
        if self.want is not None:
            self.answer = Answer()

    def computed(self) -> None:
        """A pass has brought the slot to its length."""
        if self.want is None or self.want.n_layer is not None:
            return
        self.n_full = self.slot.length
        if self.is_prompt:
            self.is_prompt = self.n_full < len(self.ids)
            self.remember(whole=not self.is_prompt)
