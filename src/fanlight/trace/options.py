"""What a trace is to hold beside the account of every step. Plain data; knows no model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import index
from typing import Any, Literal

from fanlight.errors import OptionError

DEFAULT_LENS = 5
NEW, ALL = "new", "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What to look at. By default: what each step saw, with no look inside the model.

    Looking changes nothing: the text is the same, and what is looked at is what the model computed, bit for bit.
    """

    path: str | os.PathLike[str] | None = None
    """The file to keep it in; None: it stays in memory. A folder, or a name that ends with /: a file in it, named by the id."""
    lens: bool | int = False
    """What each layer would say: so many tokens of each, after every block; True: 5."""
    attention: bool | Sequence[int] = False
    """Weights of these layers; True: of all. A negative number counts from the last."""
    heads: Sequence[int] | None = None
    """Of these heads; None: of all."""
    queries: Literal["new", "all"] | Sequence[int] = "new"
    """The positions that look: "new": those that the steps were chosen at; "all": those of the prompt too; or by number."""
    contributions: bool = False
    """What attention and feed-forward network of each block added to the chosen token's logit."""
    norms: bool = False
    """The length of the residual stream after every block, and of what was added to it."""
    timings: bool = False
    """Seconds of every part."""

    def __post_init__(self) -> None:
        for name in ("contributions", "norms", "timings"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False: got {getattr(self, name)!r:.80}")
        if self.path is not None and not isinstance(self.path, str | os.PathLike):
            raise OptionError(f"path must be a file's name, or None: got {self.path!r:.80}")
        _set(self, "lens", self._checked_lens())
        if not isinstance(self.attention, bool):
            _set(self, "attention", _numbers("attention", self.attention, "True, or numbers of layers"))
        if self.heads is not None:
            _set(self, "heads", _numbers("heads", self.heads, "numbers of heads, or None"))
        if self.queries not in (NEW, ALL):
            chosen: Any = self.queries
            _set(self, "queries", _numbers("queries", chosen, '"new", "all", or positions'))

    def _checked_lens(self) -> int:
        lens = self.lens
        if isinstance(lens, bool):
            return DEFAULT_LENS if lens else 0
        if not isinstance(lens, int) or not 0 <= lens <= 100:
            raise OptionError(
                f"lens must be True, False, or how many tokens of each layer, up to 100: got {lens!r:.80}"
            )
        return lens

    @property
    def looks_inside(self) -> bool:
        """Whether anything is asked for that the steps do not tell."""
        return bool(self.lens or self.has_attention or self.contributions or self.norms or self.timings)

    @property
    def has_attention(self) -> bool:
        """Whether any layer's weights are asked for."""
        return self.attention is True or (not isinstance(self.attention, bool) and len(self.attention) > 0)

    @classmethod
    def of(cls, value: Any) -> TraceOptions | None:
        """What a caller means: None or False: no trace; True: the default; a file's name: that; options by name in a dict."""
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, str | os.PathLike):
            return cls(path=value)
        if isinstance(value, dict):
            known = {field.name for field in fields(cls)}
            for name in value:
                if name not in known:
                    raise OptionError(f"a trace has no option {name!r:.80}; there is {', '.join(sorted(known))}")
            return cls(**value)
        raise OptionError(f"trace must be True, a file's name, or TraceOptions: got {value!r:.80}")


def _set(options: TraceOptions, name: str, value: Any) -> None:
    object.__setattr__(options, name, value)


def _numbers(name: str, values: Iterable[int], expected: str) -> tuple[int, ...]:
    try:
        found = tuple(index(value) for value in values)
    except TypeError:
        raise OptionError(f"{name} must be {expected}: got {values!r:.80}") from None
    return tuple(dict.fromkeys(found))
