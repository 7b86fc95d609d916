"""Processors from elsewhere: a Python function, or a plugin by its name. In: (ids, array). Out: a Processor.

A function takes (ids, logits): the ids so far, and the logits as a float32 array (n_vocab,) of its own. It returns an array of
that shape; -inf removes a token. A plugin is such a function under an entry point of the group "fanlight.processors".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fanlight.decoding.processors import OnOps, processor_of
from fanlight.errors import FanlightError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.kernels.ops import Ops, Tensor

GROUP = "fanlight.processors"


class Custom(OnOps):
    """A function as a processor."""

    __slots__ = ("function", "name")

    def __init__(self, function: Callable[..., Any], ops: Ops, name: str | None = None) -> None:
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        super().__init__(float("nan"), ops)
        self.function = function
        self.label = self.name

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See processors.Processor. Errors: OptionError if the function returns something else than a row."""
        import numpy as np

        row = logits.numpy()[0]
        n_vocab = len(row)
        try:
            found = self.function(tuple(ids), row)
        except FanlightError:
            raise
        except Exception as error:
            raise FanlightError(f"processor {self.name} raised {error!r}") from error
        try:
            if found is None:  # NumPy would make NaN of it
                raise TypeError
            result = np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError):
            raise OptionError(
                f"processor {self.name}: expected an array of {n_vocab} numbers back: got {found!r:.60}"
            ) from None
        if result.shape != (n_vocab,):
            raise OptionError(f"processor {self.name}: expected {n_vocab} logits back: got the shape {result.shape}")
        return self.ops.tensor(np.ascontiguousarray(result), n_vocab)


def plugin(name: str, known: tuple[str, ...], ops: Ops) -> Custom:
    """The processor that an installed package offers under this name. Errors: OptionError."""
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        from difflib import get_close_matches

        near = [processor_of(name)] if processor_of(name) else get_close_matches(name, [*known, *found], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join((*known, *found))}"
        raise OptionError(f"processors: unknown processor {name!r}; {hint}")
    function = found[name].load()
    if not callable(function):
        raise OptionError(f"processors: the plugin {name!r} ({found[name].value}) is no function of (ids, logits)")
    return Custom(function, ops, name)
