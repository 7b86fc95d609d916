"""One decoding step: processors -> choice -> accounting. In: ids so far, a logits row (1, n_vocab). Out: a Decision.

The only copy of these three: greedy, sampling, a row of a batch, a beam and a guess being verified all come through here.
Knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isinf
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.processors import Processor, Surroundings, build_processors
from fanlight.decoding.sampler import Choice, describe, pick
from fanlight.errors import NumericError
from fanlight.trace.records import Guess, ProcessorEffect, StepRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor

WHOLE_VOCABULARY = -1
NONE: Mapping[str, Tensor] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What `decide` needs of a request, made ready once."""

    processors: tuple[Processor, ...]
    sample: bool
    seed: int
    eos_ids: tuple[int, ...]
    """Tokens whose probability counts as that of ending."""
    candidates: int
    """0: no record; -1: the whole vocabulary."""
    ops: Ops
    keep_raw: bool = False
    """Whether a Decision holds the raw row."""
    keep_final: bool = False
    """Whether a Decision holds the final row."""
    remembers: bool = False
    """Whether a processor changes with what is chosen."""
    n_prompt: int = 0
    begin: tuple[int, ...] = ()
    """What the text begins with, after n_prompt ids: these are not chosen, but accounted for."""

    @classmethod
    def of(cls, config: GenerationConfig, around: Surroundings) -> StepSettings:
        """The settings of `config`, with the seed and the end-of-sequence ids that are in force."""
        processors = build_processors(config, around)
        return cls(
            processors=processors,
            sample=config.samples,
            seed=around.seed % 2**64,
            eos_ids=tuple(dict.fromkeys(around.eos_ids)),  # a probability is counted once
            candidates=config.candidates,
            ops=around.ops,
            keep_raw=config.output_logits,
            keep_final=config.output_scores,
            remembers=any(processor.remembers for processor in processors),
        )

    @property
    def besides(self) -> tuple[str, ...]:
        """Which other rows the processors read."""
        return tuple(dict.fromkeys(p.beside for p in self.processors if p.beside is not None))


class Decision(NamedTuple):
    """A chosen token, and what the step saw if it was asked to look."""

    choice: Choice
    record: StepRecord | None
    processors: tuple[Processor, ...] | None = None
    """Those of the next step, where one remembers."""
    raw: Tensor | None = None
    final: Tensor | None = None
    guess: Guess | None = None
    """What a drafter had guessed."""
    states: NDArray[np.float32] | None = None
    """With output_hidden_states: the residual stream before the choice, after 0, 1, ... blocks: (n_layer + 1, n_embd)."""


def process(
    ids: Sequence[int], logits: Tensor, processors: Sequence[Processor], others: Mapping[str, Tensor] = NONE
) -> list[Tensor]:
    """The row after each processor, the raw one first. others: the rows that `Processor.beside` names."""
    rows = [logits]
    for processor in processors:
        if processor.beside is None:
            rows.append(processor(ids, rows[-1]))
        else:
            rows.append(processor.between(ids, rows[-1], others[processor.beside]))
    return rows


def decide(ids: Sequence[int], logits: Tensor, settings: StepSettings, others: Mapping[str, Tensor] = NONE) -> Decision:
    """Choose the token at position len(ids). Raises NumericError if nothing can be chosen.

    Looking changes nothing: the record is made from the same rows after the choice.
    """
    rows = process(ids, logits, settings.processors, others)
    if settings.begin and len(ids) - settings.n_prompt < len(settings.begin):
        return settle(settings.begin[len(ids) - settings.n_prompt], ids, rows, settings, drawn=False)
    try:
        token = pick(rows[-1], seed=settings.seed, position=len(ids), sample=settings.sample, ops=settings.ops)
    except NumericError as error:
        raise _blamed(error, rows, settings) from None
    return settle(token, ids, rows, settings)


def _blamed(error: NumericError, rows: Sequence[Tensor], settings: StepSettings) -> NumericError:
    """The same error, with the processor that took the last token, if one did."""
    for processor, before, after in zip(settings.processors, rows, rows[1:], strict=False):
        if settings.ops.top(before, 1)[0] and not settings.ops.top(after, 1)[0]:
            return NumericError(f"no token is left after {processor.label}; loosen it, or what stands before it")
    return error


def settle(
    token: int, ids: Sequence[int], rows: Sequence[Tensor], settings: StepSettings, *, drawn: bool | None = None
) -> Decision:
    """The Decision for a token that was chosen from rows[-1], by `decide` or by a search. drawn: whether noise had a part."""
    drawn = settings.sample if drawn is None else drawn
    if settings.candidates:
        choice, record = account(token, len(ids), rows, settings, drawn=drawn)
    else:
        choice, record = Choice(token), None
    later = None
    if settings.remembers:
        steps = zip(settings.processors, rows, rows[1:], strict=False)
        later = tuple(processor.after(token, before, result) for processor, before, result in steps)
    raw = rows[0] if settings.keep_raw else None
    final = rows[-1] if settings.keep_final else None
    return Decision(choice, record, later, raw, final)


def account(
    token: int, position: int, rows: Sequence[Tensor], settings: StepSettings, *, drawn: bool
) -> tuple[Choice, StepRecord]:
    """The record of a choice: rows[0] is raw, rows[i] what processor i - 1 made of it.

    The candidates are the most probable tokens of the raw row, then those of the final row that are not among them, then
    the chosen one. Costs one pass over each row, and two or three more.
    """
    ops = settings.ops
    rows = _readable(rows, settings)
    n = rows[0].shape[1] if settings.candidates == WHOLE_VOCABULARY else settings.candidates
    raw = ops.stats(rows[0])
    first_ids, leading = ops.top(rows[0], max(n, 2))
    ids, logits = first_ids[:n], leading[:n]
    n_raw = len(ids)
    if len(rows) > 1:
        first_ids, leading = ops.top(rows[-1], max(n, 2))
        known = set(ids)
        more = [candidate for candidate in first_ids[:n] if candidate not in known]
        if token not in known and token not in more:
            more.append(token)
    else:
        more = [] if token in ids else [token]
    if more:
        ids += more
        logits += ops.gather(rows[0], more)
    chosen = ids.index(token)
    raw_rank = chosen if chosen < n_raw else ops.rank(rows[0], token)
    raw_logits = tuple(logits)

    effects = []
    before, previous = raw, rows[0]
    for processor, row in zip(settings.processors, rows[1:], strict=True):
        after = ops.stats(row)
        logits = ops.gather(row, ids)
        kept = None
        if not processor.removes and after.n_kept < before.n_kept:
            kept = _kept_logsumexp(previous, row, ops)
        seen = (processor.label, processor.removes, before, after, tuple(logits), processor.name, processor.value, kept)
        effects.append(ProcessorEffect(*seen))
        before, previous = after, row

    choice = describe(token, logits[chosen], rows[-1], before, ops, leading)
    noise, runner_up, lead = None, None, None
    if drawn:
        noise = tuple(ops.gumbel(settings.seed, position, ids))
        best, scores = ops.gumbel_top(rows[-1], settings.seed, position, 2)
        if len(best) > 1:
            runner_up = best[1] if best[0] == token else best[0]
            lead = logits[chosen] + noise[chosen] - scores[best.index(runner_up)]
    else:
        runner_up = next((candidate for candidate in first_ids if candidate != token), None)
    ends = ops.gather(rows[0], settings.eos_ids)
    last = ops.gather(rows[-1], settings.eos_ids) if effects else ends
    record = StepRecord(
        position=position,
        id=token,
        candidate_ids=tuple(ids),
        raw_logits=raw_logits,
        raw=raw,
        effects=tuple(effects),
        raw_rank=raw_rank,
        final_rank=choice.rank or 0,
        margin=choice.margin,
        eos_prob=sum(exp(logit - raw.logsumexp) for logit in ends),
        final_eos_prob=sum(exp(logit - before.logsumexp) for logit in last if not isinf(logit)),
        n_top=n_raw,
        noise=noise,
        runner_up=runner_up,
        lead=lead,
    )
    return choice, record


def _kept_logsumexp(before: Tensor, after: Tensor, ops: Ops) -> float:
    """Over the logits before of the tokens that are left after; -inf if none is."""
    left = ops.blend(before, after, 1.0, 0.0)
    return ops.stats(left).logsumexp if ops.top(left, 1)[0] else -inf


def _readable(rows: Sequence[Tensor], settings: StepSettings) -> Sequence[Tensor]:
    """The rows as sums can be taken of them: those before remove_invalid_values as it reads them, if it is there."""
    repairs = [i for i, processor in enumerate(settings.processors) if processor.name == "remove_invalid_values"]
    return [*map(settings.ops.finite, rows[: repairs[0] + 1]), *rows[repairs[0] + 1 :]] if repairs else rows
