"""Deciding recorded steps again under other settings, from the records alone. In: a trace, settings. Out: choices, or why not.

Choices are made by `decoding.step`, on the row as the record has it. What it does not hold is bounded (`partial.py`): by the least
stored logit, by the probability of all others, by what the original processors left, and by the draw: with the noise known, no
token can have had a logit with which it would have won. So a choice is either certain, or it is open. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from math import exp, inf, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fanlight.decoding.config import DEFAULTS
from fanlight.decoding.processors import SWITCHES, Processor, Surroundings, build_processors, makers
from fanlight.decoding.remembering import Mirostat2
from fanlight.decoding.shapes import Temperature
from fanlight.decoding.step import StepSettings, decide, process
from fanlight.errors import NumericError, OptionError
from fanlight.tracing.partial import Interval, Open, Partial, scaled, tail_mass
from fanlight.tracing.partial_steps import through

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Tensor
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

KEEP_ORDER = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "tfs", "top_a"),
        *("top_n_sigma", "mirostat", "renormalize_logits"),
    }
)
"""Processors that keep the order of the tokens, and remove none before one that they leave."""
ENDS = ("ignore_eos", "max_time", "stop_strings", "include_stop_string", "loop_repeats", "loop_min_tokens")
RECORDS = ("candidates", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
READ_BY: Mapping[str, tuple[str, ...]] = {
    **{option: names for processor, options in SWITCHES.items() for option in options for names in [(processor,)]},
    **dict.fromkeys((*ENDS, *RECORDS, "do_sample", "processors", "bos_token_id", "pad_token_id", "use_cache"), ()),
    **dict.fromkeys(("max_new_tokens", "max_length"), ("forced_eos_token_id",)),
    **dict.fromkeys(("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"), ("dry",)),
    **dict.fromkeys(
        ("repetition_penalty_range", "penalize_prompt"), ("repetition_penalty", "frequency_penalty", "presence_penalty")
    ),
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), ("mirostat",)),
    "dynatemp_exponent": ("temperature",),
    "smoothing_curve": ("smoothing_factor",),
    "adaptive_decay": ("adaptive_p",),
    "xtc_threshold": ("xtc",),
    "seed": ("xtc",),
    "mirostat": ("mirostat", "top_k"),
}
"""Option -> the processors it has a part in, where that is not the one of its name, or more."""


class Redecided(NamedTuple):
    """What other settings make of a step."""

    id: int | None
    """None: open."""
    original: Interval
    """The final probability of the token that the text has."""
    new: Interval | None
    record: StepRecord | None
    why: str
    """Why it is open."""


def affected(changed: Sequence[str]) -> frozenset[str] | None:
    """The processors that changed options have a part in; None: any of them."""
    known = makers()
    found: set[str] = set()
    for option in changed:
        if option in READ_BY:
            found.update(READ_BY[option])
        elif option in known:
            found.add(option)
        else:
            return None
    return frozenset(found)


class Redecider:
    """One trace under other settings. Steps are taken in their order: some processors remember what came."""

    def __init__(
        self,
        trace: Trace,
        config: GenerationConfig,
        *,
        own: GenerationConfig | None,
        around: Surroundings,
        own_around: Surroundings,
        own_choice: bool,
    ) -> None:
        """own: the settings that the trace was made with, if they are known. own_choice: whether they chose its tokens."""
        self._trace, self._ops, self._own_seed = trace, around.ops, own_around.seed % 2**64
        self._eos_ids = own_around.eos_ids
        candidates = (
            config.candidates if config.was_asked("candidates") and config.candidates else DEFAULTS["candidates"]
        )
        self._settings = replace(
            StepSettings.of(config, around), candidates=candidates, keep_raw=False, keep_final=False, remembers=False
        )
        self._processors: tuple[Processor, ...] = self._settings.processors
        self._lost: str = ""
        self._old: tuple[Processor, ...] = ()
        self._known_names: tuple[str, ...] | None = None
        self._own_choice = own_choice and own is not None
        self._own_sampled = own.samples if own is not None else False
        changed = ["seed"] if around.seed != own_around.seed else []
        if own is not None:
            try:
                self._old = build_processors(own, own_around)
                self._known_names = tuple(processor.name for processor in self._old)
            except OptionError:
                self._own_choice = False
            before, after = own.values(), config.values()
            changed += [name for name in before if name != "seed" and before[name] != after[name]]
        self._changed = affected(changed)
        self._same_draw = self._own_sampled == config.samples and around.seed == own_around.seed

    @cached_property
    def _n_shared(self) -> int:
        """How many processors, the first ones, are the same as those of the trace."""
        if self._changed is None:
            return 0
        n = 0
        for mine, theirs in zip(self._processors, self._old, strict=False):
            if mine.name != theirs.name or mine.name in self._changed or mine.name not in makers():
                break
            n += 1
        return n

    def step(self, record: StepRecord, ids: Sequence[int]) -> Redecided:
        """The choice after these ids."""
        is_known = tuple(effect.name for effect in record.effects) == self._known_names
        n_shared = self._n_shared if is_known else 0
        is_whole = sum(logit > -inf for logit in record.raw_logits) == record.raw.n_kept
        if not is_whole and is_known and self._same_settings:
            prob = exp(record.final_logprob)
            return Redecided(record.id, Interval(prob, prob), Interval(prob, prob), None, "")
        try:
            if is_whole:
                return self._decide(record, ids, self._row(record), 0)
            return self._bounded(record, ids, n_shared, is_known)
        except Open as reason:
            self._forget(0 if is_whole else n_shared, "a step before was open")
            return Redecided(None, Interval(0.0, 1.0), None, None, str(reason))

    @property
    def _same_settings(self) -> bool:
        """Whether nothing has changed that has a part in the choice: then the choice is that of the trace."""
        return (
            self._own_choice and self._same_draw and self._n_shared == len(self._old) == len(self._settings.processors)
        )

    # -- where all is known -------------------------------------------------------------------------------------------

    def _row(self, record: StepRecord) -> NDArray[np.float32]:
        row = np.full(self._trace.header.origin.n_vocab, -np.inf, np.float32)
        row[list(record.candidate_ids)] = record.raw_logits
        return row

    def _decide(self, record: StepRecord, ids: Sequence[int], row: NDArray[np.float32], first: int) -> Redecided:
        """From a row that is what it says, before the processor `first`."""
        if self._lost and any(processor.remembers for processor in self._processors[first:]):
            raise Open(self._lost)
        ops = self._ops
        settings = replace(self._settings, processors=self._processors[first:], keep_final=True)
        settings = replace(settings, candidates=0) if first else settings
        raw = ops.tensor(np.ascontiguousarray(row), len(row))
        try:
            decision = decide(ids, raw, settings)
        except NumericError as error:
            return Redecided(None, Interval(0.0, 0.0), None, None, str(error))
        if any(processor.remembers for processor in settings.processors):
            self._remember(first, process(ids, raw, settings.processors), record.id)
        assert decision.final is not None
        token, total = decision.choice.id, ops.stats(decision.final).logsumexp
        was, now = (exp(logit - total) for logit in ops.gather(decision.final, (record.id, token)))
        return Redecided(token, Interval(was, was), Interval(now, now), decision.record, "")

    def _remember(self, first: int, rows: Sequence[Tensor], token: int) -> None:
        """The processors of the next step: the text goes on as it was. rows: before and after each processor from `first` on."""
        later = list(self._processors)
        for i, (before, after) in enumerate(pairwise(rows), first):
            if not later[i].remembers:
                continue
            if self._ops.gather(after, (token,))[0] == -inf:
                self._forget(i, "it would have removed the token that the text goes on with")
                return
            later[i] = later[i].after(token, before, after)
        self._processors = tuple(later)

    def _forget(self, first: int, why: str) -> None:
        names = [processor.name for processor in self._processors[first:] if processor.remembers]
        if names and not self._lost:
            self._lost = f"{names[0]} follows what was chosen, and {why}"

    # -- where a part is known ----------------------------------------------------------------------------------------

    def _bounded(self, record: StepRecord, ids: Sequence[int], n_shared: int, is_known: bool) -> Redecided:
        state = self._begin(record)
        if not n_shared:
            state = self._with_facts(state, record, 0, is_known)
        for k, processor in enumerate(self._processors):
            if k < n_shared:
                state = self._through_shared(state, record, ids, k)
                if k == n_shared - 1:
                    state = self._with_facts(state, record, n_shared, is_known)
            else:
                if processor.remembers and self._lost:
                    raise Open(self._lost)
                state = through(state, processor, ids, self._ops)
                if processor.name == "top_k" and is_known:
                    state = self._as_before(state, record, n_shared, k)
                if processor.name == "renormalize_logits" and k < len(self._processors) - 1 and not state.is_exact:
                    raise Open(f"{processor.label} stands before {self._processors[k + 1].label}")
                if processor.remembers:
                    self._remember_partial(state, record.id, k)
            if state.is_exact and k >= n_shared - 1:
                return self._decide(record, ids, state.row, k + 1)
        if state.is_exact:
            return self._decide(record, ids, state.row, len(self._processors))
        row = self._ops.tensor(np.ascontiguousarray(state.row), len(state.row))
        token = decide(ids, row, replace(self._settings, processors=(), candidates=0)).choice.id
        if not state.must[token]:
            if state.stored[token]:
                raise Open(f"whether {self._trace.token_label(token)!r} is left depends on tokens that are not stored")
            raise Open(f"one of the tokens that are not stored, up to {state.n}, may come first")
        return Redecided(token, state.prob(record.id), state.prob(token), None, "")

    def _remember_partial(self, state: Partial, token: int, k: int) -> None:
        if isinstance(self._processors[k], Mirostat2) and state.is_exact and state.must[token]:
            row = self._ops.tensor(np.ascontiguousarray(state.row), len(state.row))  # it reads what it left alone
            later = list(self._processors)
            later[k] = later[k].after(token, row, row)
            self._processors = tuple(later)
        else:
            self._forget(k, "a step before is not known whole")

    def _begin(self, record: StepRecord) -> Partial:
        raw, row = record.raw, self._row(record)
        stored = np.zeros(len(row), bool)
        stored[list(record.candidate_ids)] = True
        least = min(record.raw_logits[: record.n_top], default=raw.max)
        row = np.where(stored, row, np.float32(least)).astype(np.float32)
        if self._known_names is not None and record.eos_prob > 0:
            most = np.float32(log(record.eos_prob) + raw.logsumexp + 1e-4)
            for token in self._eos_ids:
                if not stored[token]:
                    row[token] = min(row[token], most)
        return Partial(row, stored, stored & (row > -inf)).learn(record.candidate_ids, record.raw_logits, raw)

    def _through_shared(self, state: Partial, record: StepRecord, ids: Sequence[int], k: int) -> Partial:
        """The record says what it left; single tokens of the tail keep their bounds where the processor is not a riddle."""
        effect, processor = record.effects[k], self._processors[k]
        try:
            if processor.remembers:
                raise Open(processor.label)
            state = through(state, processor, ids, self._ops)
        except Open:
            state = state.without_bounds()
        return state.learn(record.candidate_ids, effect.logits, effect.after)

    def _with_facts(self, state: Partial, record: StepRecord, first: int, is_known: bool) -> Partial:
        """With what the original's choice says of the tail. first: the processors of the original that this row has behind it."""
        rest = self._old[first:]
        if not is_known or not all(p.name in KEEP_ORDER for p in rest) or not state.n:
            return state
        now = np.array([float(state.row[token]) for token in record.candidate_ids])
        final = np.array(record.final_logits)
        left = np.flatnonzero(final > -inf)
        if record.effects and len(left):  # the first of the final row are stored too
            last = np.sort(now[left])[::-1][min(record.n_top, len(left)) - 1]
            state = state.bound(np.full(len(state.row), last + 1e-6 * abs(last)), None)
        temperatures = [p for p in rest if p.name == "temperature"]
        drawn = (
            self._own_choice and record.noise is not None and record.lead is not None and record.runner_up is not None
        )
        if not drawn or not all(isinstance(p, Temperature) for p in temperatures) or not state.n:
            return state
        assert record.noise is not None
        assert record.lead is not None
        chosen = record.candidate_ids.index(record.id)
        noise = _noise(self._own_seed, record.position, len(state.row))
        if abs(noise[record.id] - record.noise[chosen]) > 1e-6 * (1 + abs(noise[record.id])):
            return state  # drawn with another seed than the trace says
        by = float(np.prod([p.value for p in temperatures])) if temperatures else 1.0
        second = now[chosen] / by + noise[record.id] - record.lead
        slack = 1e-5 + 1e-6 * float(np.abs(now[np.isfinite(now)]).max()) / by
        bounds = by * (second + slack - noise)
        n_before, n_left = state.n + int(state.must.sum()), record.final.n_kept
        return state.bound(bounds, None if n_left == n_before else n_left)

    def _as_before(self, state: Partial, record: StepRecord, first: int, k: int) -> Partial:
        """top_k after temperatures alone, if the original had it so too: it left the same tokens, and their sum is known."""
        if self._changed is None or "top_k" in self._changed or not state.n:
            return state
        at = next((i for i, p in enumerate(self._old) if p.name == "top_k"), None)
        before = (self._processors[first:k], self._old[first:at] if at is not None else ())
        if at is None or at < first or not all(isinstance(p, Temperature) for side in before for p in side):
            return state
        new, old = (float(np.prod([p.value for p in side])) if side else 1.0 for side in before)
        effect = record.effects[at]
        logits = np.array(effect.logits, np.float32)
        ids = np.array(record.candidate_ids)
        left = np.zeros(len(state.row), bool)
        left[ids[logits > -inf]] = True
        n = effect.after.n_kept - int(left.sum())
        row = np.where(left | state.tail, state.row, np.float32(-inf)).astype(np.float32)
        if n <= 0:
            row[~left] = -inf
            return Partial(row, state.stored, left)
        tail = state.row[state.tail]
        bound = float(tail.max()) * new / old if len(tail) else -inf
        mass = scaled(tail_mass(logits[logits > -inf], effect.after.logsumexp), n, bound, old / new)
        if state.close is not None and state.n_close >= effect.after.n_kept:
            row = np.minimum(row, state.close)
        return replace(state, row=row, must=left, n=n, counts=True, mass=mass, stats=None)


def _noise(seed: int, position: int, n_vocab: int) -> NDArray[np.float64]:
    from fanlight.kernels.reference_rows import uniform

    found: NDArray[np.float64] = -np.log(-np.log1p(-uniform(seed, position, np.arange(n_vocab))))
    return found
