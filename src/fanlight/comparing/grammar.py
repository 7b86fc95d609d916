"""One setting in words -> a Spec: "temperature=0.7,top_p=0.92", "creative", "preset:hf,temperature=0.9", "mine@file:my.toml".

    setting = [LABEL@] part, part, ...
    part    = NAME of a preset | preset:NAME | file:PATH | option=value | switch | no_switch

Values are written as on the command line. A comma inside quotes or brackets belongs to the value: stop_strings=["a,b","c"],
regex=\\d{2,4}; double quotes take JSON's escapes, single quotes none. Knows options and presets, no model and no file's content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fanlight.decoding.config import DEFAULTS, OPTIONS, check_names
from fanlight.decoding.explaining import shown
from fanlight.decoding.presets import PRESETS, preset
from fanlight.errors import OptionError

BASE = "base"
"""The setting that adds nothing to the options that all share."""
EXAMPLES = "greedy, temperature=0.7,top_p=0.92 or preset:creative"
_LABEL = re.compile(r"""([^=,:@"'\[\]{}()]+)@""")
_OPENING = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one setting adds to what all share."""

    label: str
    preset: str | None = None
    file: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    """It is a whole GenerationConfig: the model's own defaults do not count."""

    @property
    def names(self) -> frozenset[str]:
        """The options that it sets by name."""
        return frozenset(self.options)


def read_spec(text: str) -> Spec:
    """A setting in words. Errors: OptionError, which quotes it."""
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"a setting is a text such as {EXAMPLES}: got {text!r}")
    match = _LABEL.match(text)
    label, body = (match[1].strip(), text[match.end() :]) if match else (text.strip(), text)
    try:
        return _read(label, body)
    except OptionError as error:
        raise OptionError(f"setting {text.strip()!r:.200}: {error}") from None


def _read(label: str, body: str) -> Spec:
    chosen: dict[str, str] = {}
    options: dict[str, Any] = {}
    for part in split(body):
        name, is_option, value = part.partition("=")
        kind, is_kind, rest = part.partition(":")
        if is_kind and (not is_option or len(kind) < len(name)):
            _choose(chosen, kind.strip(), unquoted(rest.strip()))
        elif is_option:
            name = name.strip().replace("-", "_")
            if name in ("preset", "file"):
                _choose(chosen, name, unquoted(value.strip()))
            else:
                put(options, name, value.strip())
        else:
            _word(chosen, options, part)
    if "preset" in chosen:
        preset(chosen["preset"])  # an unknown one is an error at once
    if not chosen and not options and body.strip() != BASE:
        raise OptionError(f"nothing is set; write {EXAMPLES}, or {BASE} for the common options alone")
    return Spec(label=label, preset=chosen.get("preset"), file=chosen.get("file"), options=options)


def _choose(chosen: dict[str, str], kind: str, value: str) -> None:
    if kind not in ("preset", "file"):
        raise OptionError(f"{kind!r}: is neither preset: nor file:; an option is written {kind}=VALUE")
    if not value:
        raise OptionError(f"{kind}: needs a {'name' if kind == 'preset' else 'path'} after the colon")
    if kind in chosen:
        raise OptionError(f"one {kind} is expected, found {chosen[kind]!r} and {value!r}")
    chosen[kind] = value


def _word(chosen: dict[str, str], options: dict[str, Any], word: str) -> None:
    """A part without "=" and ":"."""
    name = word.replace("-", "_")
    positive = name.removeprefix("no_")
    if word == BASE:
        return
    if word in PRESETS:
        _choose(chosen, "preset", word)
    elif positive in OPTIONS and OPTIONS[positive].rule.kind == "flag":
        options[positive] = positive == name
    elif name in OPTIONS:
        raise OptionError(f"{name} needs a value, as in {name}={OPTIONS[name].metavar or 'VALUE'}")
    else:
        raise OptionError(f"{word!r} is no preset and no switch; {_suggestion(word)}")


def _suggestion(word: str) -> str:
    from difflib import get_close_matches

    switches = [name for name, option in OPTIONS.items() if option.rule.kind == "flag"]
    near = get_close_matches(word, [*PRESETS, BASE, *switches, *DEFAULTS], n=1)
    if word.endswith((".toml", ".json")):
        return f"did you mean file:{word}?"
    if re.fullmatch(r"[-+.\deE]+", word):
        return "a list of values is written in brackets: eos_token_id=[1,2]"
    return f"did you mean {near[0]!r}?" if near else f"presets are {', '.join(PRESETS)}"


# -- values --------------------------------------------------------------------------------------------------------------


def put(options: dict[str, Any], name: str, text: str) -> None:
    """Read one option's value and set it; of options that take several values, add it. Errors: OptionError."""
    name = "processors" if name == "order" else name
    check_names({name: text})
    value = read_value(name, text)
    if OPTIONS[name].rule.many and name in options:
        value = (*options[name], *value)
    elif name in options:
        raise OptionError(f"{name} is set twice, to {options[name]!r} and {value!r}")
    options[name] = value


def read_value(name: str, text: str) -> Any:
    """What an option is set to by this text. Errors: OptionError."""
    rule = OPTIONS[name].rule
    if rule.kind == "none":
        raise OptionError(f"{name} takes functions, which only the Python API can give")
    if text == "":
        raise OptionError(f"{name} needs a value; it takes {rule.expected}")
    if rule.nullable and text.lower() == "none":
        return None
    if rule.many or name == "processors":
        items = split(text[1:-1]) if text[0] == "[" and text[-1] == "]" else [text]
        if rule.kind != "text":
            items = [piece for item in items for piece in item.replace(";", " ").split()]
        found = tuple(_scalar(name, rule.kind, item) for item in items)
        if name == "processors":
            found = tuple(piece for item in found for piece in item.replace(";", ",").split(","))
    else:
        found = _scalar(name, rule.kind, text)
    return rule(name, found)  # the range, here, so that the error is about this setting


def _scalar(name: str, kind: str, text: str) -> Any:
    text = unquoted(text) if kind != "json" else text
    if kind == "text":
        return text
    if kind == "flag":
        known = {
            "true": True,
            "false": False,
            "on": True,
            "off": False,
            "yes": True,
            "no": False,
            "1": True,
            "0": False,
        }
        if text.lower() not in known:
            raise OptionError(f"{name} is a switch, true or false: got {text!r}")
        return known[text.lower()]
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        return text if text.isidentifier() and text not in ("true", "false", "null") else json.loads(text)
    except (ValueError, RecursionError):
        words = {"int": "a whole number", "float": "a number", "json": "JSON"}[kind]
        raise OptionError(f"{name} takes {words}: got {text!r:.100}") from None


def unquoted(text: str) -> str:
    """The text without quotes around it. Errors: OptionError."""
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1]
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text, strict=False))
        except ValueError as error:
            raise OptionError(
                f"{text!r:.100} is no text in JSON's quotes ({error}); single quotes take it as it is"
            ) from None
    return text


def split(text: str) -> list[str]:
    """The parts between the commas that stand outside of quotes and brackets. Errors: OptionError."""
    parts = list(_parts(text))
    if "" in parts and parts != [""]:
        raise OptionError("a part is empty: there is a comma too many")
    return [part for part in parts if part]


def _parts(text: str) -> Iterator[str]:
    start, quote = 0, ""
    closing: list[str] = []
    begins = ("", "=", ":")
    begins_inside = (*begins, ",", *_OPENING)
    at = 0
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\" and quote == '"':
                at += 1
            elif c == quote:
                quote = ""
        elif c == "\\":
            at += 1
        elif c in "\"'" and text[start:at].rstrip()[-1:] in (begins_inside if closing else begins):
            quote = c  # where a value begins; anywhere else it is an apostrophe
        elif c in _OPENING:
            closing.append(_OPENING[c])
        elif closing and c == closing[-1]:
            closing.pop()
        elif c == "," and not closing:
            yield text[start:at].strip()
            start = at + 1
        at += 1
    if quote or closing:
        raise OptionError(f"{quote or closing[-1]} is missing at the end; put a value with such signs in double quotes")
    yield text[start:].strip()


def label_of(options: Mapping[str, Any]) -> str:
    """A label for options: "temperature=0.7, top_p=0.92"."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) and len(value) <= 40 else shown(value)}"
        for name, value in options.items()
    )
