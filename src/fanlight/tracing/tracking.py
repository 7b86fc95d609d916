"""How likely a token, or a text, was at each step of a run. In: a trace, what to look for. Out: a Tracked. Knows no picture.

found = fanlight.track(trace, " not")
found.raw_probs[7]; found.passed_half; found.became_first

Of a token among those that a step stored, the probability is known; of another one, its bounds. A model gives all of them, and
the probability of a text of several tokens: that of its first, times that of its second after it, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING, Any, overload

from fanlight.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

    Floats = NDArray[np.float64]

HALF = 0.5
ROWS = 256
"""Positions of which logits are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tracked:
    """One token or text over the steps of a run."""

    label: str
    """On one line: spaces and line ends are visible."""
    ids: tuple[int, ...]
    """Its tokens."""
    raw_probs: Floats
    """(n_steps,): by the model alone, 0..1; where it is not known, the most that it can be."""
    raw_lows: Floats
    """(n_steps,): the least that it can be."""
    final_probs: Floats
    """(n_steps,): of the (first) token, after all processors of the run; NaN: not stored."""
    ranks: NDArray[np.int64]
    """(n_steps,): tokens before its first token in the raw logits; 0: it was the arg max. Where it is not among the most
    probable ones that were stored, the least that it can be."""
    exact: NDArray[np.bool_]
    """(n_steps,): whether the probability is known."""
    chosen: NDArray[np.bool_]
    """(n_steps,): whether the text goes on with it there."""
    step_labels: tuple[str, ...]
    """(n_steps,): the tokens that were chosen, on one line each."""
    note: str = ""

    @property
    def n_steps(self) -> int:
        """Of the run."""
        return len(self.raw_probs)

    @property
    def passed_half(self) -> tuple[int, ...]:
        """Steps where it is certainly more probable than all else together, and was not at the step before."""
        return _crossings([low > HALF for low in self.raw_lows.tolist()])

    @property
    def became_first(self) -> tuple[int, ...]:
        """Steps where it is certainly the most probable token, and was not at the step before."""
        return _crossings([bool(is_first) for is_first in (self.ranks == 0) & self.exact])

    @property
    def likeliest(self) -> int | None:
        """The step at which it was most probable, of those that are known; None: none is."""
        known = [i for i in range(self.n_steps) if self.exact[i]]
        return max(known, key=lambda i: (float(self.raw_probs[i]), -i), default=None)

    def __str__(self) -> str:
        lines = [f"{self.label!r} over {self.n_steps} {'step' if self.n_steps == 1 else 'steps'}"]
        best = self.likeliest
        if best is not None:
            lines[0] += f": most probable at step {best} ({self.raw_probs[best]:.2%}, {_rank(int(self.ranks[best]))})"
        n_bounds = self.n_steps - int(self.exact.sum())
        if n_bounds:
            most = max(float(self.raw_probs[i]) for i in range(self.n_steps) if not self.exact[i])
            lines.append(
                f"not stored at {n_bounds} steps, where it had {most:.2%} at most; with model=... all are exact"
            )
        for what, steps in (("passes 50 %", self.passed_half), ("becomes the first", self.became_first)):
            if steps:
                lines.append(f"{what} at {'step' if len(steps) == 1 else 'steps'} {', '.join(map(str, steps))}")
        if self.chosen.any():
            lines.append(f"chosen at {', '.join(str(i) for i in range(self.n_steps) if self.chosen[i])}")
        return "\n".join([*lines, *([self.note] if self.note else [])])


What = int | str
"""A token's id, or a text."""


@overload
def track(trace: Trace, what: What, *, model: Any = None) -> Tracked: ...
@overload
def track(trace: Trace, what: list[What] | tuple[What, ...], *, model: Any = None) -> list[Tracked]: ...
def track(trace: Trace, what: What | list[What] | tuple[What, ...], *, model: Any = None) -> Tracked | list[Tracked]:
    """How likely a token (id) or a text was at each step: a Tracked; of several, a list of them in their order.

    A text stands for the token that spells it; where it needs several, only a model knows how probable they are together. model:
    the one that wrote the trace (or any with its vocabulary); with it everything is exact. Errors: OptionError.
    """
    if isinstance(what, (int, str)):
        return _track(trace, [what], model)[0]
    if not isinstance(what, (list, tuple)) or not what:
        raise OptionError(f"what to track is a token's id, a text, or a list of them: got {what!r:.80}")
    return _track(trace, what, model)


def _track(trace: Trace, several: Sequence[What], model: Any) -> list[Tracked]:
    if model is not None:
        _check_model(trace, model)
    found = [_ids_of(trace, what, model) for what in several]
    if model is None:
        return [_stored(trace, ids, label, note) for ids, label, note in found]
    return _computed(trace, found, model)


def _check_model(trace: Trace, model: Any) -> None:
    n_vocab, theirs = trace.header.origin.n_vocab, model.tokenizer
    same = all(
        theirs.token_bytes(token) == spelled for token, spelled in trace.vocabulary.items() if token < theirs.n_vocab
    )
    if not same or model.decoder.config.n_vocab != n_vocab:
        raise OptionError(
            f"{model.name} has another vocabulary than {trace.header.origin.model}, which wrote the trace; give that one"
        )


def _ids_of(trace: Trace, what: What, model: Any) -> tuple[tuple[int, ...], str, str]:
    """(tokens, label, note)."""
    from fanlight.text.tokenizer import label

    n_vocab = trace.header.origin.n_vocab
    if isinstance(what, bool) or not isinstance(what, (int, str)):
        raise OptionError(f"what to track is a token's id or a text: got {what!r:.80}")
    if isinstance(what, int):
        if not 0 <= what < n_vocab:
            raise OptionError(f"there is no token {what}; the vocabulary goes from 0 to {n_vocab - 1}")
        return (what,), model.tokenizer.token_label(what) if model is not None else trace.token_label(what), ""
    if not what:
        raise OptionError("the text to track is empty")
    spelled = what.encode("utf-8", "surrogatepass")
    if model is not None:
        ids = tuple(model.tokenizer.encode(what, add_special=False))
        single = _spelling(spelled, model.tokenizer, n_vocab, ids)
        return single or ids, label(spelled), ""
    known = sorted(token for token, raw in trace.vocabulary.items() if raw == spelled)
    if known:
        return (known[0],), label(spelled), ""
    word = next((word for word in _words(what) if word in trace.vocabulary.values()), None)
    if word is None:
        raise OptionError(
            f"no token that the trace knows spells {what!r:.60}: it was never among the candidates, or needs several tokens; "
            "give its id, or the model"
        )
    token = min(token for token, raw in trace.vocabulary.items() if raw == word)
    return (token,), label(word), f"of {what!r:.60} this is the first word alone; the rest needs the model"


def _words(text: str) -> list[bytes]:
    """The text's beginnings up to where a word begins, the longest first: no token reaches over such a place."""
    starts = [i for i in range(1, len(text)) if text[i] == " " and text[i - 1] != " " and text[:i].strip()]
    return [text[:i].encode("utf-8", "surrogatepass") for i in reversed(starts)]


def _spelling(spelled: bytes, tokenizer: Any, n_vocab: int, ids: tuple[int, ...]) -> tuple[int, ...] | None:
    """The one token that has these bytes, where the tokenizer would put something before them or cut them up."""
    if b"".join(map(tokenizer.token_bytes, ids)) == spelled:
        return None
    special = tokenizer.special_ids
    found = (token for token in range(n_vocab) if token not in special and tokenizer.token_bytes(token) == spelled)
    first = next(found, None)
    return None if first is None else (first,)


# -- from the records ----------------------------------------------------------------------------------------------------


def _stored(trace: Trace, ids: tuple[int, ...], label: str, note: str) -> Tracked:
    token = ids[0]
    rows = [_of_record(record, token) for record in trace.steps]
    return _tracked(trace, ids, label, note, rows)


def _of_record(record: StepRecord, token: int) -> tuple[float, float, float, int, bool]:
    """(most, least, final, rank, exact)."""
    if token in record.candidate_ids:
        at = record.candidate_ids.index(token)
        logit = record.raw_logits[at]
        prob, final = exp(logit - record.raw.logsumexp), exp(record.final_logits[at] - record.final.logsumexp)
        if at < record.n_top:
            return prob, prob, final, at, True
        if token == record.id:
            return prob, prob, final, record.raw_rank, True
        return prob, prob, final, record.n_top, True
    if record.raw.n_kept == len(record.candidate_ids):  # all that could come are stored
        return 0.0, 0.0, 0.0, record.raw.n_kept, True
    rest = max(0.0, 1 - sum(exp(logit - record.raw.logsumexp) for logit in record.raw_logits))
    least = min(record.raw_logits[: record.n_top], default=inf)
    return min(rest, exp(min(0.0, least - record.raw.logsumexp))), 0.0, float("nan"), record.n_top, False


def _tracked(
    trace: Trace,
    ids: tuple[int, ...],
    label: str,
    note: str,
    rows: Sequence[tuple[float, float, float, int, bool]],
) -> Tracked:
    import numpy as np

    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), (), ()]
    chosen = [trace.ids[i : i + len(ids)] == ids for i in range(trace.n_steps)]
    return Tracked(
        label=label,
        ids=ids,
        raw_probs=np.array(columns[0], np.float64),
        raw_lows=np.array(columns[1], np.float64),
        final_probs=np.array(columns[2], np.float64),
        ranks=np.array(columns[3], np.int64),
        exact=np.array(columns[4], bool),
        chosen=np.array(chosen, bool),
        step_labels=tuple(trace.token_label(token) for token in trace.ids),
        note=note,
    )


# -- with the model ------------------------------------------------------------------------------------------------------


def _computed(trace: Trace, several: Sequence[tuple[tuple[int, ...], str, str]], model: Any) -> list[Tracked]:
    """One pass over the text for all first tokens, and of longer ones the rest after every step."""
    import numpy as np

    firsts = [ids[0] for ids, _, _ in several]
    logprobs, ranks = _first_tokens(trace, firsts, model)
    found = []
    for column, (ids, label, note) in enumerate(several):
        logprob = logprobs[:, column].copy()
        if len(ids) > 1 and trace.n_steps:
            logprob += _rest(trace, ids, model)
        probs = np.exp(logprob)
        finals = [_of_record(record, ids[0])[2] for record in trace.steps]
        rows = [
            (prob, prob, final, int(rank), True)
            for prob, final, rank in zip(probs.tolist(), finals, ranks[:, column].tolist(), strict=True)
        ]
        found.append(_tracked(trace, ids, label, note, rows))
    return found


def _first_tokens(trace: Trace, tokens: Sequence[int], model: Any) -> tuple[Floats, NDArray[np.int64]]:
    """(n_steps, len(tokens)): raw logprobs and ranks."""
    import numpy as np

    logprobs, ranks = np.zeros((trace.n_steps, len(tokens))), np.zeros((trace.n_steps, len(tokens)), np.int64)
    if not trace.n_steps:
        return logprobs, ranks
    from fanlight.decoding.config import GenerationConfig
    from fanlight.jobs import Job

    config = GenerationConfig(candidates=1, output_logits=True)
    for start in range(0, trace.n_steps, ROWS):  # each part goes on from what the one before has left in the cache
        part = trace.ids[start : start + ROWS]
        (outcome,) = model.generate_each([Job(0, trace.prompt_ids + trace.ids[:start], config, given=part)])
        if outcome.generation is None:
            raise outcome.error
        rows = outcome.generation.logits.astype(np.float64)
        largest = rows.max(axis=1, keepdims=True)
        totals = largest[:, 0] + np.log(np.exp(rows - largest).sum(axis=1))
        for column, token in enumerate(tokens):
            mine = rows[:, token]
            logprobs[start : start + len(part), column] = mine - totals
            before = (rows > mine[:, None]).sum(axis=1) + (rows[:, :token] == mine[:, None]).sum(axis=1)
            ranks[start : start + len(part), column] = before
    return logprobs, ranks


def _rest(trace: Trace, ids: tuple[int, ...], model: Any) -> Floats:
    """(n_steps,): logprob of all but the first of some tokens, where they would stand at each step."""
    import numpy as np

    from fanlight.decoding.config import GenerationConfig
    from fanlight.jobs import Job

    config, found = GenerationConfig(candidates=1), np.zeros(trace.n_steps)
    jobs = (
        Job(step, trace.prompt_ids + trace.ids[:step] + ids[:1], config, given=ids[1:]) for step in range(trace.n_steps)
    )
    for outcome in model.generate_each(jobs):
        if outcome.generation is None:
            raise outcome.error
        found[outcome.key] = sum(step.record.raw_logprob for step in outcome.generation.steps)
    return found


def _crossings(above: Sequence[bool]) -> tuple[int, ...]:
    return tuple(i for i, now in enumerate(above) if now and not (i and above[i - 1]))


def _rank(rank: int) -> str:
    return "the first" if rank == 0 else f"{rank} before it"
