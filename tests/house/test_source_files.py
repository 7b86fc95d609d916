"""Files that can be read in one sitting, and a stub that says what the native module is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from house.conftest import Run

MAX_LINES = 450
STUB = Path("src/fanlight/kernels/_native.pyi")


def long_files(root: Path) -> list[str]:
    files = [*root.glob("src/**/*.py"), *root.glob("native/**/*.[ch]*")]
    assert len(files) >= 40
    lengths = {file.relative_to(root): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file}: {lines} lines" for file, lines in lengths.items() if lines > MAX_LINES]


def test_no_file_is_too_long_to_read_in_one_sitting(root: Path) -> None:
    assert long_files(root) == []


def test_the_stub_of_the_native_module_is_current(root: Path, run_in_tree: Run, tmp_path: Path) -> None:
    fresh = tmp_path / STUB.name
    done = run_in_tree(sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "fanlight.kernels._native", "-o", fresh)
    assert done.returncode == 0, done.stderr
    assert fresh.read_text(encoding="utf-8") == (root / STUB).read_text(encoding="utf-8"), "stale: make stubs"


@pytest.mark.parametrize("folder", ["src/fanlight", "native", "tests", "benchmarks"])
def test_no_file_names_a_folder_of_one_machine(folder: str, root: Path) -> None:
    homes = ("/root" + "/", "/home" + "/", "/Users" + "/")
    files = [file for file in (root / folder).rglob("*") if file.suffix in (".py", ".pyi", ".cpp", ".h", ".md")]
    assert files
    assert [str(file) for file in files for home in homes if home in file.read_text(encoding="utf-8")] == []
