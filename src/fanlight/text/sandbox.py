"""A Jinja environment for templates that came with a model file: same results, bounded work. Knows nothing of chats.

A chat template is a program from the internet. Jinja's sandbox keeps it away from Python; what it does not bound is
work: nested loops, strings that double, a width of a billion. Here every loop turn, call and filter spends from a
budget, and every operation that can make a string much longer than its input is measured before it runs.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 1_000_000  # loop turns, calls and filters of one rendering
MAX_SECONDS = 5.0
MIN_CHARS = 1 << 20  # a rendering may always be this long, and CHARS_PER_INPUT times its input
CHARS_PER_INPUT = 16
_MAX_EXPONENT = 64
_MAX_INT_BITS = 4096
_MAX_INDENT = 64
_LONG_FORMAT = re.compile(r"\d{6}|\{[^{}]*\{|%[^a-zA-Z%]*\*")  # a width of six digits, or one taken from an argument


class Overrun(SecurityError):
    """The template asked for more work than its input justifies."""


class Budget:
    """What one rendering may still do."""

    __slots__ = ("deadline", "max_chars", "steps")

    def __init__(self, input_chars: int) -> None:
        self.max_chars = MIN_CHARS + CHARS_PER_INPUT * input_chars
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, steps: int = 1) -> None:
        """Overrun when the steps, or the seconds, are used up."""
        self.steps -= steps
        if self.steps < 0:
            raise Overrun(f"more than {MAX_STEPS} loop turns and calls")
        if self.steps & 63 == 0 and time.monotonic() > self.deadline:
            raise Overrun(f"more than {MAX_SECONDS:g} seconds")

    def check(self, size: int) -> None:
        """Overrun for a string or list of this size."""
        if size > self.max_chars:
            raise Overrun(f"a result of {size} characters or items, where {self.max_chars} are allowed")


_budget: ContextVar[Budget] = ContextVar("fanlight_template_budget")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it (as transformers sets it up), with a budget."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(lambda parts: _join_checked(parts))

    def __init__(self) -> None:
        # Not optimised: the optimiser would run filters while compiling, outside any budget.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols])
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, dict=_make_dict, namespace=_Namespace)
        self.filters["tojson"] = _to_json
        for name, function in self.filters.items():
            self.filters[name] = _metered_filter(name, function)
        self.filters["_turns"] = _turns
        self.filters["_concat"] = _concat

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """One of the operators above, measured first."""
        _check_binop(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (Jinja's signature)
        """Any call in a template, measured first."""
        budget = _budget.get()
        budget.spend()
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_text_operation(getattr(method, "__name__", ""), owner, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, range):
            budget.spend(len(result) // 16)  # even if no loop but a filter runs over it
        budget.check(_size(result))
        return result

    def compile_bounded(self, source: str, filename: str) -> jinja2.Template:
        """The template, with every loop and every `~` measured."""
        tree = self.parse(source, filename=filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _apply("_turns", loop.iter)
        _replace_concats(tree)
        code = self.compile(tree, filename=filename)
        return self.template_class.from_code(self, code, self.make_globals(None))


def render(template: jinja2.Template, variables: Mapping[str, Any], input_chars: int) -> str:
    """The template's output. Raises Jinja's errors, and Overrun."""
    budget = Budget(input_chars)
    token = _budget.set(budget)
    try:
        pieces: list[str] = []
        size = 0
        for piece in template.generate(**variables):
            budget.spend()
            size += len(piece)
            budget.check(size)
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _budget.reset(token)


# -- what is measured -------------------------------------------------------------------------------------------------


def _apply(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _replace_concats(node: nodes.Node) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _replace_concats(value)
            if isinstance(value, nodes.Concat):
                setattr(node, field, _apply("_concat", nodes.List(value.nodes, lineno=value.lineno)))
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, nodes.Node):
                    _replace_concats(item)
            if any(isinstance(item, nodes.Concat) for item in value):
                items = (
                    _apply("_concat", nodes.List(i.nodes, lineno=i.lineno)) if isinstance(i, nodes.Concat) else i
                    for i in value
                )
                setattr(node, field, type(value)(items))


def _turns(value: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for item in value:
        budget.spend()
        yield item


def _concat(values: Iterable[Any]) -> str:
    return _join_checked([str(value) for value in values])


def _join_checked(parts: Iterable[str]) -> str:
    parts = list(parts)
    _budget.get().check(sum(map(len, parts)))
    return "".join(parts)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1


def _check_binop(operator: str, left: Any, right: Any) -> None:
    budget = _budget.get()
    budget.spend()
    if operator == "%":
        if isinstance(left, str):
            _check_format(left, left.count("%"), right)
    elif operator == "+":
        budget.check(_size(left) + _size(right))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else abs(right) * left.bit_length()
        if bits > _MAX_INT_BITS or (operator == "**" and abs(right) > _MAX_EXPONENT):
            raise Overrun(f"{operator} of numbers with {bits} bits")
    elif operator == "*":
        count = next((n for n in (left, right) if isinstance(n, int)), 1)
        budget.check(max(count, 0) * max(_size(left), _size(right)))


def _check_text_operation(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Before a method or a filter that can lengthen a text: how long could the result be?"""
    budget = _budget.get()
    values = [*args, *kwargs.values()]
    numbers = [value for value in values if isinstance(value, int)]
    texts = [value for value in values if isinstance(value, str)]
    width = max([0, *numbers])
    if name in ("center", "ljust", "rjust", "zfill", "truncate"):
        budget.check(width)
    elif name == "replace" and len(texts) > 1:
        budget.check(len(text) + text.count(texts[0]) * len(texts[1]))
    elif name == "expandtabs":
        budget.check(len(text) + text.count("\t") * width)
    elif name in ("indent", "wordwrap"):
        longest = max([width if name == "indent" else 1, 4, *map(len, texts)])
        lines = text.count("\n") + 1 if name == "indent" else len(text)
        budget.check(len(text) + lines * longest)
    elif name in ("format", "format_map"):  # the method's fields begin with {, the filter's with %
        _check_format(text, text.count("{") + text.count("%"), values)
    elif name == "join" and args:
        budget.check(len(text) * _size(args[0]))


def _check_format(text: str, n_fields: int, values: Any) -> None:
    if _LONG_FORMAT.search(text):
        raise Overrun(f"the format {text[:40]!r}")
    _budget.get().check(len(text) + n_fields * _printed_size(values))


def _printed_size(value: Any) -> int:
    """An upper bound, roughly, of the characters that a value prints as."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return sum(2 + _printed_size(item) for item in value)
    return len(value) if isinstance(value, str) else 1


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passes_argument = getattr(function, "jinja_pass_arg", None) is not None

    @functools.wraps(function)  # keeps Jinja's mark of whether the function wants the context first
    def measured(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        value, *rest = args[1:] if passes_argument else args
        budget.spend(1 + _size(value) // 1024)
        if name in ("join", "batch", "slice"):
            options = [option for option in (*rest, *kwargs.values()) if isinstance(option, (str, int))]
            lengths = [len(option) if isinstance(option, str) else option for option in options]
            budget.check(max([1, *lengths]) * (_size(value) if name == "join" else 1))
        elif isinstance(value, str):
            _check_text_operation(name, value, tuple(rest), kwargs)
        result = function(*args, **kwargs)
        budget.check(_size(result))
        return result

    return measured


# -- what templates find in their environment -------------------------------------------------------------------------


class _Generation(Extension):
    """`{% generation %}`: marks, for training, what the assistant says. Its content is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's declaration)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)`, without names that lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may use `self` as a name
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"namespace: a name may not begin with '_', found {name!r}")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON. (Jinja's own filter escapes HTML and sorts the keys.)"""
    if (isinstance(indent, int) and indent > _MAX_INDENT) or (isinstance(indent, str) and len(indent) > _MAX_INDENT):
        raise Overrun(f"tojson with an indent of {indent!r:.40}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
