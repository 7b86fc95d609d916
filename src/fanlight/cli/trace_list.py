"""`fanlight trace list FOLDER`: the kept runs of a folder, branches beneath what they left; or its steps, as a question picks them.

In: flags. Out: a table, or JSON. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fanlight.cli.kept import short
from fanlight.cli.output import Output
from fanlight.errors import OptionError, TraceError

if TYPE_CHECKING:
    from fanlight.tracing.index import TraceIndex, TraceRow
    from fanlight.views.terminal import Canvas

FEW = 20
"""Steps that are listed if nobody says how many."""
STEP_COLUMNS = ("file", "step", "token", "raw_prob", "rank", "entropy", "surprise")
TRACE_COLUMNS = ("file", "n_steps", "stop", "perplexity", "model", "prompt, or what the branch changed")
LONGEST = 48
"""Characters of a cell."""


def list_traces(values: dict[str, Any], files: list[str], output: Output) -> int:
    """See cli/trace.py."""
    from fanlight.tracing.index import TraceIndex

    asked = [name for name in ("where", "steps", "traces", "sql") if name in values]
    if len(asked) > 1 and asked != ["where", "steps"]:
        first, second = (f"--{name}" for name in asked[:2])
        raise OptionError(f"{first} and {second} are questions of their own: give one of them")
    if "sql" in values and ("order_by" in values or "limit" in values):
        raise OptionError("--order-by and --limit are not for --sql: write ORDER BY and LIMIT in it")
    if values.get("limit", 1) < 1:
        raise OptionError(f"--limit must be at least 1: got {values['limit']}")
    with TraceIndex(files[0]) as index:
        if index.note:
            output.note(index.note)
        for problem in index.problems.values():
            output.note(f"left out: {problem}")
        if "sql" in values:
            answer = index.sql(values["sql"])
            return _table(answer.columns, answer.rows, values, output)
        if "where" in values or values.get("steps"):
            return _steps(index, values, output)
        return _traces(index, values, output)


def _steps(index: TraceIndex, values: dict[str, Any], output: Output) -> int:
    from fanlight.text.tokenizer import label

    limit = values.get("limit", FEW)
    found = index.steps(values.get("where", ""), order=values.get("order_by", ""), limit=limit + 1)
    rows, has_more = found[:limit], len(found) > limit
    if values.get("json"):
        return _json([row._asdict() for row in rows], output)
    shown = [row._replace(token=label(row.token.encode())) for row in rows]
    more = f"; there are more: --limit {10 * limit}" if has_more else ""
    return _table(STEP_COLUMNS, [tuple(getattr(r, c) for c in STEP_COLUMNS) for r in shown], values, output, more)


def _traces(index: TraceIndex, values: dict[str, Any], output: Output) -> int:
    limit = values.get("limit")
    found = index.traces(values.get("traces", ""), order=values.get("order_by", ""), limit=limit)
    if values.get("json"):
        return _json([{**row._asdict(), "settings": dict(row.settings)} for row in found], output)
    if not found and not len(index):
        output.note(
            f"{index.folder}: no trace is in it; fanlight generate PROMPT --trace {index.folder}/ keeps one there"
        )
    depths = [(row, 0) for row in found] if "order_by" in values else tree(found)
    rows = [_trace_cells(index, row, depth, output.canvas) for row, depth in depths]
    return _table(TRACE_COLUMNS, rows, values, output)


def tree(rows: Sequence[TraceRow]) -> list[tuple[TraceRow, int]]:
    """Each with its depth, right beneath what it left; one whose parent is not among them stands at the left."""
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(row.id, i)
    below: dict[int, list[int]] = {}
    tops = []
    for i, row in enumerate(rows):
        at = first.get(row.parent) if row.parent is not None else None
        if at is None or at == i:
            tops.append(i)
        else:
            below.setdefault(at, []).append(i)
    found: list[tuple[TraceRow, int]] = []
    seen: set[int] = set()
    waiting = [(i, 0) for i in reversed(tops)]
    while waiting or len(seen) < len(rows):
        if not waiting:  # damaged files that name each other as parents
            waiting.append((next(i for i in range(len(rows)) if i not in seen), 0))
        at, depth = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        found.append((rows[at], depth))
        children = sorted(below.get(at, ()), key=lambda i: (rows[i].parent_step or 0, i))
        waiting += [(i, depth + 1) for i in reversed(children)]
    return found


def _trace_cells(index: TraceIndex, row: TraceRow, depth: int, canvas: Canvas) -> tuple[Any, ...]:
    branch = "└ " if canvas.unicode else "+ "
    name = f"{'  ' * (depth - 1)}{branch}{row.file}" if depth else row.file
    said = row.prompt or ""
    if row.parent is not None:
        try:
            parent = index.open(row.file).header.parent
            change = parent.change if parent is not None else ""
        except TraceError:  # gone since
            change = ""
        of = "" if depth else f"of {row.parent}, "
        said = f"{of}step {row.parent_step}: {change}"
    stop = ("scored" if row.is_given else row.stop) + ("" if row.complete else " (incomplete)")
    return (name, row.n_steps, stop, row.perplexity, row.model, said)


# -- tables ------------------------------------------------------------------------------------------------------------


def _json(rows: list[dict[str, Any]], output: Output) -> int:
    from fanlight.cli.as_json import dumps
    from fanlight.tracing.plain import finite

    output.line(dumps([{k: finite(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]))
    return 0


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], values: dict[str, Any], output: Output, more: str = ""
) -> int:
    from fanlight.views.terminal import columns as wide
    from fanlight.views.terminal import left

    if values.get("json"):
        return _json([dict(zip(columns, row, strict=True)) for row in rows], output)
    canvas = output.canvas
    shown = [[canvas.plain(_cell(value)) for value in row] for row in rows]
    widths = [max(wide(name), *(wide(row[i]) for row in shown), 0) for i, name in enumerate(columns)]
    is_number = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            " " * (width - wide(cell)) + cell if number and rows else left(cell, width)
            for cell, width, number in zip(cells, widths, is_number, strict=True)
        ]
        return "  ".join(placed).rstrip()

    output.line(canvas.paint(line(columns), "dim"))
    for row in shown:
        output.line(line(row))
    output.summary(f"[{len(rows)} row{'s' if len(rows) != 1 else ''}{more}]")
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return short(value, LONGEST) if isinstance(value, str) else str(value)
