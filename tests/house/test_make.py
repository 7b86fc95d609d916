"""`make run PROMPT=...` hands over what was typed, and every target of `make help` exists."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from house.conftest import Run

NASTY = [
    "plain",
    "two  spaces, and a 'quote' and a \"double\" one",
    "$HOME $(shell echo expanded) ${PATH} $$ $5",
    "`echo run` $(echo run) ; echo run && echo run | cat",
    "# not a comment \\n \\ %s",
    "-h",
    "être, 日本語, 🎉",
]


@pytest.mark.parametrize("prompt", NASTY)
def test_a_prompt_arrives_as_it_was_typed(prompt: str, run_in_tree: Run, tmp_path: Path) -> None:
    fake = tmp_path / "fanlight"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n", encoding="utf-8")
    fake.chmod(0o755)
    built = ("-o", "install", "-o", ".venv/model.stamp")
    done = run_in_tree("make", "--no-print-directory", *built, "run", f"BIN={tmp_path}", f"PROMPT={prompt}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["generate", "--", prompt]


def test_every_target_of_make_help_exists(root: Path, run_in_tree: Run) -> None:
    named = set(re.findall(r"^make ([\w-]+)", run_in_tree("make", "--no-print-directory", "help").stdout, re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"run", "test", "check", "bench", "sanitize", "neon", "stubs", "clean"} <= named
    assert named <= targets
