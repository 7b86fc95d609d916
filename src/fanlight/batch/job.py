"""A file of rows -> a file of results, each row exactly once, whatever ends the process in between. Knows no terminal.

    run_job(model, "prompts.jsonl", "out.jsonl", max_new_tokens=40)          # this model, in this process
    run_rows(start, "prompts.jsonl", "out.jsonl", {"max_new_tokens": 40})    # whatever runs rows; `start` makes it

The input is read twice: once to count it and to find ids that repeat, once for the work. Memory does not grow with it, but
for one bit a row that is done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from fanlight import __version__
from fanlight.batch.columns import pyarrow, write_parquet
from fanlight.batch.ordering import MOST_AHEAD, AsTheyCome, Bits, InOrder
from fanlight.batch.reading import STDIN, Digest, Item, Scan, is_same, opened, read_items, scan
from fanlight.batch.rows import Row, StepJson, error_of, fresh_seed, id_of, parse_row
from fanlight.batch.state import GZIP, PARQUET, PLAIN, Places, State, plain
from fanlight.batch.worker import MAX_BATCH, BatchModel, Worker
from fanlight.batch.writing import Appender, Unbroken, recovered, replaced, write_gzip
from fanlight.errors import FanlightError, OptionError

Results = Iterator[tuple[Row, dict[str, Any]]]
Run = Callable[[Iterator[Row]], Results]
"""Rows -> each with its result, in any order. It may be called several times, with the rows that are left."""
Start = Callable[[Mapping[str, Any]], Run]
"""Settings, the job's seed among them -> what runs rows."""
KEPT_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """A row without a text."""

    index: int
    id: str | None
    message: str


class Progress(NamedTuple):
    """How far a job is."""

    n_rows: int
    """Of the input, as far as it is asked for."""
    n_done: int
    """Those with a result, failed ones and those of earlier runs too."""
    n_before: int
    """Of earlier runs."""
    n_failed: int
    n_prompt_tokens: int
    """Of this run, as all that follow."""
    n_new_tokens: int
    n_reused: int
    n_computed: int
    seconds: float


class Summary(NamedTuple):
    """How a job ended."""

    path: Path
    progress: Progress
    seed: int
    failures: tuple[Failure, ...]
    """The first few of this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job is run."""

    in_order: bool = True
    """Whether results stand in the order of the rows, or as they come."""
    resume: bool = False
    """Go on with the output if it is there."""
    overwrite: bool = False
    limit: int | None = None
    """How many rows of the input, from its beginning."""
    echo: bool = False
    """Whether results hold their prompts."""
    usage: bool = False
    """Whether results hold what depends on what ran beside them: tokens reused and computed."""
    has_steps: bool = False
    """Whether results hold the account of each step."""
    most_ahead: int = MOST_AHEAD
    """How many results may wait for their turn, before no further row is begun until the slow one ends."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise OptionError("resume and overwrite exclude each other: one keeps what is there, the other removes it")
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1
        ):
            raise OptionError(f"limit must be a whole number from 1: got {self.limit!r:.80}")


def run_job(
    model: BatchModel,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_batch: int = MAX_BATCH,
    steps: StepJson | None = None,
    in_order: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    echo: bool = False,
    usage: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Summary:
    """Every row of a file (.jsonl, .jsonl.gz, .parquet; "-": standard input) through a model, into another.

    settings: as of `model.settings`, under each row's own. steps: what to keep of each step. resume: go on with the output, exactly
    where it ends. A row that fails holds its error, and the others go on. Errors: OptionError for what is wrong with the files or
    the settings; OSError. Whatever ends a job, Ctrl-C too, leaves its output such that resume=True goes on with it.
    """
    options = JobOptions(
        in_order=in_order,
        resume=resume,
        overwrite=overwrite,
        limit=limit,
        echo=echo,
        usage=usage,
        has_steps=steps is not None,
    )
    Worker(model, settings, max_batch, steps=steps)  # a mistake shows before the input is read
    return run_rows(
        lambda base: Worker(model, base, max_batch, steps=steps).run,
        source,
        target,
        settings,
        model={"model": getattr(model, "name", type(model).__name__)},
        options=options,
        on_progress=on_progress,
        on_note=on_note,
    )


def run_rows(
    start: Start,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: Mapping[str, Any],
    *,
    model: Mapping[str, Any] | None = None,
    options: JobOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Summary:
    """`run_job` with anything that runs rows.

    start: called once, with the settings and a seed among them, after all checks of the files, and only if rows are left.
    model: what identifies it; a job is not gone on with by another.
    """
    options = options or JobOptions()
    note = on_note or (lambda text: None)
    name, places = os.fspath(source), Places.of(Path(target))
    if places.kind == PARQUET:
        pyarrow()
    for place in places.all:
        if is_same(name, place):
            whose = "" if place == places.target else f", and belongs to the output {target}"
            raise OptionError(f"{place}: is the input too{whose}; write to another file")
    _refuse_existing(places, options)  # before anything is made
    with places.claimed() as journal, opened(source) as path:
        old = _begun(places, options)  # again: another command may have ended meanwhile
        shown = "standard input" if name == STDIN else name
        found = scan(path, shown, limit=options.limit, at=old.n_rows if old is not None else 0)
        state = _state(shown, found, settings, model or {}, options)
        if old is not None:
            state = old.continued(state, found, str(places.target))
            if old.version != __version__:
                note(f"{places.target} was begun with Fanlight {old.version}, this is {__version__}")
            if (n_rows := _n_finished(places, journal, old, found.n_rows)) is not None:
                progress = Progress(n_rows, n_rows, n_rows, old.finished_failed or 0, 0, 0, 0, 0, 0.0)
                return Summary(places.target, progress, state.seed, ())
        base = {**settings, "seed": state.seed}
        run = start(base) if old is None else None
        if old is None:
            for leftover in (places.target, places.ahead):
                if leftover != places.journal:
                    leftover.unlink(missing_ok=True)
            journal.truncate(0)
            places.state.unlink(missing_ok=True)  # last: a kill before leaves what made the results that are there
        state.save(places.state)
        job = _Job(places, journal, path, shown, found, options, on_progress or (lambda progress: None))
        return job.run(run, lambda: start(base), state)


def _refuse_existing(places: Places, options: JobOptions) -> None:
    """Errors: OptionError if an output is there, and nothing was said of it."""
    existing = places.existing()
    if existing and not options.resume and not options.overwrite:
        raise OptionError(f"{existing[0]}: exists; --resume goes on with it, --overwrite replaces it")


def _begun(places: Places, options: JobOptions) -> State | None:
    """What the output that is there was made by, if it is to be gone on with. Errors: OptionError."""
    _refuse_existing(places, options)
    existing = places.existing()
    if not existing or options.overwrite:
        return None
    if not places.state.exists():
        raise OptionError(
            f"{existing[0]}: cannot be gone on with: {places.state.name}, which says what made it, is not beside it; "
            "use another output, or --overwrite"
        )
    return State.load(places.state)


def _n_finished(places: Places, journal: Appender, old: State, n_rows: int) -> int | None:
    """How many rows the output has, if it is whole and what it was made from is gone. Errors: OptionError if more is asked for."""
    if journal.size or places.kind == PLAIN or not places.target.exists() or old.finished_rows is None:
        return None
    if n_rows > old.finished_rows:
        raise OptionError(
            f"{places.target}: is complete with {old.finished_rows:,} rows, and {places.journal.name}, to which more could "
            "be added, is gone; start anew with --overwrite"
        )
    return old.finished_rows


def _state(
    source: str, found: Scan, settings: Mapping[str, Any], model: Mapping[str, Any], options: JobOptions
) -> State:
    seed = settings.get("seed")
    return State(
        source=source,
        n_rows=found.n_rows,
        digest=found.digest,
        is_whole=found.is_whole,
        seed=fresh_seed() if seed is None else seed,
        seed_is_given=seed is not None,
        model=plain(model),
        settings=plain({key: value for key, value in settings.items() if key != "seed" and value is not None}),
        form={
            "order": "input" if options.in_order else "as they come",
            "echo": options.echo,
            "usage": options.usage,
            "steps": options.has_steps,
        },
        version=__version__,
    )


class _Job:
    """One run of a job, its checks done."""

    def __init__(
        self,
        places: Places,
        journal: Appender,
        path: Path,
        name: str,
        found: Scan,
        options: JobOptions,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._places, self._name, self._found, self._options = places, name, found, options
        self._on_progress = on_progress
        self._lock = Lock()  # rows may be read in another thread than results are written in
        self._done = Bits()
        self._digest = Digest()
        self._items = iter(read_items(path, name))
        self._n_taken = 0
        self._at_end = False
        self._failures: list[Failure] = []
        self._started = time.monotonic()
        self._journal = journal
        n_failed = self._recover()
        self._sink: InOrder | AsTheyCome = AsTheyCome(self._journal)
        if options.in_order:
            self._sink = InOrder(self._journal, places.ahead, self._done, options.most_ahead)
            n_failed += self._sink.n_failed_ahead
        n_before = self._done.count + self._sink.n_ahead
        n_rows = max(found.n_rows, n_before)  # the limit may have been larger before
        self._progress = Progress(n_rows, n_before, n_before, n_failed, 0, 0, 0, 0, 0.0)

    def run(self, run: Run | None, start: Callable[[], Run], state: State) -> Summary:
        """Everything that is left. start: makes `run` if there is none and rows are left."""
        try:
            self._on_progress(self._now())
            while not self._at_end:
                rows = self._rows()
                first = next(rows, None)
                if first is None:
                    continue
                if run is None:
                    run = start()
                if self._progress.n_done == self._progress.n_before:
                    self._started = time.monotonic()  # loading a model is no part of the rate
                results = run(chain([first], rows))
                try:
                    for row, result in results:
                        self._take(row, result)
                finally:
                    if isinstance(results, Generator):
                        results.close()  # what is on its way ends now, rather than when it is forgotten
            if self._digest.text() != self._found.digest:
                raise FanlightError(f"{self._name}: has changed while it was being read; start anew with --overwrite")
            if self._sink.n_ahead and self._found.is_whole:
                raise FanlightError(
                    f"{self._places.ahead}: holds results of {self._sink.n_ahead} rows that the input does not have; "
                    "the file was changed: start anew with --overwrite"
                )
            self._finish(state)
        finally:
            self._sink.close()
        return Summary(self._places.target, self._now(), state.seed, tuple(self._failures))

    def _recover(self) -> int:
        """Note which rows are done; how many of them failed."""
        n_failed = 0
        for line in recovered(self._journal):
            if line.index in self._done:
                raise FanlightError(
                    f"{self._journal.path}: holds the row of index {line.index} twice; the file was changed: "
                    "mend it, or start anew with --overwrite"
                )
            self._done.add(line.index)
            n_failed += line.has_error
        return n_failed

    def _rows(self) -> Iterator[Row]:
        """Rows that are to be computed, until there are none, or too many results wait for one that is slow."""
        for item in self._items:
            if not item.is_blank and self._n_taken >= self._found.n_rows:
                break
            self._digest.add(item)
            if item.is_blank:
                continue
            self._n_taken += 1
            if item.index in self._done:
                continue
            with self._lock:
                if not self._sink.expect(item.index):
                    continue
            row = self._row(item)
            if row is not None:
                yield row
            if self._sink.is_full:
                return
        self._at_end = True

    def _row(self, item: Item) -> Row | None:
        """The row, or nothing: then its error is its result."""
        error, row_id, metadata = item.error, None, None
        if item.value is not None:
            try:
                return parse_row(item.value, item.index)
            except OptionError as fault:
                error = fault
            try:
                row_id = id_of(item.value, item.index)
                json.dumps(item.value.get("metadata"), allow_nan=False)
                metadata = item.value.get("metadata")
            except (OptionError, TypeError, ValueError, RecursionError):
                pass  # that is the error
        assert error is not None
        self._write(item.index, error_of(item.index, row_id, error, metadata))
        return None

    def _take(self, row: Row, result: dict[str, Any]) -> None:
        if self._options.echo:
            key = "prompt" if isinstance(row.prompt, str) else "messages"
            rest = {name: value for name, value in result.items() if name not in ("id", "index")}
            result = {"id": row.id, "index": row.index, key: row.prompt, **rest}
        self._write(row.index, result)

    def _write(self, index: int, result: dict[str, Any]) -> None:
        usage: Mapping[str, int] = result.get("usage") or {}
        kept = result if self._options.usage else {name: each for name, each in result.items() if name != "usage"}
        line = json.dumps(kept, allow_nan=False).encode() + b"\n"
        with self._lock:
            with Unbroken():
                self._sink.put(index, line)
                self._count(index, result, usage)
            now = self._now()
        self._on_progress(now)

    def _count(self, index: int, result: Mapping[str, Any], usage: Mapping[str, int]) -> None:
        was = self._progress
        error = result.get("error")
        if error is not None and len(self._failures) < KEPT_FAILURES:
            self._failures.append(Failure(index, result.get("id"), error["message"]))
        texts = (result, *result.get("others", ()))
        self._progress = was._replace(
            n_done=was.n_done + 1,
            n_failed=was.n_failed + (error is not None),
            n_prompt_tokens=was.n_prompt_tokens + result.get("n_prompt_tokens", 0),
            n_new_tokens=was.n_new_tokens + sum(text.get("n_new_tokens", 0) for text in texts),
            n_reused=was.n_reused + usage.get("n_reused", 0),
            n_computed=was.n_computed + usage.get("n_computed", 0),
        )

    def _now(self) -> Progress:
        return self._progress._replace(seconds=time.monotonic() - self._started)

    def _finish(self, state: State) -> None:
        """All rows are in the journal: make the output of it, if that is another file."""
        self._journal.sync()
        if self._places.kind == PLAIN:
            return
        journal = self._places.journal
        if self._places.kind == GZIP:
            replaced(self._places.target, lambda made: write_gzip(journal, made))
        else:
            with journal.open("rb") as lines:
                replaced(self._places.target, lambda made: write_parquet(lines, made))
        progress = self._progress
        replace(state, finished_rows=progress.n_done, finished_failed=progress.n_failed).save(self._places.state)
        if self._found.is_whole:  # otherwise more rows may be added
            journal.unlink()
