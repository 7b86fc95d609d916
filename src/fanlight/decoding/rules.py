"""What a value of an option may be. In: a value from a caller. Out: the same in one frozen form, or OptionError. Knows no option.

A Rule says its range in words; the words stand in the error, in the help and in the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar, dataclass_transform

from fanlight.errors import OptionError

T = TypeVar("T")
MOST = 1e30
"""The largest bias: a float32 logit takes it, and several."""
Check = Callable[[Any], Any]
"""A value -> its frozen form. ValueError or TypeError: not one that is allowed; a text in it says more."""


class Rule(NamedTuple):
    """What an option takes."""

    expected: str
    """In words: "a number above 0"."""
    check: Check
    kind: str
    """How it is written on a command line: "int", "float", "flag", "text", "json"."""
    many: bool = False
    """Several values on a command line."""
    nullable: bool = False

    def __call__(self, name: str, value: object) -> Any:
        """The value in its frozen form. Errors: OptionError with the name, the range and the value."""
        if value is None and self.nullable:
            return None
        try:
            return self.check(value)
        except OptionError:
            raise
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            more = f" ({error})" if isinstance(error, Fault) else ""
            raise OptionError(f"{name} must be {self.expected}: got {value!r:.200}{more}") from None


class Fault(ValueError):
    """A ValueError whose text is for the user."""


def optional(rule: Rule) -> Rule:
    """The same, or None."""
    return Rule(f"{rule.expected}, or None", rule.check, rule.kind, rule.many, True)


def whole(low: int | None = None, expected: str | None = None, high: int | None = None) -> Rule:
    """An integer in a range, both ends included."""
    if expected is None:
        expected = "an integer" if low is None else f"an integer of at least {low}"
        if high is not None:
            expected = f"an integer from {low} to {high}"

    def check(value: Any) -> int:
        number = as_integer(value)
        if (low is not None and number < low) or (high is not None and number > high):
            raise ValueError
        return number

    return Rule(expected, check, "int")


def number(
    low: float,
    high: float,
    expected: str,
    *,
    open_low: bool = False,
    open_high: bool = False,
    also: float | None = None,
) -> Rule:
    """A real number in a range; NaN is in none. also: one value beside the range."""

    def check(value: Any) -> float:
        x = as_number(value)
        if also is not None and x == also:
            return x
        if not low <= x <= high or (open_low and x == low) or (open_high and x == high):
            raise ValueError
        return x

    return Rule(expected, check, "float")


def boolean() -> Rule:
    """true or false."""
    return Rule("true or false", _boolean, "flag")


def one_of(*values: object) -> Rule:
    """One of a few values."""
    words = ", ".join(repr(value) for value in values[:-1]) + f" or {values[-1]!r}"

    def check(value: Any) -> Any:
        for known in values:
            if type(known) is type(value) and known == value:
                return known
        raise ValueError

    return Rule(words, check, "json" if any(not isinstance(value, str) for value in values) else "text")


def text(expected: str) -> Rule:
    """A string that is not empty."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise TypeError
        return value

    return Rule(expected, check, "text")


def pattern() -> Rule:
    """A regular expression of Python's."""

    def check(value: Any) -> str:
        import re

        if not isinstance(value, str) or not value:
            raise TypeError
        try:
            re.compile(value)
        except re.error as error:
            raise Fault(str(error)) from None
        return value

    return Rule("a regular expression", check, "text")


def strings() -> Rule:
    """Several strings, or one."""

    def check(value: Any) -> tuple[str, ...]:
        found = (value,) if isinstance(value, str) else tuple(value)
        if isinstance(value, (bytes, Mapping)) or not all(isinstance(item, str) and item for item in found):
            raise TypeError
        return found

    return Rule("a string or several, none of them empty", check, "text", many=True)


def token_ids() -> Rule:
    """Several ids, or one."""
    return Rule("a token id or several", _ids, "int", many=True)


def token_lists(expected: str) -> Rule:
    """A list of lists of ids, none of them empty."""

    def check(value: Any) -> tuple[tuple[int, ...], ...]:
        _refuse_text(value)
        return tuple(_filled(_ids(item, single=False)) for item in value)

    return Rule(expected, check, "json")


def forced_words() -> Rule:
    """Phrases: a list of ids each, or a list of such lists, of which one must come; objects with token_ids too."""

    def phrase(item: Any) -> tuple[tuple[int, ...], ...]:
        item = getattr(item, "token_ids", item)
        _refuse_text(item)
        parts = tuple(item)
        if parts and all(isinstance(part, Integral) for part in parts):
            return (_filled(_ids(parts, single=False)),)
        return _filled(tuple(_filled(_ids(part, single=False)) for part in parts))

    def check(value: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
        _refuse_text(value)
        return tuple(phrase(item) for item in value)

    return Rule("a list of token id lists, or of lists of alternatives", check, "json")


def id_biases() -> Rule:
    """{id: bias}, in any form that JSON has: {"15": -1.5}, or [[15, -1.5], ...]."""

    def check(value: Any) -> tuple[tuple[int, float], ...]:
        pairs = value.items() if isinstance(value, Mapping) else value
        _refuse_text(pairs)
        found = {_token(key): _bias(amount) for key, amount in pairs}
        return tuple(sorted(found.items()))

    return Rule("token ids with a number each, -inf to remove one", check, "json")


def sequence_biases() -> Rule:
    """{(id, ...): bias}, or [[[id, ...], bias], ...], as transformers takes them."""

    def check(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
        pairs = value.items() if isinstance(value, Mapping) else value
        _refuse_text(pairs)
        return tuple((_filled(_ids(ids, single=False)), _bias(amount)) for ids, amount in pairs)

    return Rule("token id sequences with a number each, -inf to remove one", check, "json")


def decay() -> Rule:
    """(start, factor) of exponential_decay_length_penalty."""

    def check(value: Any) -> tuple[int, float]:
        _refuse_text(value)
        start, factor = value
        start, factor = as_integer(start), as_number(factor)
        if start < 0 or not 0 < factor < float("inf"):
            raise ValueError
        return start, factor

    return Rule("(start, factor): an integer of at least 0, and a number above 0", check, "json")


def json_value(expected: str) -> Rule:
    """Anything that JSON can say, kept as text; a text is taken as JSON."""

    def check(value: Any) -> str:
        if isinstance(value, str):
            try:
                json.loads(value)
            except (ValueError, RecursionError) as error:
                raise Fault(f"no JSON: {error}") from None
            return value
        try:
            return json.dumps(value, allow_nan=False)
        except RecursionError:
            raise Fault("nested too deeply") from None

    return Rule(expected, check, "text")


def layers() -> Rule:
    """ "low", "high", or layers by their numbers."""

    def check(value: Any) -> str | tuple[int, ...]:
        if isinstance(value, str):
            if value not in ("low", "high"):
                raise ValueError
            return value
        return tuple(sorted(set(_filled(_ids(value, single=False)))))

    return Rule("'low', 'high', or a list of layers", check, "json")


def callables(expected: str) -> Rule:
    """Functions, or one."""

    def check(value: Any) -> tuple[Callable[..., Any], ...]:
        found = (value,) if callable(value) else tuple(value)
        if not all(callable(item) for item in found):
            raise TypeError
        return found

    return Rule(expected, check, "none")


def names_or_callables(expected: str) -> Rule:
    """Names and functions, in an order."""

    def check(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = value.replace(";", ",").split(",")
        if isinstance(value, (bytes, Mapping)):
            raise TypeError
        found = tuple(item.strip() if isinstance(item, str) else item for item in value)
        if not all(callable(item) or (isinstance(item, str) and item) for item in found):
            raise TypeError
        return found

    return Rule(expected, check, "text")


class Option(NamedTuple):
    """What a field of GenerationConfig says of itself."""

    rule: Rule
    group: str
    metavar: str = ""
    sampling: bool = False
    """Whether it counts only where tokens are drawn."""


def option(rule: Rule, group: str, metavar: str = "", *, default: Any, sampling: bool = False) -> Any:
    """A dataclass field with its rule."""
    rule = optional(rule) if default is None else rule
    return field(default=default, metadata={"option": Option(rule, group, metavar, sampling)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, field))
def of_options(cls: type[T]) -> type[T]:
    """A frozen dataclass of options. It has methods of its own: those made for a hundred fields cost 8 ms of start-up."""
    return dataclass(frozen=True, slots=True, kw_only=True, init=False, repr=False, eq=False)(cls)


# -- parts ---------------------------------------------------------------------------------------------------------------


def as_integer(value: Any) -> int:
    """An integer that is no bool. TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return int(value)


def as_number(value: Any) -> float:
    """A real number that is no bool. TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _ids(value: Any, *, single: bool = True) -> tuple[int, ...]:
    if single and isinstance(value, Integral):
        value = (value,)
    _refuse_text(value)
    ids = tuple(as_integer(token) for token in value)
    if ids and min(ids) < 0:
        raise ValueError
    return ids


def _token(value: Any) -> int:
    if isinstance(value, str):  # a key of a JSON object
        value = int(value)
    token = as_integer(value)
    if token < 0:
        raise ValueError
    return token


def _bias(value: Any) -> float:
    if value is None or value == "-inf":  # JSON has no infinity
        return -float("inf")
    amount = as_number(value)
    if not amount <= MOST:
        raise Fault(f"more than {MOST:g}, or NaN")
    return amount


def _filled(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError
    return items


def _refuse_text(value: Any) -> None:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError
