"""Models for workers on Ray that do what real ones must not: be slow, or end their process. Imported by the workers too."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from fanlight.api import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from fanlight.decoding.config import GenerationConfig
    from fanlight.jobs import Job, Outcome

POISON = "poison"


class Troubled:
    """A model that takes its time for every text, and whose process ends at a prompt that is POISON."""

    def __init__(self, folder: str, pause_seconds: float = 0.0, *, threads: int | None = None) -> None:
        self._model = load(folder, threads=threads)
        self._pause_seconds = pause_seconds

    def settings(self, **options: Any) -> GenerationConfig:
        return self._model.settings(**options)

    def generate_each(self, jobs: Iterable[Job], *, max_batch: int = 16) -> Iterator[Outcome]:
        for outcome in self._model.generate_each(self._checked(jobs), max_batch=max_batch):
            time.sleep(self._pause_seconds)
            yield outcome

    def _checked(self, jobs: Iterable[Job]) -> Iterator[Job]:
        for job in jobs:
            if job.prompt == POISON:
                os._exit(7)
            yield job
