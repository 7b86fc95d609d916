"""Results on disk as they come: a file of JSON lines that only grows. The first line says what it is of, each other is a result.

A process that is killed leaves at most half a line, which is cut off when the file is opened again. One process writes at a time.
Knows nothing of what the lines say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fanlight.errors import OptionError


class Journal:
    """An open file. A context manager; leaving it closes the file."""

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any], *, resume: bool = False) -> None:
        """Begin a file, or with `resume` go on with it if it is there. head: what it is of; it must be the same then.

        Errors: OptionError: the file exists, is of something else, is damaged, cannot be written, or is being written.
        """
        self.path = Path(path)
        self._head = json.loads(json.dumps(head))
        try:
            self._file: BinaryIO = open(self.path, "r+b" if resume and self.path.exists() else "xb")  # noqa: SIM115
        except FileExistsError:
            raise OptionError(
                f"{self.path}: is there already; --resume goes on with it, or name another file"
            ) from None
        except OSError as error:
            raise OptionError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        try:
            _lock(self._file, self.path)
            self.rows = self._recovered()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """One more line, handed to the operating system before this returns. Errors: OptionError if the disk does not take it."""
        data = json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise OptionError(
                f"{self.path}: cannot be written: {error.strerror or error}; make room and resume"
            ) from None

    def _recovered(self) -> list[dict[str, Any]]:
        """What is there already, and the place for the next line."""
        whole = 0
        found: list[dict[str, Any]] = []
        head: Any = None
        if self._file.readable():
            for i, line in enumerate(self._file, 1):
                if not line.endswith(b"\n"):
                    break  # a process was killed while it wrote this
                row = _parsed(line, f"{self.path}:{i}")
                if head is None:
                    head = row
                    self._check_head(head)
                else:
                    found.append(row)
                whole += len(line)
            self._file.seek(whole)
            self._file.truncate()
        if head is None:
            self.add(self._head)
        return found

    def _check_head(self, head: Mapping[str, Any]) -> None:
        for name, value in self._head.items():
            if name not in head or head[name] != value:
                was, now = json.dumps(head.get(name)), json.dumps(value)
                raise OptionError(
                    f"{self.path}: {name} was {was:.100} when it was begun, and is {now:.100} now; "
                    "resume with the same, or name another file"
                )


def read_head(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The first line of a file; None if there is none yet. Errors: OptionError."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror or error}") from None
    return _parsed(line, f"{path}:1") if line.endswith(b"\n") else None


def read_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The results in a file, without its first line and half a last one. Errors: OptionError."""
    with open(path, "rb") as file:
        for i, line in enumerate(file, 1):
            if i > 1 and line.endswith(b"\n"):
                yield _parsed(line, f"{path}:{i}")


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OptionError(f"{where}: expected a line of JSON: {error}; the file is damaged") from None
    if not isinstance(row, dict):
        raise OptionError(f"{where}: expected an object, found {type(row).__name__}; the file is not of this kind")
    return row


def _lock(file: BinaryIO, path: Path) -> None:
    with suppress(ImportError):  # no such locks on this system
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OptionError(f"{path}: another process writes it; wait for that one, or name another file") from None
