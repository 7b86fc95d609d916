"""The page table: no page is lost, none has two owners, limits hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fakes.decoder import FakeBatch, FakeOps, FakePool
from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.errors import ContextOverflow, OptionError

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", FakeOps())
N_CTX = 23
PAGE_TOKENS = 3
MAX_PAGES = 12


class PagedCacheMachine(RuleBasedStateMachine):
    """Any order of calls, against a model that only counts."""

    slots = Bundle("slots")

    def __init__(self) -> None:
        super().__init__()
        self.pool = FakePool(PAGE_TOKENS)
        self.cache = PagedCache(self.pool, N_CTX, MAX_PAGES * self.pool.page_bytes)
        self.open: list[CacheSlot] = []

    @rule(target=slots)
    def open_slot(self) -> CacheSlot:
        slot = self.cache.open()
        self.open.append(slot)
        return slot

    @rule(slot=slots, n_new=st.integers(0, 30))
    def reserve(self, slot: CacheSlot, n_new: int) -> None:
        before = (list(slot.pages), self.pool.n_pages)
        n_missing = max(0, -(-(slot.length + n_new) // PAGE_TOKENS) - len(slot.pages))
        if slot.length + n_new > N_CTX and n_missing:
            with pytest.raises(ContextOverflow, match=f"{slot.length + n_new} tokens do not fit .* of {N_CTX}"):
                self.cache.reserve(slot, n_new)
            n_missing = 0
        elif self.pool.n_pages + n_missing > MAX_PAGES:
            assert not self.cache.reserve(slot, n_new)
            n_missing = 0
        else:
            assert self.cache.reserve(slot, n_new)
        assert slot.pages[: len(before[0])] == before[0]
        assert (len(slot.pages), self.pool.n_pages) == (len(before[0]) + n_missing, before[1] + n_missing)

    @rule(slot=slots, n_new=st.integers(1, 5))
    def fill(self, slot: CacheSlot, n_new: int) -> None:
        if slot.length + n_new <= N_CTX and self.cache.reserve(slot, n_new):
            start = slot.length
            batch = cast("FakeBatch", self.cache.batch([(slot, n_new)]))
            assert [position for _, position in batch.places] == list(range(start, start + n_new))
            assert slot.length == start + n_new

    @rule(slot=slots, length=st.integers(0, N_CTX))
    def truncate(self, slot: CacheSlot, length: int) -> None:
        if length <= slot.length:
            self.cache.truncate(slot, length)
            assert slot.length == length
            assert len(slot.pages) == -(-length // PAGE_TOKENS)

    @rule(slot=consumes(slots))
    def release(self, slot: CacheSlot) -> None:
        self.cache.release(slot)
        self.cache.release(slot)  # twice does no harm
        assert (slot.pages, slot.length) == ([], 0)
        self.open.remove(slot)

    @invariant()
    def every_page_in_use_has_one_owner(self) -> None:
        owned = [page for slot in self.open for page in slot.pages]
        assert len(set(owned)) == len(owned)
        assert set(owned) == self.pool.in_use
        assert len(owned) <= MAX_PAGES


TestPagedCache = PagedCacheMachine.TestCase
TestPagedCache.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_a_batch_of_several_slots_lays_them_out_one_after_another() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    a, b = cache.open(), cache.open()
    assert cache.reserve(a, 4)
    cache.batch([(a, 4)])
    assert cache.reserve(a, 1)
    assert cache.reserve(b, 2)
    batch = cast("FakeBatch", cache.batch([(a, 1), (b, 2)]))
    assert batch.places == [(a.pages, 4), (b.pages, 0), (b.pages, 1)]
    assert (a.length, b.length) == (5, 2)


def test_a_batch_beyond_what_was_reserved_is_our_own_mistake() -> None:
    cache = PagedCache(FakePool(PAGE_TOKENS), N_CTX)
    slot = cache.open()
    cache.reserve(slot, 3)
    with pytest.raises(AssertionError, match="before reserve"):
        cache.batch([(slot, 4)])
    assert slot.length == 0


def test_a_limit_shortens_the_window() -> None:
    pool = FakePool(PAGE_TOKENS)
    assert PagedCache(pool, N_CTX, 2 * pool.page_bytes + 1).n_ctx == 6
    assert PagedCache(pool, N_CTX, 1000 * pool.page_bytes).n_ctx == N_CTX
    with pytest.raises(OptionError, match="must hold a page, 100 bytes: got 99"):
        PagedCache(pool, N_CTX, pool.page_bytes - 1)


def test_pages_allocated_before_memory_ran_out_are_not_lost() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    slot = cache.open()
    pool.fail_after = 2
    assert not cache.reserve(slot, 9)
    assert isinstance(cache.shortage, MemoryError)
    assert pool.n_pages == 2
    cache.release(slot)
    assert pool.n_pages == 0
