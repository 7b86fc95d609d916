"""A hub name -> its files in the hub's cache, over the network. Imports huggingface_hub when it is called.

One request lists a repository at a commit; hub_download.py fetches what Fanlight reads of it. The revision is noted last, so that
a refresh that was interrupted leaves the model that was there.

Source: the protocol as huggingface_hub 2.4 speaks it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fanlight.checkpoints.files import shown
from fanlight.checkpoints.hub_cache import COMMIT, cache_folder, repo_folder, shards
from fanlight.checkpoints.hub_download import (
    Download,
    Progress,
    RemoteFile,
    connection_errors,
    has_token,
    headers,
    status_of,
)
from fanlight.checkpoints.hub_names import HubName, choose_files
from fanlight.checkpoints.safetensors import INDEX
from fanlight.errors import CheckpointError, DownloadError, FanlightError, ModelNotFound, OptionError

ANSWER_SECONDS = 5.0
"""How long the hub may take to answer at all; HF_HUB_ETAG_TIMEOUT overrides it."""

_ETAG = re.compile(r"[A-Za-z0-9_-]{1,128}")


class NoConnection(DownloadError):
    """The hub did not answer, or stopped to. The message does not name the model: the caller says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a fetch brought."""

    name: HubName
    commit: str
    path: Path
    files: tuple[str, ...]
    total_bytes: int
    received_bytes: int
    """Of them, over the network this time."""


def fetch(name: HubName, progress: Progress | None = None) -> Fetched:
    """Make the cache hold what the hub has under this name now; files that are there already are not fetched again.

    Errors: ModelNotFound, DownloadError, CheckpointError (a repository that Fanlight does not read), OptionError.
    """
    endpoint = _endpoint()
    with _explained(name, endpoint):
        listing = _Listing(name, endpoint)
        choice = choose_files(listing.names, name)
        job = Download(name, listing.commit, progress)
        job.fetch(map(listing.file, choice.files))
        if choice.is_sharded:
            job.fetch(map(listing.file, _shard_names(job.snapshot / INDEX, listing)))
        _note_revision(name, listing.commit)
    is_gguf = choice.files[0].lower().endswith(".gguf")
    return Fetched(
        name=name,
        commit=listing.commit,
        path=job.snapshot / choice.files[0] if is_gguf else job.snapshot,
        files=tuple(job.files),
        total_bytes=job.total_bytes,
        received_bytes=job.received_bytes,
    )


def _note_revision(name: HubName, commit: str) -> None:
    """From now on, the revision means this commit."""
    ref = repo_folder(name.repo) / "refs" / name.revision
    if name.revision == commit or (ref.is_file() and ref.read_bytes() == commit.encode()):
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    fresh = ref.with_name(f"{ref.name}.{os.getpid()}")
    fresh.write_text(commit, encoding="ascii")
    fresh.replace(ref)


def _shard_names(index: Path, listing: _Listing) -> list[str]:
    try:
        names = shards(index)
    except CheckpointError as error:
        raise CheckpointError(f"{listing.name}: {error}; the repository is damaged, choose another") from None
    for shard in names:
        if shard not in listing.names or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{listing.name}: {INDEX} names {shown(shard)}, expected a .safetensors file that it has; choose another model"
            )
    return names


def _endpoint() -> str:
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    try:
        is_address = re.match(r"https?://[^/\s]+", endpoint) is not None and urlsplit(endpoint).port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise OptionError(f"HF_ENDPOINT is {endpoint!r:.80}, expected an address that begins with https:// or http://")
    return endpoint


def _timeout() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_ETAG_TIMEOUT) if os.environ.get("HF_HUB_ETAG_TIMEOUT") else ANSWER_SECONDS


# -- the listing -------------------------------------------------------------------------------------------------------


class _Listing:
    """A repository's files at a commit. One request; one more for each file of a hub that lists no hashes."""

    def __init__(self, name: HubName, endpoint: str) -> None:
        from huggingface_hub.utils import get_session, hf_raise_for_status

        self.name, self._endpoint = name, endpoint
        url = f"{endpoint}/api/models/{name.repo}/revision/{quote(name.revision, safe='')}"
        answer = get_session().get(url, headers=headers(), params={"blobs": "true"}, timeout=_timeout())
        hf_raise_for_status(answer)
        try:
            listing = answer.json()
            self.commit = str(listing["sha"])
            self._files = {str(entry["rfilename"]): entry for entry in listing["siblings"]}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DownloadError(
                f"{name}: {endpoint} does not answer as a hub does ({type(error).__name__}); check HF_ENDPOINT, and whether "
                "the network asks for a login"
            ) from None
        if not COMMIT.fullmatch(self.commit):
            raise DownloadError(
                f"{name}: the hub says that the commit is {shown(self.commit)}, expected 40 hexadecimal digits; check HF_ENDPOINT"
            )

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def file(self, name: str) -> RemoteFile:
        """Hash and size. Errors: DownloadError."""
        entry: dict[str, Any] = self._files[name]
        url = f"{self._endpoint}/{self.name.repo}/resolve/{self.commit}/{quote(name)}"
        lfs = entry.get("lfs")
        if isinstance(lfs, dict):
            found = RemoteFile(name, url, str(lfs.get("sha256")), lfs.get("size"), False)
        elif entry.get("blobId") is not None:
            found = RemoteFile(name, url, str(entry["blobId"]), entry.get("size"), True)
        else:
            from huggingface_hub import get_hf_file_metadata

            head = get_hf_file_metadata(url, timeout=_timeout(), endpoint=self._endpoint)
            found = RemoteFile(name, url, str(head.etag), head.size, False)
        size_fits = found.size is None or (type(found.size) is int and found.size >= 0)
        if not _ETAG.fullmatch(found.etag) or not size_fits:
            raise DownloadError(
                f"{self.name}: {name}: the hub names the hash {shown(found.etag)} and the size {str(found.size)[:40]}, expected a "
                "word of letters and digits, and a number; check HF_ENDPOINT"
            )
        return found


# -- what went wrong ---------------------------------------------------------------------------------------------------


@contextmanager
def _explained(name: HubName, endpoint: str) -> Iterator[None]:
    try:
        yield
    except FanlightError:
        raise
    except connection_errors() as error:
        raise _refusal(name, endpoint, error) from error
    except OSError as error:
        where = error.filename or cache_folder()
        raise DownloadError(
            f"{name}: {where}: {error.strerror or error}; the cache needs a folder that can be written to: set HF_HUB_CACHE"
        ) from error


def _refusal(name: HubName, endpoint: str, error: BaseException) -> FanlightError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = status_of(error)
    if not status:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return NoConnection(f"no connection to {endpoint} ({reason})")
    token = (
        "the token that is set has no access: check HF_TOKEN"
        if has_token()
        else "set HF_TOKEN to a token of an account that has access"
    )
    if isinstance(error, GatedRepoError) or (status == 403):
        return DownloadError(
            f"{name}: access is restricted (HTTP {status}); accept the model's terms on its page, and {token}"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(
            f"{name}: the repository has no revision {shown(name.revision)}; leave it out for the newest"
        )
    if isinstance(error, EntryNotFoundError):
        return DownloadError(f"{name}: a file that the hub lists is not there (HTTP {status}); try again later")
    if isinstance(error, RepositoryNotFoundError) or status == 404 or (status == 401 and not has_token()):
        return ModelNotFound(
            f"{name}: no such file or folder here, and no such model on the hub (HTTP {status}); check the name; if the "
            f"model is private, {token}"
        )
    if status == 401:
        return DownloadError(f"{name}: the hub refuses the token (HTTP 401); check HF_TOKEN")
    if status == 429:
        return DownloadError(f"{name}: the hub asks to wait (HTTP 429, too many requests); try again in some minutes")
    return DownloadError(f"{name}: the hub answers with HTTP {status}; that is a fault on its side, try again later")
