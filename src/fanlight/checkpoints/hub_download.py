"""Listed files -> files in the hub's cache. In: URLs, hashes and sizes. Out: blobs and links to them. Knows no repository's rules.

huggingface_hub gives the session, the headers and the locks. The bytes are received here, because its own download starts again
from nothing when a process was stopped: a part that was received stays as `blobs/ETAG.incomplete`, and the next download asks
for the rest (HTTP Range). What arrives is checked against the size and the hash of the listing before it counts.

Source: the protocol and the layout of the cache as huggingface_hub 2.4 has them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha1, sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from fanlight.checkpoints.files import shown
from fanlight.checkpoints.hub_cache import cache_folder, repo_folder
from fanlight.checkpoints.hub_names import HubName
from fanlight.errors import DownloadError

if TYPE_CHECKING:
    from hashlib import _Hash

    from httpx2 import Response

Progress = Callable[[str, int, int], None]
"""(file, bytes here of all files, bytes of all files)."""

RETRY_PAUSES_SECONDS = (0.2, 1.0, 3.0)
"""After a connection broke in the middle of a file; counted anew whenever bytes arrive."""
CHUNK_BYTES = 1 << 20
MAX_HTTP_BYTES = 50 * 10**9
"""The hub serves larger files only in another protocol."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class RemoteFile(NamedTuple):
    """A file as the hub lists it."""

    name: str
    url: str
    etag: str
    size: int | None
    is_git_blob: bool
    """The etag is git's SHA-1 of the content."""


class Download:
    """Brings files of one commit into the cache, in the order they are given."""

    def __init__(self, name: HubName, commit: str, progress: Progress | None) -> None:
        self._name, self._progress = name, progress
        self._folder = repo_folder(name.repo)
        self.snapshot = self._folder / "snapshots" / commit
        self.files: list[str] = []
        self.here_bytes = 0
        self.total_bytes = 0
        self.received_bytes = 0
        """Over the network."""

    def fetch(self, files: Iterable[RemoteFile]) -> None:
        """Errors: DownloadError, and those of the session and of the disk."""
        files = list(files)
        self.total_bytes += sum(file.size or 0 for file in files)
        missing = [file for file in files if not self._is_there(file)]
        self._check_space(missing)
        for file in files:
            if file in missing:
                self._fetch(file)
            else:
                self._advance(file, file.size or 0)
            self.files.append(file.name)

    def _is_there(self, file: RemoteFile) -> bool:
        with suppress(OSError):
            return (self.snapshot / file.name).stat().st_size == file.size
        return False

    def _check_space(self, files: list[RemoteFile]) -> None:
        need = 0
        for file in files:
            size = file.size or 0
            if size > MAX_HTTP_BYTES:
                raise DownloadError(
                    f"{self._name}: {file.name} has {size} bytes, and files above {MAX_HTTP_BYTES} do not come over plain "
                    f"HTTP; fetch it with huggingface_hub's own 'hf download {self._name.repo}', Fanlight finds it then"
                )
            need += size - _size_of(self._partial(file))
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if need > free:
            raise DownloadError(
                f"{self._name}: {need / 1e9:.2f} GB are to be fetched, but {cache} has {free / 1e9:.2f} GB free; make "
                "room, or set HF_HUB_CACHE to a folder on another disk"
            )

    def _blob(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / file.etag

    def _partial(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / f"{file.etag}.incomplete"

    def _advance(self, file: RemoteFile, n: int) -> None:
        self.here_bytes += n
        if self._progress:
            self._progress(file.name, self.here_bytes, self.total_bytes)

    def _fetch(self, file: RemoteFile) -> None:
        from huggingface_hub.utils import WeakFileLock

        blob, link = self._blob(file), self.snapshot / file.name
        lock = cache_folder() / ".locks" / self._folder.name / f"{file.etag}.lock"
        for folder in (blob.parent, link.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.exists() or (file.size is not None and _size_of(blob) != file.size):
                self._receive(file)
                self._partial(file).replace(blob)
            else:
                self._advance(file, file.size or 0)
            _link(blob, link)

    def _receive(self, file: RemoteFile) -> None:
        """The whole file, checked, as its partial file; goes on where an earlier fetch stopped."""
        partial, pauses = self._partial(file), iter(RETRY_PAUSES_SECONDS)
        with partial.open("ab+") as out:
            digest = _digest(file, out)
            self._advance(file, out.tell())
            while file.size is None or out.tell() < file.size:
                start = out.tell()
                try:
                    digest = self._receive_some(file, out, digest)
                    if file.size is None or out.tell() >= file.size:
                        break
                    raise ConnectionError("the connection ended early")
                except connection_errors() as error:
                    out.flush()
                    if out.tell() > start:
                        pauses = iter(RETRY_PAUSES_SECONDS)
                    pause = next(pauses, None)
                    if pause is None or status_of(error):
                        raise
                    time.sleep(pause)
        if digest is not None and digest.hexdigest() != file.etag:
            partial.unlink()
            raise self._refuse(file, f"its content has the hash {digest.hexdigest()[:12]}, expected {file.etag[:12]}")

    def _receive_some(self, file: RemoteFile, out: BinaryIO, digest: _Hash | None) -> _Hash | None:
        """One request, from the end of what is there."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        start = out.tell()
        asked = headers() | {"Accept-Encoding": "identity"}
        if start:
            asked["Range"] = f"bytes={start}-"
        timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        with get_session().stream("GET", file.url, headers=asked, timeout=timeout) as response:
            if start and response.status_code == 416:  # the part that is here is no part of this file
                return self._start_again(file, out)
            hf_raise_for_status(response)
            is_rest = response.status_code == 206
            self._check_answer(file, response, start if is_rest else 0)
            if start and not is_rest:
                digest = self._start_again(file, out)
            for (
                chunk
            ) in response.iter_bytes():  # as they arrive: chunks of a size would hold back what came before a fault
                if file.size is not None and out.tell() + len(chunk) > file.size:
                    out.truncate(0)
                    raise self._refuse(file, f"more bytes come than the {file.size} that the hub lists")
                out.write(chunk)
                if digest is not None:
                    digest.update(chunk)
                self.received_bytes += len(chunk)
                self._advance(file, len(chunk))
        return digest

    def _start_again(self, file: RemoteFile, out: BinaryIO) -> _Hash | None:
        self._advance(file, -out.tell())
        out.truncate(0)
        return _digest(file, out)

    def _check_answer(self, file: RemoteFile, response: Response, start: int) -> None:
        """Before a byte is written: that the answer is this file, from this byte on."""
        length, range_ = response.headers.get("Content-Length"), response.headers.get("Content-Range", "")
        kind = response.headers.get("Content-Type", "")
        if response.status_code == 206 and not range_.startswith(f"bytes {start}-"):
            raise self._refuse(file, f"the answer is {shown(range_)}, expected bytes from {start} on")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if length is None or encoded or file.size is None or not length.isdecimal():
            return
        if int(length) != file.size - start:
            page = " of a web page" if kind.startswith("text/html") else ""
            raise self._refuse(
                file,
                f"the answer has {length} bytes{page}, expected {file.size - start}: check HF_ENDPOINT, and whether the "
                "network asks for a login",
            )

    def _refuse(self, file: RemoteFile, why: str) -> DownloadError:
        return DownloadError(f"{self._name}: {file.name}: {why}; it is not used, try again later")


def _digest(file: RemoteFile, out: BinaryIO) -> _Hash | None:
    """The hash to compare with the etag, fed with what the file holds; None if the etag is no hash of the content."""
    out.seek(0)
    digest: _Hash | None = None
    if file.is_git_blob and file.size is not None and len(file.etag) == 40:
        digest = sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    elif _SHA256.fullmatch(file.etag):
        digest = sha256()
    if digest is None or file.size is None or out.seek(0, os.SEEK_END) > file.size:
        out.truncate(0)  # nothing would tell whether what is here belongs to this file
    out.seek(0)
    while digest is not None and (chunk := out.read(CHUNK_BYTES)):
        digest.update(chunk)
    out.seek(0, os.SEEK_END)
    return digest


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _link(blob: Path, link: Path) -> None:
    """A relative link, as the layout has it; a copy's place where the system has no links."""
    fresh = link.with_name(f"{link.name}.{os.getpid()}.link")
    with suppress(OSError):
        fresh.unlink()
    try:
        fresh.symlink_to(os.path.relpath(blob, link.parent))
        fresh.replace(link)
    except (OSError, NotImplementedError):  # a file system, or a platform, without symbolic links
        blob.replace(link)


# -- connections --------------------------------------------------------------------------------------------------------


def has_token() -> bool:
    """Whether the hub is told who asks: HF_TOKEN, or a token that was stored by logging in."""
    from huggingface_hub import constants, get_token

    return not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and get_token() is not None


def headers() -> dict[str, str]:
    """Of every request. huggingface_hub's own would first ask the network for a list of programs to name in the user agent."""
    from huggingface_hub import get_token

    token = {"Authorization": f"Bearer {get_token()}"} if has_token() else {}
    return {"User-Agent": "fanlight"} | token


def connection_errors() -> tuple[type[Exception], ...]:
    """What sessions raise. Which HTTP library is under them depends on the version of huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__bases__[0], ConnectionError)


def status_of(error: BaseException) -> int:
    """Of a hub that answered with a refusal; 0 if it did not answer."""
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0))
