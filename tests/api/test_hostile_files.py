"""Whole models from hostile files: one typed error, one line, and nothing runs that the file brought along."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import fanlight
from fanlight.errors import CheckpointError
from fanlight.sources import find_model

WHOLE_MODEL = """
import os, sys
import fanlight
from fanlight import loading
from fanlight.errors import FanlightError
path, kernels = sys.argv[1], sys.argv[2]
build = loading.build_decoder
def cut_and_build(*args, **options):
    os.truncate(path, 3 << 20)  # the header is read, most weights are not
    return build(*args, **options)
loading.build_decoder = cut_and_build
try:
    fanlight.load(path, kernels=kernels)
except FanlightError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_model_whose_file_shrinks_while_it_loads(tmp_path: Path, kernels: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(find_model().read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_MODEL, str(path), kernels], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"CheckpointError {path}: the file was cut short while it was read: ")
    assert len(done.stdout.splitlines()) == 1


# -- pickles ------------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def pickled(kind: str, payload: Payload) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    if kind.startswith("protocol"):
        return pickle.dumps(payload, protocol=int(kind[-1]))
    if kind == "torch":
        torch.save({"w": torch.ones(3), "x": payload}, buffer)
    elif kind == "old torch":
        torch.save({"w": torch.ones(3), "x": payload}, buffer, _use_new_zipfile_serialization=False)
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(payload))
    return buffer.getvalue()


KINDS = ["torch", "old torch", "zip", *(f"protocol {n}" for n in range(6))]


@pytest.mark.parametrize(
    "name", ["model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "model.gguf", "model"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_is_refused_and_never_unpickled(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickled(kind, Payload(tmp_path / "executed")))
    with pytest.raises(CheckpointError) as caught:
        fanlight.load(path)
    assert str(path) in str(caught.value)
    assert "as PyTorch saves; it is not opened, since that would run what it holds; " in str(caught.value)
    assert "save_pretrained" in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "pytorch_model.pt", "model.ckpt", "consolidated.00.pth"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_a_pickle_is_refused_too(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / name).write_bytes(pickled(kind, Payload(tmp_path / "executed")))
    with pytest.raises(CheckpointError, match=r"save_pretrained"):
        fanlight.load(tmp_path)
    assert not (tmp_path / "executed").exists()
