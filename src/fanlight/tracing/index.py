"""A folder of traces that answers questions: `TraceIndex("runs/").steps("entropy > 4 and rank > 0")`. Knows no model.

An SQLite file in the folder holds a row a trace and a row a step; it is brought up to date when it is opened, and can be deleted at
any time. Questions are SQL that may only read, for a bounded time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from math import exp, isfinite
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError, TraceError
from fanlight.tracing.files import SUFFIX, open_trace
from fanlight.tracing.rows import ROW, step_columns

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

NAME = ".fanlight-index.sqlite"
VERSION = 1
MAX_SECONDS, MAX_ROWS = 20.0, 1_000_000
TRACE: Mapping[str, tuple[str, str]] = {
    "id": ("TEXT", "the trace's own"),
    "file": ("TEXT", "its name in the folder"),
    "model": ("TEXT", "the model's name"),
    "fingerprint": ("TEXT", "of the model's files"),
    "created": ("TEXT", "when, in UTC"),
    "prompt": ("TEXT", ""),
    "text": ("TEXT", "the new text"),
    "stop": ("TEXT", "why it ended: eos, max_new_tokens, ..."),
    "n_prompt": ("INTEGER", "tokens of the prompt"),
    "n_steps": ("INTEGER", "new tokens"),
    "seed": ("", "what the noise was drawn with; beyond 64 bits, as text"),
    "complete": ("INTEGER", "0: it was cut off"),
    "is_given": ("INTEGER", "1: the text was scored, not written"),
    "parent": ("TEXT", "the id of the trace that it branched off"),
    "parent_step": ("INTEGER", "its first step of its own"),
    "settings": ("TEXT", "those that are not the default's, as JSON: settings ->> 'top_p' < 0.9"),
    "mean_surprise": ("REAL", "nats a token, as the model had it"),
    "perplexity": ("REAL", "e to that"),
    "mean_entropy": ("REAL", "nats a token, as the model had it"),
    "first_share": ("REAL", "of the tokens, those that were the most probable ones"),
    "prefill_seconds": ("REAL", ""),
    "decode_seconds": ("REAL", ""),
    "looks": ("TEXT", "what was seen inside: 'lens, attention'"),
}
"""Columns of `traces`: name -> type, and what it is."""

STEP: Mapping[str, tuple[str, str]] = {"trace": ("TEXT", "the trace's id"), "file": TRACE["file"], **ROW}
"""Columns of `steps`; those of `traces` can be asked for beside them."""

_OF_TRACE = [name for name in TRACE if name not in ("id", "file")]
_SCHEMA = (
    "CREATE TABLE files (trace_key INTEGER PRIMARY KEY, file TEXT UNIQUE, size INTEGER, changed INTEGER, problem TEXT)",
    f"CREATE TABLE traces (trace_key INTEGER PRIMARY KEY, {', '.join(f'{name} {kind}' for name, (kind, _) in TRACE.items())})",
    f"CREATE TABLE step_rows (trace_key INTEGER, {', '.join(f'{name} {kind}' for name, (kind, _) in ROW.items())}, "
    "PRIMARY KEY (trace_key, step)) WITHOUT ROWID",
    f"CREATE VIEW steps AS SELECT traces.id AS trace, traces.file AS file, {', '.join(f's.{name} AS {name}' for name in ROW)}, "
    f"{', '.join(f'traces.{name} AS {name}' for name in _OF_TRACE)} "
    "FROM step_rows AS s JOIN traces ON traces.trace_key = s.trace_key",
)
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


class StepRow(NamedTuple):
    """A step that was asked for."""

    trace: str
    file: str
    step: int
    token: str
    token_id: int
    position: int
    raw_prob: float
    final_prob: float
    surprise: float
    rank: int
    final_rank: int
    entropy: float
    final_entropy: float
    margin: float | None
    n_kept: int
    eos_prob: float
    tail_prob: float
    drafter: str | None
    guess_right: int | None


class TraceRow(NamedTuple):
    """A trace that was asked for."""

    id: str
    file: str
    model: str
    fingerprint: str
    created: str
    prompt: str | None
    text: str
    stop: str
    n_prompt: int
    n_steps: int
    seed: int
    complete: bool
    is_given: bool
    parent: str | None
    parent_step: int | None
    settings: Mapping[str, Any]
    mean_surprise: float | None
    perplexity: float | None
    mean_entropy: float | None
    first_share: float | None
    prefill_seconds: float
    decode_seconds: float
    looks: str


class Answer(NamedTuple):
    """What SQL gave."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class TraceIndex:
    """The traces of a folder, its own files alone: folders in it have an index of their own."""

    def __init__(self, folder: str | os.PathLike[str], *, max_seconds: float = MAX_SECONDS) -> None:
        """Reads what is new in the folder. max_seconds: of a question. Errors: TraceError if there is no such folder."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            found = "a file" if self.folder.exists() else "nothing at this path"
            raise TraceError(f"{folder}: expected a folder of traces, found {found}; check its spelling")
        self.note = ""
        """What is worth knowing: that the folder cannot be written, so that the index is made anew each time."""
        self._max_seconds = max_seconds
        self._lock = RLock()
        self._base = self._made()

    # -- bringing it up to date ---------------------------------------------------------------------------------------

    def _made(self) -> sqlite3.Connection:
        path, why = self.folder / NAME, ""
        for _ in range(2):  # the second time without what could not be read
            try:
                return self._connected(str(path))
            except sqlite3.OperationalError as error:
                why = str(error)
                break
            except sqlite3.DatabaseError as error:  # damaged, or of another version
                why = str(error)
            try:
                path.unlink()
            except OSError as error:
                why = error.strerror or str(error)
                break
        self.note = f"{path} cannot be written ({why}): the index is in memory, and is made anew each time"
        return self._connected(":memory:")

    def _connected(self, path: str) -> sqlite3.Connection:
        base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            with _transaction(base):
                _make_tables(base)
                self._update(base)
            base.execute(
                "SELECT 1 FROM json_each('[]'), json_tree('[]')"
            )  # made here, since a question may make nothing
            base.execute("PRAGMA query_only = ON")
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 26)
            base.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
            base.set_authorizer(_may)
        except BaseException:
            base.close()
            raise
        return base

    def refresh(self) -> None:
        """Read what is new in the folder since it was opened."""
        with self._lock:
            self._base.close()
            self._base = self._made()

    def _update(self, base: sqlite3.Connection) -> None:
        known = {name: tuple(rest) for name, *rest in base.execute("SELECT file, trace_key, size, changed FROM files")}
        there = dict(_files(self.folder))
        for name, (key, *state) in known.items():
            if there.get(name) == tuple(state):
                del there[name]
                continue
            for table in ("files", "traces", "step_rows"):
                base.execute(f"DELETE FROM {table} WHERE trace_key = ?", (key,))
        for name in sorted(there):
            problem, trace = "", None
            try:
                trace = open_trace(self.folder / name)
                columns = step_columns(trace)
            except TraceError as error:
                problem = str(error)
            row = (name, *there[name], problem)
            key = base.execute("INSERT INTO files (file, size, changed, problem) VALUES (?, ?, ?, ?)", row).lastrowid
            if trace is None or problem:
                continue
            _insert(base, "traces", [(key, *_trace_values(trace, name, columns))])
            _insert(
                base, "step_rows", ((key, *map(_plain, row)) for row in zip(*(columns[c] for c in ROW), strict=True))
            )

    # -- questions ----------------------------------------------------------------------------------------------------

    def steps(self, where: str = "", *, order: str = "", limit: int | None = None) -> list[StepRow]:
        """The steps for which an expression is true: "entropy > 4 and rank > 0 and model like '%135M%'".

        order: "surprise desc"; otherwise by file and step. Names: STEP, and those of TRACE. Errors: OptionError.
        """
        rows = self._selected("steps", STEP, {**STEP, **TRACE}, where, order or "file, step", limit)
        return [*map(StepRow._make, rows)]

    def traces(self, where: str = "", *, order: str = "", limit: int | None = None) -> list[TraceRow]:
        """The traces for which an expression is true: "n_steps > 20 and stop = 'eos'". Names: TRACE. Errors: OptionError."""
        rows = self._selected("traces", TRACE, TRACE, where, order or "file", limit)
        found = (dict(zip(TRACE, row, strict=True)) for row in rows)
        return [
            TraceRow(**{**row, **_python(row["settings"], row["seed"], row["complete"], row["is_given"])})
            for row in found
        ]

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> Answer:
        """What SQL says of the tables `traces` and `steps`: "SELECT stop, avg(perplexity) FROM traces GROUP BY stop".

        It can only read. Errors: OptionError for what is not SQL, would write, or takes too long.
        """
        return self._asked(query, parameters, {**STEP, **TRACE})

    def _selected(
        self,
        table: str,
        columns: Mapping[str, Any],
        names: Mapping[str, Any],
        where: str,
        order: str,
        limit: int | None,
    ) -> list[tuple[Any, ...]]:
        for text, what in ((where, "a condition"), (order, "an order")):
            if not isinstance(text, str):
                raise OptionError(f"{what} must be text: got {text!r:.80}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise OptionError(f"limit must be a whole number from 0, or None: got {limit!r:.80}")
        condition = f"WHERE (\n{where}\n)" if where.strip() else ""
        query = f"SELECT {', '.join(columns)} FROM {table} {condition} ORDER BY {order}\nLIMIT ?"
        return self._asked(query, (-1 if limit is None else limit,), names, shown=where or order).rows

    def _asked(self, query: str, parameters: Sequence[Any], names: Mapping[str, Any], shown: str = "") -> Answer:
        end = time.monotonic() + self._max_seconds
        with self._lock:
            self._base.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            try:
                with closing(self._base.execute(query, parameters)) as cursor:
                    rows = cursor.fetchmany(MAX_ROWS + 1)
                    columns = tuple(column[0] for column in cursor.description or ())
            except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
                raise self._wrong(error, shown or query, names) from None
            finally:
                self._base.set_progress_handler(None, 0)
        if len(rows) > MAX_ROWS:
            raise OptionError(f"{shown or query:.80}: more than {MAX_ROWS:,} rows; ask for fewer: limit=1000")
        return Answer(columns, rows)

    def _wrong(self, error: Exception, said: str, names: Mapping[str, Any]) -> OptionError:
        text = " ".join(str(error).split())[:120]
        if text == "interrupted":
            why = f"took longer than {self._max_seconds:g} s, and was stopped; ask for less"
        elif text.startswith(("not authorized", "access to", "authorization denied")):
            why = f"an index can only be read ({text}); ask with SELECT"
        elif "one statement at a time" in text:
            why = "more than one statement; ask one question at a time"
        else:
            why = f"{text}; there is {', '.join(names)}"
        return OptionError(f"{' '.join(said.split())[:120]!r}: {why}")

    # -- what is in it ------------------------------------------------------------------------------------------------

    @property
    def problems(self) -> dict[str, str]:
        """Files that could not be read, by name, and why."""
        return dict(self._asked("SELECT file, problem FROM files WHERE problem != '' ORDER BY file", (), TRACE).rows)

    def __len__(self) -> int:
        """Traces."""
        found: int = self._asked("SELECT count(*) FROM traces", (), TRACE).rows[0][0]
        return found

    def open(self, row: StepRow | TraceRow | str) -> Trace:
        """The trace of a row, of an id, or of a file's name in the folder. Errors: OptionError, TraceError."""
        if not isinstance(row, str):
            return open_trace(self.folder / row.file)
        found = self._asked(
            "SELECT file FROM traces WHERE file = ?1 OR id = ?1 ORDER BY file LIMIT 1", (row,), TRACE
        ).rows
        if not found:
            raise OptionError(f"{self.folder}: no trace {row!r:.80}; it has {len(self)}: see traces()")
        return open_trace(self.folder / found[0][0])

    def close(self) -> None:
        """Leave the file."""
        with self._lock:
            self._base.close()

    def __enter__(self) -> TraceIndex:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TraceIndex({str(self.folder)!r})"


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith(".") and _is_text(entry.name):
                with suppress(OSError):  # gone since
                    if entry.is_file():
                        state = entry.stat()
                        yield entry.name, (state.st_size, state.st_mtime_ns)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@contextmanager
def _transaction(base: sqlite3.Connection) -> Iterator[None]:
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        base.execute("ROLLBACK")
        raise
    base.execute("COMMIT")


def _make_tables(base: sqlite3.Connection) -> None:
    """The tables of this version, anew if there are others. Errors: DatabaseError if the file is not to be used."""
    found = [text for (text,) in base.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")]
    version = base.execute("PRAGMA user_version").fetchone()[0]
    if found:
        if version != VERSION or found != list(_SCHEMA):
            raise sqlite3.DatabaseError("tables of another version")
        return
    for text in _SCHEMA:
        base.execute(text)
    base.execute(f"PRAGMA user_version = {VERSION}")


def _insert(base: sqlite3.Connection, table: str, rows: Any) -> None:
    n = 1 + len(TRACE if table == "traces" else ROW)
    base.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * n)})", rows)


def _trace_values(trace: Trace, name: str, columns: Mapping[str, list[Any]]) -> list[Any]:
    header, n = trace.header, trace.n_steps
    mean = sum(columns["surprise"]) / n if n else None
    found = {
        "id": trace.id,
        "file": name,
        "model": header.origin.model,
        "fingerprint": header.origin.fingerprint,
        "created": header.created,
        "prompt": header.prompt,
        "text": header.text,
        "stop": header.stop.reason.value,
        "n_prompt": len(trace.prompt_ids),
        "n_steps": n,
        "seed": header.seed,
        "complete": header.complete,
        "is_given": header.is_given,
        "parent": header.parent.id if header.parent else None,
        "parent_step": header.parent.step if header.parent else None,
        "settings": json.dumps(header.settings),
        "mean_surprise": mean,
        "perplexity": exp(mean) if mean is not None and mean < 700 else None,
        "mean_entropy": sum(columns["entropy"]) / n if n else None,
        "first_share": sum(rank == 0 for rank in columns["rank"]) / n if n else None,
        "prefill_seconds": header.prefill_seconds,
        "decode_seconds": header.decode_seconds,
        "looks": ", ".join(trace.has),
    }
    return [_plain(found[column]) for column in TRACE]


def _plain(value: Any) -> Any:
    """As SQLite takes it: a number of more than 64 bits is a text, and so is what is no Unicode."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, float) and not isfinite(value):
        return None if value != value else value
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _python(settings: str, seed: int | str, complete: int, is_given: int) -> dict[str, Any]:
    return {
        "settings": json.loads(settings),
        "seed": int(seed),
        "complete": bool(complete),
        "is_given": bool(is_given),
    }


def _may(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """What a question may do: read, with functions that do not load code."""
    is_fine = action in _READS and (action != sqlite3.SQLITE_FUNCTION or second != "load_extension")
    return sqlite3.SQLITE_OK if is_fine else sqlite3.SQLITE_DENY
