"""What other settings would have chosen at each step of a run. In: a trace, settings. Out: a WhatIf. Needs no model.

found = fanlight.what_if(trace, top_p=0.8, temperature=1.2)
found.first_divergence; found.steps[3].new_id; print(found)

Every step is decided again by the same function, with the same noise, given the text as it was: so up to the first divergence it
is what the model would have written, and after it what it would have chosen at that place of the old text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.stopping import LoopDetector, StopRules, StopStrings, stop_max_new_tokens, stop_string
from fanlight.decoding.strategies.choose import SAMPLING, strategy_of
from fanlight.errors import OptionError
from fanlight.kernels import load_ops
from fanlight.text.stream import Detokenizer
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.partial import Interval
from fanlight.tracing.recording import kept_config
from fanlight.tracing.redeciding import Redecider

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

NEEDS_MODEL: Mapping[str, str] = {
    "num_beams": "a search compares texts that were never written",
    "num_beam_groups": "a search compares texts that were never written",
    "force_words_ids": "a search compares texts that were never written",
    "constraints": "a search compares texts that were never written",
    "penalty_alpha": "contrastive search compares what the model would see after each token",
    "guidance_scale": "it needs a second row, of another prompt",
    "dola_layers": "it needs the rows of earlier layers",
    "regex": "it needs the texts of all tokens",
    "choice": "it needs the texts of all tokens",
    "json_schema": "it needs the texts of all tokens",
    "grammar": "it needs the texts of all tokens",
    "token_healing": "it needs the texts of all tokens",
    "stopping_criteria": "it is code of its caller's, which may ask for anything",
}
SHOWN = 20
"""Steps that the text of a WhatIf lists."""
UNLIMITED = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfStep:
    """One step, decided again."""

    step: int
    original_id: int
    new_id: int | None
    """None: it could not be decided."""
    original_prob: Interval
    """Final probability, under the new settings, of the token that the text has, 0..1; where it is not known, bounds."""
    new_prob: Interval | None
    """The same of the new token."""
    record: StepRecord | None
    """What the step would have seen; where the trace holds the whole vocabulary."""
    why: str = ""
    """Why it could not be decided."""

    @property
    def decided(self) -> bool:
        """Whether the choice is certain."""
        return self.new_id is not None

    @property
    def same(self) -> bool:
        """Whether it is certain, and the token that the text has."""
        return self.new_id == self.original_id


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A run under other settings, given the text as it was."""

    trace_id: str
    changed: Mapping[str, tuple[Any, Any]]
    """Option -> what it was and what it is; "seed": what the noise was drawn with."""
    steps: tuple[WhatIfStep, ...]
    first_divergence: int | None
    """The first step that is certainly another one, because of its token or because one text has ended; None: there is none."""
    end: Stop | None
    """Why the text would end, if it stayed as it is; None: it would go on after its last step."""
    end_step: int | None
    """The last step then."""
    labels: Mapping[int, str] = field(repr=False)
    """Of the tokens, on one line each."""
    notes: tuple[str, ...] = ()

    @property
    def n_same(self) -> int:
        """Steps that would certainly choose the same."""
        return sum(step.same for step in self.steps)

    @property
    def n_open(self) -> int:
        """Steps that cannot be decided from the trace."""
        return sum(not step.decided for step in self.steps)

    @property
    def n_other(self) -> int:
        """Steps that would certainly choose another token."""
        return len(self.steps) - self.n_same - self.n_open

    @property
    def first_open(self) -> int | None:
        """The first step that cannot be decided; None: all can."""
        return next((step.step for step in self.steps if not step.decided), None)

    @property
    def is_certain(self) -> bool:
        """Whether up to the first divergence, or to the end, every step is decided."""
        last = len(self.steps) if self.first_divergence is None else self.first_divergence
        return self.first_open is None or self.first_open > last

    @property
    def same_text(self) -> bool:
        """Whether the new settings certainly give the same text."""
        return self.first_divergence is None and not self.n_open

    def __str__(self) -> str:
        changes = (
            ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in self.changed.items()) or "nothing changed"
        )
        lines = [f"what if, on run {self.trace_id}: {changes}", self._counts()]
        lines.append(self._parting())
        others = [step for step in self.steps if not step.same]
        if others:
            lines += ["", "probabilities of both under the new settings, after all processors:"]
            lines.append(f"{'step':>5}  {'as it was':<18} {'prob':>7}   {'then':<18} {'prob':>7}")
            lines += [self._line(step) for step in others[:SHOWN]]
            if len(others) > SHOWN:
                lines.append(f"       and {len(others) - SHOWN} more steps")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _counts(self) -> str:
        n = len(self.steps)
        found = f"{n} {'step' if n == 1 else 'steps'}, given the text as it was: {self.n_same} the same"
        found += f", {self.n_other} another token" if self.n_other else ""
        if self.n_open:
            found += (
                f", {self.n_open} open: the trace does not hold enough; record with more candidates, or candidates=-1"
            )
        return found

    def _parting(self) -> str:
        at, open_at = self.first_divergence, self.first_open
        if at is None:
            return "the text stays the same" if open_at is None else f"certainly the same up to step {open_at}"
        sure = "" if self.is_certain else f" (step {open_at} is open: it may be sooner)"
        if self.end_step is not None and at == self.end_step + 1:
            return f"the text would end after step {self.end_step}: {self.end}{sure}"
        if at == len(self.steps):
            return f"the text would go on after its last step, {at - 1}{sure}" if at else "the text would begin"
        step = self.steps[at]
        assert step.new_id is not None
        was, now = self.labels[step.original_id], self.labels[step.new_id]
        return f"the texts part at step {at}: {now!r} instead of {was!r}{sure}"

    def _line(self, step: WhatIfStep) -> str:
        was = f"{step.step:>5}  {_cut(self.labels[step.original_id]):<18}"
        if step.new_id is None or step.new_prob is None:
            return f"{was} {'':>7}   open: {step.why}"
        now = _cut(self.labels[step.new_id])
        return f"{was} {_percent(step.original_prob):>7}   {now:<18} {_percent(step.new_prob):>7}"


def what_if(trace: Trace, config: GenerationConfig | None = None, **options: Any) -> WhatIf:
    """Decide every step of a trace again: with its own settings and these options over them, or with a config as it stands.

    The noise is that of the trace, unless another seed is given. What the trace does not hold is never guessed: a step is decided
    only if the choice is the same whatever was not stored. Errors: OptionError for settings that need the model.
    """
    header = trace.header
    own, notes = _own(trace, config, options)
    if config is None:
        assert own is not None
        new = own.replace(**options) if options else own
    elif not isinstance(config, GenerationConfig):
        raise OptionError(f"config must be a GenerationConfig, or options by name: got {config!r:.80}")
    else:
        new = config.replace(**options) if options else config
    _check(new)
    asks_seed = "seed" in options or config is not None
    seed = new.seed if asks_seed and new.seed is not None else header.seed
    ops = load_ops()
    around, rules = _surroundings(trace, new, seed, ops)
    own_around = _surroundings(trace, own, header.seed, ops)[0] if own is not None else around
    is_plain = own is not None and own.num_beams == 1 and not own.penalty_alpha and trace.search is None
    redecider = Redecider(
        trace,
        new,
        own=own if is_plain else None,
        around=around,
        own_around=own_around,
        own_choice=not header.is_given,
    )
    ids, steps = [*trace.prompt_ids], []
    for i, (token, record) in enumerate(zip(trace.ids, trace.steps, strict=True)):
        found = redecider.step(record, ids)
        steps.append(
            WhatIfStep(
                step=i,
                original_id=token,
                new_id=found.id,
                original_prob=found.original,
                new_prob=found.new,
                record=found.record,
                why=found.why,
            )
        )
        ids.append(token)
    end_step, end = _end(trace, own, new, rules)
    divergences = [step.step for step in steps if step.decided and not step.same][:1]
    goes_on = end is None and header.stop.reason in ENDED and header.complete
    if end_step is not None and end_step < len(steps) - 1:
        divergences.append(end_step + 1)
    elif goes_on:
        divergences.append(len(steps))
    before, after = own.values() if own is not None else dict(DEFAULTS), new.values()
    changed = {name: (before[name], after[name]) for name in after if name != "seed" and before[name] != after[name]}
    if seed != header.seed:
        changed["seed"] = (header.seed, seed)
    tokens = {*trace.ids, *(step.new_id for step in steps if step.new_id is not None)}
    return WhatIf(
        trace_id=trace.id,
        changed=changed,
        steps=tuple(steps),
        first_divergence=min(divergences, default=None),
        end=end,
        end_step=end_step,
        labels={token: trace.token_label(token) for token in tokens},
        notes=notes,
    )


ENDED = (
    StopReason.EOS,
    StopReason.MAX_NEW_TOKENS,
    StopReason.MAX_LENGTH,
    StopReason.STOP_STRING,
    StopReason.LOOP,
)
"""Ends that settings of the text itself bring about."""


def _own(
    trace: Trace, config: GenerationConfig | None, options: Mapping[str, Any]
) -> tuple[GenerationConfig | None, tuple[str, ...]]:
    """The settings of the trace; None if they are not known and not needed."""
    header = trace.header
    missing = [name for name in header.unkept if name != "stopping_criteria"]
    if missing and config is None and not all(name in options for name in missing):
        raise OptionError(
            f"the trace was made with {', '.join(missing)} of its caller's own code, which no trace keeps: "
            f"give {missing[0]} again, or a whole config"
        )
    notes: tuple[str, ...] = ()
    if "stopping_criteria" in header.unkept:
        notes = ("the trace was made with stopping_criteria, which are code and not asked again",)
    own = kept_config(header)
    return (None if missing and config is not None else own), notes


def _check(config: GenerationConfig) -> None:
    for name, why in NEEDS_MODEL.items():
        if getattr(config, name) != DEFAULTS[name]:
            raise OptionError(
                f"{name}={getattr(config, name)!r:.60} cannot be decided from a trace: {why}; "
                f"set it to {DEFAULTS[name]!r}, or ask the model with fanlight.branch"
            )
    assert strategy_of(config) == SAMPLING


def _eos_ids(trace: Trace, config: GenerationConfig) -> tuple[int, ...]:
    """The ends of text that are asked for, or the model's own, as far as the trace knows them."""
    if config.eos_token_id is not None:
        return config.eos_token_id
    return trace.header.eos_ids


def _surroundings(trace: Trace, config: GenerationConfig, seed: int, ops: Ops) -> tuple[Surroundings, StopRules]:
    eos_ids, origin, n_prompt = _eos_ids(trace, config), trace.header.origin, len(trace.prompt_ids)
    if not eos_ids and (
        config.min_length or config.min_new_tokens or config.exponential_decay_length_penalty is not None
    ):
        raise OptionError("the trace does not say which tokens end a text: give eos_token_id=...")
    new_tokens = config.new_tokens
    rules = StopRules(
        eos_ids=frozenset() if config.ignore_eos else frozenset(eos_ids),
        max_new_tokens=new_tokens,
        max_length=config.max_length if new_tokens is None else None,
        n_ctx=origin.n_ctx or UNLIMITED,
        token_label=trace.token_label,
    )
    is_limited = rules.max_new_tokens is not None or rules.max_length is not None
    around = Surroundings(
        ops=ops,
        n_vocab=origin.n_vocab,
        prompt_ids=trace.prompt_ids,
        seed=seed,
        eos_ids=eos_ids,
        max_length=rules.longest(n_prompt) if is_limited else None,
        n_layer=origin.n_layer or 1,
        token_text=trace.token_text,
    )
    return around, rules


def _end(
    trace: Trace, own: GenerationConfig | None, config: GenerationConfig, rules: StopRules
) -> tuple[int | None, Stop | None]:
    """The step after which the text would end, if its tokens stay as they are, and why."""
    if trace.header.is_given:
        return None, None
    if not trace.ids and rules.max_new_tokens == 0:
        return None, stop_max_new_tokens(0)
    loop = LoopDetector(config.loop_repeats, config.loop_min_tokens) if config.loop_repeats else None
    same_strings = own is not None and own.stop_strings == config.stop_strings
    strings = StopStrings(() if same_strings else config.stop_strings)
    detokenizer = Detokenizer(trace.token_bytes, rules.eos_ids)
    n_prompt, stop = len(trace.prompt_ids), None
    for i, token in enumerate(trace.ids):
        piece = "" if token in rules.eos_ids else detokenizer.feed(token)
        stop = rules.check(token, i + 1, n_prompt + i + 1, tail=None)
        stop = (loop.feed(token) if loop is not None else None) or stop
        if stop is not None:
            piece += detokenizer.flush()
        _, found = strings.feed(piece)
        if found is not None:
            return i, stop_string(found, i + 1)
        if stop is not None:
            return i, stop
    old = trace.header.stop
    stays = old.reason not in ENDED or (old.reason is StopReason.STOP_STRING and same_strings)
    return (len(trace.ids) - 1, old) if stays and trace.ids else (None, None)


def _cut(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:17]}…"


def _percent(prob: Interval) -> str:
    low, high = (100 * side for side in prob)
    if high - low < 0.05:
        return f"{low:.1f} %"
    return f"{low:.0f}-{high:.0f} %"
