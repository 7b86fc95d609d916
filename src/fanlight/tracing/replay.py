"""Whether a model writes a trace's text again. In: a trace, a model. Out: a Replay. Knows no file format and no terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanlight.decoding.contrasts import ContrastiveDecoding
from fanlight.errors import OptionError, TraceError
from fanlight.trace.stop import StopReason
from fanlight.tracing.recording import config_of

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.trace.header import Header, Origin
    from fanlight.tracing.trace import Trace

_WORDS = {
    "fingerprint": "another model's file",
    "kernels": "other kernels, whose last bits differ",
    "conversions": "weights of other types",
    "rotation": "another rotation of positions",
    "cache_type": "another type of cache",
    "fanlight": "another version of Fanlight",
    "platform": "another platform",
}
HARMLESS = ("fanlight", "platform")
"""What differs in these need not change a bit."""
CUT_OFF = (StopReason.CANCELLED, StopReason.MAX_TIME, StopReason.CRITERION)
"""Reasons that are no part of the settings: the text is compared as far as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """A text, written again. `str` of it says all."""

    trace: Trace
    again: Trace
    same: bool
    """Token for token, and the same end."""
    first_difference: int | None
    """The first step that chose another token; None: there is none, or one of them is longer."""
    same_numbers: bool
    """Every recorded number of every step is the same, bit for bit."""
    differences: tuple[str, ...]
    """What computed it otherwise, in words: kernels, version, cache."""

    def __str__(self) -> str:
        n, again = self.trace.n_steps, self.again
        if self.same:
            exact = ", and every recorded number" if self.same_numbers else "; the numbers behind them differ a little"
            text = f"the same: all {n} tokens{exact}"
        elif self.first_difference is None:
            text = f"not the same: {n} tokens, now {again.n_steps}, and alike as far as both go"
        else:
            at = self.first_difference
            was, now = self.trace.token_label(self.trace.ids[at]), again.token_label(again.ids[at])
            text = f"not the same: step {at} chose {was!r}, now {now!r}; {at} of {n} tokens before it are the same"
        return "\n".join((text, *(f"computed with {difference}" for difference in self.differences)))


def origin_differences(then: Origin, now: Origin) -> tuple[str, ...]:
    """What two runs were computed with, where that differs, in words."""
    found = []
    for name, words in _WORDS.items():
        was, is_now = getattr(then, name), getattr(now, name)
        if was != is_now:
            short = (value[:12] if name in ("fingerprint", "rotation") else value for value in (was, is_now))
            found.append("{} ({}, then {})".format(words, *reversed([text or "none" for text in short])))
    return tuple(found)


def replay(trace: Trace, model: Any, *, any_model: bool = False, amateur: Any = None) -> Replay:
    """Write the text again with the same settings and the same noise, and compare.

    any_model: with another model than wrote it, too. amateur: the second model, where one had a part in it (an assistant changes no
    text, and is not needed). A text that was cut off is compared as far as it goes. Errors: TraceError for another model or a trace
    that cannot be replayed; OptionError for settings that were code.
    """
    check_model(trace, model, any_model=any_model)
    check_amateur(trace, amateur)
    header, n = trace.header, trace.n_steps
    config = text_settings(header)
    if header.is_given:
        ids = trace.prompt_ids
        again = model._stream(ids, config, None, None, trace=True, prompt=header.prompt, given=trace.ids).result().trace
    elif config.num_beams > 1:
        found = model.generate(trace.prompt_ids, config, trace=True)
        again = next((each.trace for each in found.all if each.ids == trace.ids), found.trace)
    else:
        again = _written(trace, model, config, amateur)
    first = next((i for i, (a, b) in enumerate(zip(trace.ids, again.ids, strict=False)) if a != b), None)
    ends = _is_cut(header) or header.stop == again.header.stop
    same = first is None and n == again.n_steps and ends
    return Replay(
        trace=trace,
        again=again,
        same=same,
        first_difference=first,
        same_numbers=same and _numbers(trace) == _numbers(again),
        differences=origin_differences(header.origin, again.header.origin),
    )


def _written(trace: Trace, model: Any, config: GenerationConfig, amateur: Any) -> Trace:
    header = trace.header
    begin = _beginning(trace, config)
    known = trace.steps[: header.parent.step] if header.parent is not None else ()
    ids = trace.prompt_ids + (header.taken_back if config.token_healing else ())
    given = {"prompt": header.prompt, "begin": begin, "parent": header.parent, "known": known}
    stream = model._stream(ids, config, None, amateur, trace=True, **given)
    if _is_cut(header):
        with stream:
            for step in stream if trace.n_steps else ():
                if step.index + 1 >= trace.n_steps:
                    break
    again: Trace = stream.result().trace
    return again


def check_amateur(trace: Trace, amateur: Any) -> None:
    """Errors: OptionError if a second model had a part in the choice, and none is there."""
    if amateur is not None or not trace.n_steps:
        return
    if any(effect.name == ContrastiveDecoding.name for effect in trace.steps[-1].effects):
        raise OptionError(
            f"the trace was written with an amateur ({', '.join(trace.header.helpers)}); give that model: amateur=..."
        )


def _beginning(trace: Trace, config: GenerationConfig) -> tuple[int, ...]:
    """What the text of a branch was given to begin with: its parent's, and the tokens that stand where it left."""
    parent = trace.header.parent
    if parent is None:
        return ()
    n = parent.step
    for i, record in enumerate(trace.steps):
        if i >= parent.step and (record.noise is None if config.samples else record.final_rank > 0):
            n = i + 1
    return trace.ids[:n]


def _numbers(trace: Trace) -> list[Any]:
    """Every record, but for what guessing ahead and the end left in it."""
    from dataclasses import replace

    return [replace(record, guess=None, stop=None) for record in trace.steps]


def _is_cut(header: Header) -> bool:
    return not header.complete or header.stop.reason in CUT_OFF


def text_settings(header: Header) -> GenerationConfig:
    """The settings that write this text alone, of several that came together too. Errors: OptionError."""
    config = config_of(header)
    if config.num_beams > 1:
        return config.replace(seed=header.request_seed)
    changes: dict[str, Any] = {"seed": header.seed}
    for name in ("num_return_sequences", "best_of"):
        if getattr(config, name) > 1:
            changes[name] = 1
    for name, value in {"vote_pattern": None, "max_time": None, "prompt_lookup_num_tokens": None}.items():
        if getattr(config, name) != value:
            changes[name] = value
    return config.replace(**changes)


def check_model(trace: Trace, model: Any, *, any_model: bool = False) -> None:
    """Errors: TraceError if the model is another one than wrote the trace; OptionError if it is none."""
    from fanlight.tracing.recording import origin_of

    parts = getattr(model, "_parts", None)
    if parts is None:
        raise OptionError(f"replaying needs a model, as load() gives it: got {model!r:.80}")
    if any_model:
        n = parts.decoder.config.n_vocab
        if trace.header.origin.n_vocab != n:
            raise TraceError(
                f"the trace is of a vocabulary of {trace.header.origin.n_vocab} tokens, {parts.name} has {n}; "
                "take a model with the same"
            )
        return
    with model.lent_engine() as engine:
        mine = origin_of(parts, engine)
    if mine.fingerprint != trace.header.origin.fingerprint:
        theirs = trace.header.origin
        raise TraceError(
            f"the trace was made by {theirs.model} (SHA-256 {theirs.fingerprint[:12]}...), this model is {mine.model} "
            f"({mine.fingerprint[:12]}...); load that one, or allow any model to see what this one writes"
        )
