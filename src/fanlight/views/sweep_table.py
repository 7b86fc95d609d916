"""A Sweep in a terminal: a row for each point of the grid, those on the frontier marked. In: records, a Canvas. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.views.comparison import number
from fanlight.views.terminal import Canvas, columns, left, percent, right

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.comparing.measures import Spread
    from fanlight.comparing.sweep_records import Point, Sweep

HEADS = ("perplexity", "distinct-1", "-2", "-3", "Self-BLEU", "repeated", "loop", "tokens", "ended by")
NAME = 36
MARK = "▸"


def sweep_table(found: Sweep, canvas: Canvas, *, diversity: str | None = None) -> str:
    """The table, a legend, and what the frontier is of. diversity: as `Sweep.frontier` takes it."""
    on_it = found.frontier(diversity)
    rows = [_cells(point) for point in found.points]
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    name = min(NAME, max(columns(point.label) for point in found.points))
    head = "  ".join(right(text, width) for text, width in zip(HEADS[:-1], widths[:-1], strict=True))
    lines = [canvas.paint(f"  {left('setting', name)}  {head}  {HEADS[-1]}", "bold")]
    for i, (point, row) in enumerate(zip(found.points, rows, strict=True)):
        mark = canvas.paint(canvas.plain(MARK), "final") + " " if i in on_it else "  "
        label = left(canvas.label(point.label, name), name)
        cells = "  ".join(right(text, width) for text, width in zip(row[:-1], widths[:-1], strict=True))
        lines.append(f"{mark}{canvas.paint(label, 'bold') if i in on_it else label}  {cells}  {row[-1]}".rstrip())
    measure = (diversity or found.diversity).replace("_", "-").replace("self-bleu", "Self-BLEU")
    mark = canvas.plain(MARK)
    lines += [
        "",
        canvas.paint(f"{mark} no other point has both a lower perplexity and more diversity ({measure})", "dim"),
    ]
    measured = [point.n_prompts for point in found.points]
    if found.n_prompts > 1 or min(measured) < found.n_prompts:
        lines.append(
            canvas.paint(f"means over {_prompts(measured, found.n_prompts)}; standard errors with --json", "dim")
        )
    return "\n".join(lines)


def _prompts(measured: Sequence[int], n: int) -> str:
    """ "3 prompts"; "2 of 3 prompts" if a prompt has failed everywhere, "1 to 3 of 3 prompts" if at some points."""
    low, high = min(measured), max(measured)
    some = "" if low == high == n else f"{low} of " if low == high else f"{low} to {high} of "
    return f"{some}{n} prompt{'s' if n != 1 else ''}"


def _cells(point: Point) -> tuple[str, ...]:
    stops = ", ".join(f"{n} {reason}" for reason, n in point.stops.items())
    return (
        number(point.perplexity),
        *(number(_mean(spread)) for spread in point.distinct),
        number(_mean(point.self_bleu)),
        "-" if point.repetition is None else percent(point.repetition.mean),
        number(_mean(point.loop), 1),
        number(_mean(point.tokens), 1),
        stops,
    )


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean
