"""Who computes what in the next forward pass. In: sequences that wait or run. Out: a plan. Knows no model and no text.

Each sequence has a rank: its request's place in the queue. Rows that decode go first; then prompts, in chunks under a budget of
tokens, half of it for the first in the queue and half for the shortest. If a cache of limited size is full, the last running
sequence gives its pages back and is computed again later, which changes no token; so it is if a request of higher priority
needs the place. Source: continuous batching, Orca (Yu et al. 2022) and vLLM (Kwon et al. 2023).
"""

from __future__ import annotations

from bisect import insort, insort_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanlight.cache.paged import PagedCache
    from fanlight.engine.sequence import Sequence


WORTH_WAITING = 8
"""Tokens in common that a prompt waits for while another computes them."""


class Work(NamedTuple):
    """The next n_new ids of a sequence, to be computed in this pass."""

    sequence: Sequence
    n_new: int


class Scheduler:
    """Holds the waiting and the running sequences, each in the order of their ranks.

    A running sequence of which nothing is wanted at the moment keeps its pages as long as nobody needs them.
    """

    def __init__(self, cache: PagedCache, *, prefill_chunk: int, prefill_beside: int, max_batch: int) -> None:
        """prefill_chunk: prompt tokens a pass takes at most; prefill_beside: if others decode in it. max_batch: sequences that
        are computed at once; those of one request that go on together may be more. All from 1, as `Sizes` sees to.
        """
        self.cache = cache
        self.prefill_chunk, self.prefill_beside = prefill_chunk, min(prefill_beside, prefill_chunk)
        self.max_batch = max_batch
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._n_evicted = 0

    @property
    def has_work(self) -> bool:
        """Whether a plan would hold anything."""
        return bool(self.waiting) or any(sequence.n_pending for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence of which something is wanted into the queue, unless it is here already."""
        if not sequence.is_here:
            sequence.is_here = True
            insort(self.waiting, sequence, key=_rank)

    def join(self, sequence: Sequence, beside: Sequence) -> None:
        """A fork runs where what it was forked from runs."""
        if beside in self.running:
            sequence.is_here = True
            self.running.insert(self.running.index(beside) + 1, sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free what it holds; one that is not here does no harm."""
        if sequence.is_here:
            sequence.is_here = False
            (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.cache.release(sequence.slot)

    def next_up(self) -> list[Sequence]:
        """The sequences that a plan is made of first: those running, and the first in the queue."""
        return [*self.running, *self.waiting[:1]]

    def plan(self) -> list[Work]:
        """The next pass, with room in the cache reserved for all of it. Not empty if there is work."""
        self.cache.shortage = None
        work = self._plan_decode()
        if self.waiting or len(work) < len(self.running):
            self._admit()
            self._plan_prefill(work)
        if not work and self.cache.shortage is not None:  # not even for the first
            raise self.cache.shortage
        return work

    def _plan_decode(self) -> list[Work]:
        work, reserve, n_evicted = [], self.cache.reserve, self._n_evicted
        for sequence in tuple(self.running):
            if sequence.is_decoding and (n_evicted == self._n_evicted or sequence in self.running):
                n = sequence.n_pending
                if reserve(sequence.slot, n) or self._make_room(sequence, n):
                    work.append(Work(sequence, n))
        return work

    def _plan_prefill(self, work: list[Work]) -> None:
        planned = {id(item.sequence) for item in work}
        prompts = [sequence for sequence in self.running if sequence.n_pending and id(sequence) not in planned]
        left = self.prefill_beside if work else self.prefill_chunk
        shares = _shares([sequence.n_pending for sequence in prompts], left)
        for sequence, n_new in zip(prompts, shares, strict=True):
            if n_new and self._make_room(sequence, n_new):
                work.append(Work(sequence, n_new))

    # -- who runs -------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let those at the head of the queue run, as far as there is room for all of their prompts."""
        n_busy = sum(bool(sequence.n_pending) for sequence in self.running)  # the others keep nobody out
        for sequence in tuple(self.waiting):
            if sequence not in self.waiting:  # it was ended on the way
                continue
            if self._is_coming(sequence):
                continue  # in a pass or two, it need not be computed
            if n_busy >= self.max_batch:
                if not self._evict_after(sequence):
                    return
                n_busy -= 1
            sequence.adopt()
            while not self.cache.reserve(sequence.slot, sequence.n_pending):  # all: a prompt once begun never waits
                idle = [other for other in self.running if not other.n_pending]
                if idle:
                    self._evict(idle[-1])
                elif self._evict_after(sequence):
                    n_busy -= 1
                else:
                    sequence.evict()
                    return
            sequence.admitted()
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_rank)
            n_busy += 1

    def _is_coming(self, sequence: Sequence) -> bool:
        """Whether another prompt, which is being computed, begins alike for longer than what is known."""
        if self.cache.prefixes is None or not sequence.may_adopt:
            return False
        limit = min(sequence.n_adoptable, self.cache.prefixes.max_pages * self.cache.page_tokens)
        others = [other for other in self.running if other.is_prompt and other is not sequence]
        if not others:
            return False
        n = self.cache.prefixes.find(sequence.ids, limit).length + WORTH_WAITING
        return n <= limit and any(other.ids[:n] == sequence.ids[:n] for other in others if len(other.ids) >= n)

    def _make_room(self, sequence: Sequence, n_new: int) -> bool:
        """Reserve n_new positions, at the cost of the last in the queue; False if that is this one, or it went before."""
        while sequence in self.running:
            if self.cache.reserve(sequence.slot, n_new):
                return True
            idle = [other for other in self.running if not other.n_pending]
            self._evict(idle[-1] if idle else self.running[-1])
        return False

    def _evict_after(self, sequence: Sequence) -> bool:
        """Take the place of the last one that runs, if its rank is behind; False if none is."""
        busy = [other for other in self.running if other.n_pending and other.rank > sequence.rank]
        if busy:
            self._evict(busy[-1])
        return bool(busy)

    def _evict(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._n_evicted += 1
        sequence.evict()
        sequence.is_here = sequence.want is not None
        if sequence.is_here:
            insort_left(self.waiting, sequence, key=_rank)


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _shares(pending: list[int], budget: int) -> list[int]:
    """How many of its pending ids each may compute now: half of the budget for the first, then the shortest first."""
    if not pending:
        return []
    shares = [0] * len(pending)
    first = min(pending[0], budget if len(pending) == 1 else -(-budget // 2))
    shares[0], left = first, budget - first
    for i in sorted(range(1, len(pending)), key=lambda i: pending[i]):
        shares[i] = min(pending[i], left)
        left -= shares[i]
    shares[0] += min(pending[0] - first, left)
    return shares
