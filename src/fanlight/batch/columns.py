"""Parquet: rows out of a file, and results into one. In: a path. Out: plain dicts; a file of fixed columns. Knows no model.

A results file has the columns of COLUMNS, whatever the job. What has no fixed form (metadata, the account of each step, a chat) is
JSON in a column of text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from fanlight.decoding.config import OPTIONS
from fanlight.errors import MissingExtra, OptionError

READ_ROWS = 64
GROUP_ROWS, GROUP_BYTES = 10_000, 64 << 20
AS_JSON = ("messages", "settings")
"""Columns of the input that may hold JSON as text."""

COLUMNS: Mapping[str, str] = {
    "id": "text",
    "index": "int",
    "prompt": "text",
    "messages": "json",
    "text": "text",
    "stop": "stop",
    "n_new_tokens": "int",
    "n_prompt_tokens": "int",
    "seed": "int",
    "score": "float",
    "answer": "text",
    "votes": "int",
    "error": "error",
    "notes": "texts",
    "usage": "usage",
    "others": "json",
    "steps": "json",
    "metadata": "json",
}
"""Column -> what it holds."""


def pyarrow(name: str = "pyarrow") -> Any:
    """The library, or a part of it. Errors: MissingExtra."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra("Parquet needs pyarrow, which is not installed: pip install 'fanlight[batch]'") from None


def read_parquet(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every row as plain data; what is null is left out. name: for messages. Errors: OptionError, MissingExtra."""
    parquet, base = pyarrow("pyarrow.parquet"), pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=READ_ROWS):
                yield from (_row(row) for row in batch.to_pylist())
    except (base.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"{name}: cannot be read as Parquet: {first}") from None


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    found = _filled(row)
    for key in AS_JSON:
        if isinstance(found.get(key), str):
            with suppress(ValueError, RecursionError):  # the row's own check says what was expected
                found[key] = json.loads(found[key])
    for key in AS_JSON:
        if isinstance(found.get(key), dict):
            found[key] = _filled(found[key])
        elif isinstance(found.get(key), list):
            found[key] = [_filled(one) if isinstance(one, dict) else one for one in found[key]]
    return found


def _filled(value: Mapping[str, Any]) -> dict[str, Any]:
    """What is said: pandas keeps a column of numbers with gaps as floats, in which a gap is NaN, and 3 is 3.0."""
    return {key: _whole(key, each) for key, each in value.items() if each is not None and each == each}


def _whole(key: str, value: Any) -> Any:
    """The same, an integer if it may only be one: as it was before the column had gaps."""
    if isinstance(value, float) and value.is_integer() and (key == "id" or _takes_integers(key)):
        return int(value)
    if isinstance(value, list) and _takes_integers(key):
        return [_whole(key, each) for each in value]
    return value


def _takes_integers(key: str) -> bool:
    return key in OPTIONS and OPTIONS[key].rule.kind == "int"


def write_parquet(lines: Iterable[bytes], path: Path) -> None:
    """Result rows, each a line of JSON, into a file of COLUMNS; a bounded part of them is in memory. Errors: OSError."""
    parquet, base = pyarrow("pyarrow.parquet"), pyarrow()
    schema = _schema(base)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        n_bytes = 0
        for line in lines:
            rows.append(_cells(json.loads(line)))
            n_bytes += len(line)
            if len(rows) >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
                writer.write_table(base.Table.from_pylist(rows, schema=schema))
                rows, n_bytes = [], 0
        if rows:
            writer.write_table(base.Table.from_pylist(rows, schema=schema))


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = row.keys() - COLUMNS.keys()
    assert not unknown, f"results without a column: {unknown}"
    cells: dict[str, Any] = {
        name: json.dumps(value) if COLUMNS[name] == "json" else value for name, value in row.items()
    }
    seed = cells.get("seed")
    if seed is not None and not -(2**63) <= seed < 2**63:  # a seed is any integer, a column has 64 bits
        cells["seed"] = None
        cells["notes"] = [*cells.get("notes", ()), f"the seed {seed} has more than the 64 bits of its column"]
    return cells


def _schema(base: Any) -> Any:
    text, whole = base.string(), base.int64()
    types = {
        "text": text,
        "json": text,
        "int": whole,
        "float": base.float64(),
        "texts": base.list_(text),
        "stop": base.struct([("reason", text), ("detail", text), ("token", whole), ("string", text)]),
        "error": base.struct([("type", text), ("message", text)]),
        "usage": base.struct([("n_reused", whole), ("n_computed", whole)]),
    }
    return base.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
