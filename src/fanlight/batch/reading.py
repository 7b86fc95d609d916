"""A file of rows -> what each line says, one at a time. In: JSON lines, gzipped or not, or Parquet. Knows no model, no settings.

A line that cannot be read is an item with an error, and the next line is read. A file that is none of the three, or ends within a
gzip stream, is an OptionError. Standard input, and whatever else can be read once only, goes to a temporary file first.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from fanlight.batch.ids import SeenIds, fingerprint
from fanlight.batch.rows import id_of, line_of, parse_row
from fanlight.errors import OptionError

MAX_LINE_BYTES = 16 << 20
STDIN = "-"
GZIP, PARQUET, UTF8_BOM = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
OTHERS = {  # first bytes -> what the file is
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first: zstd -d",
    b"BZh": "compressed with bzip2; unpack it first: bunzip2",
    b"\xfd7zXZ": "compressed with xz; unpack it first: unxz",
    b"PK\x03\x04": "a zip archive; unpack it first: unzip",
    b"\xff\xfe": "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
    b"[": "a JSON array; put each object on a line of its own: jq -c '.[]'",
}


@dataclass(frozen=True, slots=True)
class Item:
    """What one line says."""

    index: int
    """The line, from 0."""
    data: bytes
    """What the line is recognised by."""
    value: Mapping[str, Any] | None
    error: OptionError | None
    """Why there is no value."""
    is_blank: bool = False


class Scan(NamedTuple):
    """What was found by reading a file through."""

    n_rows: int
    """Blank lines do not count."""
    digest: str
    """Of the lines up to the last row."""
    is_whole: bool
    """Whether the file has no more rows than that."""
    digest_at: str | None
    """The digest as it was after the number of rows that was asked for; None: there are not as many."""


def is_same(source: str, path: Path) -> bool:
    """Whether rows would come from this very file, under whatever name; source "-": standard input."""
    try:
        found = os.fstat(sys.stdin.fileno()) if source == STDIN else os.stat(source)
        return os.path.samestat(found, path.stat())
    except (OSError, ValueError, AttributeError):  # one of them is not there; standard input is no file
        return False


@contextmanager
def opened(source: str | os.PathLike[str]) -> Iterator[Path]:
    """A path that can be read several times; "-": a copy of standard input. Errors: OptionError, OSError."""
    if os.fspath(source) != STDIN:
        path = Path(source)
        if path.is_dir():
            raise OptionError(f"{path}: expected a file of rows, found a folder")
        if stat.S_ISREG(path.stat().st_mode):
            yield path
            return
        stream: Any = path.open("rb")
    else:
        if sys.stdin is None:
            raise OptionError("the rows are to be read from standard input, which is closed")
        stream = sys.stdin.buffer
    with tempfile.TemporaryDirectory(prefix="fanlight-") as folder:
        copy = Path(folder) / "rows"
        with copy.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        yield copy


def read_items(path: Path, name: str) -> Iterator[Item]:
    """Every line, blank ones too. name: for messages. Errors: OptionError, OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(PARQUET):
        from fanlight.batch.columns import read_parquet

        for index, value in enumerate(read_parquet(path, name)):
            data = json.dumps(value, sort_keys=True, default=str).encode()
            yield Item(index, data, value, None)
        return
    beginning = head.removeprefix(UTF8_BOM).lstrip()
    for magic, what in OTHERS.items():
        if beginning.startswith(magic):
            raise OptionError(f"{name}: expected JSON lines (gzipped or not) or Parquet, found {what}")
    with path.open("rb") as file:
        stream: Any = (
            io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=file)), 1 << 18) if head.startswith(GZIP) else file
        )
        index = 0
        try:
            for data, n_bytes in _lines(stream):
                yield _item(index, data.removeprefix(UTF8_BOM) if index == 0 else data, n_bytes)
                index += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise OptionError(
                f"{name}: the gzip data is damaged or cut off after line {index}: {error}; fetch the file again"
            ) from None


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(the line without its end, its size); of one that is too long, a hash of it."""
    while line := stream.readline(MAX_LINE_BYTES + 2):
        n_bytes = len(line.rstrip(b"\r\n"))
        if n_bytes <= MAX_LINE_BYTES:
            yield line.rstrip(b"\r\n"), n_bytes
            continue
        digest, part = hashlib.blake2b(line), line
        while part and not part.endswith(b"\n"):
            part = stream.readline(1 << 20)
            digest.update(part)
            n_bytes += len(part.rstrip(b"\r\n"))
        yield digest.digest(), n_bytes


def _item(index: int, data: bytes, n_bytes: int) -> Item:
    if n_bytes > MAX_LINE_BYTES:
        error = OptionError(f"{line_of(index)}: {n_bytes:,} bytes, expected at most {MAX_LINE_BYTES:,} in a line")
        return Item(index, data, None, error)
    if not data.strip():
        return Item(index, data, None, None, is_blank=True)
    try:
        return Item(index, data, _object(data), None)
    except OptionError as error:
        return Item(index, data, None, OptionError(f"{line_of(index)}: {error}"))


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise OptionError(
            f"not valid UTF-8: byte {data[error.start]:#04x} at offset {error.start} of {len(data)}"
        ) from None
    except json.JSONDecodeError as error:
        raise OptionError(
            f"expected a JSON object, found {_shown(data)}: {error.msg} at character {error.pos + 1}"
        ) from None
    except OptionError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested too deeply
        raise OptionError(f"JSON that cannot be taken: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f'expected a JSON object such as {{"prompt": "..."}}, found {_shown(data)}')
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"the key {twice!r:.80} stands twice in one object; leave one of them out")
    return found


def _no_constant(text: str) -> Any:
    raise OptionError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise OptionError(f"the number {text:.40} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return repr(text if len(text) <= 50 else text[:47] + "...")


# -- reading it through ------------------------------------------------------------------------------------------------


class Digest:
    """Of lines in order: what a file is recognised by."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._blank = 0

    def add(self, item: Item) -> None:
        """One more line."""
        self._blank += 1
        if not item.is_blank:
            self._hash.update(b"%d %d " % (self._blank, len(item.data)) + item.data)
            self._blank = 0

    def text(self) -> str:
        """Of the lines up to the last row."""
        return self._hash.hexdigest()


def scan(path: Path, name: str, *, limit: int | None = None, at: int = 0) -> Scan:
    """Read a file through: how many rows, whether ids repeat, what it is recognised by.

    limit: no more rows than that. at: after how many rows the digest is wanted too. Errors: OptionError for ids that repeat, with
    both lines, and for a file in which no line can be read; OSError.
    """
    digest, digest_at, n_rows, n_broken, is_whole = Digest(), None, 0, 0, True
    first_error: OptionError | None = None
    n_read, counted = 0, ""
    with SeenIds() as seen:
        for item in read_items(path, name):
            if limit is not None and n_rows >= limit and n_read >= at and not item.is_blank:
                is_whole = False
                break
            digest.add(item)
            if item.is_blank:
                continue
            n_read += 1
            if n_read == at:
                digest_at = digest.text()
            if limit is not None and n_rows >= limit:
                is_whole = False
                continue
            n_rows += 1
            if n_rows == limit:
                counted = digest.text()
            error = _seen(item, seen, is_checked=n_broken + 1 == n_rows)
            n_broken += error is not None
            first_error = first_error or error
        repeated = seen.repeated()
    if repeated:
        _refuse_twins(path, name, repeated, limit)
    if n_rows == 0:
        raise OptionError(f"{name}: no rows: the file is empty")
    if n_broken == n_rows and first_error is not None:
        raise OptionError(f"{name}: none of {n_rows:,} row{'s' * (n_rows > 1)} can be taken; {first_error}")
    return Scan(n_rows, counted or digest.text(), is_whole, digest_at)


def _seen(item: Item, seen: SeenIds, *, is_checked: bool) -> OptionError | None:
    """Why the row is broken; otherwise its id is one more. is_checked: look at the rest of it too."""
    if item.value is None:
        return item.error
    try:
        seen.add(id_of(item.value, item.index))
        if is_checked:  # until one is good: that shows whether this is a file of rows
            parse_row(item.value, item.index)
    except OptionError as error:
        return error
    return None


def _refuse_twins(path: Path, name: str, repeated: frozenset[int], limit: int | None) -> None:
    """Errors: OptionError, if two of the ids are the same, rather than their fingerprints alone."""
    first: dict[str, Item] = {}
    n_rows = 0
    for item in read_items(path, name):
        n_rows += not item.is_blank
        if limit is not None and n_rows > limit:
            return
        if item.value is None:
            continue
        try:
            found = id_of(item.value, item.index)
        except OptionError:
            continue
        if fingerprint(found) not in repeated:
            continue
        twin = first.setdefault(found, item)
        if twin is not item:
            unnamed = next((one for one in (twin, item) if one.value is not None and one.value.get("id") is None), None)
            why = f" ({line_of(unnamed.index)} has none of its own, and gets its number from 0)" if unnamed else ""
            raise OptionError(
                f"{name}: lines {twin.index + 1} and {item.index + 1} have the same id {found!r:.80}{why}; "
                "ids must differ, so that results can be told apart"
            )
