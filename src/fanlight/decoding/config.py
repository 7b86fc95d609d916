"""Decoding settings. In: names and values from a caller. Out: a checked, frozen GenerationConfig. Knows no model.

Names and meanings follow Hugging Face's GenerationConfig where it has them (source: transformers), vLLM's otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from fanlight.errors import OptionError

SMALLEST, LARGEST = 1e-6, 1e6  # a divisor of logits: beyond these, float32 logits overflow or all become equal
SAMPLING_OPTIONS: tuple[str, ...] = ("temperature", "top_k", "top_p", "min_p", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to choose tokens and when to end. Raises OptionError, which names the option, its range and the value."""

    max_new_tokens: int = 128
    """0 or more."""
    do_sample: bool = False
    """Draw from the distribution; otherwise take the most probable token (greedy)."""
    temperature: float = 1.0
    """0, or 1e-06 to 1e+06. 0 takes the most probable token."""
    top_k: int | None = 50
    """0 or None: off."""
    top_p: float = 1.0
    """Above 0, up to 1. 1: off."""
    min_p: float | None = None
    """0 to 1. 0 or None: off."""
    repetition_penalty: float = 1.0
    """1e-06 to 1e+06. 1: off. Works on greedy decoding too; counts the prompt's tokens."""
    seed: int | None = None
    """Any integer, taken modulo 2^64. None: a fresh one for each request."""
    stop_strings: tuple[str, ...] = ()
    """The text ends before the first of these. A single str is accepted."""
    eos_token_id: tuple[int, ...] | None = None
    """Ids that end the text; None: the model's. A single int is accepted."""
    ignore_eos: bool = False
    """Go on after an end-of-sequence token."""
    candidates: int = 20
    """How many of the most probable tokens each StepRecord holds; 0: no records."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "max_new_tokens", _integer("max_new_tokens", self.max_new_tokens, "an integer of at least 0", 0))
        put(self, "do_sample", _boolean("do_sample", self.do_sample))
        put(self, "temperature", _temperature(self.temperature))
        if self.top_k is not None:
            put(self, "top_k", _integer("top_k", self.top_k, "an integer of at least 0 (0 or None: off)", 0))
        put(self, "top_p", _number("top_p", self.top_p, "above 0 and at most 1", 0, 1, open_low=True))
        if self.min_p is not None:
            put(self, "min_p", _number("min_p", self.min_p, "between 0 and 1, or None", 0, 1))
        span = f"between {SMALLEST:g} and {LARGEST:g}"
        put(self, "repetition_penalty", _number("repetition_penalty", self.repetition_penalty, span, SMALLEST, LARGEST))
        if self.seed is not None:
            put(self, "seed", _integer("seed", self.seed, "an integer or None"))
        put(self, "stop_strings", _strings(self.stop_strings))
        if self.eos_token_id is not None:
            put(self, "eos_token_id", _ids(self.eos_token_id))
        put(self, "ignore_eos", _boolean("ignore_eos", self.ignore_eos))
        put(self, "candidates", _integer("candidates", self.candidates, "an integer of at least 0 (0: no records)", 0))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> GenerationConfig:
        """Settings from names and values. An unknown name is an OptionError that suggests the nearest known one."""
        _check_names(options)
        return cls(**options)

    def replace(self, **options: Any) -> GenerationConfig:
        """A copy with these options changed."""
        _check_names(options)
        return replace(self, **options)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random: do_sample, and a temperature above 0."""
        return self.do_sample and self.temperature > 0

    def notes(self) -> tuple[str, ...]:
        """What was set away from its default and yet has no effect, a sentence each."""
        notes = []
        if not self.samples:
            reason = "temperature is 0" if self.do_sample else "do_sample is false"
            if self.do_sample:
                notes.append("temperature is 0: the most probable token is taken, as with do_sample false")
            for name in SAMPLING_OPTIONS:
                is_set = getattr(self, name) != DEFAULTS[name]
                if is_set and not (name == "temperature" and self.temperature == 0):  # 0 asks for what happens
                    notes.append(f"{name} has no effect: {reason}")
        if self.ignore_eos and self.eos_token_id:
            notes.append("eos_token_id ends nothing: ignore_eos is true")
        return tuple(notes)


DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(GenerationConfig)}
"""Every option and its default."""


def _check_names(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in DEFAULTS:
            from difflib import get_close_matches  # lazily: only a typo needs it

            near = get_close_matches(str(name), DEFAULTS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(DEFAULTS)}"
            raise OptionError(f"unknown option {name!r}; {hint}")


def _refuse(name: str, expected: str, value: object) -> OptionError:
    return OptionError(f"{name} must be {expected}: got {value!r}")


def _integer(name: str, value: object, expected: str, low: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or (low is not None and int(value) < low):
        raise _refuse(name, expected, value)
    return int(value)


def _number(name: str, value: object, expected: str, low: float, high: float, *, open_low: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refuse(name, expected, value)
    number = float(value)
    if not low <= number <= high or (open_low and number == low):  # NaN fails the first
        raise _refuse(name, expected, value)
    return number


def _temperature(value: object) -> float:
    expected = f"0 (greedy), or between {SMALLEST:g} and {LARGEST:g}"
    number = _number("temperature", value, expected, 0, LARGEST)
    if 0 < number < SMALLEST:
        raise _refuse("temperature", expected, value)
    return number


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, "true or false", value)
    return value


def _strings(value: object) -> tuple[str, ...]:
    expected = "a string or several, none of them empty"
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable):
        raise _refuse("stop_strings", expected, value)
    strings = tuple(strings)
    if not all(isinstance(string, str) and string for string in strings):
        raise _refuse("stop_strings", expected, value)
    return strings


def _ids(value: object) -> tuple[int, ...]:
    expected = "a token id or several, or None"
    ids = (value,) if isinstance(value, Integral) else value
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise _refuse("eos_token_id", expected, value)
    return tuple(_integer("eos_token_id", token, "token ids of at least 0", 0) for token in ids)
