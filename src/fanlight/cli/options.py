"""Flags: from words to values, and the help that lists them. In: a table of Options. Knows no command and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.cli.output import Output

HELP_WIDTH = 96


class Option(NamedTuple):
    """One flag. `--top-k` and `--top_k` are the same flag; its name is `top_k`."""

    name: str
    help: str
    kind: str = "text"
    """"flag" (with --no- to switch it off), "int", "float", "text", "json"."""
    metavar: str = ""
    short: str = ""
    """One letter: "m" for -m."""
    many: bool = False
    """May be given several times; numbers also as "1,2,3"."""
    nullable: bool = False
    """Takes "none" too."""
    choices: tuple[str, ...] = ()
    default: str = ""
    """For the help."""

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


class Command(NamedTuple):
    """One command: what it takes, what it says of itself, what it does."""

    usage: str
    about: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]
    run: Callable[[dict[str, Any], list[str], Output], int]
    """(values by option name, the words that are no flags, where to write) -> exit code."""
    max_words: int = 1
    parts: Mapping[str, Command] = MappingProxyType({})
    """Of a command whose first word says what it does: each with the help and the options that are its own."""

    @property
    def options(self) -> tuple[Option, ...]:
        """Of all groups."""
        return tuple(option for _, options in self.groups for option in options)

    def part(self, words: Sequence[str]) -> Command:
        """The one that the words name; without one, the whole."""
        return next((self.parts[word] for word in words if word in self.parts), self)

    def check_part(self, name: str, values: Mapping[str, Any]) -> None:
        """Errors: OptionError for an option that this part has no use for, with those that have."""
        known = {option.name for option in self.parts[name].options}
        flags = {option.name: option.flag for option in self.options}
        for given in values:
            if given in flags and given not in known:
                of = [other for other, part in self.parts.items() if any(given == o.name for o in part.options)]
                where = self.usage.split()[1]
                raise OptionError(
                    f"{flags[given]} is not of {where} {name}, but of {', '.join(of)}; "
                    f"fanlight {where} {name} --help lists its options"
                )


HELP = Option("help", "show this help", kind="flag", short="h")
_OTHER_NAMES = {"greedy": "no_do_sample", "sample": "do_sample", "verbose": "explain"}
"""What other programs call a switch; for settings see decoding.config.OTHER_NAMES."""


# -- reading -----------------------------------------------------------------------------------------------------------


def parse(words: Sequence[str], options: Sequence[Option]) -> tuple[dict[str, Any], list[str]]:
    """(values by option name, the other words). Only flags that were given have a value; of two, the last counts.

    After `--`, every word is taken as it is. Errors: OptionError.
    """
    known = {option.name: option for option in (*options, HELP)}
    shorts = {option.short: option for option in known.values() if option.short}
    values: dict[str, Any] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            others += rest
        elif word == "-" or not word.startswith("-"):
            others.append(word)
        else:
            option, is_no, value = _recognise(word, known, shorts)
            if option.kind == "flag":
                values[option.name] = _switch(option, value) is not is_no
            else:
                value = _next(option, word, rest, known, shorts) if value is None else value
                _put(values, option, value)
    return values, others


def _recognise(word: str, known: dict[str, Option], shorts: dict[str, Option]) -> tuple[Option, bool, str | None]:
    """(the option, whether as --no-, the value after "=" or a short flag)."""
    if not word.startswith("--"):
        option = shorts.get(word[1:2])
        if option is None or (option.kind == "flag" and len(word) > 2):
            raise _unknown(word, known)
        return option, False, word[2:].removeprefix("=") or None
    name, has_value, value = word[2:].partition("=")
    name = name.replace("-", "_")
    if name in known:
        return known[name], False, value if has_value else None
    positive = known.get(name.removeprefix("no_"))
    if positive is not None and positive.kind == "flag" and positive is not HELP:
        return positive, True, value if has_value else None
    raise _unknown(word, known)


def _unknown(word: str, known: dict[str, Option]) -> OptionError:
    from difflib import get_close_matches  # lazily: only a mistake needs it

    typed = word.partition("=")[0]
    if any(c.isspace() for c in typed):
        return OptionError(f"unknown option {typed!r}; put -- before a text that begins with a dash")
    name = typed.lstrip("-").replace("-", "_")
    names = [
        n
        for option in known.values()
        for n in ((option.name, f"no_{option.name}") if option.kind == "flag" else (option.name,))
    ]
    from fanlight.decoding.config import OTHER_NAMES

    meant = _OTHER_NAMES.get(name, OTHER_NAMES.get(name, ""))
    near = [meant] if meant in names else [n for n in names if len(name) > 2 and n.startswith(name)]
    near = near or get_close_matches(name, names, n=1)
    hint = f"did you mean --{near[0].replace('_', '-')}?" if near else "--help lists them all"
    return OptionError(f"unknown option {typed}; {hint}")


def _next(option: Option, word: str, rest: Iterator[str], known: dict[str, Option], shorts: dict[str, Option]) -> str:
    value = next(rest, None)
    is_flag = value is not None and value.startswith("--") and value[2:].partition("=")[0].replace("-", "_") in known
    if value is None or is_flag or value == "--":
        found = f", found {value}" if value else ""
        raise OptionError(f"{word} needs a value{found}; write it as {option.flag}={option.metavar or 'VALUE'}")
    return value


def _put(values: dict[str, Any], option: Option, text: str) -> None:
    if not option.many:
        values[option.name] = _value(option, text)
    elif option.kind == "text":
        values[option.name] = (*values.get(option.name, ()), text)
    else:
        found = tuple(_value(option, part) for part in text.replace(",", " ").split())
        if not found:
            raise _refuse(option, text)
        values[option.name] = values.get(option.name, ()) + found


def _value(option: Option, text: str) -> Any:
    if option.nullable and text.lower() == "none":
        return None
    if option.choices and text not in option.choices:
        raise OptionError(f"{option.flag} can be {', '.join(option.choices)}: got {text!r}")
    try:
        readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "text": str, "json": _json}
        return readers[option.kind](text)
    except ValueError:
        raise _refuse(option, text) from None


def _json(text: str) -> Any:
    """JSON; a bare word is itself."""
    if text.isidentifier() and text not in ("true", "false", "null"):
        return text
    import json

    return json.loads(text)


def _refuse(option: Option, text: str) -> OptionError:
    kind = {"int": "a whole number", "float": "a number", "json": "JSON"}[option.kind]
    return OptionError(f"{option.flag} takes {kind}{' or none' if option.nullable else ''}: got {text!r}")


def _switch(option: Option, text: str | None) -> bool:
    if text is None or text.lower() == "true":
        return True
    if text.lower() != "false":
        raise OptionError(f"{option.flag} is a switch: it takes no value, or true or false: got {text!r}")
    return False


# -- help --------------------------------------------------------------------------------------------------------------


def help_text(command: Command) -> str:
    """The page that --help shows."""
    lines = [f"usage: {command.usage}", "", command.about.strip()]
    for title, options in (*command.groups[:-1], (command.groups[-1][0], (*command.groups[-1][1], HELP))):
        lines += ["", f"{title}:"]
        lines += [line for option in options for line in _help_lines(option)]
    return "\n".join(lines) + "\n"


def _help_lines(option: Option) -> list[str]:
    left = f"  {f'-{option.short}, ' if option.short else '    '}"
    if option.kind == "flag":
        left += option.flag if option.default == "" else f"{option.flag}, --no-{option.flag[2:]}"
    else:
        left += (
            f"{option.flag} {option.metavar or ('|'.join(option.choices) if option.choices else option.kind.upper())}"
        )
    default = f" (default: {option.default})" if option.default else ""
    rows = _wrap(option.help + default, HELP_WIDTH - 34)
    if len(left) > 32:
        return [left, *(" " * 34 + row for row in rows)]
    return [f"{left:<34}{rows[0]}", *(" " * 34 + row for row in rows[1:])]


def _wrap(text: str, width: int) -> list[str]:
    rows = [""]
    for word in text.split():
        if rows[-1] and len(rows[-1]) + 1 + len(word) > width:
            rows.append(word)
        else:
            rows[-1] += (" " if rows[-1] else "") + word
    return rows
