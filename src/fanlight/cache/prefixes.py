"""Which beginnings of texts are computed already. In: ids and the pages that hold them. Out: pages. Knows no pool and no model.

A tree of pages: below a page stand those that go on from it. Only the last page of a path may be partly filled; a text that
parts from it in the middle of a page takes over the positions before, and copies the page when it writes. The paths that were
used longest ago go first. Source: prefix trees over token ids as in SGLang (Zheng et al. 2024), here with pages as nodes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple


class _Node:
    """A page, and the ids that its positions stand for after those of the pages above it."""

    __slots__ = ("above", "below", "ids", "page")

    def __init__(self, ids: tuple[int, ...], page: int, above: _Node | None) -> None:
        self.ids, self.page, self.above = ids, page, above
        self.below: list[_Node] = []  # sorted by ids, none of which begins another

    def __lt__(self, other: _Node) -> bool:
        return self.ids < other.ids


class Match(NamedTuple):
    """How far a text is known."""

    length: int
    pages: tuple[int, ...]
    """The last one maybe in part."""


class PrefixTree:
    """Known beginnings, within a limit of pages. It keeps a page by `hold` and gives it up by `let_go`."""

    def __init__(
        self, page_tokens: int, max_pages: int, *, hold: Callable[[int], None], let_go: Callable[[int], None]
    ) -> None:
        self._page_tokens, self.max_pages = page_tokens, max_pages
        self._hold, self._let_go = hold, let_go
        self._root = _Node((), -1, None)
        self._by_use: OrderedDict[_Node, None] = OrderedDict()  # last used last; what is below a page stands before it

    @property
    def n_pages(self) -> int:
        """Pages that it keeps."""
        return len(self._by_use)

    def find(self, ids: Sequence[int], limit: int) -> Match:
        """The longest known beginning of ids[:limit]. It counts as used."""
        node, pages, length = self._root, list[int](), 0
        while length < limit:
            wanted = tuple(ids[length : min(length + self._page_tokens, limit)])
            best, n = _longest_common(node.below, wanted)
            if best is None:
                break
            node = best
            pages.append(best.page)
            length += n
            if n < self._page_tokens:
                break
        self._touch(node)
        return Match(length, tuple(pages))

    def insert(self, ids: Sequence[int], pages: Sequence[int]) -> None:
        """From now on this beginning is known; pages[i] holds the i-th page of it. What was known of it before stays as it is."""
        node = self._root
        for start in range(0, len(ids), self._page_tokens):
            part, page = tuple(ids[start : start + self._page_tokens]), pages[start // self._page_tokens]
            best, n = _longest_common(node.below, part)
            if best is not None and n == len(part):  # known, and maybe more
                node = best
            elif best is not None and n == len(best.ids):  # goes on where a page was partly filled
                self._hold(page)
                self._let_go(best.page)
                best.ids, best.page = part, page  # in the same place: nothing else begins like it
                node = best
            else:
                self._hold(page)
                new = _Node(part, page, node)
                insort(node.below, new)
                self._by_use[new] = None
                node = new
        self._touch(node)
        while len(self._by_use) > self.max_pages:
            self.forget_oldest()

    def forget_oldest(self) -> bool:
        """Give up the page that was used longest ago, of those that nothing goes on from; False if there is none."""
        if not self._by_use:
            return False
        node, _ = self._by_use.popitem(last=False)
        assert not node.below, "a page was used after one that goes on from it"
        assert node.above is not None
        siblings = node.above.below
        del siblings[bisect_left(siblings, node)]
        self._let_go(node.page)
        return True

    def clear(self) -> None:
        """Give up everything."""
        while self.forget_oldest():
            pass

    def _touch(self, node: _Node | None) -> None:
        while node is not None and node is not self._root:
            self._by_use.move_to_end(node)
            node = node.above


def _longest_common(nodes: Sequence[_Node], wanted: tuple[int, ...]) -> tuple[_Node | None, int]:
    """Of nodes sorted by ids, the one that begins like `wanted` the longest, and for how many ids; None if none does."""
    at = bisect_left(nodes, wanted, key=lambda node: node.ids)
    best, length = None, 0
    for node in nodes[max(at - 1, 0) : at + 1]:  # the longest common beginning is with a neighbour in sorted order
        n = _common(node.ids, wanted)
        if n > length:
            best, length = node, n
    return best, length


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts begin with in common."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])
