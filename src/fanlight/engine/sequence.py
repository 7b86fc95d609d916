"""One line of ids on its way through a model: what is computed of it, and what is wanted. Knows no strategy and no text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.decoding.strategies.base import Answer, Want

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanlight.cache.paged import CacheSlot
    from fanlight.engine.lane import Lane
    from fanlight.engine.run import Run


class Sequence:
    """See decoding.strategies.base.Line. The scheduler's unit."""

    __slots__ = ("answer", "closed", "ids", "lane", "n_full", "run", "slot", "want")

    def __init__(self, run: Run, lane: Lane, ids: Iterable[int], slot: CacheSlot) -> None:
        self.run, self.lane, self.slot = run, lane, slot
        self.ids = list(ids)
        self.n_full = 0
        """Positions that went through all layers; beyond them, some may have gone through the first ones."""
        self.want: Want | None = None
        self.answer: Answer | None = None
        self.closed = False

    @property
    def n_pending(self) -> int:
        """Ids to be computed: 1 while decoding, more before; 0 if nothing is wanted."""
        return len(self.ids) - self.slot.length if self.want is not None else 0

    @property
    def is_decoding(self) -> bool:
        """Whether all that is left to compute are rows whose logits are wanted."""
        return self.want is not None and 0 < len(self.ids) - self.slot.length <= self.want.n_rows

    def ask(self, want: Want) -> None:
        """Take up a want. What only the first layers computed is forgotten, unless the same is wanted again."""
        self.want, self.answer = want, Answer()
        if want.n_layer is None and self.slot.length > self.n_full:
            self.lane.cache.rewind(self.slot, self.n_full)
        computed = len(self.ids) - want.n_rows
        if self.slot.length > computed:  # those rows were computed before, and are wanted again
            self.forget(computed)

    def forget(self, length: int) -> None:
        """Positions from `length` on are no longer computed; the pages stay."""
        if self.slot.length > length:
            self.lane.cache.rewind(self.slot, length)
        self.n_full = min(self.n_full, length)

    def evict(self) -> None:
        """Everything is to be computed again."""
        self.lane.cache.release(self.slot)
        self.n_full = 0
        if self.want is not None:
            self.answer = Answer()

    def computed(self) -> None:
        """A pass has brought the slot to its length."""
        if self.want is not None and self.want.n_layer is None:
            self.n_full = self.slot.length
