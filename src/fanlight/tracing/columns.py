"""StepRecords as arrays and back, without loss: `encode(records)`, `Steps(columns)`. Knows no file and no model.

One array a field; what is a list in each record is one flat array and offsets (`layout.py`). float32 where that keeps every bit,
float64 elsewhere. None is NaN in an array of floats and -1 in one of ids; what is text is a number into a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, chain
from math import nan
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fanlight.errors import OptionError, TraceError
from fanlight.kernels.ops import RowStats
from fanlight.trace.records import Guess, ProcessorEffect, StepRecord
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.layout import DAMAGED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

KEPT_CANDIDATES = 1 << 20
"""Of a run with more candidates, decoded records are not kept."""
STATS = ("n_kept", "max", "logsumexp", "entropy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Records as arrays."""

    arrays: Mapping[str, Array]
    """By the names of `layout.py`, without "steps/"; and "id", which is "ids" there."""
    effects: tuple[tuple[str, str, bool], ...] = ()
    """What `effect_kind` counts in: (label, name, removes)."""
    drafters: tuple[str, ...] = ()
    """What `guess_drafter` counts in."""
    stops: Mapping[int, Stop] = field(default_factory=dict)
    """By the number of the step."""

    def tables(self) -> dict[str, Any]:
        """What is no array, as plain values."""
        return {
            "effects": [{"label": label, "name": name, "removes": removes} for label, name, removes in self.effects],
            "drafters": list(self.drafters),
            "stops": {str(step): {**asdict(stop), "reason": stop.reason.value} for step, stop in self.stops.items()},
        }

    @classmethod
    def of(cls, where: str, arrays: Mapping[str, Array], tables: Mapping[str, Any]) -> Columns:
        """From arrays, and tables that nobody has checked. Errors: TraceError for those."""
        try:
            effects = tuple((row["label"], row["name"], row["removes"]) for row in tables["effects"])
            drafters = tuple(tables["drafters"])
            stops = {int(step): stop_of(found) for step, found in tables["stops"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TraceError(f"{where}: the tables of its steps cannot be read ({error!r:.80}); {DAMAGED}") from None
        texts = [*drafters, *(label for label, _, _ in effects), *(name for _, name, _ in effects)]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(row[2], bool) for row in effects):
            raise TraceError(f"{where}: the tables of its steps, expected texts; {DAMAGED}")
        return cls(arrays=arrays, effects=effects, drafters=drafters, stops=stops)


def stop_of(found: Mapping[str, Any]) -> Stop:
    """From plain values. Errors: KeyError, TypeError, ValueError."""
    reason, detail, token, string = (found[name] for name in ("reason", "detail", "token", "string"))
    if not isinstance(detail, str) or not isinstance(string, str | None) or not isinstance(token, int | None):
        raise TypeError("a stop's detail and string are texts, its token is a number")
    return Stop(StopReason(reason), detail, token, string)


# -- records -> arrays -------------------------------------------------------------------------------------------------


def encode(records: Sequence[StepRecord]) -> Columns:
    """The arrays of these records. Errors: TraceError if a record holds NaN, which stands for None here."""
    effects = [effect for record in records for effect in record.effects]
    kinds: dict[tuple[str, str, bool], int] = {}
    numbers = [kinds.setdefault((effect.label, effect.name, effect.removes), len(kinds)) for effect in effects]
    n_candidates = sum(len(record.candidate_ids) for record in records)
    arrays: dict[str, Array] = {
        name: _ints([getattr(record, name) for record in records])
        for name in ("position", "id", "raw_rank", "final_rank", "n_top")
    }
    arrays |= {
        name: _floats([nan if (value := getattr(record, name)) is None else value for record in records])
        for name in ("margin", "lead", "eos_prob", "final_eos_prob")
    }
    arrays["runner_up"] = _ints([-1 if record.runner_up is None else record.runner_up for record in records])
    arrays |= _stats("raw_", [record.raw for record in records])
    arrays["candidate_offsets"] = _offsets([len(record.candidate_ids) for record in records])
    arrays["candidate_ids"] = _flat_ints((record.candidate_ids for record in records), n_candidates)
    arrays["raw_logits"] = _flat_floats((record.raw_logits for record in records), n_candidates)
    if any(record.noise is not None for record in records):
        noise = ((nan,) * len(r.candidate_ids) if r.noise is None else r.noise for r in records)
        arrays["noise"] = _flat_floats(noise, n_candidates)
    arrays["effect_offsets"] = _offsets([len(record.effects) for record in records])
    arrays["effect_kind"] = _ints(numbers)
    arrays["effect_value"] = _floats([effect.value for effect in effects])
    arrays |= _stats("effect_", [effect.after for effect in effects])
    if any(effect.kept_logsumexp is not None for effect in effects):
        kept = [nan if effect.kept_logsumexp is None else effect.kept_logsumexp for effect in effects]
        arrays["effect_kept_logsumexp"] = _floats(kept)
    if any(effect.before != before for record in records for before, effect in _chain(record)):
        arrays |= _stats("effect_before_", [effect.before for effect in effects])
    lengths = [len(effect.logits) for effect in effects]
    arrays["effect_logit_offsets"] = _offsets(lengths)
    arrays["effect_logits"] = _flat_floats((effect.logits for effect in effects), sum(lengths))
    drafters: dict[str, int] = {}
    guesses = [record.guess for record in records]
    if any(guess is not None for guess in guesses):
        arrays["guess_drafter"] = _ints(
            [-1 if g is None else drafters.setdefault(g.drafter, len(drafters)) for g in guesses]
        )
        arrays["guess_id"] = _ints([-1 if guess is None else guess.id for guess in guesses])
        arrays["guess_right"] = np.array([guess is not None and guess.right for guess in guesses], np.uint8)
    stops = {i: record.stop for i, record in enumerate(records) if record.stop is not None}
    return Columns(arrays=arrays, effects=tuple(kinds), drafters=tuple(drafters), stops=stops)


def _chain(record: StepRecord) -> Iterator[tuple[RowStats, ProcessorEffect]]:
    """Each effect with what the one before it left, which is what it saw in all that `decide` makes."""
    before = record.raw
    for effect in record.effects:
        yield before, effect
        before = effect.after


def _stats(prefix: str, rows: Sequence[RowStats]) -> dict[str, Array]:
    found = {f"{prefix}n_kept": _ints([row.n_kept for row in rows])}
    return found | {f"{prefix}{name}": _floats([getattr(row, name) for row in rows]) for name in STATS[1:]}


def _ints(values: Sequence[int]) -> Array:
    return narrow(np.array(values, np.int64))


def _flat_ints(lists: Iterable[Iterable[int]], n: int) -> Array:
    return narrow(np.fromiter(chain.from_iterable(lists), np.int64, n))


def _floats(values: Sequence[float]) -> Array:
    return narrow(np.array(values, np.float64))


def _flat_floats(lists: Iterable[Iterable[float]], n: int) -> Array:
    return narrow(np.fromiter(chain.from_iterable(lists), np.float64, n))


def _offsets(lengths: Sequence[int]) -> Array:
    return np.fromiter(accumulate(lengths, initial=0), np.int64, len(lengths) + 1)


def narrow(values: Array) -> Array:
    """The same numbers in half the bytes where none of them changes."""
    with np.errstate(over="ignore", under="ignore"):
        small = values.astype(np.int32 if values.dtype == np.int64 else np.float32)
    same = (small.astype(values.dtype) == values) | (values != values)
    return small if same.all() else values


# -- arrays -> records -------------------------------------------------------------------------------------------------


class Steps(Sequence[StepRecord]):
    """Records that are made when they are asked for. `column` gives a number of all of them at once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._arrays = columns.arrays
        self._lists: dict[str, list[Any]] = {}
        self._made: dict[int, StepRecord] = {}
        self._keeps = len(columns.arrays["candidate_ids"]) <= KEPT_CANDIDATES

    @classmethod
    def of(cls, records: Sequence[StepRecord]) -> Steps:
        """The same records as columns; what is that already stays as it is."""
        return records if isinstance(records, cls) else cls(encode(records))

    def __len__(self) -> int:
        return len(self._arrays["id"])

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StepRecord]: ...
    def __getitem__(self, index: int | slice) -> StepRecord | Sequence[StepRecord]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        step = range(len(self))[index]  # as of a list: IndexError, and from the end if negative
        found = self._made.get(step)
        if found is None:
            found = self._record(step)
            if self._keeps:
                self._made[step] = found
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Steps({len(self)})"

    def column(self, name: str) -> Array:
        """One number of every step, (n_steps,), without making records. What a record has as None is NaN, or -1 of an id.

        Errors: OptionError for a name that there is not; `COLUMNS` has them.
        """
        make = COLUMNS.get(name)
        if make is None:
            raise OptionError(f"steps have no column {name!r:.80}; there is {', '.join(COLUMNS)}")
        return make(self)

    # -- one record ---------------------------------------------------------------------------------------------------

    def _list(self, name: str) -> list[Any]:
        """An array with a number a step or an effect, as Python numbers."""
        found = self._lists.get(name)
        if found is None:
            found = self._lists[name] = self._arrays[name].tolist()
        return found

    def _optional(self, name: str, i: int) -> Any:
        """None for NaN, and where there is no such array."""
        if name not in self._arrays:
            return None
        value = self._list(name)[i]
        return value if value == value else None

    def _row(self, prefix: str, i: int) -> RowStats:
        return RowStats(*(self._list(prefix + name)[i] for name in STATS))

    def _record(self, i: int) -> StepRecord:
        arrays, get = self._arrays, self._list
        begin, end = get("candidate_offsets")[i : i + 2]
        raw = self._row("raw_", i)
        noise = tuple(arrays["noise"][begin:end].tolist()) if "noise" in arrays else None
        runner_up = get("runner_up")[i]
        return StepRecord(
            position=get("position")[i],
            id=get("id")[i],
            candidate_ids=tuple(arrays["candidate_ids"][begin:end].tolist()),
            raw_logits=tuple(arrays["raw_logits"][begin:end].tolist()),
            raw=raw,
            effects=self._effects(i, raw),
            raw_rank=get("raw_rank")[i],
            final_rank=get("final_rank")[i],
            margin=self._optional("margin", i),
            eos_prob=get("eos_prob")[i],
            final_eos_prob=get("final_eos_prob")[i],
            n_top=get("n_top")[i],
            noise=noise if noise and noise[0] == noise[0] else None,
            runner_up=None if runner_up < 0 else runner_up,
            lead=self._optional("lead", i),
            guess=self._guess(i),
            stop=self.columns.stops.get(i),
        )

    def _effects(self, i: int, before: RowStats) -> tuple[ProcessorEffect, ...]:
        found: list[ProcessorEffect] = []
        get = self._list
        for at in range(*get("effect_offsets")[i : i + 2]):
            label, name, removes = self.columns.effects[get("effect_kind")[at]]
            begin, end = get("effect_logit_offsets")[at : at + 2]
            after = self._row("effect_", at)
            effect = ProcessorEffect(
                label,
                removes,
                self._row("effect_before_", at) if "effect_before_max" in self._arrays else before,
                after,
                tuple(self._arrays["effect_logits"][begin:end].tolist()),
                name,
                get("effect_value")[at],
                self._optional("effect_kept_logsumexp", at),
            )
            before = after
            found.append(effect)
        return tuple(found)

    def _guess(self, i: int) -> Guess | None:
        if "guess_drafter" not in self._arrays or (drafter := self._list("guess_drafter")[i]) < 0:
            return None
        return Guess(self.columns.drafters[drafter], self._list("guess_id")[i], bool(self._list("guess_right")[i]))

    # -- numbers of all steps -----------------------------------------------------------------------------------------

    def _stored(self, name: str) -> Array:
        """An array of a number a step, in the widest type."""
        array = self._arrays[name]
        return array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)

    def _chosen(self) -> Array:
        """Where among all candidates each step's chosen one stands."""
        arrays = self._arrays
        offsets = arrays["candidate_offsets"]
        places = np.flatnonzero(arrays["candidate_ids"] == np.repeat(arrays["id"], np.diff(offsets)))
        found: Array = places[np.searchsorted(places, offsets[:-1])]
        return found

    def _last(self, raw: str, effect: str) -> Array:
        """A sum of the final row: that of the last effect, or the raw one."""
        arrays, found = self._arrays, self._stored(raw).copy()
        has = np.diff(arrays["effect_offsets"]) > 0
        found[has] = arrays[effect][arrays["effect_offsets"][1:][has] - 1]
        return found

    def _raw_logit(self) -> Array:
        return self._arrays["raw_logits"][self._chosen()].astype(np.float64)

    def _raw_logprob(self) -> Array:
        return self._raw_logit() - self._stored("raw_logsumexp")

    def _final_logprob(self) -> Array:
        arrays, chosen, logits = self._arrays, self._chosen(), self._raw_logit()
        has = np.diff(arrays["effect_offsets"]) > 0
        last = arrays["effect_offsets"][1:][has] - 1
        places = arrays["effect_logit_offsets"][last] + (chosen - arrays["candidate_offsets"][:-1])[has]
        logits[has] = arrays["effect_logits"][places]
        return logits - self._last("raw_logsumexp", "effect_logsumexp")

    def _tail_prob(self) -> Array:
        arrays, n = self._arrays, len(self)
        offsets = arrays["candidate_offsets"]
        step = np.repeat(np.arange(n), np.diff(offsets))
        top = np.arange(len(step)) - offsets[:-1][step] < arrays["n_top"][step]
        probs = np.exp(arrays["raw_logits"].astype(np.float64)[top] - self._stored("raw_logsumexp")[step[top]])
        return np.maximum(0.0, 1 - np.bincount(step[top], probs, minlength=n))


def _stored(name: str) -> Callable[[Steps], Array]:
    return lambda steps: steps._stored(name)


COLUMNS: Mapping[str, Callable[[Steps], Array]] = {
    "position": _stored("position"),
    "id": _stored("id"),
    "raw_rank": _stored("raw_rank"),
    "final_rank": _stored("final_rank"),
    "raw_logprob": Steps._raw_logprob,
    "final_logprob": Steps._final_logprob,
    "raw_prob": lambda steps: np.exp(steps._raw_logprob()),
    "final_prob": lambda steps: np.exp(steps._final_logprob()),
    "surprise": lambda steps: -steps._raw_logprob(),
    "raw_entropy": _stored("raw_entropy"),
    "final_entropy": lambda steps: steps._last("raw_entropy", "effect_entropy"),
    "raw_max": _stored("raw_max"),
    "raw_logsumexp": _stored("raw_logsumexp"),
    "margin": _stored("margin"),
    "lead": _stored("lead"),
    "runner_up": _stored("runner_up"),
    "n_kept": lambda steps: steps._last("raw_n_kept", "effect_n_kept"),
    "n_top": _stored("n_top"),
    "n_candidates": lambda steps: np.diff(steps._arrays["candidate_offsets"]),
    "n_effects": lambda steps: np.diff(steps._arrays["effect_offsets"]),
    "eos_prob": _stored("eos_prob"),
    "final_eos_prob": _stored("final_eos_prob"),
    "tail_prob": Steps._tail_prob,
}
"""What `Steps.column` gives. surprise: -raw_logprob, in nats; the others are named as in StepRecord."""
