"""docs/batch.md: its rows are rows, its results have the keys that results have, its example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.batch import parse_row
from fanlight.batch.columns import COLUMNS
from fanlight.batch.ids import RUN_IDS
from fanlight.batch.ordering import MOST_AHEAD
from fanlight.batch.reading import MAX_LINE_BYTES
from fanlight.batch.rows import KEYS
from fanlight.cli.batch import COMMAND

if TYPE_CHECKING:
    from fanlight import Model

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
ROWS, RESULTS = (text.splitlines() for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
QUOTED = set(re.findall(r"`([^`\n]+)`", PAGE))


def test_the_rows_of_the_page_are_rows() -> None:
    assert len({parse_row(json.loads(line), i).id for i, line in enumerate(ROWS)}) == 4
    assert set(KEYS) <= QUOTED | {key for line in ROWS for key in json.loads(line)}


def test_the_results_of_the_page_have_the_keys_of_results() -> None:
    for line in RESULTS:
        assert json.loads(line).keys() <= COLUMNS.keys()
    assert COLUMNS.keys() - {key for line in RESULTS for key in json.loads(line)} - {"prompt", "usage"} <= QUOTED


def test_the_flags_of_the_page_are_those_of_the_command() -> None:
    named = {flag.split(" ")[0] for flag in QUOTED if flag.startswith("--")}
    flags = {option.flag for option in COMMAND.options}
    own = {option.flag for _, options in COMMAND.groups[:2] for option in options} - {"--output"}
    assert named <= flags
    assert own <= named | {"--explain-settings"}


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    for number in (f"{RUN_IDS:,} are in memory", f"when {MOST_AHEAD:,} wait", f"more than {MAX_LINE_BYTES >> 20} MB"):
        assert number in PAGE


def test_the_example_runs(smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {"MODEL": smollm}
    exec(compile(code.replace("fanlight.load()", "MODEL"), "docs/batch.md", "exec"), scope)
    assert (scope["summary"].progress.n_done, scope["summary"].progress.n_failed) == (2, 0)
