"""How likely given ids are after others. In: pairs of ids. Out: log-probabilities. Knows no text and no harness.

Pairs that differ in their last id alone are one job: the row before that id says all. What others have in common at their
beginning is computed once too, by the model's prefix cache; those that begin alike are asked for one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.config import GenerationConfig
from fanlight.errors import ContextOverflow, OptionError
from fanlight.jobs import Job

if TYPE_CHECKING:
    from fanlight.api import Model
    from fanlight.generation import Generation

Ids = tuple[int, ...]

ALONE = GenerationConfig(candidates=1)
"""The given ids' own records are enough."""
SHARED = GenerationConfig(candidates=1, output_logits=True)
"""Several last ids are read from one row."""


class Score(NamedTuple):
    """Of the second ids of a pair, after the first."""

    logprob: float
    """Natural logarithm, of the model's own distribution: no processor has touched it."""
    is_greedy: bool
    """Each of them was the most probable one; of equal ones the lowest id counts."""


class Work(NamedTuple):
    """What it cost."""

    n_computed: int
    """Tokens that went through the model as a prompt."""
    n_reused: int
    """Prompt tokens taken from the prefix cache."""
    n_jobs: int


def fitted(before: Sequence[int], given: Sequence[int], window: int) -> tuple[Ids, Ids]:
    """The pair with as much of its beginning left out as makes it fit a window.

    The last id goes through no model, so that window + 1 ids fit. Errors: OptionError for a side without ids, ContextOverflow
    for given ids that fit no window of this length.
    """
    if not before or not given:
        raise OptionError(
            f"scoring needs at least one id before and one to be scored: found {len(before)} and {len(given)}"
        )
    if len(given) > window:
        raise ContextOverflow(
            f"{len(given)} tokens are to be scored, the window holds {window}; raise max_length or shorten the continuation"
        )
    return tuple(before[-(window + 1 - len(given)) :]), tuple(given)


def score(
    model: Model,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    max_batch: int,
    done: Callable[[int, Score], None] = lambda index, found: None,
) -> tuple[list[Score], Work]:
    """The score of every pair (ids before, ids given), in order. done: told each as it comes, with the pair's number.

    Errors: those of `Model.generate_each`.
    """
    alike: dict[tuple[Ids, Ids], list[int]] = {}  # the ids before, and all but the last of those given -> pairs
    for index, (before, given) in enumerate(pairs):
        alike.setdefault((before, given[:-1]), []).append(index)
    groups = list(alike.values())
    order = sorted(
        range(len(groups)), key=lambda key: pairs[groups[key][0]]
    )  # what is shared is not evicted in between

    def jobs() -> Iterator[Job]:
        for key in order:
            before, given = pairs[groups[key][0]]
            several = len({pairs[index][1][-1] for index in groups[key]}) > 1
            yield Job(key, before, SHARED if several else ALONE, given=given)

    found: dict[int, Score] = {}
    n_computed = n_reused = 0
    for outcome in model.generate_each(jobs(), max_batch=max_batch):
        if outcome.error is not None:
            raise outcome.error
        assert isinstance(outcome.key, int)
        assert outcome.generation is not None
        n_computed += outcome.generation.usage.n_computed
        n_reused += outcome.generation.usage.n_reused
        for index in groups[outcome.key]:
            found[index] = _score(outcome.generation, pairs[index][1][-1])
            done(index, found[index])
    return [found[index] for index in range(len(pairs))], Work(n_computed, n_reused, len(groups))


def _score(generation: Generation, last: int) -> Score:
    """With this id in the last place."""
    *earlier, end = [step.record for step in generation.steps]
    logprob = sum(record.raw_logprob for record in earlier)
    is_greedy = all(record.raw_rank == 0 for record in earlier)
    if last == end.id:
        return Score(logprob + end.raw_logprob, is_greedy and end.raw_rank == 0)
    row = generation.logits[-1]
    return Score(logprob + float(row[last]) - end.raw.logsumexp, is_greedy and int(row.argmax()) == last)
