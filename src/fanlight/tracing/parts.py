"""What a Trace holds -> named arrays and tables, and back. Knows no file: `files.py` writes and reads them.

The names are those of `layout.py`. What comes from arrays has been checked by it; the rest is checked here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from math import isfinite
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import numpy as np

from fanlight.errors import TraceError
from fanlight.trace.header import Header
from fanlight.trace.looks import Attention, Contributions, Lens, Norms, Timings
from fanlight.trace.search import Node, SearchRecord
from fanlight.tracing.columns import Columns, Steps, narrow
from fanlight.tracing.fitting import check_together
from fanlight.tracing.layout import DAMAGED, LAYOUT, SEARCH, STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.tracing.trace import Trace

    Array = NDArray[Any]
    Get = Callable[[str], Array]
    """A checked array by its name."""

LOOKS: Mapping[str, type] = {
    "lens": Lens,
    "attention": Attention,
    "contributions": Contributions,
    "norms": Norms,
    "timings": Timings,
}
_NODE = ("parent", "id", "depth", "logprob", "score", "group")
_HINTS: dict[type, dict[str, Any]] = {}
_NOT_FINITE = ("inf", "-inf", "nan")


def arrays_of(trace: Trace) -> tuple[dict[str, Array], dict[str, Any]]:
    """All arrays of a trace, and the tables that they count in. Errors: TraceError for a part that is none."""
    steps = Steps.of(trace.steps).columns
    tables: dict[str, Any] = {STEPS: steps.tables()}
    arrays = {"prompt_ids": _ints(trace.prompt_ids), "ids": _ints(trace.ids)}
    arrays |= _texts("pieces", [piece.encode("utf-8", "surrogatepass") for piece in trace.pieces])
    known = sorted(trace.vocabulary)
    arrays["vocabulary/ids"] = _ints(known)
    arrays |= _texts("vocabulary", [trace.vocabulary[token] for token in known])
    arrays |= {f"{STEPS}/{name}": array for name, array in steps.arrays.items() if name != "id"}
    if trace.search is not None:
        tables[SEARCH] = _search(trace.search, arrays)
    for name in trace.has:
        if name in LOOKS and (look := getattr(trace, name)) is not None:
            arrays |= {f"{name}/{field.name}": np.asarray(getattr(look, field.name)) for field in fields(LOOKS[name])}
    return {name: _as_kept(name, array) for name, array in arrays.items()}, tables


def _ints(values: Sequence[int]) -> Array:
    return np.array(values, np.int64)


def _texts(name: str, texts: Sequence[bytes]) -> dict[str, Array]:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return {f"{name}/bytes": np.frombuffer(b"".join(texts), np.uint8), f"{name}/offsets": offsets}


def _search(record: SearchRecord, arrays: dict[str, Array]) -> dict[str, Any]:
    """Its arrays go into `arrays`; the texts are returned."""
    fates: dict[str, int] = {}
    arrays["search/fate"] = _ints([fates.setdefault(node.fate, len(fates)) for node in record.nodes])
    for name in _NODE:
        dtype = np.float64 if name in ("logprob", "score") else np.int64
        arrays[f"search/{name}"] = np.array([getattr(node, name) for node in record.nodes], dtype)
    arrays["search/returned"] = _ints(record.returned)
    return {"kind": record.kind, "fates": list(fates)}


def _as_kept(name: str, array: Array) -> Array:
    """In the type that goes into a file."""
    kind = LAYOUT[name].kind
    if kind in ("byte", "flag", "offset", "weight") or array.dtype in (np.float32, np.int32):
        return array
    if array.dtype.kind not in "iuf" or (array.size == 0 and array.dtype == np.float64):
        array = array.astype(np.int64 if "float" not in kind else np.float64)
    return narrow(array.astype(np.int64 if array.dtype.kind in "iu" else np.float64))


# -- and back ----------------------------------------------------------------------------------------------------------


def texts_of(name: str, get: Get) -> list[bytes]:
    """The texts that one array of bytes and its offsets hold."""
    raw, offsets = get(f"{name}/bytes").tobytes(), get(f"{name}/offsets").tolist()
    return [raw[begin:end] for begin, end in pairwise(offsets)]


def pieces_of(where: str, get: Get) -> list[str]:
    """What each step added to the text."""
    try:
        return [piece.decode("utf-8", "surrogatepass") for piece in texts_of("pieces", get)]
    except UnicodeDecodeError as error:
        raise TraceError(f"{where}: 'pieces/bytes', expected UTF-8 ({error.reason}); {DAMAGED}") from None


def steps_of(where: str, names: Sequence[str], get: Get, tables: Mapping[str, Any]) -> Steps:
    """The steps, which decode a record when it is asked for. names: those of the arrays that there are."""
    mine = [name for name in names if name.startswith(f"{STEPS}/")]
    arrays = {name.removeprefix(f"{STEPS}/"): get(name) for name in mine}
    columns = Columns.of(where, {**arrays, "id": get("ids")}, _table(where, tables, STEPS))
    check_together(where, columns)
    return Steps(columns)


def search_of(where: str, get: Get, tables: Mapping[str, Any]) -> SearchRecord:
    """The tree of a search."""
    table = _table(where, tables, SEARCH)
    kind, fates = table.get("kind"), table.get("fates")
    if not isinstance(kind, str) or not isinstance(fates, list) or not all(isinstance(fate, str) for fate in fates):
        raise TraceError(f"{where}: the tables of its search, expected a kind and fates; {DAMAGED}")
    columns = {name: get(f"search/{name}") for name in (*_NODE, "fate", "returned")}
    n_nodes = len(columns["id"])
    if np.any(columns["parent"] >= np.arange(n_nodes)):
        raise TraceError(f"{where}: 'search/parent', expected each node after its parent; {DAMAGED}")
    if np.any(columns["returned"] >= n_nodes) or np.any(columns["fate"] >= len(fates)):
        raise TraceError(f"{where}: 'search/returned' or 'search/fate' is beyond the nodes or fates; {DAMAGED}")
    named = {name: columns[name].tolist() for name in _NODE}
    named["fate"] = [fates[fate] for fate in columns["fate"].tolist()]
    nodes = tuple(Node(**dict(zip(named, values, strict=True))) for values in zip(*named.values(), strict=True))
    return SearchRecord(kind, nodes, tuple(columns["returned"].tolist()))


def look_of(name: str, get: Get) -> Any:
    """One of LOOKS, over arrays that stay in the file until they are read."""
    cls, values = LOOKS[name], {}
    for field in fields(cls):
        array = get(f"{name}/{field.name}")
        values[field.name] = (
            tuple(array.tolist()) if str(field.type).startswith("tuple") else array if array.ndim else float(array)
        )
    return cls(**values)


def _table(where: str, tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tables.get(name)
    if not isinstance(found, dict):
        raise TraceError(f"{where}: expected tables of its {name}, found none; {DAMAGED}")
    return found


# -- the header --------------------------------------------------------------------------------------------------------


def header_text(header: Header) -> str:
    """As strict JSON; a number that is not finite is a text there."""
    try:
        return json.dumps(_finite(header.json()), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"trace {header.id}: its header has no form in JSON ({error}); keep plain values in it"
        ) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def header_of(where: str, text: str) -> Header:
    """What `header_text` gave. Errors: TraceError."""
    try:
        found = json.loads(text)
        if isinstance(found.get("score"), str) and found["score"] in _NOT_FINITE:
            found["score"] = float(found["score"])
        header = Header.of_json(found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TraceError(f"{where}: its header cannot be read ({error!r:.80}); {DAMAGED}") from None
    wrong = _misfit(header, "")
    if wrong:
        raise TraceError(f"{where}: {wrong} in its header is of the wrong type; {DAMAGED}")
    return header


def _misfit(value: Any, prefix: str) -> str:
    """The first field that is not of its type; "" if all are."""
    if type(value) not in _HINTS:
        _HINTS[type(value)] = get_type_hints(type(value))
    for name, hint in _HINTS[type(value)].items():
        item = getattr(value, name)
        if not _fits(item, hint):
            return f"'{prefix}{name}'"
        if is_dataclass(item) and (inner := _misfit(item, f"{prefix}{name}.")):
            return inner
    return ""


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is not None:  # a Mapping
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)
