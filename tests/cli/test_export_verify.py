"""`fanlight export` and `fanlight verify`: what they print, and their errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cli.conftest import fanlight_process
from fanlight.cli.main import main as fanlight_main
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "tiny", tiny.gpt2(n_embd=48))


def test_export_prints_the_place_and_a_summary(folder: Path) -> None:
    target = folder.parent / "tiny.gguf"
    ran = fanlight_process("export", str(folder), str(target), "--type", "f16")
    assert (ran.code, ran.out) == (0, f"{target}\n")
    assert "28 arrays" in ran.err
    ran = fanlight_process("export", str(target), str(folder.parent / "back"), "--json")
    found = json.loads(ran.out)
    assert (found["path"], set(found["dtypes"])) == (str(folder.parent / "back"), {"F16", "F32"})


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("export",), "a model and where to write it"),
        (("export", "a", "b", "c"), "a model and where to write it"),
        (("export", "no/such/file.gguf", "x.gguf"), "no such file"),
        (("export", "--type", "q9", "a", "b"), "f32"),
        (("verify",), "--against is missing"),
        (("verify", "--against", "ollama"), "llama.cpp"),
        (("verify", "a", "--model", "b", "--against", "hf"), "one model is expected"),
        (("verify", "--against", "hf", "--text", "/no/such/text"), "/no/such/text"),
    ],
)
def test_mistakes(words: tuple[str, ...], part: str) -> None:
    ran = fanlight_process(*words)
    assert ran.code == 2
    assert part in ran.error


def test_verify_against_transformers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has the other library already."""
    text = folder.parent / "text.txt"
    text.write_text("the thin heather in the inn " * 9)
    words = ["verify", str(folder), "--against", "hf", "--text", str(text)]
    assert fanlight_main([*words, "--max-tokens", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["n_tokens"], found["top_1"]) == ("tiny", 60, 1.0)
    assert found["mean_kl"] < 1e-8
    assert found["max_error"] < 2e-5
    assert found["against"].startswith("transformers 5")
    assert fanlight_main(words) == 0
    assert capsys.readouterr().out.count("\n") == 7


def test_a_text_that_is_too_short_or_none(folder: Path) -> None:
    (folder.parent / "short").write_text("the")
    (folder.parent / "bytes").write_bytes(b"\xff\xfe")
    for name, part in (("short", "at least 8"), ("bytes", "not UTF-8 text at byte 0")):
        ran = fanlight_process("verify", str(folder), "--against", "hf", "--text", str(folder.parent / name))
        assert ran.code == 2
        assert part in ran.error
