"""Lines of JSON in a file that a kill at any moment leaves usable. In: whole lines. Out: a file that is only ever appended to.

What a kill can leave behind is a last line without its end, and `recovered` cuts it off. Knows no rows but their "index" and
"error".
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from fanlight.errors import FanlightError, OptionError

SYNC_SECONDS = 5.0
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Recovered:
    """A line of a file that is gone on with."""

    index: int
    has_error: bool
    offset: int
    n_bytes: int


class Appender:
    """A file that lines are added to, each with one write; nobody else may add to it meanwhile."""

    def __init__(self, path: Path) -> None:
        """Errors: OSError; OptionError if another process is at it."""
        self.path = path
        self._fd = _opened(path)
        self.size = os.fstat(self._fd).st_size
        self._is_torn = False  # whether more than `size` may be there
        self._synced = time.monotonic()

    def append(self, line: bytes) -> int:
        """Add a line with its end; where it begins. Errors: OSError; then nothing of it is there."""
        if self._is_torn:
            self.truncate(self.size)
        at, rest = self.size, memoryview(line)
        self._is_torn = True
        try:
            while rest:  # a full disk takes a part
                rest = rest[os.write(self._fd, rest) :]
        except BaseException as error:
            with suppress(OSError):
                self.truncate(at)
            if isinstance(error, OSError):
                raise _named(error, self.path) from None
            raise
        self.size += len(line)
        self._is_torn = False
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()
        return at

    def read(self, offset: int, n_bytes: int) -> bytes:
        """A part of the file."""
        os.lseek(self._fd, offset, os.SEEK_SET)  # what is added goes to the end nevertheless
        found = b""
        while len(found) < n_bytes:
            part = os.read(self._fd, n_bytes - len(found))
            if not part:
                raise FanlightError(
                    f"{self.path}: ends within a result; the file was changed: start anew with --overwrite"
                )
            found += part
        return found

    def truncate(self, size: int) -> None:
        """Cut off what follows."""
        os.ftruncate(self._fd, size)
        self.size = size
        self._is_torn = False

    def sync(self) -> None:
        """What was written survives a loss of power too."""
        with suppress(OSError):  # a pipe or a strange file system
            os.fsync(self._fd)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Done; may be called again."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1


def _opened(path: Path) -> int:
    """A descriptor of the file, made if need be, locked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows has the last one
    while True:
        fd = os.open(path, flags, 0o666)
        try:
            _lock(fd, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # another process ended and removed it between the two; a lock on that keeps nobody out


def _lock(fd: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OptionError(f"{path}: another fanlight batch is writing to it; wait for its end, or stop it") from None
    except OSError:
        pass  # a file system without locks


def recovered(file: Appender) -> Iterator[Recovered]:
    """Every line of a file that a job has begun; a half line at its end is cut off. Errors: FanlightError for another line."""
    offset = 0
    with file.path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            yield _recovered(line, offset, file.path, number)
            offset += len(line)
    if offset < file.size:
        file.truncate(offset)


def _recovered(line: bytes, offset: int, path: Path, number: int) -> Recovered:
    try:
        value = json.loads(line)
        index = value["index"]
        if not isinstance(index, int) or index < 0:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FanlightError(
            f"{path}: line {number} is no result of this job, found {line[:40]!r}; the file was changed: "
            "mend it, or start anew with --overwrite"
        ) from None
    return Recovered(index, "error" in value, offset, len(line))


def write_gzip(source: Path, target: Path) -> None:
    """The same lines, packed; the same bytes whenever it is done. Errors: OSError."""
    with source.open("rb") as lines, target.open("wb") as file:
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            shutil.copyfileobj(lines, packed, COPY_BYTES)
        file.flush()
        os.fsync(file.fileno())


def replaced(path: Path, write: Callable[[Path], None]) -> None:
    """A file that is there as a whole or not at all. write: makes it under the name that it is given. Errors: OSError."""
    made = path.with_name(f"{path.name}.new")
    try:
        write(made)
        os.replace(made, path)
    except BaseException as error:
        made.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, path, made) from None
        raise


def _named(error: OSError, path: Path, made: Path | None = None) -> OSError:
    """The same, with the file that it is about. made: what the file is called until it is whole."""
    if error.filename is None or error.filename in (made, str(made)):
        return OSError(error.errno, error.strerror or str(error), str(path))
    return error


class Unbroken:
    """A context that Ctrl-C does not break in two: it counts when the context ends."""

    def __enter__(self) -> Unbroken:
        self._held: tuple[int, FrameType | None] | None = None
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._hold)
        return self

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._held = (number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._held is not None and error is None:
                self._handler(*self._held)
