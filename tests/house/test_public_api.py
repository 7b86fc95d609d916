"""The public names are these, each is there, and each says what it does."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

import fanlight

PUBLIC = {
    "Comparison",
    "Description",
    "Difference",
    "Distribution",
    "Encoder",
    "ExportReport",
    "Fan",
    "Generation",
    "GenerationConfig",
    "Job",
    "Model",
    "ModelService",
    "Outcome",
    "QueueFull",
    "Replay",
    "SearchRecord",
    "Speculation",
    "Step",
    "Stop",
    "StopReason",
    "Sweep",
    "SynthID",
    "TokenCandidate",
    "Trace",
    "TraceIndex",
    "TraceOptions",
    "Tracked",
    "Usage",
    "Verification",
    "Watermark",
    "WhatIf",
    "__version__",
    "branch",
    "branch_tree",
    "compare",
    "diff",
    "export",
    "fan",
    "load",
    "load_encoder",
    "open_trace",
    "replay",
    "sweep",
    "track",
    "verify",
    "what_if",
}


def test_the_public_names_are_these() -> None:
    assert set(fanlight.__all__) == PUBLIC
    assert len(fanlight.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(fanlight, name) is not None


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_and_method_has_a_docstring(name: str) -> None:
    found = getattr(fanlight, name)
    assert inspect.getdoc(found)
    methods = inspect.getmembers(found, inspect.isfunction) if inspect.isclass(found) else []
    assert [key for key, method in methods if not key.startswith("_") and not inspect.getdoc(method)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fanlight.no_such_name  # type: ignore[attr-defined]


def test_the_version_is_the_packages(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fanlight.__version__ == project["version"]
    assert f"[{fanlight.__version__}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_are_shipped(root: Path) -> None:
    assert (root / "src" / "fanlight" / "py.typed").exists()
