"""Every setting with its value, its origin and its effect. In: a GenerationConfig. Out: rows; printed, a table. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import DEFAULTS, GROUPS, OPTIONS
from fanlight.decoding.notes import no_effect

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig

LONGEST = 40


@dataclass(frozen=True, slots=True)
class Setting:
    """One option in force."""

    name: str
    value: Any
    origin: str
    """"call", "preset creative", a file's name, or "default"."""
    group: str
    no_effect: str = ""
    """Why it does nothing, where it was set and does nothing."""


class Explanation(tuple[Setting, ...]):
    """All settings, in the order of GenerationConfig. `str` of it is the table."""

    __slots__ = ()

    @property
    def chosen(self) -> tuple[Setting, ...]:
        """Those that somebody set."""
        return tuple(setting for setting in self if setting.origin != "default")

    def __str__(self) -> str:
        rows = [
            (s.name, shown(s.value), s.origin + (f"  (no effect: {s.no_effect})" if s.no_effect else "")) for s in self
        ]
        names, values = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines: list[str] = []
        for group in GROUPS:
            lines += ["", group] if lines else [group]
            for setting, (name, value, origin) in zip(self, rows, strict=True):
                if setting.group == group:
                    lines.append(f"  {name:<{names}}  {value:<{values}}  {origin}")
        return "\n".join(lines)


def explain(config: GenerationConfig) -> Explanation:
    """The settings of a config."""
    origins, idle = dict(config.origins), no_effect(config)
    return Explanation(
        Setting(name, getattr(config, name), origins.get(name, "default"), OPTIONS[name].group, idle.get(name, ""))
        for name in DEFAULTS
    )


def shown(value: Any) -> str:
    """A value on a line."""
    if isinstance(value, tuple):
        text = ", ".join(getattr(item, "__name__", None) or str(item) for item in value) or "none"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = "none" if value is None else str(value)
    text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
