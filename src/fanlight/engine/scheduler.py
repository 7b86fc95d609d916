"""Who computes what in the next forward pass. In: sequences that wait or run. Out: a plan. Knows no model and no text.

First come, first served. Rows that decode go first; then prompts, in chunks under a budget of tokens. If a cache of limited
size is full, the youngest running sequence gives its pages back and is computed again later, which changes no token. Source:
continuous batching, Orca (Yu et al. 2022) and vLLM (Kwon et al. 2023).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.cache.paged import PagedCache
    from fanlight.engine.sequence import Sequence


class Work(NamedTuple):
    """The next n_new ids of a sequence, to be computed in this pass."""

    sequence: Sequence
    n_new: int


class Scheduler:
    """Holds the waiting and the running sequences. All running ones came before all waiting ones.

    A running sequence of which nothing is wanted at the moment keeps its pages as long as nobody needs them.
    """

    def __init__(self, cache: PagedCache, *, prefill_chunk: int, max_batch: int) -> None:
        """prefill_chunk: prompt tokens a pass takes at most. max_batch: sequences that are computed at once. Both from 1.

        Those of one request that go on together may be more.
        """
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
        return bool(self.waiting) or any(sequence.n_pending for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence of which something is wanted at the end of the queue, unless it is here already."""
        if sequence not in self.running and sequence not in self.waiting:
            self.waiting.append(sequence)

    def join(self, sequence: Sequence, beside: Sequence) -> None:
        """A fork runs where what it was forked from runs."""
        if beside in self.running:
            self.running.insert(self.running.index(beside) + 1, sequence)

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
            if sequence.is_decoding and self._make_room(sequence):
                work.append(Work(sequence, sequence.n_pending))
        return work

    def _make_room(self, sequence: Sequence) -> bool:
        """Reserve what is pending, at the cost of the youngest; False if that is this one, or it went before."""
        while sequence in self.running:
            if self.cache.reserve(sequence.slot, sequence.n_pending):
                return True
            self._evict(self._youngest())
        return False

    def _youngest(self) -> Sequence:
        """Of those that hold pages: first the one that nothing is wanted of, then the one that came last."""
        idle = [sequence for sequence in self.running if not sequence.n_pending]
        return idle[-1] if idle else self.running[-1]

    def _evict(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.evict()
        if sequence.want is not None:
            self.waiting.appendleft(sequence)

    def _plan_prefill(self, work: list[Work]) -> None:
        budget = self.prefill_chunk
        for sequence in tuple(self.running):
            if sequence.n_pending and not sequence.is_decoding and budget:
                n_new = min(sequence.n_pending, budget)
                if self._make_room(sequence):
                    work.append(Work(sequence, n_new))
                    budget -= n_new
        n_busy = sum(bool(sequence.n_pending) for sequence in self.running)  # the others keep nobody out
        while budget and self.waiting and n_busy < self.max_batch:
            sequence = self.waiting[0]
            while not self.cache.reserve(sequence.slot, sequence.n_pending):  # all: a prompt once begun never waits
                idle = [other for other in self.running if not other.n_pending]
                if not idle:
                    return
                self._evict(idle[-1])
            self.running.append(self.waiting.popleft())
            n_new = min(sequence.n_pending, budget)
            work.append(Work(sequence, n_new))
            budget -= n_new
            n_busy += 1
