"""A Trace as one HTML page that works from the disk: no network, no library, light and dark. In: a Trace. Knows no model.

The page is `page/trace.css`, the scripts of `page/` that `script` puts together, and the data of `report_data`. The widget of
notebooks is made of the same.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fanlight.views.figures import written_whole
from fanlight.views.report_data import LEVELS, report_data
from fanlight.views.report_facts import title, trouble
from fanlight.views.ribbon_colors import color, hexed, ink_on, measure
from fanlight.views.ribbon_html import safe

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
SCRIPTS = ("trace_data.js", "trace_panel.js", "trace.js")
START = 'mount(document.getElementById("trace"), JSON.parse(document.getElementById("data").textContent), %s);'


def report_html(trace: Trace, *, by: str = "surprise") -> str:
    """The page. by: what colours the text at first. Errors: OptionError."""
    options = json.dumps({"isPage": True, "by": measure(by).name})
    said = trace.header.prompt or "".join(trace.token_text(token) for token in trace.prompt_ids)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{safe(said[:60])} - {safe(trace.header.origin.model)}</title>",
            f"<style>\nbody {{ margin: 0; }}\n{style()}</style>\n</head>\n<body>",
            f'<div id="trace"><noscript><h1>{safe(title(trace))}</h1><p>{safe(trouble(trace.header))}</p>'
            f'<pre style="white-space: pre-wrap">{safe(said)}<b>{safe(trace.text)}</b></pre>'
            "<p>With scripts allowed, this page shows the account of every token.</p></noscript></div>",
            f'<script type="application/json" id="data">{data_json(trace)}</script>',
            f'<script>\n"use strict";\n(() => {{\n{script()}\n{START % options}\n}})();\n</script>\n</body>\n</html>\n',
        )
    )


def write_report(trace: Trace, path: str | os.PathLike[str], *, by: str = "surprise") -> None:
    """Write the page; the file is there whole or not at all. Errors: OptionError."""
    page = report_html(trace, by=by)
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def data_json(trace: Trace) -> str:
    """What the scripts show, as JSON of ASCII signs that cannot end the element it stands in."""
    return json_of(report_data(trace))


def json_of(data: dict[str, Any]) -> str:
    """The same, of data."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def script() -> str:
    """All scripts: they define `mount(root, data, options)`."""
    page = files("fanlight.views").joinpath("page")
    return "\n".join(page.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)


@cache
def style() -> str:
    """The style, with the scale of colours."""
    sheet = files("fanlight.views").joinpath("page").joinpath("trace.css").read_text(encoding="utf-8")
    lines = [sheet]
    for dark in (False, True):
        scope = '.fanlight[data-theme="dark"]' if dark else ".fanlight"
        for i in range(1, LEVELS + 1):
            ground = color(i / LEVELS, dark=dark)
            lines.append(f"{scope} .c{i} {{ background: {hexed(ground)}; color: {hexed(ink_on(ground))}; }}")
    return "\n".join(lines) + "\n"
