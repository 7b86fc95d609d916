"""What a job is, in a small file beside its output, so that another run goes on with the same one. Knows no model and no rows.

Results themselves say which rows are done; `<output>.job.json` says what made them: the input's digest, the settings, the model,
the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fanlight.batch.reading import Scan
from fanlight.batch.writing import Appender, replaced
from fanlight.errors import OptionError

FORMAT = 1
MAX_STATE_BYTES = 4 << 20
PLAIN, GZIP, PARQUET = "JSON lines", "gzip", "Parquet"
ENDINGS = {
    ".jsonl": PLAIN,
    ".ndjson": PLAIN,
    ".jsonl.gz": GZIP,
    ".ndjson.gz": GZIP,
    ".parquet": PARQUET,
}


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a job."""

    target: Path
    kind: str

    @classmethod
    def of(cls, target: Path) -> Places:
        """By the output's name. Errors: OptionError."""
        kind = next((kind for ending, kind in ENDINGS.items() if target.name.lower().endswith(ending)), None)
        if kind is None:
            raise OptionError(
                f"{target}: expected an output that ends in .jsonl, .jsonl.gz or .parquet, found "
                f"{target.suffix or 'no ending'}; its ending says what is written"
            )
        if target.is_dir():
            raise OptionError(f"{target}: expected a file to write, found a folder")
        if not target.parent.is_dir():
            raise OptionError(
                f"{target}: the folder {target.parent} does not exist; make it first: mkdir -p {target.parent}"
            )
        return cls(target, kind)

    @property
    def journal(self) -> Path:
        """Where results are added: the output itself, or what it is made of at the end."""
        return self.target if self.kind == PLAIN else self._beside("rows.jsonl")

    @property
    def ahead(self) -> Path:
        """Results that wait for their turn."""
        return self._beside("ahead")

    @property
    def state(self) -> Path:
        """What the job is."""
        return self._beside("job.json")

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that a job may write or remove, those it makes on the way too."""
        own = tuple(dict.fromkeys((self.target, self.journal, self.ahead, self.state)))
        return (*own, *(path.with_name(f"{path.name}.new") for path in own))

    def existing(self) -> list[Path]:
        """Those of the files that hold anything: a file of results without any, and nothing beside it, is no job."""
        own = dict.fromkeys((self.target, self.journal, self.ahead, self.state))
        return [path for path in own if _size(path) > (0 if path == self.journal else -1)]

    @contextmanager
    def claimed(self) -> Iterator[Appender]:
        """The journal, and with it all of the files: no other command has them meanwhile.

        It is removed again if no job was begun in it. Errors: OptionError if another command is at them; OSError.
        """
        was_there = self.journal.exists()
        try:
            journal = Appender(self.journal)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.target)) from None
        try:
            yield journal
        finally:
            is_beside = self.journal != self.target
            is_begun = self.state.exists() and not (is_beside and self.target.exists())
            if not journal.size and not is_begun and (is_beside or not was_there):
                with suppress(OSError):  # Windows removes no open file
                    self.journal.unlink()
            journal.close()

    def _beside(self, ending: str) -> Path:
        return self.target.with_name(f"{self.target.name}.{ending}")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What made the results of a file."""

    source: str
    n_rows: int
    digest: str
    is_whole: bool
    """Whether the input had no more rows than that."""
    seed: int
    seed_is_given: bool
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    form: Mapping[str, Any]
    """What rows hold, and in which order."""
    version: str
    finished_rows: int | None = None
    """How many rows the output holds, once it is written as a whole."""
    finished_failed: int | None = None
    """How many of them have an error."""
    format: int = field(default=FORMAT)

    def save(self, path: Path) -> None:
        """Errors: OSError."""
        replaced(path, lambda made: _write(made, json.dumps(asdict(self), indent=1) + "\n"))

    @classmethod
    def load(cls, path: Path) -> State:
        """Errors: OptionError for a file that is none; OSError."""
        try:
            if path.stat().st_size > MAX_STATE_BYTES:
                raise ValueError
            values = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**values)
            if found.format != FORMAT or not isinstance(found.n_rows, int) or not isinstance(found.seed, int):
                raise ValueError
        except (ValueError, TypeError, RecursionError):
            raise OptionError(
                f"{path}: is not what a job of this version writes; start anew with --overwrite, or move it away"
            ) from None
        return found

    def continued(self, now: State, scan: Scan, where: str) -> State:
        """The job that goes on, in a run that asks for `now`. Errors: OptionError, which says what differs."""
        differences = list(self._differences(now, scan))
        if differences:
            raise OptionError(
                f"{where} is of another job: {'; '.join(differences)}; use what it was made with, "
                "another output, or --overwrite"
            )
        is_longer = now.n_rows > self.n_rows
        grown = now if is_longer else self
        return replace(
            grown,
            seed=self.seed,
            seed_is_given=self.seed_is_given,
            version=self.version,
            finished_rows=self.finished_rows,
            finished_failed=self.finished_failed,
        )

    def _differences(self, now: State, scan: Scan) -> Iterator[str]:
        if scan.digest_at is None:
            yield f"the input had {self.n_rows:,} rows and has fewer"
        elif scan.digest_at != self.digest:
            yield f"the input's first {self.n_rows:,} rows have changed (it was {self.source})"
        elif self.is_whole and now.n_rows > self.n_rows:
            yield f"the input had {self.n_rows:,} rows and has more"
        if now.seed_is_given and now.seed != self.seed:
            yield f"seed was {self.seed}, is {now.seed}"
        for old, new in ((self.model, now.model), (self.settings, now.settings), (self.form, now.form)):
            for name in dict.fromkeys((*old, *new)):
                if old.get(name) != new.get(name):
                    yield f"{name} was {_shown(old, name)}, is {_shown(new, name)}"


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back; a function is its name."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values), default=_name))
    return found


def _size(path: Path) -> int:
    """-1: it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _name(value: object) -> str:
    return str(getattr(value, "__qualname__", None) or value)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if values.get(name) is not None else "not set"
