"""`fanlight report TRACE -o run.html`: a page that works from disk, every token of which can be opened. In: a file. Out: a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fanlight.cli.compare import PAGES, check_file
from fanlight.cli.kept import BY, opened
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.errors import OptionError

USAGE = "fanlight report TRACE [-o FILE.html] [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    from fanlight.views.report import write_report

    if len(words) != 1:
        raise OptionError(f"one trace's file is expected, found {len(words) or 'none'}; usage: {USAGE}")
    target = values.get("output") or str(Path(words[0]).with_suffix(".html"))
    check_file("output", {"output": target}, PAGES)
    trace = opened(words[0])
    if not trace.header.complete:
        output.note(f"the trace is incomplete: {trace.header.problem}")
    write_report(trace, target, by=values.get("by", "surprise"))
    output.summary(f"[{target} written, {Path(target).stat().st_size / 1e6:.2f} MB]")
    return 0


COMMAND = Command(
    usage=USAGE,
    about="""\
One page of a kept run, without a network: click a token, or go along with the arrow keys, and see its candidates,
what the processors did, and what was seen inside the model. TRACE comes from `fanlight generate PROMPT --trace FILE`;
with --look all, it has attention, what each layer would say, and what each block added.

  fanlight generate "The cat sat on the" --trace run.safetensors --look all
  fanlight report run.safetensors""",
    groups=(
        (
            "output",
            (
                Option("output", "the page: .html", metavar="FILE", short="o", default="beside the trace"),
                BY._replace(help="what colours the text at first"),
            ),
        ),
    ),
    run=run,
)
