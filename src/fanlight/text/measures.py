"""Operators, methods and filters of a template -> Overrun before they do too much. Knows budgets; knows no template's text."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fanlight.text.budget import Budget, Overrun, budget_of_rendering

_MAX_EXPONENT = 64
_MAX_INT_BITS = 4096
_MAX_PRECISION = 64
_MAX_COMPARISONS = 1 << 28  # of characters, in an operation that looks for one text anywhere in another, backwards
_LONG_FORMAT = re.compile(r"\d{6}|\{[^{}]*\{|%[^a-zA-Z%]*\*")  # a width of six digits, or one taken from an argument
_WIDTH = re.compile(r"\d+")
_BYTES_PER_NEW_ITEM = 40
_BACKWARDS = ("rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip", "trim")
_MOST_WEIGHT = {  # of what these filters and methods take: their time grows faster than that
    "pprint": 1 << 13,
    "striptags": 1 << 15,
    "unescape": 1 << 18,
    "urlize": 1 << 15,
    "wordwrap": 1 << 15,
    "xmlattr": 1 << 18,
}


def check_binop(operator: str, left: Any, right: Any) -> None:
    """Before left operator right, for + * ** and %."""
    budget = budget_of_rendering.get()
    budget.spend()
    if operator == "%":
        if isinstance(left, str):
            _check_format(budget, left, left.count("%"), right)
    elif operator == "+":
        budget.check(_size(left) + _size(right))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else abs(right) * left.bit_length()
        if bits > _MAX_INT_BITS or (operator == "**" and abs(right) > _MAX_EXPONENT):
            raise Overrun(f"{operator} of numbers with {bits} bits")
    elif operator == "*":
        count = next((n for n in (left, right) if isinstance(n, int)), 1)
        budget.check(max(count, 0) * max(_size(left), _size(right)))


def check_text_operation(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Before a method or a filter that can lengthen a text, or take long over it: how long could the result be?"""
    budget = budget_of_rendering.get()
    values = [*args, *kwargs.values()]
    numbers = [value for value in values if isinstance(value, int)]
    texts = [value for value in values if isinstance(value, str)]
    width = max([0, *numbers])
    if name in ("center", "ljust", "rjust", "zfill", "truncate"):
        budget.check(width)
    elif name == "replace" and len(texts) > 1:
        budget.check(len(text) + text.count(texts[0]) * len(texts[1]))
    elif name == "expandtabs":
        budget.check(len(text) + text.count("\t") * max([8, *numbers]))
    elif name in ("indent", "wordwrap"):
        longest = max([width if name == "indent" else 1, 4, *map(len, texts)])
        lines = text.count("\n") + 1 if name == "indent" else len(text)
        budget.check(len(text) + lines * longest)
    elif name in ("format", "format_map"):  # the method's fields begin with {, the filter's with %
        _check_format(budget, text, text.count("{") + text.count("%"), values)
    elif name == "join":
        for value in values:
            budget.check(len(text) * _size(value))
    elif name in _BACKWARDS and len(text) * max([0, *map(len, texts)]) > _MAX_COMPARISONS:
        raise Overrun(f"{name} of {max(map(len, texts))} characters in {len(text)}")
    _check_weight(name, len(text))


def metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, measured first, and its result afterwards."""
    passes_argument = getattr(function, "jinja_pass_arg", None) is not None

    @functools.wraps(function)  # keeps Jinja's mark of whether the function wants the context first
    def measured(*args: Any, **kwargs: Any) -> Any:
        budget = budget_of_rendering.get()
        n_passed = 1 if passes_argument else 0
        passed, value, rest = args[:n_passed], args[n_passed], args[n_passed + 1 :]
        if isinstance(value, Iterator):
            value = budget.watched(value)
        weight = budget.weigh(value)
        budget.spend(1 + weight // 1024)
        _check_weight(name, weight)
        _check_options(budget, name, value, (*rest, *kwargs.values()))
        if isinstance(value, str):
            check_text_operation(name, value, tuple(rest), kwargs)
        result = function(*passed, value, *rest, **kwargs)
        if isinstance(result, int) and result.bit_length() > _MAX_INT_BITS:
            raise Overrun(f"a number of {result.bit_length()} bits")
        return budget.made(result, _BYTES_PER_NEW_ITEM)

    return measured


def _check_options(budget: Budget, name: str, value: Any, options: tuple[Any, ...]) -> None:
    for option in options:
        budget.weigh(option)
    numbers = [abs(option) for option in options if isinstance(option, (int, float))]
    if name == "round" and max([0, *numbers]) > _MAX_PRECISION:
        raise Overrun(f"round to {max(numbers)} digits")
    if name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
        raise Overrun("sum of lists")
    if name in ("batch", "slice"):
        budget.check(int(max([0, *numbers])))
    if name == "join":
        lengths = [len(option) for option in options if isinstance(option, str)]
        budget.check(max([1, *lengths]) * _size(value))


def _check_weight(name: str, weight: int) -> None:
    most = _MOST_WEIGHT.get(name, weight)
    if weight > most:
        raise Overrun(f"{name} of {weight} characters or items, where {most} are allowed")


def _check_format(budget: Budget, text: str, n_fields: int, values: Any) -> None:
    if _LONG_FORMAT.search(text):
        raise Overrun(f"the format {text[:40]!r}")
    width = max((int(digits) for digits in _WIDTH.findall(text)), default=0) if n_fields > 1 else 0
    budget.check(len(text) + n_fields * (width + budget.weigh(values)))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1
