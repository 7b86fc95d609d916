"""The course's notebook runs from a clean kernel, and is committed with what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[2] / "examples" / "course.ipynb"
MOST_BYTES = 1_500_000
WIDGET = "TraceWidget("
"""Such a cell is kept without output: a page that shows notebooks cannot show it."""


@pytest.fixture(scope="module")
def kept() -> Any:
    return nbformat.read(PATH, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    found = [output.text for output in cell.outputs if output.output_type == "stream"]
    data = [output.data for output in cell.outputs if output.output_type in ("execute_result", "display_data")]
    return found + [each["text/plain"] for each in data if "text/plain" in each and "image/png" not in each]


def test_it_is_kept_with_its_outputs_in_order(kept: Any) -> None:
    nbformat.validate(kept)
    assert PATH.stat().st_size < MOST_BYTES
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    pictures = [o for cell in code(kept) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 12
    said = [output.get("name") for cell in code(kept) for output in cell.outputs]
    assert "stderr" not in said
    written = PATH.read_text(encoding="utf-8")
    assert not re.search(r"/(home|work|tmp|Users)/", written)
    assert not re.search(r" at 0x[0-9a-f]{6,}", written)


def test_it_runs_from_a_clean_kernel_and_shows_as_much(kept: Any, tmp_path: Path) -> None:
    again = nbformat.read(PATH, as_version=4)
    for cell in code(again):
        cell.outputs = []
    NotebookClient(
        again,
        kernel_name="python3",
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    for cell, shown in zip(code(kept), code(again), strict=True):
        if WIDGET in cell.source:
            assert shown.outputs
            continue
        kinds = [[(o.output_type, sorted(o.get("data", {}))) for o in each.outputs] for each in (cell, shown)]
        assert kinds[0] == kinds[1], cell.source
        assert len(texts(cell)) == len(texts(shown))
