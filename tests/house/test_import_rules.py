"""Rooms import downwards, and what a command does not need is not loaded: start-up time depends on it."""

from __future__ import annotations

import json
import sys

import pytest

from house.conftest import Run

HEAVY = ("numpy", "tokenizers", "jinja2", "torch", "transformers", "huggingface_hub")


def loaded_after(run_in_tree: Run, statement: str) -> list[str]:
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    )
    done = run_in_tree(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "import fanlight",
        "import fanlight.cli.main",
        "from fanlight.cli.main import main; assert main(['--help']) == 0",
        "from fanlight.cli.main import main; assert main(['generate', '--help']) == 0",
        "from fanlight.models.hf import installed; assert installed()",
        "from fanlight import GenerationConfig; GenerationConfig(max_new_tokens=3)",
        "from fanlight.sources import find_model, known_models; find_model(); known_models()",
        "from fanlight.cli.main import main; assert main(['models']) == 0",
    ],
)
def test_no_heavy_library_is_imported(statement: str, run_in_tree: Run) -> None:
    assert loaded_after(run_in_tree, statement) == []


def test_a_heavy_library_would_be_seen(run_in_tree: Run) -> None:
    assert loaded_after(run_in_tree, "import numpy") == ["numpy"]


def test_generating_a_text_needs_no_numpy_and_no_hub(run_in_tree: Run) -> None:
    statement = "import fanlight; fanlight.load(kernels='native').generate('One, two,', max_new_tokens=2)"
    assert not {"numpy", "huggingface_hub"} & set(loaded_after(run_in_tree, statement))


def test_import_contracts_hold(run_in_tree: Run) -> None:
    done = run_in_tree(
        sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
