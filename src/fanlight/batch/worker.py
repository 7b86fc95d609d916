"""Rows -> results, by one model and its continuous batching. Knows no file; whether it runs here or on another machine is the same.

In: rows, in any order. Out: each with its result (`rows.result_of`), in the order in which they end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fanlight.batch.rows import Row, StepJson, check_arrays, error_of, fresh_seed, result_of, row_seed
from fanlight.errors import FanlightError, OptionError
from fanlight.jobs import Job

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.jobs import Outcome

MAX_BATCH = 16
MAX_REFUSED = 256
"""Rows refused in a row, after which they are handed on before more are read."""


def checked_batch(max_batch: object) -> int:
    """How many rows at once; None: the default. Errors: OptionError."""
    if max_batch is None:
        return MAX_BATCH
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise OptionError(f"max_batch must be a whole number from 1: got {max_batch!r:.80}")
    return max_batch


class BatchModel(Protocol):
    """What of `fanlight.Model` a worker needs."""

    def settings(self, **options: Any) -> GenerationConfig:
        """The model's own settings, and these over them."""

    def generate_each(self, jobs: Iterable[Job], *, max_batch: int = MAX_BATCH) -> Iterator[Outcome]:
        """Jobs taken as there is room, each outcome when it is there."""


class Worker:
    """Runs rows on a model."""

    def __init__(
        self,
        model: BatchModel,
        base: Mapping[str, Any] | None = None,
        max_batch: int = MAX_BATCH,
        *,
        steps: StepJson | None = None,
    ) -> None:
        """base: what `model.settings` takes, under each row's own settings; its seed is the job's, of which rows get theirs.

        steps: what to keep of each step; None: nothing, and no step is recorded unless base asks for it. Errors: OptionError.
        """
        options = {"candidates": 0, **(base or {})} if steps is None else dict(base or {})
        seed = options.pop("seed", None)
        self._model, self._max_batch, self._steps = model, checked_batch(max_batch), steps
        self._seed: int = fresh_seed() if seed is None else seed
        self._base = model.settings(**options)
        check_arrays(lambda name: getattr(self._base, name))
        self._known_notes = frozenset(self._base.notes())

    def config_of(self, row: Row) -> GenerationConfig:
        """A row's settings, over those of the job. Errors: OptionError."""
        from fanlight.decoding.presets import preset

        settings = dict(row.settings)
        name = settings.pop("preset", None)
        options = {**(preset(name) if name is not None else {}), **settings}
        is_drawn, knows_seed = self._base.samples, settings.get("seed") is not None
        if options.keys() & {"do_sample", "temperature"}:
            is_drawn = self._base.replace(**options).samples
        if is_drawn and not knows_seed:
            options["seed"] = row_seed(self._seed, row.id)
        return self._base.replace(**options) if options else self._base

    def run(self, rows: Iterable[Row]) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Each row with its result, in the order in which they end. Rows are read as there is room for them."""
        rows = iter(rows)
        refused: deque[tuple[Row, dict[str, Any]]] = deque()
        running: dict[int, Row] = {}
        at_end = False

        def jobs() -> Iterator[Job]:
            nonlocal at_end
            while len(refused) < MAX_REFUSED:
                row = next(rows, None)
                if row is None:
                    at_end = True
                    return
                try:
                    config = self.config_of(row)
                except (FanlightError, RecursionError) as fault:
                    error = fault if isinstance(fault, FanlightError) else OptionError("settings nested too deeply")
                    refused.append((row, error_of(row.index, row.id, error, row.metadata)))
                    continue
                running[row.index] = row
                yield Job(row.index, row.prompt, config)

        while not at_end:
            for outcome in self._model.generate_each(jobs(), max_batch=self._max_batch):
                while refused:
                    yield refused.popleft()
                row = running.pop(outcome.key)  # type: ignore[call-overload]
                known = self._known_notes if row.settings else None  # without any, there is nothing new to say
                yield row, result_of(row, outcome, steps=self._steps, known_notes=known)
            while refused:
                yield refused.popleft()
