"""`--look lens,attention=0:-1`: what a trace is to hold beside the steps. In: words. Out: TraceOptions. Knows no model."""

from __future__ import annotations

from typing import Any

from fanlight.cli.options import Option
from fanlight.errors import OptionError
from fanlight.trace.options import TraceOptions

FLAGS = ("contributions", "norms", "timings")
KNOWN = ("lens", "attention", *FLAGS, "all")
TRACE = Option(
    "trace",
    "keep what each step saw in FILE, a .safetensors; in a folder (runs/), in a file named by its id",
    metavar="FILE",
)
LOOK = Option(
    "look",
    "what else a trace holds, with commas between: lens or lens=10 (tokens a layer), attention or attention=0:-1 (layers 0 and "
    "the last), contributions, norms, timings, or all",
    metavar="WHAT,...",
)
HEADS = Option("heads", "attention of these heads alone (default: all)", metavar="N,...")
QUERIES = Option(
    "queries",
    "which positions' attention: new, all (the prompt's too), or their numbers",
    metavar="WHICH",
    default="new",
)
LOOKS = (LOOK, HEADS, QUERIES)


def trace_options(values: dict[str, Any], path: str | None = None) -> TraceOptions:
    """What --look, --heads and --queries say. Errors: OptionError."""
    options: dict[str, Any] = {"path": path}
    for part in filter(None, (part.strip() for part in values.get("look", "").split(","))):
        name, has_value, value = part.partition("=")
        if name not in KNOWN:
            raise OptionError(f"--look: unknown {name!r:.40}; there is {', '.join(KNOWN)}")
        if has_value and name not in ("lens", "attention"):
            raise OptionError(f"--look: {name} takes no value: got {part!r:.60}")
        if name == "all":
            options |= {"lens": True, "attention": True, **dict.fromkeys(FLAGS, True)}
        elif name == "lens":
            options["lens"] = _whole("--look lens", value) if has_value else True
        elif name == "attention":
            options["attention"] = numbers("--look attention", value, ":") if has_value else True
        else:
            options[name] = True
    if "heads" in values:
        options["heads"] = numbers("--heads", values["heads"], ",")
    if "queries" in values:
        word = values["queries"]
        options["queries"] = word if word in ("new", "all") else numbers("--queries", word, ",")
    found = TraceOptions(**options)
    if path is None and any(option.name in values for option in LOOKS):
        raise OptionError("--look, --heads and --queries say what a trace holds: give --trace FILE with them")
    if ("heads" in values or "queries" in values) and not found.has_attention:
        raise OptionError("--heads and --queries are of attention: give --look attention with them")
    return found


def numbers(flag: str, text: str, between: str) -> tuple[int, ...]:
    """Whole numbers in one word. Errors: OptionError."""
    return tuple(_whole(flag, part) for part in text.split(between))


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"{flag} takes whole numbers: got {text!r:.40}") from None
