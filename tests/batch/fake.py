"""A model for batches without a model: texts are a hash of prompt and seed, and jobs end in an order that a seed decides.

It keeps to what `Model.generate_each` promises: jobs are taken as there is room, at most 2 max_batch are on their way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from fanlight.decoding.config import GenerationConfig
from fanlight.engine.request import Usage
from fanlight.errors import ContextOverflow, FanlightError
from fanlight.generation import Generation
from fanlight.jobs import Job, Outcome
from fanlight.trace.stop import Stop, StopReason

TOO_LONG = "too long"
SLOW = "slow"


def text_of(prompt: Any, config: GenerationConfig) -> str:
    """What the fake writes."""
    said = json.dumps(prompt, sort_keys=True) + repr((config.temperature, config.max_new_tokens))
    drawn = str(config.seed) if config.samples else ""
    return hashlib.sha256((said + drawn).encode()).hexdigest()[:12] + " é\n\u2028"


def generation_of(prompt: Any, config: GenerationConfig) -> Generation:
    seed = config.seed if config.seed is not None else 1
    return Generation(
        prompt_ids=(1, 2, 3),
        ids=(4, 5),
        text=text_of(prompt, config),
        stop=Stop(StopReason.MAX_NEW_TOKENS, "cut off"),
        steps=(),
        config=config,
        seed=seed,
        request_seed=seed,
        notes=(),
        prefill_seconds=0.1,
        decode_seconds=0.2,
        usage=Usage(n_reused=1, n_computed=2),
    )


class FakeModel:
    """See the module. slow_for: how many others end before a row that says `SLOW`."""

    name = "fake"

    def __init__(self, seed: int = 0, *, slow_for: int = 0) -> None:
        self._random = Random(seed)
        self._slow_for = slow_for
        self.n_begun = 0
        self.prompts: list[Any] = []

    def settings(self, **options: Any) -> GenerationConfig:
        preset = options.pop("preset", None)
        return GenerationConfig.preset(preset, **options) if preset else GenerationConfig.from_options(options)

    def generate_each(self, jobs: Iterable[Job], *, max_batch: int = 16) -> Iterator[Outcome]:
        queue, more = iter(jobs), True
        begun: list[Job] = []
        patience: dict[Any, int] = {}
        while more or begun:
            while more and len(begun) < 2 * max_batch:
                job = next(queue, None)
                if job is None:
                    more = False
                    break
                self.n_begun += 1
                self.prompts.append(job.prompt)
                begun.append(job)
                patience[job.key] = self._slow_for if job.prompt == SLOW else 0
            if not begun:
                return
            for key in patience:
                patience[key] -= 1
            ready = [i for i, job in enumerate(begun) if patience[job.key] < 0] or range(len(begun))
            job = begun.pop(self._random.choice(list(ready)))
            del patience[job.key]
            error: FanlightError | None = None
            if job.prompt == TOO_LONG:
                error = ContextOverflow("the prompt has 100 tokens, the context window holds 64; shorten the prompt")
            yield Outcome(job.key, None if error else generation_of(job.prompt, job.config), error)


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Each a line of JSON; a text is written as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
