"""The key-value cache: which pages of a pool belong to which sequence. In: lengths. Out: KVBatch. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fanlight.cache.prefixes import PrefixTree
from fanlight.errors import ContextOverflow, OptionError

if TYPE_CHECKING:
    from fanlight.kernels.ops import KVBatch, KVPool


CACHE_TYPES = {"f16": "F16", "f32": "F32", "int8": "I8"}
"""What keys and values may be kept as. int8 has a scale for each head of a position."""


class CacheSlot:
    """One sequence's part of the cache: its pages in order, and how many positions are filled."""

    __slots__ = ("length", "pages")

    def __init__(self) -> None:
        self.pages: list[int] = []
        self.length = 0


class Holders:
    """How many hold each page, slots and the prefixes; a page that nobody holds goes back to the pool."""

    def __init__(self, pool: KVPool) -> None:
        self._pool = pool
        self.shared: dict[int, int] = {}
        """Pages that more than one holds, and how many."""

    def hold(self, page: int) -> None:
        """One more."""
        self.shared[page] = self.shared.get(page, 1) + 1

    def let_go(self, page: int) -> None:
        """One less."""
        n = self.shared.get(page, 1)
        if n == 1:
            self._pool.release(page)
        elif n == 2:
            del self.shared[page]
        else:
            self.shared[page] = n - 1


class PagedCache:
    """Pages of one pool, lent to slots. A page may serve several slots that begin alike; who writes has it to itself.

    Beginnings that were computed are kept for slots to come, as long as nobody else needs the room.
    """

    def __init__(self, pool: KVPool, n_ctx: int, max_bytes: int | None = None, prefix_bytes: int = 0) -> None:
        """A slot holds up to n_ctx positions, or fewer if max_bytes does not hold that many. prefix_bytes: what beginnings
        may keep that no slot holds; 0: none is kept.

        Raises OptionError if max_bytes is less than one page.
        """
        self.pool = pool
        self.page_tokens = pool.page_tokens
        self.max_pages: int | None = None
        self.n_ctx = n_ctx
        self.shortage: MemoryError | None = None
        """Why `reserve` failed last, if it was not the limit."""
        self._holders = holders = Holders(pool)
        self._shared = holders.shared
        n_kept = prefix_bytes // pool.page_bytes
        self.prefixes = (
            PrefixTree(pool.page_tokens, n_kept, hold=holders.hold, let_go=holders.let_go) if n_kept > 0 else None
        )
        if max_bytes is not None:
            self.max_pages = max_bytes // pool.page_bytes
            if self.max_pages < 1:
                raise OptionError(f"the cache limit must hold a page, {pool.page_bytes} bytes: got {max_bytes}")
            self.n_ctx = min(n_ctx, self.max_pages * self.page_tokens)

    @property
    def n_kept(self) -> int:
        """Pages that beginnings are kept in, whether slots use them too or not."""
        return self.prefixes.n_pages if self.prefixes is not None else 0

    def open(self) -> CacheSlot:
        """An empty slot. It holds no page until `reserve`."""
        return CacheSlot()

    def fork(self, slot: CacheSlot) -> CacheSlot:
        """A slot with the same content, which costs nothing until one of the two writes."""
        twin = CacheSlot()
        twin.length = slot.length
        twin.pages = slot.pages[: -(-slot.length // self.page_tokens)]
        for page in twin.pages:
            self._holders.hold(page)
        return twin

    def adopt(self, slot: CacheSlot, ids: Sequence[int], limit: int) -> int:
        """Fill an empty slot with what is known of ids[:limit]; how many positions that is."""
        assert not slot.pages, "adopt() needs an empty slot"
        if self.prefixes is None or limit <= 0:
            return 0
        slot.length, pages = self.prefixes.find(ids, limit)
        slot.pages = list(pages)
        for page in pages:
            self._holders.hold(page)
        return slot.length

    def remember(self, slot: CacheSlot, ids: Sequence[int]) -> None:
        """Keep the first positions of a slot, which these ids stand for, for slots to come."""
        assert len(ids) <= slot.length, "remember() of what is not computed"
        if self.prefixes is not None and ids:
            self.prefixes.insert(ids, slot.pages)

    def reserve(self, slot: CacheSlot, n_new: int) -> bool:
        """Make room for n_new positions more, if need be at the cost of beginnings that are kept; False if the cache is full,
        or the machine's memory, which `shortage` then says.

        Raises ContextOverflow beyond n_ctx.
        """
        while not self._has_room(slot, n_new):
            if self.prefixes is None or not self.prefixes.forget_oldest():
                return False
        return True

    def _has_room(self, slot: CacheSlot, n_new: int) -> bool:
        try:
            return self._reserve(slot, n_new)
        except MemoryError as error:
            self.shortage = error
            return False

    def _reserve(self, slot: CacheSlot, n_new: int) -> bool:
        n_total = slot.length + n_new
        n_missing = -(-n_total // self.page_tokens) - len(slot.pages)
        written = range(slot.length // self.page_tokens, len(slot.pages)) if self._shared and n_new else ()
        shared = [i for i in written if slot.pages[i] in self._shared]
        if n_missing <= 0 and not shared:
            return True
        if n_total > self.n_ctx:
            raise ContextOverflow(f"{n_total} tokens do not fit the context window of {self.n_ctx}")
        if self.max_pages is not None and self.pool.n_pages + max(n_missing, 0) + len(shared) > self.max_pages:
            return False
        for i in shared:  # copy on write
            page = self.pool.allocate()
            if i * self.page_tokens < slot.length:
                self.pool.copy(slot.pages[i], page)
            self._holders.let_go(slot.pages[i])
            slot.pages[i] = page
        for _ in range(n_missing):
            slot.pages.append(self.pool.allocate())  # one by one: if the next fails, the slot owns those before
        return True

    def batch(self, parts: Sequence[tuple[CacheSlot, int]]) -> KVBatch:
        """The rows of one forward pass: n_new reserved positions of each slot, which count as filled from now on."""
        tables, starts, counts = [], [], []
        for slot, n_new in parts:
            assert slot.length + n_new <= len(slot.pages) * self.page_tokens, "batch() before reserve()"
            tables.append(slot.pages)
            starts.append(slot.length)
            counts.append(n_new)
        batch = self.pool.batch(tables, starts, counts)
        for slot, n_new in parts:
            slot.length += n_new
        return batch

    def truncate(self, slot: CacheSlot, length: int) -> None:
        """Forget the positions from `length` on, and give back the pages that held nothing else."""
        assert 0 <= length <= slot.length, "truncate() cannot lengthen a slot"
        slot.length = length
        n_pages = -(-length // self.page_tokens)
        while len(slot.pages) > n_pages:
            self._holders.let_go(slot.pages.pop())

    def rewind(self, slot: CacheSlot, length: int) -> None:
        """Forget the positions from `length` on, and keep the pages: they will be written again."""
        assert 0 <= length <= slot.length, "rewind() cannot lengthen a slot"
        slot.length = length

    def release(self, slot: CacheSlot) -> None:
        """Give all pages back. The slot is empty afterwards and may be used again."""
        self.truncate(slot, 0)
