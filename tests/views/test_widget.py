"""The widget's traits in Python; `tests/browser` has its module in Chromium."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from fakes.traces import a_trace
from fanlight.errors import MissingExtra, OptionError
from fanlight.views import widget


def test_a_step_is_a_trait_that_counts_from_the_end_too() -> None:
    made = widget.TraceWidget(a_trace(n_steps=9))
    assert made.step is None
    made.step = -1
    assert made.step == 8
    seen: list[Any] = []
    made.observe(lambda change: seen.append(change["new"]), "step")
    made.step = 2
    made.step = None
    assert seen == [2, None]
    assert {"step", "by", "_data", "_esm"} <= set(made.keys)


def test_a_step_or_a_measure_that_there_is_not_is_refused() -> None:
    made = widget.TraceWidget(a_trace(n_steps=9))
    with pytest.raises(OptionError, match="there is no step 9; the trace has 9"):
        made.step = 9
    with pytest.raises(OptionError, match="or 'nothing'"):
        made.by = "surprize"
    with pytest.raises(OptionError, match="there is no step 70"):
        widget.TraceWidget(a_trace(n_steps=9), step=70)
    made.by = "nothing"
    assert (made.step, made.by) == (None, "nothing")


def test_the_class_is_one_and_no_other_name_is_made_up() -> None:
    assert widget.TraceWidget is widget.TraceWidget
    assert isinstance(widget.TraceWidget(a_trace(n_steps=1)), widget.TraceWidget)
    with pytest.raises(AttributeError, match="TraceWidgets"):
        _ = widget.TraceWidgets  # type: ignore[attr-defined]


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "anywidget":
            raise ImportError("No module named 'anywidget'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    widget._made.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'fanlight\[notebook\]'"):
        _ = widget.TraceWidget
