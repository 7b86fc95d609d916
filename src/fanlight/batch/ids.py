"""Which ids occur twice, in little memory whatever their number. In: ids. Out: fingerprints that were seen more than once.

An id is kept as 8 bytes of its hash; sorted runs of them go to a temporary file and are merged. Two ids with one fingerprint
are possible, so whoever asks looks at the ids themselves again. Knows no row and no file of rows.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterator
from heapq import merge
from itertools import islice, pairwise
from types import TracebackType
from typing import BinaryIO, cast

RUN_IDS = 1 << 17
BLOCK_IDS = 1 << 9
ITEM_BYTES = 8


def fingerprint(text: str) -> int:
    """64 bits of an id's hash."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=ITEM_BYTES).digest(), "little"
    )


class SeenIds:
    """Fingerprints of ids; a context, since it may hold a temporary file."""

    def __init__(self, run_ids: int = RUN_IDS) -> None:
        """run_ids: how many are held in memory."""
        self._run_ids = run_ids
        self._run = array("Q")
        self._file: BinaryIO | None = None
        self._runs: list[tuple[int, int]] = []  # (first item, how many) in the file

    def __enter__(self) -> SeenIds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, text: str) -> None:
        """One more id."""
        self._run.append(fingerprint(text))
        if len(self._run) >= self._run_ids:
            self._spill()

    def repeated(self, most: int = 1000) -> frozenset[int]:
        """Up to `most` fingerprints that were added more than once."""
        runs = [*(self._read(first, count) for first, count in self._runs), iter(sorted(self._run))]
        twice = (one for one, next_one in pairwise(merge(*runs)) if one == next_one)
        return frozenset(islice(twice, most))

    def _spill(self) -> None:
        if self._file is None:
            self._file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  (closed with the context)
        first = sum(count for _, count in self._runs)
        array("Q", sorted(self._run)).tofile(self._file)
        self._runs.append((first, len(self._run)))
        self._run = array("Q")

    def _read(self, first: int, count: int) -> Iterator[int]:
        assert self._file is not None
        for at in range(first, first + count, BLOCK_IDS):
            self._file.seek(at * ITEM_BYTES)
            block = array("Q")
            block.frombytes(self._file.read(min(BLOCK_IDS, first + count - at) * ITEM_BYTES))
            yield from block
