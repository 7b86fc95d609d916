"""The tree of known beginnings, against a plain list of texts; and what slots get of it."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeBatch, FakePool
from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.cache.prefixes import PrefixTree

PAGE_TOKENS = 3
TEXT = st.lists(st.integers(0, 2), max_size=11)
ROOMY = 10_000


class Pages:
    """Numbers its pages, knows what is on each, and who holds it."""

    def __init__(self) -> None:
        self.content: list[list[int]] = []
        self.holders: list[int] = []

    def write(self, ids: list[int]) -> list[int]:
        """Pages with these ids, held by the caller."""
        first = len(self.content)
        for start in range(0, len(ids), PAGE_TOKENS):
            self.content.append(ids[start : start + PAGE_TOKENS])
            self.holders.append(1)
        return list(range(first, len(self.content)))

    def hold(self, page: int) -> None:
        self.holders[page] += 1

    def let_go(self, page: int) -> None:
        assert self.holders[page] > 0
        self.holders[page] -= 1


def tree_of(pages: Pages, max_pages: int = ROOMY) -> PrefixTree:
    return PrefixTree(PAGE_TOKENS, max_pages, hold=pages.hold, let_go=pages.let_go)


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read(pages: Pages, match: tuple[int, tuple[int, ...]]) -> list[int]:
    length, numbers = match
    return [token for page in numbers for token in pages.content[page]][:length]


@settings(max_examples=300, deadline=None)
@given(known=st.lists(TEXT, max_size=9), asked=st.lists(TEXT, min_size=1, max_size=4), limit=st.integers(0, 12))
def test_the_longest_known_beginning_is_found(known: list[list[int]], asked: list[list[int]], limit: int) -> None:
    pages = Pages()
    tree = tree_of(pages)
    for ids in known:
        written = pages.write(ids)
        tree.insert(ids, written)
        for page in written:
            pages.let_go(page)
    for ids in asked:
        match = tree.find(ids, limit)
        assert match.length == min(limit, max((common(ids, other) for other in known), default=0))
        assert read(pages, match) == ids[: match.length]
        assert len(match.pages) == -(-match.length // PAGE_TOKENS)
        assert all(pages.holders[page] == 1 for page in match.pages)
    assert tree.n_pages == sum(pages.holders)
    tree.clear()
    assert tree.n_pages == sum(pages.holders) == 0


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=20), max_pages=st.integers(1, 6), looks=st.lists(TEXT, max_size=20))
def test_no_more_is_kept_than_the_limit_and_what_is_kept_is_right(
    texts: list[list[int]], max_pages: int, looks: list[list[int]]
) -> None:
    pages = Pages()
    tree = tree_of(pages, max_pages)
    for i, ids in enumerate(texts):
        written = pages.write(ids)
        tree.insert(ids, written)
        for page in written:
            pages.let_go(page)
        assert tree.n_pages == sum(pages.holders) <= max_pages
        for look in looks[i : i + 1]:
            match = tree.find(look, len(look))
            assert read(pages, match) == look[: match.length]
            assert all(pages.holders[page] == 1 for page in match.pages)


def test_what_was_used_longest_ago_goes_first() -> None:
    pages = Pages()
    tree = tree_of(pages, max_pages=4)
    for ids in ([1, 1, 1, 1, 1, 1], [2, 2, 2], [3]):
        tree.insert(ids, pages.write(ids))
    tree.find([1, 1, 1, 0], 4)  # the first page of it alone
    tree.insert([4], pages.write([4]))
    assert [tree.find(ids, 6).length for ids in ([2] * 3, [1] * 6, [4], [3])] == [3, 3, 1, 1]
    tree.insert([5], pages.write([5]))
    assert [tree.find(ids, 6).length for ids in ([2] * 3, [1] * 6, [4], [3], [5])] == [0, 3, 1, 1, 1]


def test_a_text_that_goes_on_takes_the_place_of_the_page_that_was_partly_filled() -> None:
    pages = Pages()
    tree = tree_of(pages)
    tree.insert([1, 2], pages.write([1, 2]))
    tree.insert([1, 2, 3, 4], pages.write([1, 2, 3, 4]))
    assert tree.n_pages == 2
    assert pages.holders == [1, 2, 2]
    assert tree.find([1, 2, 3, 4, 5], 5) == (4, (1, 2))
    tree.insert([1], pages.write([1]))  # known already
    assert tree.n_pages == 2


# -- slots ---------------------------------------------------------------------------------------------------------------


def filled(cache: PagedCache, ids: list[int], slot: CacheSlot | None = None) -> CacheSlot:
    slot = slot or cache.open()
    n_new = len(ids) - slot.length
    assert cache.reserve(slot, n_new)
    start = slot.length
    batch = cast("FakeBatch", cache.batch([(slot, n_new)]))
    for (table, position), token in zip(batch.places, ids[start:], strict=True):
        batch.pool.pages[table[position // PAGE_TOKENS]][position % PAGE_TOKENS] = token
    return slot


def content(cache: PagedCache, slot: CacheSlot) -> list[int]:
    pool = cast("FakePool", cache.pool)
    return [pool.pages[slot.pages[i // PAGE_TOKENS]][i % PAGE_TOKENS] for i in range(slot.length)]


def cache_of(max_pages: int | None = None, kept: int = 10) -> PagedCache:
    pool = FakePool(PAGE_TOKENS)
    limit = None if max_pages is None else max_pages * pool.page_bytes
    return PagedCache(pool, 30, limit, kept * pool.page_bytes)


def test_a_slot_adopts_what_another_computed_and_neither_disturbs_the_other() -> None:
    cache = cache_of()
    first = filled(cache, [1, 2, 3, 4, 5])
    cache.remember(first, [1, 2, 3, 4, 5])
    second = cache.open()
    assert cache.adopt(second, [1, 2, 3, 4, 9, 9], 5) == 4
    filled(cache, [1, 2, 3, 4, 9, 9], second)
    filled(cache, [1, 2, 3, 4, 5, 6, 7], first)
    assert content(cache, first) == [1, 2, 3, 4, 5, 6, 7]
    assert content(cache, second) == [1, 2, 3, 4, 9, 9]
    assert first.pages[0] == second.pages[0]
    third = cache.open()
    assert cache.adopt(third, [1, 2, 3, 4, 5, 6], 6) == 5
    assert content(cache, third) == [1, 2, 3, 4, 5]
    for slot in (first, second, third):
        cache.release(slot)
    assert cache.pool.n_pages == 2
    assert cache.prefixes is not None
    cache.prefixes.clear()
    assert cache.pool.n_pages == 0


def test_what_is_kept_gives_way_to_whoever_needs_the_room() -> None:
    cache = cache_of(max_pages=3)
    for token in (1, 2):
        slot = filled(cache, [token] * 3)
        cache.remember(slot, [token] * 3)
        cache.release(slot)
    assert cache.pool.n_pages == 2
    slot = filled(cache, [7] * 9)
    assert cache.pool.n_pages == 3
    assert cache.prefixes is not None
    assert cache.prefixes.n_pages == 0
    assert not cache.reserve(cache.open(), 1)
    assert content(cache, slot) == [7] * 9


def test_the_last_page_need_not_be_copied_if_there_is_no_room_for_a_copy() -> None:
    cache = cache_of(max_pages=2)
    slot = filled(cache, [1, 2, 3, 4])
    cache.remember(slot, [1, 2, 3, 4])
    filled(cache, [1, 2, 3, 4, 5], slot)
    assert content(cache, slot) == [1, 2, 3, 4, 5]
    assert cache.pool.n_pages == 2


def test_without_room_for_a_page_nothing_is_kept() -> None:
    cache = PagedCache(FakePool(PAGE_TOKENS), 30, None, 99)
    assert cache.prefixes is None
    slot = filled(cache, [1, 2, 3])
    cache.remember(slot, [1, 2, 3])
    assert cache.adopt(cache.open(), [1, 2, 3], 3) == 0
    with pytest.raises(AssertionError, match="what is not computed"):
        cache.remember(slot, [1, 2, 3, 4])
