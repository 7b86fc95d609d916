"""What commands on kept runs share: opening one, the settings among the flags, where a trace went. Knows no picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Option
from fanlight.cli.output import Output
from fanlight.cli.settings import EXPLAIN_SETTINGS, make_config, setting_groups
from fanlight.errors import OptionError, TraceError

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace
    from fanlight.tracing.tracking import Tracked

MEASURES = ("surprise", "rank", "entropy", "margin")
BY = Option("by", "what colours the text", choices=MEASURES, default="surprise")
OTHER_KINDS = (".json", ".csv", ".parquet", ".html", ".htm", ".png", ".svg", ".pdf", ".txt")
"""Endings of what is made of a trace."""
LONGEST = 60
"""Characters of a prompt or a text on a line."""


def opened(path: str) -> Trace:
    """The trace in a file. Errors: TraceError."""
    from fanlight.tracing.files import open_trace

    if Path(path).is_dir():
        raise TraceError(
            f"{path}: expected a trace's file, found a folder; see what is in it: fanlight trace list {path}"
        )
    return open_trace(path)


def of_trace(values: dict[str, Any], trace: Trace) -> dict[str, Any]:
    """The same values, with the trace's own type of cache unless another is asked for."""
    is_small = trace.header.origin.cache_type == "I8"
    return {**({"cache_type": "int8"} if is_small else {}), **values}


def settings(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the flags, a preset and a file name. Errors: OptionError."""
    config = make_config(values)
    return {name: getattr(config, name) for name, _ in config.origins}


def groups_of_settings(**defaults: str) -> tuple[tuple[str, tuple[Option, ...]], ...]:
    """The flags of all settings, but for the one that prints them."""
    (title, shared), *groups = setting_groups(**defaults)
    return ((title, tuple(option for option in shared if option != EXPLAIN_SETTINGS)), *groups)


def check_new(path: str | None) -> None:
    """That a trace can be kept there, before a model is read. Errors: OptionError, TraceError."""
    if path is None:
        return
    from fanlight.tracing.files import check_target

    if path.lower().endswith(OTHER_KINDS) and not Path(path).is_dir():
        raise OptionError(
            f"{path}: a trace is kept as .safetensors, or in a folder (runs/); "
            "fanlight trace export and fanlight report make other files of it"
        )
    check_target(path)


def said(trace: Trace, output: Output, notes: Sequence[str] = ()) -> int:
    """Tell where a trace lies; 1 if it could not be kept, or not whole. notes: why, if it is known."""
    path, header = trace.path, trace.header
    if path is None:
        for note in notes or (f"the trace: {header.problem}",):
            output.note(note)
        return 1
    state = "" if header.complete else f", incomplete: {header.problem}"
    n, size = trace.n_steps, Path(path).stat().st_size
    output.summary(f"[trace {path}: {n} step{'s' if n != 1 else ''}, {size / 1e3:.1f} kB{state}]")
    return 0


def tracked_text(values: dict[str, Any]) -> str:
    """What --token names. Errors: OptionError if it names nothing."""
    what: str = values.get("token", "")
    if not what:
        raise OptionError('what is to be tracked is missing: --token " not"')
    return what


def follow(trace: Trace, what: str, model: Any = None) -> Tracked:
    """How likely a text was at each step. Errors: OptionError."""
    from fanlight.tracing.tracking import track

    try:
        return track(trace, what, model=model)
    except OptionError as error:
        raise (OptionError(f"{error}: --exact") if model is None else error) from None


def short(text: str, limit: int = LONGEST) -> str:
    """The beginning and the end of a text, on one line."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"
