"""The page on comparing names every measure, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fanlight.comparing.run import compare
from fanlight.comparing.sweep import sweep
from fanlight.comparing.sweep_records import DIVERSITIES
from fanlight.views.comparison import MEASURES

if TYPE_CHECKING:
    from fanlight import Model

PAGE = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_measure_of_the_table_is_on_the_page() -> None:
    assert {"tokens", "ended by"} < {measure.name for measure in MEASURES}
    for measure in MEASURES:
        name = measure.name.removesuffix("-2").removesuffix("-3") if "distinct" in measure.name else measure.name
        assert name in PAGE or name == "ended by"
    assert all(name.split("_")[0] in PAGE.lower() for name in DIVERSITIES)


def test_the_examples_run(smollm: Model) -> None:
    assert len(EXAMPLES) == 2
    library = SimpleNamespace(load=lambda: smollm, compare=compare, sweep=sweep)
    scope: dict[str, Any] = {"fanlight": library}
    exec(compile("\n".join(EXAMPLES).replace("import fanlight\n", ""), "docs/comparing.md", "exec"), scope)
    assert scope["found"].variants[2].config.top_k == 30
    assert len(scope["swept"].points) == 4
