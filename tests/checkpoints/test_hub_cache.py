"""What is in the hub's cache, found without a network and without huggingface_hub."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from fanlight.checkpoints import hub_cache
from fanlight.checkpoints.hub_cache import cache_folder, cached_models, find_cached, is_complete, is_offline, name_of
from fanlight.checkpoints.hub_names import HubName
from fanlight.errors import OptionError

COMMIT, OTHER = "c0ffee" * 6 + "beef", "a" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(
    cache: Path, repo: str, *names: str, commit: str = COMMIT, ref: str | None = "main", model_type: str = "gpt2"
) -> Path:
    """A snapshot with these files."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for name in names:
        file = folder / "snapshots" / commit / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"model_type": model_type} if name == "config.json" else {}))
    if ref is not None:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return folder / "snapshots" / commit


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"HF_HOME": "/a/home"},
        {"HF_HOME": "~/home", "HF_HUB_CACHE": "/a/hub"},
        {"HF_HUB_CACHE": "~/$HF_TEST_PART/hub", "HF_TEST_PART": "part"},
        {"HUGGINGFACE_HUB_CACHE": "/old/hub", "HF_HOME": "/a/home"},
        {"XDG_CACHE_HOME": "/xdg"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    theirs = importlib.util.module_from_spec(
        constants.__spec__
    )  # a second copy: the first read the environment long ago
    constants.__spec__.loader.exec_module(theirs)
    assert str(cache_folder()) == theirs.HF_HUB_CACHE


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False), ("no", False)]
)
def test_offline_is_what_huggingface_hub_takes_for_it(
    value: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline() is offline


def test_a_complete_snapshot_is_found(cache: Path) -> None:
    folder = put(cache, "org/name", *WHOLE)
    assert find_cached(HubName("org/name")) == folder
    assert find_cached(HubName("org/name", COMMIT)) == folder
    assert find_cached(HubName("org/name", "v2")) is None
    assert find_cached(HubName("name")) is None


@pytest.mark.parametrize("lacking", WHOLE)
def test_a_snapshot_without_a_part_is_incomplete(cache: Path, lacking: str) -> None:
    folder = put(cache, "name", *(name for name in WHOLE if name != lacking))
    assert not is_complete(folder)
    assert find_cached(HubName("name")) is None


def test_a_link_to_a_blob_that_is_gone_is_no_file(cache: Path) -> None:
    folder = put(cache, "name", *WHOLE)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/gone")
    assert find_cached(HubName("name")) is None


@pytest.mark.parametrize("ref", ["../../../elsewhere", "", "zz", "é", OTHER])
def test_a_ref_that_names_no_commit_that_is_there(cache: Path, ref: str) -> None:
    folder = put(cache, "name", *WHOLE)
    (folder.parents[1] / "refs" / "main").write_text(ref, encoding="utf-8")
    assert find_cached(HubName("name")) is None


def test_gguf_files_are_found_by_name_and_quantisation(cache: Path) -> None:
    folder = put(cache, "org/ggufs", "a-Q4_0.gguf")
    assert find_cached(HubName("org/ggufs")) == find_cached(HubName("org/ggufs", file="q4_0")) == folder / "a-Q4_0.gguf"
    put(cache, "org/ggufs", "a-Q8_0.gguf")
    assert find_cached(HubName("org/ggufs", file="Q8_0")) == folder / "a-Q8_0.gguf"
    assert find_cached(HubName("org/ggufs", file="Q2_K")) is None
    with pytest.raises(OptionError, match="2 GGUF files"):
        find_cached(HubName("org/ggufs"))


def test_models_are_listed_with_the_names_that_find_them(cache: Path) -> None:
    put(cache, "org/whole", *WHOLE)
    put(cache, "org/whole", *WHOLE, commit=OTHER, ref="v2")
    put(cache, "org/one", "a-Q8_0.gguf")
    put(cache, "org/two", "a-Q8_0.gguf", "a-Q4_0.gguf")
    put(cache, "part", "config.json", ref=None)
    put(cache, "org/none", "config.json", model_type="")
    put(cache, "org/text", "README.md")
    (cache / "datasets--org--data").mkdir()
    (cache / "version.txt").write_text("1")
    found = {str(model.name): model for model in cached_models()}
    assert list(found) == ["org/one", "org/two:a-Q4_0.gguf", "org/two:a-Q8_0.gguf", "org/whole", "org/whole@v2", "part"]
    assert [name for name, model in found.items() if not model.is_complete] == ["part"]
    for name, model in found.items():
        if model.is_complete:
            assert find_cached(model.name) == model.path, name


def test_no_cache_is_an_empty_one(cache: Path) -> None:
    assert not cache.exists()
    assert cached_models() == []


def test_a_model_in_the_cache_is_called_by_its_name_and_not_by_its_commit(cache: Path) -> None:
    folder = put(cache, "org/name", *WHOLE)
    assert name_of(folder) == HubName("org/name")
    assert name_of(folder / "a.gguf") == HubName("org/name", file="a.gguf")
    assert name_of(put(cache, "org/name", *WHOLE, commit=OTHER, ref=None)) == HubName("org/name", OTHER)
    assert name_of(cache) is None
    assert hub_cache.repo_folder("org/name") == folder.parents[1]
