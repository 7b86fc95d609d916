"""`fanlight pull NAME`: a model from the hub into the cache, or a cached one brought up to date."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.checkpoints.hub import Fetched
    from fanlight.checkpoints.hub_names import HubName

USAGE = "fanlight pull NAME [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    from fanlight.sources import fetch_model, without_progress

    name = _hub_name(words)
    as_json = values.get("json", False)
    with without_progress() if as_json else nullcontext():
        fetched = fetch_model(name)
    if as_json:
        _as_json(fetched, output)
    else:
        output.summary(_how_it_went(fetched))
        output.line(str(fetched.path))
    return 0


def _hub_name(words: list[str]) -> HubName:
    from fanlight.checkpoints.hub_names import parse_name

    if len(words) != 1:
        found = f"found {words[0]!r} and {words[1]!r}" if words else "as in: fanlight pull gpt2-medium"
        raise OptionError(f"one name of a model is expected, {found}; usage: {USAGE}")
    name = parse_name(words[0])
    if name is None:
        there = (
            "it is a path: give that to --model"
            if Path(words[0]).exists()
            else "expected name, org/name, org/name@revision"
        )
        raise OptionError(f"{words[0]!r:.100} is no name of a model on the hub; {there}")
    return name


def _how_it_went(fetched: Fetched) -> str:
    n, total, received = len(fetched.files), fetched.total_bytes / 1e6, fetched.received_bytes / 1e6
    size = f"{n} file{'s' if n != 1 else ''}, {total:.1f} MB"
    if not fetched.received_bytes:
        return f"{fetched.name}: up to date ({size})"
    return f"{fetched.name}: {size}" + (f", {received:.1f} MB of them fetched now" if received < total else "")


def _as_json(fetched: Fetched, output: Output) -> None:
    from fanlight.cli.as_json import dumps

    output.line(
        dumps(
            {
                "name": str(fetched.name),
                "path": str(fetched.path),
                "revision": fetched.name.revision,
                "commit": fetched.commit,
                "files": list(fetched.files),
                "bytes": fetched.total_bytes,
                "received_bytes": fetched.received_bytes,
            }
        )
    )


COMMAND = Command(
    usage=USAGE,
    about="""\
Fetch a model from the hub, or bring a cached one up to date, and print where it lies.

NAME is gpt2-medium, org/name, org/name@revision, or for GGUF files org/name:FILE.gguf or org/name:Q4_K_M. Only what
Fanlight reads is fetched: configuration, tokenizer, safetensors or one GGUF file. A fetch that was interrupted goes on
where it stopped.

HF_HOME or HF_HUB_CACHE say where the cache lies, HF_ENDPOINT which hub is asked, HF_TOKEN who asks; HF_HUB_OFFLINE=1
forbids the network.""",
    groups=(("what to print", (Option("json", "one JSON object; no progress", kind="flag"),)),),
    run=run,
)
