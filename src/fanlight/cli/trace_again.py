"""`fanlight trace replay | what-if | branch | track`: a kept run, decided again or asked. In: flags. Out: text, a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fanlight.cli.kept import check_new, follow, of_trace, opened, said, settings, tracked_text
from fanlight.cli.looks import trace_options
from fanlight.cli.output import Output
from fanlight.cli.settings import load_helpers, load_model
from fanlight.errors import OptionError

DIFFERS = 1
"""The exit code of what found a difference."""


def replay(values: dict[str, Any], files: list[str], output: Output) -> int:
    """See cli/trace.py."""
    from fanlight.tracing.replay import replay

    trace = opened(files[0])
    if not trace.header.complete:
        output.note(f"the trace is incomplete ({trace.header.problem}): it is compared as far as it goes")
    model = load_model(of_trace(values, trace), output)
    found = replay(trace, model, any_model=values.get("any_model", False), amateur=load_helpers(values).get("amateur"))
    output.line(str(found))
    return 0 if found.same else DIFFERS


def what_if(values: dict[str, Any], files: list[str], output: Output) -> int:
    """See cli/trace.py."""
    from fanlight.tracing.what_if import what_if

    options = settings(values)
    if not options:
        raise OptionError("other settings are missing: fanlight trace what-if FILE --top-p 0.8 --temperature 1.2")
    output.line(str(what_if(opened(files[0]), **options)))
    return 0


def branch(values: dict[str, Any], files: list[str], output: Output) -> int:
    """See cli/trace.py."""
    from fanlight.tracing.branching import branch

    trace = opened(files[0])
    if "step" not in values:
        raise OptionError('the step is missing at which the branch leaves: --step 5 --token " not"')
    step, token, options = trace.at(values["step"]), values.get("token"), settings(values)
    if token is None and not options:
        raise OptionError('a branch needs another token or other settings: --token " not", or --top-p 0.8')
    path = values.get("output") or beside(files[0])
    check_new(path)
    looks = trace_options(values, path)
    model = load_model(of_trace(values, trace), output)
    found = branch(trace, model, step, token=token, trace_options=looks, **load_helpers(values), **options)
    output.write_text("".join(found.pieces[:step]), "dim")
    output.write_text("".join(found.pieces[step:]))
    output.end_line()
    change = found.header.parent.change if found.header.parent is not None else ""
    output.summary(f"[{found.header.stop} | from step {step}: {change}]")
    return said(found, output)


def beside(file: str) -> str:
    """Where a branch lies if nobody says so: "run.branch-1.safetensors"."""
    path, n = Path(file), 1
    while (found := path.with_name(f"{path.stem}.branch-{n}{path.suffix}")).exists():
        n += 1
    return str(found)


def track(values: dict[str, Any], files: list[str], output: Output) -> int:
    """See cli/trace.py."""
    from fanlight.views.terminal_tracking import tracking_text

    what, trace = tracked_text(values), opened(files[0])
    model = load_model(of_trace(values, trace), output) if values.get("exact") else None
    output.line(tracking_text(follow(trace, what, model), output.canvas))
    return 0
