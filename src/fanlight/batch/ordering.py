"""Results that come in any order -> a file in the order of the rows. In: an index and a line each. Knows no rows.

A result that comes before its turn waits in a file of its own (`<output>.ahead`), so that a kill loses none of those that are
finished, and memory holds a place and a size of each. `is_full` says when so many wait that no further rows should be begun.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from fanlight.batch.writing import Appender, recovered

MOST_AHEAD = 4096
DEAD_BYTES = 16 << 20
"""What of the file of waiting results may be out of use."""


class Bits:
    """A set of whole numbers from 0: a bit each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.count = 0

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bytes) and bool(self._bytes[at] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """One more."""
        at = number >> 3
        if at >= len(self._bytes):
            self._bytes.extend(bytes(at + 1 - len(self._bytes)))
        if not self._bytes[at] >> (number & 7) & 1:
            self._bytes[at] |= 1 << (number & 7)
            self.count += 1


class AsTheyCome:
    """Results are written at once."""

    is_full = False
    n_ahead = 0

    def __init__(self, journal: Appender) -> None:
        """journal: the file of results."""
        self._journal = journal

    def expect(self, index: int) -> bool:
        """A row is next; whether its result is still to be made."""
        return True

    def put(self, index: int, line: bytes) -> None:
        """A result."""
        self._journal.append(line)

    def close(self) -> None:
        """Done for now."""


class InOrder:
    """Results are written in the order in which their rows were expected."""

    def __init__(self, journal: Appender, ahead: Path, done: Bits, most: int = MOST_AHEAD) -> None:
        """journal: the file of results. ahead: of those that wait; it is gone on with. done: what the journal holds already."""
        self._journal, self._path, self._most = journal, ahead, most
        self._waiting: dict[int, tuple[int, int]] = {}  # index -> where in the file
        self._expected: deque[int] = deque()
        self._file: Appender | None = None
        self._live_bytes = 0
        self.n_failed_ahead = 0
        self._fresh = ahead.with_name(f"{ahead.name}.new")
        self._fresh.unlink(missing_ok=True)  # a kill left it
        if ahead.exists():
            self._file = Appender(ahead)
            try:
                self._recover(self._file, done)
            except BaseException:
                self._file.close()
                raise

    @property
    def n_ahead(self) -> int:
        """How many results wait for their turn."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so many wait that the rows before them should come first."""
        return len(self._waiting) >= self._most

    def expect(self, index: int) -> bool:
        """A row is next; whether its result is still to be made."""
        self._expected.append(index)
        is_here = index in self._waiting
        self._write()
        return not is_here

    def put(self, index: int, line: bytes) -> None:
        """A result, of a row that was expected."""
        if self._expected and self._expected[0] == index:
            self._expected.popleft()
            self._journal.append(line)
            self._write()
            return
        if self._file is None:
            self._file = Appender(self._path)
        self._waiting[index] = (self._file.append(line), len(line))
        self._live_bytes += len(line)

    def close(self) -> None:
        """Done for now; the file of waiting results stays if there are any."""
        if self._file is not None:
            self._file.close()
            if not self._waiting:
                self._path.unlink(missing_ok=True)

    def _recover(self, file: Appender, done: Bits) -> None:
        for line in recovered(file):
            if line.index not in done and line.index not in self._waiting:
                self._waiting[line.index] = (line.offset, line.n_bytes)
                self._live_bytes += line.n_bytes
                self.n_failed_ahead += line.has_error

    def _write(self) -> None:
        """Those whose turn it is."""
        while self._expected and self._expected[0] in self._waiting:
            assert self._file is not None
            offset, n_bytes = self._waiting[self._expected[0]]
            self._journal.append(self._file.read(offset, n_bytes))
            del self._waiting[self._expected.popleft()]  # only now: a kill in between finds it in both files
            self._live_bytes -= n_bytes
        if self._file is not None and self._file.size - self._live_bytes > DEAD_BYTES + self._live_bytes:
            self._compact()

    def _compact(self) -> None:
        assert self._file is not None
        fresh = Appender(self._fresh)
        self._waiting = {
            index: (fresh.append(self._file.read(offset, n_bytes)), n_bytes)
            for index, (offset, n_bytes) in self._waiting.items()
        }
        os.replace(self._fresh, self._path)
        fresh.path = self._path
        self._file.close()
        self._file = fresh
