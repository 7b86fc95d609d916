"""Forks of a slot: each keeps its own content whatever the others write, and every page is released exactly once."""

from __future__ import annotations

from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fakes.decoder import FakeBatch, FakePool
from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.errors import ContextOverflow

N_CTX = 23
PAGE_TOKENS = 3
MAX_PAGES = 16


class ForksMachine(RuleBasedStateMachine):
    """Any order of calls, against copies that share nothing."""

    slots = Bundle("slots")

    def __init__(self) -> None:
        super().__init__()
        self.pool = FakePool(PAGE_TOKENS)
        self.cache = PagedCache(self.pool, N_CTX, MAX_PAGES * self.pool.page_bytes)
        self.contents: dict[int, list[int]] = {}  # by id(slot): what it should hold
        self.open: dict[int, CacheSlot] = {}
        self.next_id = 0

    def _remember(self, slot: CacheSlot, content: list[int]) -> CacheSlot:
        self.open[id(slot)], self.contents[id(slot)] = slot, content
        return slot

    @rule(target=slots)
    def open_slot(self) -> CacheSlot:
        return self._remember(self.cache.open(), [])

    @rule(target=slots, slot=slots)
    def fork(self, slot: CacheSlot) -> CacheSlot:
        before = self.pool.n_pages
        twin = self.cache.fork(slot)
        assert self.pool.n_pages == before
        assert twin.length == slot.length
        return self._remember(twin, list(self.contents[id(slot)]))

    @rule(slot=slots, n_new=st.integers(1, 7))
    def write(self, slot: CacheSlot, n_new: int) -> None:
        if slot.length + n_new > N_CTX:
            return
        if not self.cache.reserve(slot, n_new):
            assert self.pool.n_pages + -(-n_new // PAGE_TOKENS) + 1 > MAX_PAGES
            return
        self._fill(slot, n_new)

    @rule(first=slots, second=slots, n_first=st.integers(1, 4), n_second=st.integers(1, 4))
    def write_two_in_one_pass(self, first: CacheSlot, second: CacheSlot, n_first: int, n_second: int) -> None:
        """The fake pool refuses a batch that writes a page which another row reads."""
        if first is second or max(first.length + n_first, second.length + n_second) > N_CTX:
            return
        if self.cache.reserve(first, n_first) and self.cache.reserve(second, n_second):
            batch = cast("FakeBatch", self.cache.batch([(first, n_first), (second, n_second)]))
            self._put(batch, [(first, n_first), (second, n_second)])

    @rule(slot=slots, n_new=st.integers(0, 30))
    def reserve_in_vain(self, slot: CacheSlot, n_new: int) -> None:
        """Room that is not used, or is too much, changes no content."""
        try:
            self.cache.reserve(slot, n_new)
        except ContextOverflow:
            assert slot.length + n_new > N_CTX

    @rule(slot=slots, length=st.integers(0, N_CTX), keep=st.booleans())
    def shorten(self, slot: CacheSlot, length: int, keep: bool) -> None:
        if length <= slot.length:
            pages = list(slot.pages)
            (self.cache.rewind if keep else self.cache.truncate)(slot, length)
            assert slot.pages == (pages if keep else pages[: -(-length // PAGE_TOKENS)])
            del self.contents[id(slot)][length:]

    @rule(slot=consumes(slots))
    def release(self, slot: CacheSlot) -> None:
        self.cache.release(slot)
        self.cache.release(slot)  # twice does no harm
        del self.open[id(slot)], self.contents[id(slot)]

    def _fill(self, slot: CacheSlot, n_new: int) -> None:
        self._put(cast("FakeBatch", self.cache.batch([(slot, n_new)])), [(slot, n_new)])

    def _put(self, batch: FakeBatch, parts: list[tuple[CacheSlot, int]]) -> None:
        places = iter(batch.places)
        for slot, n_new in parts:
            for _ in range(n_new):
                table, position = next(places)
                self.pool.pages[table[position // PAGE_TOKENS]][position % PAGE_TOKENS] = self.next_id
                self.contents[id(slot)].append(self.next_id)
                self.next_id += 1

    @invariant()
    def each_slot_reads_its_own_content(self) -> None:
        for key, slot in self.open.items():
            read = [self.pool.pages[slot.pages[i // PAGE_TOKENS]][i % PAGE_TOKENS] for i in range(slot.length)]
            assert read == self.contents[key]

    @invariant()
    def pages_in_use_are_those_that_slots_hold(self) -> None:
        held = [page for slot in self.open.values() for page in slot.pages]
        assert set(held) == self.pool.in_use
        assert len(set(held)) <= MAX_PAGES
        assert self.cache._shared == {page: held.count(page) for page in held if held.count(page) > 1}


TestForks = ForksMachine.TestCase
TestForks.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def filled(cache: PagedCache, n: int) -> CacheSlot:
    slot = cache.open()
    assert cache.reserve(slot, n)
    cache.batch([(slot, n)])
    return slot


def test_a_fork_copies_the_page_that_it_writes_to_and_no_other() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    slot = filled(cache, 7)  # two full pages, and one position
    twin = cache.fork(slot)
    assert pool.n_pages == 3
    assert cache.reserve(twin, 1)
    assert twin.pages[:2] == slot.pages[:2]
    assert twin.pages[2] != slot.pages[2]
    assert pool.n_pages == 4
    assert cache.reserve(slot, 2)  # the page is its own again
    assert pool.n_pages == 4


def test_forks_at_the_end_of_a_page_copy_nothing() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    slot = filled(cache, 6)
    twins = [cache.fork(slot) for _ in range(4)]
    pool.copy = None  # type: ignore[assignment, method-assign]
    assert all(cache.reserve(twin, 1) for twin in twins)
    assert pool.n_pages == 2 + 4


def test_a_fork_takes_no_pages_beyond_what_is_filled() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    slot = filled(cache, 4)
    assert cache.reserve(slot, 8)
    assert len(slot.pages) == 4
    assert cache.fork(slot).pages == slot.pages[:2]


def test_a_full_cache_has_no_room_for_a_copy() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX, 3 * pool.page_bytes)
    slot = filled(cache, 8)
    twin = cache.fork(slot)
    assert not cache.reserve(twin, 1)
    assert twin.pages == slot.pages
    cache.release(slot)
    assert cache.reserve(twin, 1)  # nobody else holds the page now
    assert pool.n_pages == 3


def test_memory_that_runs_out_within_a_copy_loses_no_page() -> None:
    pool = FakePool(PAGE_TOKENS)
    cache = PagedCache(pool, N_CTX)
    slot = filled(cache, 8)
    cache.rewind(slot, 0)
    twin = cache.fork(slot)
    assert twin.pages == []
    slot.length = 8
    twin = cache.fork(slot)
    cache.rewind(twin, 0)
    pool.fail_after = 2
    assert not cache.reserve(twin, 9)
    assert isinstance(cache.shortage, MemoryError)
    cache.release(twin)
    cache.release(slot)
    assert pool.n_pages == 0
    assert cache._shared == {}
