"""One decoding step: processors -> choice -> accounting. In: ids so far, a logits row (1, n_vocab). Out: a Decision.

The only copy of these three: greedy, sampling and a row of a batch all come through here. Knows no model and no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.processors import Processor, build_processors
from fanlight.decoding.sampler import Choice, describe, pick
from fanlight.trace.records import ProcessorEffect, StepRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What `decide` needs of a request, made ready once."""

    processors: tuple[Processor, ...]
    sample: bool
    seed: int
    eos_ids: tuple[int, ...]
    """Tokens whose probability counts as that of ending."""
    candidates: int
    """0: no record."""
    ops: Ops

    @classmethod
    def of(cls, config: GenerationConfig, *, seed: int, eos_ids: Sequence[int], ops: Ops) -> StepSettings:
        """The settings of `config`, with the seed and the end-of-sequence ids that are in force."""
        return cls(
            processors=build_processors(config, ops),
            sample=config.samples,
            seed=seed % 2**64,
            eos_ids=tuple(dict.fromkeys(eos_ids)),  # a probability is counted once
            candidates=config.candidates,
            ops=ops,
        )


class Decision(NamedTuple):
    """A chosen token, and what the step saw if it was asked to look."""

    choice: Choice
    record: StepRecord | None


def decide(ids: Sequence[int], logits: Tensor, settings: StepSettings) -> Decision:
    """Choose the token at position len(ids). Raises NumericError if nothing can be chosen.

    Looking changes nothing: the record is made from the same rows after the choice.
    """
    rows = [logits]
    for processor in settings.processors:
        rows.append(processor(ids, rows[-1]))
    ops = settings.ops
    token = pick(rows[-1], seed=settings.seed, position=len(ids), sample=settings.sample, ops=ops)
    if not settings.candidates:
        return Decision(Choice(token), None)
    return _account(token, len(ids), rows, settings)


def _account(token: int, position: int, rows: Sequence[Tensor], settings: StepSettings) -> Decision:
    """The record of a choice: rows[0] is raw, rows[i] what processor i - 1 made of it.

    Costs one pass over each row, and two or three more.
    """
    ops = settings.ops
    raw = ops.stats(rows[0])
    ids, logits = ops.top(rows[0], settings.candidates)
    leading = () if settings.processors else tuple(logits)  # with no processor the final row is this one
    if token in ids:
        chosen = raw_rank = ids.index(token)
    else:
        chosen, raw_rank = len(ids), ops.rank(rows[0], token)
        ids.append(token)
        logits += ops.gather(rows[0], (token,))
    raw_logits = tuple(logits)

    effects = []
    before = raw
    for processor, row in zip(settings.processors, rows[1:], strict=True):
        after = ops.stats(row)
        logits = ops.gather(row, ids)
        effects.append(ProcessorEffect(processor.label, processor.removes, before, after, tuple(logits)))
        before = after

    choice = describe(token, logits[chosen], rows[-1], before, ops, leading)
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
        eos_prob=sum(exp(logit - raw.logsumexp) for logit in ops.gather(rows[0], settings.eos_ids)),
    )
    return Decision(choice, record)
