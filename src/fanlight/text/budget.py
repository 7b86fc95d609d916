"""What one rendering of a template may still do: steps, seconds, sizes, memory. In: values of a template. Knows no template.

A value's weight is what it would print as, roughly: its characters, with every list and object in it counted each time that it
occurs. A list of a list of a list, each twice in the next, is small in memory and endless in print; so weight is what is bounded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
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


class Overrun(SecurityError):
    """The template asked for more work than its input justifies."""


class Budget:
    """What one rendering may still do."""

    __slots__ = ("deadline", "max_bytes", "max_chars", "n_bytes", "steps")

    def __init__(self, input_chars: int) -> None:
        self.max_chars = MIN_CHARS + CHARS_PER_INPUT * input_chars
        self.max_bytes = MIN_BYTES + BYTES_PER_INPUT * input_chars
        self.n_bytes = 0
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
        items = _items(value)
        if items is None:
            return 1
        total = 0
        stack = [iter(items)]
        while stack:
            for item in stack[-1]:
                if isinstance(item, str):
                    total += len(item) + 2
                elif isinstance(item, Namespace):
                    raise Overrun("a namespace inside another value")
                else:
                    total += 2
                    items = _items(item)
                    if items is not None:
                        stack.append(iter(items))
                        break
                if total > self.max_chars:
                    break
            else:
                stack.pop()
            if len(stack) > MAX_DEPTH:
                raise Overrun(f"lists and objects more than {MAX_DEPTH} deep")
            self.check(total)
        if total > _WEIGHT_PER_STEP:
            self.spend(total // _WEIGHT_PER_STEP)
        return total

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
    """What a container prints besides its brackets; None: it is no container."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, _VIEWS) else None


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))

budget_of_rendering: ContextVar[Budget] = ContextVar("fanlight_template_budget")
"""Set while a template renders; what is called outside of a rendering fails, so that the compiler folds no constants."""
