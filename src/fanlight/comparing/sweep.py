"""A grid of settings over many prompts -> a Sweep; every text also goes to a file of JSON lines, with which a killed run goes on.

In: a Writer (a Model is one), prompts, the values of each option. Every point of the grid sees the same prompts with the same
seeds. Jobs are made as they are needed, prompt by prompt, so that the points share a prompt's prefix and memory stays flat.
Knows no terminal.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight import errors
from fanlight.comparing.grammar import Spec, label_of, read_value, split, unquoted
from fanlight.comparing.journal import Journal, read_head
from fanlight.comparing.prompts import Prompt, take_prompts
from fanlight.comparing.records import plain
from fanlight.comparing.run import Writer, drawn_notes, seeded
from fanlight.comparing.settings import MOST_SAMPLES, MOST_VARIANTS, Base, Setting, checked_count, resolve
from fanlight.comparing.sweep_records import Measured, Sweep, Tally
from fanlight.decoding.config import DEFAULTS, GenerationConfig, check_names
from fanlight.decoding.presets import preset as preset_options
from fanlight.engine.request import seed_of
from fanlight.errors import FanlightError, OptionError
from fanlight.jobs import Job

if TYPE_CHECKING:
    from os import PathLike

    from fanlight.generation import Generation

MAX_BATCH = 16
KIND, VERSION = "fanlight sweep", 1
NO_AXES = ("seed", "candidates", "num_return_sequences")
"""Options that cannot be an axis: they change no setting."""
Progress = Callable[[int, int, int], None]
"""Called with (texts that are there, texts in all, tokens of this run)."""
Grid = Mapping[str, Sequence[Any]]


class Key(NamedTuple):
    """Which text a job is for."""

    point: int
    prompt: int
    sample: int


def sweep(
    model: Writer,
    prompts: Iterable[Any],
    grid: Grid,
    *,
    samples: int = 1,
    seed: int | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    max_batch: int = MAX_BATCH,
    progress: Progress | None = None,
    preset: str | None = None,
    file: str | PathLike[str] | None = None,
    **options: Any,
) -> Sweep:
    """Every point of a grid x prompt x sample, measured.

    prompts: texts, ids, chats, or objects {"id": ..., "prompt": ...}. grid: the values of each option, as in
    {"temperature": [0.5, 0.8], "top_p": [0.9, 1.0]}; "preset" and "file" are options too. samples: texts of each prompt at a point
    that draws. out: the file that the texts go to; it must be new, unless `resume`, which goes on where a run was ended. seed:
    None draws one, or takes the file's. preset, file, options: what all points share.

    A text that fails is counted, said in the notes, and has its error in the file. If all do, the first error is raised, and is
    raised again by a `resume`. Errors: OptionError.
    """
    checked_count("samples", samples, MOST_SAMPLES)
    checked_count("max_batch", max_batch, 512)
    asked = take_prompts(prompts)
    axes = checked_grid(grid)
    base = Base(preset=preset, file=file, options=options, own={"candidates": 1})
    settings = resolve(points_of(axes), base, model.defaults)
    if seed is None and resume and out is not None:
        seed = _seed_of_file(out)
    seed = seed_of(GenerationConfig(seed=seed))
    tallies = [
        Tally(setting.label, point, setting.draws, samples)
        for setting, point in zip(settings, _options(axes), strict=True)
    ]
    run = _Run(model, asked, settings, tallies, samples, seed)
    with ExitStack() as stack:
        journal = None
        if out is not None:
            journal = stack.enter_context(Journal(out, run.head(axes), resume=resume))
            for row in journal.rows:
                run.take(row, str(journal.path))
            journal.rows = []
        started = time.perf_counter()
        run.go(journal, max_batch, progress)
        seconds = time.perf_counter() - started
    names = [prompt.id for prompt in asked]
    failed = [] if run.first_error is None else [_failed_note(tallies, run.first_error, out)]
    return Sweep(
        model=model.name,
        axes=axes,
        points=tuple(tally.point(names) for tally in tallies),
        n_prompts=len(asked),
        samples=samples,
        seed=seed,
        seconds=seconds,
        n_new=run.n_new,
        n_new_tokens=run.n_new_tokens,
        path=None if out is None else str(out),
        first_error=None if run.first_error is None else str(run.first_error),
        notes=(*failed, *drawn_notes(settings), *dict.fromkeys(note for setting in settings for note in setting.notes)),
    )


# -- the grid ------------------------------------------------------------------------------------------------------------


def read_grid(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Axes in words, "temperature=0.5,0.8", values as in `fanlight compare --with`. Errors: OptionError."""
    axes: dict[str, tuple[Any, ...]] = {}
    for word in words:
        name, is_axis, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not is_axis or not name or not text.strip():
            raise OptionError(
                f"an axis of the grid is OPTION=VALUE,VALUE,..., as in temperature=0.5,0.8: got {word!r:.80}"
            )
        if name in axes:
            raise OptionError(f"two axes are called {name}; give all of its values in one")
        if name not in ("preset", "file"):
            check_names({name: text})
        try:
            values = split(text)
            axes[name] = tuple(
                unquoted(value) if name in ("preset", "file") else read_value(name, value) for value in values
            )
        except OptionError as error:
            raise OptionError(f"grid {word!r:.80}: {error}") from None
    return checked_grid(axes)


def checked_grid(grid: Grid) -> dict[str, tuple[Any, ...]]:
    """The same, with names and sizes checked. Errors: OptionError."""
    if not isinstance(grid, Mapping) or not grid:
        raise OptionError('the grid is a mapping of options to their values, as in {"temperature": [0.5, 0.8]}')
    axes: dict[str, tuple[Any, ...]] = {}
    n = 1
    for name, values in grid.items():
        if name in NO_AXES:
            raise OptionError(
                f"{name} cannot be an axis of the grid; samples says how many texts there are of each point"
            )
        if name not in ("preset", "file"):
            check_names({name: None})
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
            raise OptionError(f"grid: {name} needs a list of values: got {values!r:.80}")
        if any(value in values[:i] for i, value in enumerate(values)):
            raise OptionError(f"grid: {name} has a value twice: {', '.join(map(str, values)):.80}")
        for value in values if name == "preset" else ():
            preset_options(value)
        axes[name] = tuple(values)
        n *= len(values)
    if n > MOST_VARIANTS:
        raise OptionError(f"the grid has {n} points, at most {MOST_VARIANTS} are swept; give fewer values")
    return axes


def points_of(axes: Grid) -> list[Spec]:
    """A setting for every point; the last axis changes fastest."""
    return [
        Spec(
            label=label_of(options),
            preset=options.get("preset"),
            file=options.get("file"),
            options={name: value for name, value in options.items() if name not in ("preset", "file")},
        )
        for options in _options(axes)
    ]


def _options(axes: Grid) -> Iterator[dict[str, Any]]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


# -- the run -------------------------------------------------------------------------------------------------------------


class _Run:
    """What is there and what is to be done."""

    def __init__(
        self,
        model: Writer,
        prompts: Sequence[Prompt],
        settings: Sequence[Setting],
        tallies: Sequence[Tally],
        samples: int,
        seed: int,
    ) -> None:
        self.n_new = self.n_new_tokens = 0
        self.first_error: FanlightError | None = None
        self._model, self._prompts, self._settings = model, prompts, settings
        self._tallies, self._samples, self._seed = tallies, samples, seed
        self._numbers = {prompt.id: i for i, prompt in enumerate(prompts)}
        self._done: set[Key] = set()
        self._n_good = 0

    def head(self, axes: Grid) -> dict[str, Any]:
        """What a file must be of, to be gone on with."""
        digest = hashlib.sha256(json.dumps([prompt.plain() for prompt in self._prompts]).encode())
        return {
            "kind": KIND,
            "version": VERSION,
            "model": {"name": self._model.name, "n_vocab": self._model.tokenizer.n_vocab},
            "grid": {name: [plain(value) for value in values] for name, values in axes.items()},
            "samples": self._samples,
            "seed": self._seed,
            "prompts": {"n": len(self._prompts), "sha256": digest.hexdigest()},
            "settings": [_set(setting.config) for setting in self._settings],
        }

    def take(self, row: Mapping[str, Any], where: str) -> None:
        """A text that a run before this one has made. Errors: OptionError."""
        try:
            key = Key(row["point"], self._numbers[row["prompt"]], row["sample"])
            known = 0 <= key.sample < self._tallies[key.point].n_expected and key.point >= 0
            text = None if row.get("error") is not None else _measured(row)
        except (KeyError, IndexError, TypeError, ValueError):
            known = False
        if not known or key in self._done:
            raise OptionError(
                f"{where}: has a line that is not of this sweep, or is there twice: {json.dumps(row):.100}"
            )
        self._done.add(key)
        self._tallies[key.point].add(row["prompt"], text)
        if text is None:
            self.first_error = self.first_error or _error_of(row)
        else:
            self._n_good += 1

    def go(self, journal: Journal | None, max_batch: int, progress: Progress | None) -> None:
        """Make what is missing. Errors: the first one, if no text is there at the end, be it of this run or of one before it."""
        total = sum(tally.n_expected for tally in self._tallies) * len(self._prompts)
        say = progress or (lambda done, total, tokens: None)
        say(len(self._done), total, 0)
        outcomes = self._model.generate_each(self._jobs(), max_batch=max_batch) if len(self._done) < total else ()
        for key, generation, error in outcomes:
            assert isinstance(key, Key)
            prompt = self._prompts[key.prompt].id
            row: dict[str, Any] = {"prompt": prompt, "point": key.point, "sample": key.sample}
            if generation is None:
                self.first_error = self.first_error or error
                row |= {"error": str(error), "error_kind": type(error).__name__}
            else:
                row |= _row(generation, self._tallies[key.point].label)
                self._n_good += 1
                self.n_new_tokens += row["n_tokens"]
            if journal is not None:
                journal.add(row)
            self._tallies[key.point].add(prompt, None if generation is None else _measured(row))
            self._done.add(key)
            self.n_new += 1
            say(len(self._done), total, self.n_new_tokens)
        if not self._n_good and self.first_error is not None:
            raise self.first_error

    def _jobs(self) -> Iterator[Job]:
        done = frozenset(self._done)
        for i, prompt in enumerate(self._prompts):
            for j, (setting, tally) in enumerate(zip(self._settings, self._tallies, strict=True)):
                for sample in range(tally.n_expected):
                    key = Key(j, i, sample)
                    if key not in done:
                        yield Job(key, prompt.value, seeded(setting.config, self._seed, sample))


def _row(generation: Generation, label: str) -> dict[str, Any]:
    """A text for the file, with what measures need."""
    records = [step.record for step in generation.steps]
    ids, stop = list(generation.ids), generation.stop
    return {
        "setting": label,
        "seed": generation.seed,
        "text": generation.text,
        "ids": ids,
        "ended_by_token": bool(ids) and stop.token is not None and ids[-1] == stop.token,
        "stop": {"reason": stop.reason.value, "detail": stop.detail},
        "n_tokens": len(ids),
        "logprob": sum(record.raw_logprob for record in records),
        "entropy": sum(record.raw_entropy for record in records) / len(records) if records else None,
    }


def _error_of(row: Mapping[str, Any]) -> FanlightError:
    """The error of a text that failed, as the run that made the line raised it."""
    kind = getattr(errors, str(row.get("error_kind")), None)
    if isinstance(kind, type) and issubclass(kind, FanlightError):
        return kind(row["error"])
    return FanlightError(row["error"])


def _failed_note(tallies: Sequence[Tally], first: FanlightError, out: str | PathLike[str] | None) -> str:
    n, total = sum(tally.n_failed for tally in tallies), sum(tally.n_texts for tally in tallies)
    where = "" if out is None else f", {'its error is' if n == 1 else 'their errors are'} in {out}"
    return f"{n:,} of {total:,} texts failed{where}; {'' if n == 1 else 'the first: '}{first}"


def _measured(row: Mapping[str, Any]) -> Measured:
    ids = tuple(row["ids"])
    written = ids[:-1] if row["ended_by_token"] else ids
    entropy = row["entropy"]
    return Measured(
        written,
        len(ids),
        float(row["logprob"]),
        None if entropy is None else float(entropy),
        str(row["stop"]["reason"]),
    )


def _set(config: GenerationConfig) -> dict[str, Any]:
    """What of a config is away from its default and changes texts."""
    return {
        name: plain(value)
        for name, value in config.values().items()
        if value != DEFAULTS[name] and name not in ("seed", "candidates")
    }


def _seed_of_file(path: str | PathLike[str]) -> int | None:
    head = read_head(path)
    seed = None if head is None else head.get("seed")
    return seed if isinstance(seed, int) else None
