"""A Jinja environment for templates that came with a model file: same results, bounded work. Knows nothing of chats.

A chat template is a program from the internet. Jinja's sandbox keeps it away from Python; what it does not bound is
work: nested loops, strings that double, a width of a billion. Here every loop turn, call and filter spends from a
budget, and every operation that can make a string much longer than its input is measured before it runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fanlight.text.budget import Budget, Overrun, budget_of_rendering
from fanlight.text.measures import check_binop, check_text_operation, metered_filter

_MAX_INDENT = 64
_MAX_DATE_FORMAT = 256
_MAX_INT_BITS = 4096
_BYTES_PER_NEW_ITEM = 40
_HIDDEN = {  # bytes have no bounds here, and templates no use for them
    str: frozenset(("encode", "translate", "maketrans")),
    int: frozenset(("to_bytes", "from_bytes")),
    float: frozenset(("fromhex",)),
}


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it (as transformers sets it up), with a budget."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(lambda parts: _join_checked(parts))

    def __init__(self) -> None:
        # Not optimised: the optimiser would run filters while compiling, outside any budget.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_printable,
            extensions=[_Generation, loopcontrols],
        )
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, dict=_make_dict, namespace=_Namespace)
        self.filters["tojson"] = _to_json
        for name, function in self.filters.items():
            self.filters[name] = metered_filter(name, function)
        self.filters.update(_turns=_turns, _concat=_concat, _made=_made, _done=_done)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rule, and no way to bytes."""
        hidden = next((names for kind, names in _HIDDEN.items() if isinstance(obj, kind)), frozenset())
        return attr not in hidden and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """One of the operators above, measured first."""
        check_binop(operator, left, right)
        return budget_of_rendering.get().made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (Jinja's signature)
        """Any call in a template, measured first."""
        budget = budget_of_rendering.get()
        budget.spend()
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            check_text_operation(getattr(method, "__name__", ""), owner, args, kwargs)
        elif isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs):
            budget.weigh((args, kwargs))  # they become one value each
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, range):
            budget.spend(1 + len(result) // 16)  # even if no loop but a filter runs over it
        return budget.made(result, _BYTES_PER_NEW_ITEM)

    def compile_bounded(self, source: str, filename: str) -> jinja2.Template:
        """The template, with all measured that Jinja gives no hook for."""
        tree = self.parse(source, filename=filename)
        _measured(tree)
        code = self.compile(tree, filename=filename)
        return self.template_class.from_code(self, code, self.make_globals(None))


def render(template: jinja2.Template, variables: Mapping[str, Any], input_chars: int) -> str:
    """The template's output. Raises Jinja's errors, and Overrun."""
    budget = Budget(input_chars)
    token = budget_of_rendering.set(budget)
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
        budget_of_rendering.reset(token)


# -- what is measured -------------------------------------------------------------------------------------------------


@jinja2.pass_context  # so that nothing is printed while compiling
def _printable(_context: Any, value: Any) -> Any:
    if not isinstance(value, str):
        budget_of_rendering.get().weigh(value)
    return value


def _apply(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _measured(node: nodes.Node) -> nodes.Node:
    """The node, once all under it is measured, with a filter around it if what it makes or does has a size."""
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, _measured(value))
        elif isinstance(value, (list, tuple)):
            setattr(node, field, type(value)(_measured(v) if isinstance(v, nodes.Node) else v for v in value))
    if isinstance(node, nodes.For):
        node.iter = _apply("_turns", node.iter)
    elif isinstance(node, nodes.Concat):
        return _apply("_concat", nodes.List(node.nodes, lineno=node.lineno))
    elif isinstance(node, (nodes.Compare, nodes.Test)):
        return _apply("_done", node)
    elif _makes_something(node):
        return _apply("_made", node)
    elif isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value.bit_length() > _MAX_INT_BITS:
        raise ValueError(f"line {node.lineno}: a number of {node.value.bit_length()} bits")
    return node


def _makes_something(node: nodes.Node) -> bool:
    """Lists and such, and slices, which go past Environment.getitem. (A tuple may also be what is assigned to.)"""
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    return isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load")


def _turns(value: Iterable[Any]) -> Iterator[Any]:
    budget = budget_of_rendering.get()
    for item in value:
        budget.spend()
        yield item


def _concat(values: Iterable[Any]) -> str:
    budget = budget_of_rendering.get()
    for value in values:
        budget.weigh(value)
    return _join_checked([str(value) for value in values])


def _join_checked(parts: Iterable[str]) -> str:
    parts = list(parts)
    budget = budget_of_rendering.get()
    budget.check(sum(map(len, parts)))
    joined = "".join(parts)
    budget.made(joined)
    return joined


def _made(value: Any) -> Any:
    return budget_of_rendering.get().made(value)


def _done(value: Any) -> Any:
    """After a comparison, which may have taken some milliseconds."""
    budget_of_rendering.get().spend(2)
    return value


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
        budget_of_rendering.get().weigh(values)
        jinja2.utils.Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        budget_of_rendering.get().weigh((value,))  # and no namespace in it
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
    if separators is not None and any(isinstance(mark, str) and len(mark) > _MAX_INDENT for mark in separators):
        raise Overrun(f"tojson with separators of more than {_MAX_INDENT} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:  # not much longer than the value's weight
        return encoder.encode(value)
    budget = budget_of_rendering.get()
    pieces: list[str] = []
    size = 0
    for piece in encoder.iterencode(value):
        pieces.append(piece)
        size += len(piece)
        budget.spend()
        budget.check(size)
    return "".join(pieces)


def checked_date_format(form: Any) -> str:
    """What `strftime_now` may be asked for."""
    if not isinstance(form, str) or len(form) > _MAX_DATE_FORMAT:
        raise Overrun(f"strftime_now with a format of more than {_MAX_DATE_FORMAT} characters, or of none")
    return form
