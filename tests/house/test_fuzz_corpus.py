"""The fuzz targets pass over the inputs that are kept for them, and can tell right from wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

TARGETS = ("gguf", "safetensors", "chat_template")


@pytest.fixture
def fuzz(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the folder, as a script in it would."""
    monkeypatch.syspath_prepend(str(root / "fuzz"))
    yield importlib.import_module
    for name in ("harness", *(f"fuzz_{target}" for target in TARGETS)):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_passes(name: str, fuzz: Any) -> None:
    harness = fuzz("harness")
    files = harness.corpus(name)
    assert len(files) >= 50
    assert harness.replay(fuzz(f"fuzz_{name}").target, files) == len(files)


@pytest.mark.parametrize("name", TARGETS)
def test_there_is_a_target_for_every_corpus_and_dictionary(name: str, root: Path) -> None:
    assert sorted(path.name for path in (root / "fuzz" / "corpus").iterdir()) == sorted(TARGETS)
    assert (root / "fuzz" / f"{name}.dict").exists()
    assert f"fuzz_{name}.py" in (root / "fuzz" / "README.md").read_text(encoding="utf-8")


def test_a_target_fails_where_the_reader_does(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, target = fuzz("harness"), fuzz("fuzz_gguf")

    def broken(path: Path) -> Any:
        raise KeyError(path)

    monkeypatch.setattr(target.gguf, "open_gguf", broken)
    with pytest.raises(KeyError) as caught:
        harness.replay(target.target, harness.corpus("gguf")[:1])
    assert caught.value.__notes__[0].startswith("input: ")
