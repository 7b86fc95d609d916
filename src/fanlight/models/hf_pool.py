"""The KV pool of a decoder that keeps its own cache: pages of token ids, and memos of computed states. Knows no library.

In: ids. Out: which pieces of a sequence have been computed, and the nearest state to go on from.

Pages hold ids, and with each id whether a piece (the ids of one call of the model) ended there: a *history*. A memo is a
model's state after a history. The pages are the truth; a lost memo is computed again from them, in the same pieces.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fanlight.errors import KernelError, OptionError

PAGE_TOKENS = 64
SPARE_BYTES = 1 << 30
MAX_MEMOS = 256
NO_NUMBERS = (
    "pages of the KV cache cannot be read or written with backend hf: transformers keeps keys and values in an object of its own, "
    "and pages hold token ids; use the native backend"
)
_ENTRY_BYTES = array("i").itemsize


class History:
    """Ids in order, and where pieces ended."""

    __slots__ = ("entries",)

    def __init__(self, entries: array[int] | None = None) -> None:
        self.entries = array("i") if entries is None else entries  # 2 * id + (1 if a piece ends with it)

    def __len__(self) -> int:
        return len(self.entries)

    def ids(self, start: int, end: int) -> list[int]:
        """Those of positions start to end - 1."""
        return [entry >> 1 for entry in self.entries[start:end]]

    def append(self, ids: Sequence[int]) -> None:
        """More ids, of no piece yet."""
        self.entries.extend(2 * token for token in ids)

    def cut(self, end: int) -> None:
        """A piece ends before position `end`."""
        self.entries[end - 1] |= 1

    def cuts(self, after: int) -> list[int]:
        """Ends of pieces beyond position `after`, ascending."""
        return [i for i in range(after + 1, len(self) + 1) if self.entries[i - 1] & 1]

    def last_cut(self, limit: int) -> int:
        """The last end of a piece up to `limit`; 0 if there is none."""
        while limit and not self.entries[limit - 1] & 1:
            limit -= 1
        return limit


@dataclass(slots=True, eq=False)
class Memo:
    """A model's state after a history that ends with a cut."""

    history: bytes
    state: Any
    nbytes: int

    def __len__(self) -> int:
        return len(self.history) // _ENTRY_BYTES

    def ends_with_piece(self) -> bool:
        """Whether the last piece has more than one id, as a prompt's has."""
        return len(self) > 1 and not array("i", self.history[-2 * _ENTRY_BYTES : -_ENTRY_BYTES])[0] & 1


class Memos:
    """Memos, least recently used first."""

    def __init__(self, max_count: int = MAX_MEMOS) -> None:
        self.max_count = max_count
        self.nbytes = 0
        self._memos: list[Memo] = []

    def __len__(self) -> int:
        return len(self._memos)

    def near(self, history: History, limit: int) -> list[tuple[int, Memo]]:
        """Memos that agree with the first positions of `history`, at most `limit`, and how many; most positions first."""
        wanted = history.entries[:limit].tobytes()
        for memo in reversed(self._memos):
            if memo.history == wanted:
                return [(limit, memo)]
        found = [
            (history.last_cut(_n_shared(wanted, memo.history) // _ENTRY_BYTES), memo) for memo in reversed(self._memos)
        ]
        # of memos that agree equally far, those that need no cropping first, then those used last
        return sorted(((n, memo) for n, memo in found if n), key=lambda item: (-item[0], len(item[1])))

    def remove(self, memo: Memo) -> None:
        """Forget one."""
        self._memos.remove(memo)
        self.nbytes -= memo.nbytes

    def add(self, history: History, end: int, state: Any, nbytes: int, limit_bytes: int) -> None:
        """Keep the state after position end - 1; the least recently used go, until the rest fit."""
        self._memos.append(Memo(history.entries[:end].tobytes(), state, nbytes))
        self.nbytes += nbytes
        while self._memos and (len(self._memos) > self.max_count or self.nbytes > limit_bytes):
            self.remove(self._memos[0])


def _n_shared(a: bytes, b: bytes) -> int:
    """How many first bytes are equal."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return bisect_right(range(1, n + 1), False, key=lambda m: a[:m] != b[:m])


class IdPool:
    """Pages of ids; counts what the states of their sequences take."""

    page_tokens = PAGE_TOKENS
    dtype = "ids"

    def __init__(self, bytes_per_token: int, bytes_per_sequence: int = 0, spare_bytes: int = SPARE_BYTES) -> None:
        """What a state takes for each token and at any length. spare_bytes: for memos beyond what pages in use stand for."""
        self.page_bytes = PAGE_TOKENS * (bytes_per_token + _ENTRY_BYTES) + bytes_per_sequence
        self.spare_bytes = spare_bytes
        self.memos = Memos()
        self._pages: dict[int, array[int]] = {}
        self._free: list[int] = []

    @property
    def n_pages(self) -> int:
        """Pages in use."""
        return len(self._pages)

    @property
    def max_memo_bytes(self) -> int:
        """What memos may take: the pages in use, and some to spare."""
        return self.n_pages * self.page_bytes + self.spare_bytes

    def allocate(self) -> int:
        """A new page's id."""
        page = self._free.pop() if self._free else len(self._pages)
        self._pages[page] = array("i", bytes(PAGE_TOKENS * _ENTRY_BYTES))
        return page

    def release(self, page: int) -> None:
        """Give a page back."""
        self._page(page)
        del self._pages[page]
        self._free.append(page)

    def copy(self, source: int, target: int) -> None:
        """Make one page's content equal to another's."""
        self._page(target)[:] = self._page(source)

    def read(self, page: int, n: int) -> NoReturn:
        """Errors: OptionError, always: these pages hold no keys and values."""
        raise OptionError(NO_NUMBERS)

    def write(self, page: int, arrays: object) -> NoReturn:
        """Errors: as for `read`."""
        raise OptionError(NO_NUMBERS)

    def batch(self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]) -> IdBatch:
        """See `ops.KVPool.batch`."""
        if not len(tables) == len(starts) == len(counts):
            raise KernelError(
                f"batch: {len(tables)} tables, {len(starts)} starts and {len(counts)} counts; expected as many"
            )
        for s, (table, start, count) in enumerate(zip(tables, starts, counts, strict=True)):
            if start < 0 or count < 0:
                raise KernelError(f"batch: sequence {s} starts at {start} with {count} rows; expected none below 0")
            if len(table) * PAGE_TOKENS < start + count:
                raise KernelError(
                    f"batch: the {len(table)} pages of sequence {s} hold {len(table) * PAGE_TOKENS} positions, "
                    f"{start + count} are needed"
                )
            for page in table:
                self._page(page)
        places = [(s, start + i) for s, (start, n) in enumerate(zip(starts, counts, strict=True)) for i in range(n)]
        return IdBatch(self, [list(table) for table in tables], places)

    def history(self, table: Sequence[int], n: int) -> History:
        """The first n positions."""
        entries = array("i")
        for page in table[: -(-n // PAGE_TOKENS)]:
            entries.extend(self._page(page))
        return History(entries[:n])

    def keep(self, table: Sequence[int], history: History, start: int) -> None:
        """Store positions `start` to the last."""
        for i in range(start, len(history)):
            self._page(table[i // PAGE_TOKENS])[i % PAGE_TOKENS] = history.entries[i]

    def _page(self, page: int) -> array[int]:
        if page not in self._pages:
            raise KernelError(f"page {page} is not in use")
        return self._pages[page]


class IdBatch:
    """Row t belongs to the sequence and the position `places[t]`."""

    def __init__(self, pool: IdPool, tables: list[list[int]], places: list[tuple[int, int]]) -> None:
        """Usually made by `IdPool.batch`."""
        self.pool, self.tables, self.places = pool, tables, places

    @property
    def n_rows(self) -> int:
        """T."""
        return len(self.places)

    @property
    def positions(self) -> list[int]:
        """Of each row in its sequence."""
        return [position for _, position in self.places]

    def take(self, rows: Sequence[int]) -> IdBatch:
        """The rows named, in that order."""
        for row in rows:
            if not 0 <= row < self.n_rows:
                raise KernelError(f"batch: row {row} is outside 0 to {self.n_rows - 1}")
        return IdBatch(self.pool, self.tables, [self.places[row] for row in rows])

    def sequences(self) -> Iterator[tuple[list[int], int, int, int]]:
        """Runs of rows of one sequence: its table, the position of the first row, that row, and the row after the last."""
        first = 0
        for row in range(1, self.n_rows + 1):
            s, position = self.places[first]
            if row == self.n_rows or self.places[row] != (s, position + row - first):
                yield self.tables[s], position, first, row
                first = row
