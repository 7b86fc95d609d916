"""`fanlight models`: which models are there without a network, how large they are, and what they will take of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from fanlight.checkpoints.footprint import Footprint
    from fanlight.sources import Known

USAGE = "fanlight models [OPTIONS]"


class Row(NamedTuple):
    """A model and its sizes, or why they are not known."""

    known: Known
    sizes: Footprint | None
    problem: str


def run(values: dict[str, Any], _words: list[str], output: Output) -> int:
    """See COMMAND."""
    from fanlight.sources import known_models

    rows = [_row(known) for known in known_models()]
    if values.get("json", False):
        _as_json(rows, output)
    else:
        _as_table(rows, output)
    return 0


def _row(known: Known) -> Row:
    from fanlight.checkpoints.footprint import footprint

    try:
        sizes, problem = footprint(known.path), ""
    except (CheckpointError, OSError) as error:
        sizes, problem = None, str(error).removeprefix(f"{known.path}: ")
    if not known.is_complete:
        problem = f"incomplete: fanlight pull {known.name}"
    return Row(known, sizes, problem)


def _as_table(rows: list[Row], output: Output) -> None:
    from fanlight.checkpoints.hub_cache import cache_folder
    from fanlight.sources import GET_DEFAULT

    canvas = output.canvas
    if not rows:
        output.line(f"no models are here; get the default one with: {GET_DEFAULT}")
    else:
        cells = [("name", "where", "type", "on disk", "in memory, about")]
        cells += [_cells(row) for row in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        for i, row in enumerate(cells):
            *first, last = (text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True))
            line = canvas.plain(f"{'  '.join(first)}  {last}".rstrip())
            output.line(canvas.paint(line, "dim") if i == 0 else line)
    if any(row.known.is_default for row in rows):
        output.summary("* the model that is used without --model")
    output.summary(
        f"in memory: an estimate from headers, weights + keys and values of a full window; cache: {cache_folder()}"
    )


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    known, sizes = row.known, row.sizes
    name = f"{known.name}{' *' if known.is_default else ''}"
    if sizes is None:
        return name, known.place, "", "", _one_line(row.problem)
    kind = f"{sizes.model_type or '?'}, {sizes.format}"
    return name, known.place, _one_line(kind), _size(sizes.disk_bytes), row.problem or _memory(sizes)


def _memory(sizes: Footprint) -> str:
    if sizes.weights_bytes is None:
        return "unknown"
    weights = _size(sizes.weights_bytes)
    if sizes.cache_bytes_per_token is None or sizes.n_ctx is None:
        return f"{weights} + an unknown window"
    if not sizes.cache_bytes_per_token:
        return f"{weights} (an encoder)"
    return f"{weights} + {_size(sizes.cache_bytes_per_token * sizes.n_ctx)} for {sizes.n_ctx} tokens"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _one_line(text: str) -> str:
    """A text from a file, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)[:160]


def _as_json(rows: list[Row], output: Output) -> None:
    from fanlight.checkpoints.hub_cache import cache_folder, is_offline
    from fanlight.cli.as_json import dumps

    models = []
    for known, sizes, problem in rows:
        models.append(
            {
                "name": known.name,
                "place": known.place,
                "path": str(known.path),
                "default": known.is_default,
                "complete": known.is_complete,
                "problem": problem or None,
                "format": sizes.format if sizes else None,
                "model_type": sizes.model_type if sizes else None,
                "disk_bytes": sizes.disk_bytes if sizes else None,
                "weights_bytes": sizes.weights_bytes if sizes else None,
                "cache_bytes_per_token": sizes.cache_bytes_per_token if sizes else None,
                "n_ctx": sizes.n_ctx if sizes else None,
                "memory_bytes": sizes.memory_bytes if sizes else None,
            }
        )
    output.line(dumps({"models": models, "cache": str(cache_folder()), "offline": is_offline()}))


COMMAND = Command(
    usage=USAGE,
    about="""\
List the models that are here: FANLIGHT_MODEL, installed packages, and the hub's cache, with their sizes on disk and
an estimate of what they take in memory: the weights, and the keys and values of a full window. No weights are read,
no network is asked.""",
    groups=(("what to print", (Option("json", "one JSON object; sizes in bytes", kind="flag"),)),),
    run=run,
    max_words=0,
)
