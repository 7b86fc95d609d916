"""What one rendering of a template may still do: steps, seconds, sizes, memory. In: values of a template. Knows no template.

A value's weight is what it would print as, roughly: its characters, with every list and object in it counted each time that it
occurs. A list of a list of a list, each twice in the next, is small in memory and endless in print; so weight is what is bounded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 1_000_000  # loop turns, calls and filters of one rendering
MAX_SECONDS = 5.0
MIN_CHARS = 1 << 20  # a rendering may always be this long, and CHARS_PER_INPUT times its input; so may any value in it
CHARS_PER_INPUT = 16
MIN_BYTES = (
    64 << 20
)  # all larger values of a rendering together may always take this much, and BYTES_PER_INPUT times its input
BYTES_PER_INPUT = 1024
MAX_DEPTH = 100  # of lists and objects
_SMALL_BYTES = 512
_WEIGHT_PER_STEP = 64
_WORTH_KNOWING = 16
_MAX_KNOWN = 50_000


class Overrun(SecurityError):
    """The template asked for more work than its input justifies."""


class Budget:
    """What one rendering may still do."""

    __slots__ = ("_known", "deadline", "max_bytes", "max_chars", "n_bytes", "steps")

    def __init__(self, input_chars: int) -> None:
        self.max_chars = MIN_CHARS + CHARS_PER_INPUT * input_chars
        self.max_bytes = MIN_BYTES + BYTES_PER_INPUT * input_chars
        self.n_bytes = 0
        self._known: dict[int, tuple[Any, int, int]] = {}  # with the value, so that it lives, and no other has its id
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, steps: int = 1) -> None:
        """Overrun when the steps, or the seconds, are used up."""
        self.steps -= steps
        if self.steps < 0:
            raise Overrun(f"more than {MAX_STEPS} loop turns and calls")
        if (steps > 1 or self.steps & 63 == 0) and time.monotonic() > self.deadline:
            raise Overrun(f"more than {MAX_SECONDS:g} seconds")

    def check(self, size: int) -> None:
        """Overrun for a string or list of this size."""
        if size > self.max_chars:
            raise Overrun(f"a result of {size} characters or items, where {self.max_chars} are allowed")

    def weigh(self, value: Any) -> int:
        """The value's weight; Overrun if it is too large. Strings and numbers, nearly everything, take no time."""
        if isinstance(value, str):
            self.check(len(value))
            return len(value)
        if not isinstance(value, _CONTAINERS):
            return 1
        return self._weight(value, 1)[0]

    def _weight(self, value: Any, level: int) -> tuple[int, int]:
        """A container's weight, and how many levels it has. What is known is not counted again: nothing can change it."""
        known = self._known.get(id(value))
        if known is not None:
            _, weight, height = known
        else:
            weight, height = self._count(value, level)
            if weight > _WEIGHT_PER_STEP:
                self.spend(weight // _WEIGHT_PER_STEP)
            if weight > _WORTH_KNOWING and type(value) in (list, tuple, dict):
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[id(value)] = value, weight, height
        if level + height > MAX_DEPTH:
            raise Overrun(f"lists and objects more than {MAX_DEPTH} deep")
        return weight, height

    def _count(self, value: Any, level: int) -> tuple[int, int]:
        if level > MAX_DEPTH:
            raise Overrun(f"lists and objects more than {MAX_DEPTH} deep")
        weight = height = 0
        for item in _items(value):
            if isinstance(item, str):
                weight += len(item)
            elif isinstance(item, Namespace):
                raise Overrun("a namespace inside another value")
            elif isinstance(item, _CONTAINERS):
                inner, levels = self._weight(item, level + 1)
                weight, height = weight + inner, max(height, levels)
            weight += 2
            if weight > self.max_chars:
                self.check(weight)
        return weight, height + 1

    def made(self, value: Any, bytes_per_item: int = 0) -> Any:
        """The value, new in this rendering, once weighed and its memory counted. bytes_per_item: its items are new too."""
        self.weigh(value)
        if isinstance(value, (str, list, tuple, dict, set)):
            n_bytes = sys.getsizeof(value) + (0 if isinstance(value, str) else bytes_per_item * len(value))
            if n_bytes > _SMALL_BYTES:
                self.n_bytes += n_bytes
                if self.n_bytes > self.max_bytes:
                    raise Overrun(f"values of {self.n_bytes} bytes, where {self.max_bytes} are allowed")
        return value

    def watched(self, values: Iterator[Any]) -> Iterator[Any]:
        """The items, which together may weigh as much as one value."""
        total = 0
        for value in values:
            self.spend()
            total += 1 + self.weigh(value)
            self.check(total)
            yield value


def _items(value: Any) -> Any:
    """What a container prints besides its brackets."""
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    return [*value.keys(), *value.values()] if isinstance(value, dict) else value


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS = (list, tuple, dict, set, frozenset, Namespace, *_VIEWS)

budget_of_rendering: ContextVar[Budget] = ContextVar("fanlight_template_budget")
"""Set while a template renders; what is called outside of a rendering fails, so that the compiler folds no constants."""
