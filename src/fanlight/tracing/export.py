"""A Trace -> JSON, CSV or Parquet: `export_trace(trace, "run.csv")`. Knows no model and no terminal.

JSON holds everything; CSV a row a step; Parquet a row a step with its candidates as lists. A file is written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fanlight.checkpoints.writing import whole_file
from fanlight.errors import CheckpointError, MissingExtra, OptionError, TraceError
from fanlight.trace.header import VERSION
from fanlight.tracing.columns import Steps
from fanlight.tracing.files import FORMAT
from fanlight.tracing.parts import LOOKS, header_text
from fanlight.tracing.plain import finite, record_json, stop_json, with_removals
from fanlight.tracing.rows import ROW, step_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.tracing.trace import Trace


def export_trace(trace: Trace, path: str | os.PathLike[str], kind: str | None = None) -> None:
    """Write it. kind: "json", "csv" or "parquet"; None: as the path ends.

    Errors: OptionError for another kind, MissingExtra without pyarrow for Parquet, TraceError where the place cannot be written.
    """
    name = os.fspath(path)
    if kind is None:
        kind = os.path.splitext(name)[1].removeprefix(".").lower()
        if kind not in _WRITERS:
            raise OptionError(
                f"{name}: expected a name that ends in .json, .csv or .parquet, found {kind or 'no ending'!r}"
            )
    if kind not in _WRITERS:
        raise OptionError(f"kind must be {', '.join(_WRITERS)}: got {kind!r:.80}")
    write = _WRITERS[kind](trace)
    try:
        with whole_file(name) as file:
            write(file)
    except CheckpointError as error:
        raise TraceError(str(error)) from None


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json(trace: Trace) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        for text in json_parts(trace):
            file.write(text.encode("ascii"))

    return write


def json_parts(trace: Trace) -> Iterator[str]:
    """The text of the JSON, a step or a part at a time: strictly valid, a number that is not finite being null."""
    dumps = json.JSONEncoder(allow_nan=False).encode
    header = json.loads(header_text(trace.header))
    yield f'{{"format": "{FORMAT}", "version": {VERSION},\n"header": {dumps(header)},\n'
    tokens = {str(token): trace.token_text(token) for token in sorted(trace.vocabulary)}
    for name, value in (
        ("prompt_ids", trace.prompt_ids),
        ("ids", trace.ids),
        ("pieces", trace.pieces),
        ("tokens", tokens),
    ):
        yield f'"{name}": {dumps(value)},\n'
    yield '"steps": ['
    for i in range(trace.n_steps):
        yield ("," if i else "") + "\n" + dumps(step_json(trace, i))
    yield "]"
    if trace.search is not None:
        yield f',\n"search": {dumps(asdict(trace.search))}'
    for look in trace.has:
        if look in LOOKS:
            values = {field.name: getattr(getattr(trace, look), field.name) for field in fields(LOOKS[look])}
            yield (
                f',\n"{look}": {{'
                + ", ".join(f'"{name}": {dumps(_listed(value))}' for name, value in values.items())
                + "}"
            )
    yield "}\n"


def step_json(trace: Trace, step: int) -> dict[str, Any]:
    """One step with its record, as `fanlight generate --json` has it."""
    record = trace.steps[step]
    head: dict[str, Any] = {
        "index": step,
        "id": record.id,
        "token": trace.token_text(record.id),
        "text": trace.pieces[step],
    }
    if record.guess is not None:
        head["guess"] = record.guess._asdict()
    if record.stop is not None:
        head["stop"] = stop_json(record.stop)
    texts = [trace.token_text(token) for token in record.candidate_ids]
    return {**head, **with_removals(record_json(record, texts), record)}


def _listed(value: Any) -> Any:
    """An array as lists; float16 with the digits that it has."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, np.ndarray):
        return finite(value)
    if value.dtype == np.float16:
        return np.round(value.astype(np.float64), 8).tolist()
    return value.tolist() if np.isfinite(value).all() else _nulls(value.tolist())


def _nulls(value: Any) -> Any:
    return [_nulls(item) for item in value] if isinstance(value, list) else finite(value)


# -- a row a step ------------------------------------------------------------------------------------------------------


def _csv(trace: Trace) -> Callable[[IO[bytes]], None]:
    """Comma-separated, CR LF, quotes doubled (RFC 4180), UTF-8; what a step has not is empty."""
    columns = step_columns(trace)

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(ROW)
        writer.writerows(zip(*(columns[name] for name in ROW), strict=True))
        text.flush()
        text.detach()

    return write


def _parquet(trace: Trace) -> Callable[[IO[bytes]], None]:
    base, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    types = {"INTEGER": base.int64(), "REAL": base.float64(), "TEXT": base.string()}
    columns = step_columns(trace)
    arrays = {name: base.array(columns[name], types[kind]) for name, (kind, _) in ROW.items()}
    arrays |= _lists(trace, base)
    table = base.table(arrays, metadata={FORMAT: header_text(trace.header)})

    def write(file: IO[bytes]) -> None:
        parquet.write_table(table, file, compression="zstd")

    return write


def _lists(trace: Trace, base: Any) -> dict[str, Any]:
    """What a step has several of: its candidates and its processors."""
    columns = Steps.of(trace.steps).columns
    stored, offsets = columns.arrays, columns.arrays["candidate_offsets"]
    finals = [stored["raw_logits"][:0]]
    logits, of_effect = stored["effect_logit_offsets"], stored["effect_offsets"]
    for step in range(trace.n_steps):
        end = of_effect[step + 1]
        if end > of_effect[step]:
            finals.append(stored["effect_logits"][logits[end - 1] : logits[end]])
        else:
            finals.append(stored["raw_logits"][offsets[step] : offsets[step + 1]])
    final = np.concatenate(finals).astype(np.float64)
    ids = stored["candidate_ids"].astype(np.int64)
    labels = [columns.effects[kind][0] for kind in stored["effect_kind"].tolist()]

    def listed(values: Any, at: NDArray[Any]) -> Any:
        return base.LargeListArray.from_arrays(base.array(at, base.int64()), base.array(values))

    noise = stored["noise"].astype(np.float64) if "noise" in stored else np.full(len(ids), np.nan)
    return {
        "candidate_ids": listed(ids, offsets),
        "candidate_tokens": listed(base.array(map(trace.token_text, ids.tolist()), base.string()), offsets),
        "candidate_raw_logits": listed(stored["raw_logits"].astype(np.float64), offsets),
        "candidate_final_logits": listed(final, offsets),
        "candidate_noise": listed(base.array(noise, mask=np.isnan(noise)), offsets),
        "processors": listed(base.array(labels, base.string()), of_effect),
        "processor_n_kept": listed(stored["effect_n_kept"].astype(np.int64), of_effect),
        "processor_entropy": listed(stored["effect_entropy"].astype(np.float64), of_effect),
    }


def _pyarrow(name: str) -> Any:
    """The library, or a part of it. Errors: MissingExtra."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra("Parquet needs pyarrow, which is not installed: pip install 'fanlight[batch]'") from None


_WRITERS: Mapping[str, Callable[[Trace], Callable[[IO[bytes]], None]]] = {
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
