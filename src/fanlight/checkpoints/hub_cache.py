"""The hub's cache on disk -> what is in it. Imports no huggingface_hub, reads no weights, asks no network.

A repository is a folder `models--org--name` with `refs/` (revision -> commit), `snapshots/COMMIT/` (files, mostly links) and
`blobs/`. Other programs read and fill the same cache.

Source: the layout that huggingface_hub documents, and its environment variables.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fanlight.checkpoints.hub_names import (
    CONFIG,
    MAIN,
    TOKENIZERS,
    HubName,
    gguf_files,
    is_safe,
    matching,
    pick_gguf,
)
from fanlight.checkpoints.safetensors import INDEX, MAX_HEADER_BYTES, ONE_FILE
from fanlight.errors import CheckpointError

PREFIX = "models--"
COMMIT = re.compile(r"[0-9a-f]{40}")
_YES = ("1", "ON", "YES", "TRUE")


def cache_folder() -> Path:
    """HF_HUB_CACHE, else `hub` in HF_HOME, else in the user's cache."""

    def expanded(path: str) -> str:
        return os.path.expandvars(os.path.expanduser(path))

    env = os.environ
    user_cache = env.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = expanded(env.get("HF_HOME", os.path.join(user_cache, "huggingface")))
    return Path(expanded(env.get("HF_HUB_CACHE", env.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub")))))


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _YES


def repo_folder(repo: str) -> Path:
    """Where a repository is cached, if it is."""
    return cache_folder() / (PREFIX + repo.replace("/", "--"))


def find_cached(name: HubName) -> Path | None:
    """The folder or GGUF file of a model whose files are all there. Errors: OptionError where several GGUF files are."""
    commit = _commit_of(name)
    if commit is None:
        return None
    snapshot = repo_folder(name.repo) / "snapshots" / commit
    if not name.file and is_complete(snapshot):
        return snapshot
    files = gguf_files(_names_in(snapshot))
    if not matching(files, name.file) or (not name.file and (snapshot / CONFIG).exists()):
        return None
    return snapshot / pick_gguf(files, name)


def _commit_of(name: HubName) -> str | None:
    if COMMIT.fullmatch(name.revision):
        return name.revision
    try:
        commit = (repo_folder(name.repo) / "refs" / name.revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _names_in(snapshot: Path) -> list[str]:
    """Files whose content is there; a link to a blob that is gone does not count."""
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def is_complete(folder: Path) -> bool:
    """Whether a folder has all that a model needs: its configuration, all of its weights, a tokenizer."""
    if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for name in TOKENIZERS):
        return False
    if (folder / ONE_FILE).is_file():
        return True
    try:
        return all((folder / name).is_file() for name in shards(folder / INDEX))
    except CheckpointError:
        return False


def shards(index: Path) -> list[str]:
    """The files that an index names, in order. Errors: CheckpointError for an index that is missing or no index."""
    names: set[object] = set()
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        if index.stat().st_size <= MAX_HEADER_BYTES:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
    texts = sorted(name for name in names if isinstance(name, str) and is_safe(name) and "/" not in name)
    if not texts or len(texts) < len(names):
        raise CheckpointError(f"{index}: expected 'weight_map' with names of files of the same folder")
    return texts


# -- what is there -----------------------------------------------------------------------------------------------------


class CachedModel(NamedTuple):
    """A model in the cache: a folder, or one GGUF file."""

    name: HubName
    path: Path
    is_complete: bool


def cached_models() -> list[CachedModel]:
    """What Fanlight could load, or could complete, by name."""
    found = [model for folder in _repositories() for model in _models_of(folder)]
    return sorted(found, key=lambda model: str(model.name).lower())


def _repositories() -> list[Path]:
    with suppress(OSError):
        return [path for path in cache_folder().iterdir() if path.name.startswith(PREFIX) and path.is_dir()]
    return []


def _models_of(folder: Path) -> Iterator[CachedModel]:
    repo = folder.name.removeprefix(PREFIX).replace("--", "/")
    revisions: dict[str, list[str]] = {}  # of a commit
    refs = folder / "refs"
    for ref in sorted(path for path in refs.rglob("*") if path.is_file()) if refs.is_dir() else ():
        with suppress(OSError, ValueError):
            revisions.setdefault(ref.read_text(encoding="ascii").strip(), []).append(ref.relative_to(refs).as_posix())
    snapshots = folder / "snapshots"
    for snapshot in sorted(snapshots.iterdir()) if snapshots.is_dir() else ():
        commit = snapshot.name
        names = revisions.get(commit, [MAIN] if not revisions else [commit])  # no ref: the first fetch was cut short
        revision = MAIN if MAIN in names else names[0]
        yield from _models_in(snapshot, HubName(repo, revision), is_done=bool(revisions) or revision == commit)


def _models_in(snapshot: Path, name: HubName, *, is_done: bool) -> Iterator[CachedModel]:
    files = _names_in(snapshot)
    if CONFIG in files and _model_type(snapshot / CONFIG):
        yield CachedModel(name, snapshot, is_complete(snapshot) and is_done)
    ggufs = gguf_files(files)
    for file in ggufs:
        alone = len(ggufs) == 1 and CONFIG not in files
        yield CachedModel(name if alone else name._replace(file=file), snapshot / file, is_done)


def _model_type(config: Path) -> str | None:
    with suppress(OSError, ValueError, RecursionError):
        if config.stat().st_size <= 1 << 24:
            value = json.loads(config.read_bytes())
            kind = value.get("model_type") if isinstance(value, dict) else None
            return kind if isinstance(kind, str) else None
    return None


def name_of(path: Path) -> HubName | None:
    """The hub name of a file or folder in a cache's snapshot, so that a model is not called by its commit."""
    parts = Path(os.path.abspath(path)).parts
    for i, part in enumerate(parts[:-2]):
        if part.startswith(PREFIX) and parts[i + 1] == "snapshots":
            repo, commit, file = part.removeprefix(PREFIX).replace("--", "/"), parts[i + 2], "/".join(parts[i + 3 :])
            folder = Path(*parts[: i + 1])
            with suppress(OSError, ValueError):
                if (folder / "refs" / MAIN).read_text(encoding="ascii").strip() == commit:
                    return HubName(repo, MAIN, file)
            return HubName(repo, commit, file)
    return None
