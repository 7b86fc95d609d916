"""ARCHITECTURE.md says what is there, and says it of everything that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PATHS = re.compile(r"(?<![\w./-])(?:src|native|tests|benchmarks|docs)/[\w./-]*\w/?|(?<=`)[\w-]+\.(?:toml|md)(?=`)")


def paths_named(page: str) -> set[str]:
    return set(PATHS.findall(page))


def missing(page: str, root: Path) -> list[str]:
    return sorted(path for path in paths_named(page) if not (root / path).exists())


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_that_the_page_names_exists(name: str, root: Path) -> None:
    page = (root / name).read_text(encoding="utf-8")
    assert len(paths_named(page)) >= 10
    assert missing(page, root) == []


def test_a_path_that_does_not_exist_is_found(root: Path) -> None:
    page = (
        "see `src/fanlight/no_such_file.py`, `native/` and src/fanlight/errors.py.\n1  src/fanlight/nor/this.py   ids"
    )
    assert missing(page, root) == ["src/fanlight/no_such_file.py", "src/fanlight/nor/this.py"]


def test_every_room_stands_on_the_page(root: Path) -> None:
    page = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = [path.parent.name for path in (root / "src" / "fanlight").glob("*/__init__.py")]
    assert len(rooms) >= 8
    assert [room for room in rooms if f"src/fanlight/{room}/" not in page] == []
