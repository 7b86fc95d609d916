"""The report of a Trace as a widget of notebooks, made of the page's own scripts and style. In: a Trace. Knows no model.

widget = TraceWidget(out.trace); widget.step = 3 opens that step's panel; a click in the widget sets `widget.step`.

The class is made when it is first asked for, because anywidget is an optional library.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from fanlight.errors import MissingExtra, OptionError
from fanlight.views.report import data_json, script, style
from fanlight.views.ribbon_colors import measure

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

    TraceWidget: Any

START = """
function render({ model, el: host }) {
  const shadow = host.attachShadow({ mode: "open" }); // the notebook's styles stay out, and ours stay in
  const sheet = document.createElement("style");
  sheet.textContent = STYLE;
  const root = document.createElement("div");
  shadow.append(sheet, root);
  const put = (name, value) => {
    if (model.get(name) === value) return;
    model.set(name, value);
    model.save_changes();
  };
  const shown = mount(root, JSON.parse(model.get("_data")), {
    step: model.get("step"), by: model.get("by"), onStep: (step) => put("step", step), onBy: (by) => put("by", by),
  });
  model.on("change:step", () => shown.select(model.get("step")));
  model.on("change:by", () => shown.colour(model.get("by")));
  return () => shown.destroy();
}
export default { render };
"""


def module() -> str:
    """The widget as an ECMAScript module: it exports `render`, as anywidget expects."""
    return f"{script()}\nconst STYLE = {json.dumps(style())};\n{START}"


def __getattr__(name: str) -> Any:
    if name == "TraceWidget":
        return _made()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _made() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtra(f"the widget needs anywidget ({error}): pip install 'fanlight[notebook]'") from None

    class TraceWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        """A Trace to click through. step: the step whose panel is open, None for none; by: what colours the text."""

        _esm = module()
        _data = traitlets.Unicode().tag(sync=True)
        step = traitlets.Int(None, allow_none=True).tag(sync=True)
        by = traitlets.Unicode("surprise").tag(sync=True)

        def __init__(self, trace: Trace, *, step: int | None = None, by: str = "surprise") -> None:
            """Errors: OptionError for a step that there is not, or an unknown measure."""
            self._trace = trace
            super().__init__(_data=data_json(trace), step=step, by=by)

        @traitlets.validate("step")  # type: ignore[untyped-decorator, unused-ignore]
        def _step_of_the_trace(self, proposal: Any) -> int | None:
            return None if proposal["value"] is None else self._trace.at(proposal["value"])

        @traitlets.validate("by")  # type: ignore[untyped-decorator, unused-ignore]
        def _known_measure(self, proposal: Any) -> str:
            name: str = proposal["value"]
            if name == "nothing":
                return name
            try:
                return measure(name).name
            except OptionError as error:
                raise OptionError(f"{error}; or 'nothing'") from None

    TraceWidget.__module__, TraceWidget.__qualname__ = __name__, "TraceWidget"
    return TraceWidget
