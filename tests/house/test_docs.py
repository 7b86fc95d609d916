"""The page on decoding names every processor, preset and strategy option, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.decoding.config import DEFAULTS, GROUPS, OPTIONS, SEARCH
from fanlight.decoding.presets import PRESETS
from fanlight.decoding.processors import makers

if TYPE_CHECKING:
    from fanlight import Model

PAGE = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
QUOTED = set(re.findall(r"`([^`\n]+)`", PROSE))
WORDS = set(re.findall(r"[a-z][a-z0-9_.]*", PAGE))
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("name", [*makers(), *PRESETS])
def test_every_processor_and_preset_is_on_the_page(name: str) -> None:
    assert name in QUOTED


def test_every_search_option_is_on_the_page() -> None:
    named_with_another = {"constraints"}  # another form of force_words_ids
    assert {n for n, option in OPTIONS.items() if option.group == SEARCH} - named_with_another <= WORDS
    assert SEARCH in GROUPS


def test_no_option_is_named_that_does_not_exist() -> None:
    keywords = set(re.findall(r"(?<![\w.\"])([a-z_]{3,})=(?!=)", PAGE))
    others = {"preset", "assistant", "amateur", "processors"}
    assert keywords - set(DEFAULTS) - others == set()


def test_the_examples_run(smollm: Model) -> None:
    assert len(EXAMPLES) >= 5
    scope: dict[str, Any] = {}
    code = "\n".join(EXAMPLES).replace("fanlight.load()", "MODEL").replace("max_new_tokens=200", "max_new_tokens=40")
    exec(compile(code, "docs/decoding.md", "exec"), scope | {"MODEL": smollm})


def test_the_examples_of_many_texts_run(smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "many.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 5
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    code = "\n".join(examples).replace("fanlight.load()", "MODEL")
    exec(compile(code, "docs/many.md", "exec"), scope | {"MODEL": smollm})
    assert (tmp_path / "rules.safetensors").stat().st_size > 1_000_000


def test_the_examples_of_seeing_run(smollm: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "seeing.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 5
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    code = "\n".join(examples).replace("fanlight.load()", "MODEL")
    exec(compile(code, "docs/seeing.md", "exec"), scope | {"MODEL": smollm})
    written = {"run.safetensors", "run.html", "next.png", "temperature.svg", "waterfall.png", "fan.png"}
    assert written <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 2


def test_every_view_and_look_is_on_the_page() -> None:
    from fanlight.cli.looks import KNOWN
    from fanlight.cli.showing import VIEWS

    page = (Path(__file__).parents[2] / "docs" / "seeing.md").read_text(encoding="utf-8")
    quoted = set(re.findall(r"`([^`\n]+)`", page))
    assert {*VIEWS, *KNOWN} - {"all"} <= quoted
