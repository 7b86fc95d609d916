"""Who computes what in the next forward pass. In: sequences that wait or run. Out: a plan. Knows no model and no text.

First come, first served. Rows that decode go first, one each; then prompts, in chunks under a budget of tokens. If a
cache of limited size is full, the youngest running sequence gives its pages back and is computed again later, which
changes no token. Source: continuous batching, Orca (Yu et al. 2022) and vLLM (Kwon et al. 2023).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.cache.paged import PagedCache
    from fanlight.engine.request import Sequence


class Work(NamedTuple):
    """The next n_new ids of a sequence, to be computed in this pass."""

    sequence: Sequence
    n_new: int


class Scheduler:
    """Holds the waiting and the running sequences. All running ones came before all waiting ones."""

    def __init__(self, cache: PagedCache, *, prefill_chunk: int, max_batch: int) -> None:
        """prefill_chunk: prompt tokens a pass takes at most; max_batch: sequences that run at once. Both from 1."""
        for name, value in (("prefill_chunk", prefill_chunk), ("max_batch", max_batch)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1: got {value}")
        self.cache = cache
        self.prefill_chunk = prefill_chunk
        self.max_batch = max_batch
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    @property
    def has_work(self) -> bool:
        """Whether a plan would hold anything."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free what it holds; one that is not here does no harm."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.cache.release(sequence.slot)

    def next_up(self) -> list[Sequence]:
        """The sequences that a plan is made of first: those running, and the first in the queue."""
        return [*self.running, *list(self.waiting)[:1]]

    def plan(self) -> list[Work]:
        """The next pass, with room in the cache reserved for all of it. Not empty if there is work."""
        work = self._plan_decode()
        if self.waiting or len(work) < len(self.running):
            self._plan_prefill(work)
        return work

    def _plan_decode(self) -> list[Work]:
        work = []
        for sequence in tuple(self.running):
            if sequence.n_pending == 1 and self._make_room(sequence):
                work.append(Work(sequence, 1))
        return work

    def _make_room(self, sequence: Sequence) -> bool:
        """Reserve one position, at the cost of the youngest; False if that is this one, or it went before."""
        while sequence.slot.pages:
            if self.cache.reserve(sequence.slot, 1):
                return True
            youngest = self.running.pop()
            self.cache.release(youngest.slot)
            self.waiting.appendleft(youngest)
        return False

    def _plan_prefill(self, work: list[Work]) -> None:
        budget = self.prefill_chunk
        for sequence in self.running:
            if sequence.n_pending > 1 and budget:
                n_new = min(sequence.n_pending, budget)
                work.append(Work(sequence, n_new))
                budget -= n_new
        while budget and self.waiting and len(self.running) < self.max_batch:
            sequence = self.waiting[0]
            if not self.cache.reserve(sequence.slot, sequence.n_pending):  # all of it: a prompt once begun never waits
                break
            self.running.append(self.waiting.popleft())
            n_new = min(sequence.n_pending, budget)
            work.append(Work(sequence, n_new))
            budget -= n_new
