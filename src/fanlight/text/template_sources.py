"""A model folder, or GGUF metadata -> the sources of its chat templates. Compiles nothing; knows no tokenizer.

Files of a folder, first match first: chat_template.jinja, chat_template.json, "chat_template" in tokenizer_config.json; each but
the first may hold one template or several by name. Of those, "default" is used, and "tool_use" where a chat has tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fanlight.errors import TokenizerError

MAX_FILE_BYTES = 1 << 20
TOOL_USE = "tool_use"


class TemplateSources(NamedTuple):
    """Jinja texts; None: the model has none."""

    default: str | None
    tool_use: str | None = None
    """For chats with tools; None: the default one is for them, too."""


NO_TEMPLATES = TemplateSources(None)


def sources_of_folder(folder: Path, tokenizer_config: Mapping[str, Any]) -> TemplateSources:
    """The templates of a Hugging Face folder. TokenizerError: a file that cannot be read as what it should be."""
    jinja = _text(folder / "chat_template.jinja")
    if jinja is not None:
        return TemplateSources(jinja, _text(folder / "additional_chat_templates" / f"{TOOL_USE}.jinja"))
    path = folder / "chat_template.json"
    text = _text(path)
    if text is None:
        return _named(tokenizer_config.get("chat_template"), f"{folder / 'tokenizer_config.json'}: chat_template")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected an object with 'chat_template', found {type(value).__name__}")
    return _named(value.get("chat_template"), f"{path}: chat_template")


def sources_of_gguf(metadata: Mapping[str, Any]) -> TemplateSources:
    """The templates of a GGUF file. TokenizerError: one that is no text."""
    key = "tokenizer.chat_template"
    return TemplateSources(*(_checked(metadata.get(name), name) for name in (key, f"{key}.{TOOL_USE}")))


def _named(value: Any, where: str) -> TemplateSources:
    """One template, or [{"name": ..., "template": ...}, ...]."""
    if not isinstance(value, list):
        return TemplateSources(_checked(value, where))
    named: dict[str, str] = {}
    for i, item in enumerate(value):
        name, template = (item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise TokenizerError(f"{where}[{i}]: expected a name and a template, found {item!r:.60}")
        if name in named:
            raise TokenizerError(f"{where}[{i}]: the name {name!r:.60} occurs twice, expected once")
        named[name] = template
    if named and "default" not in named:
        raise TokenizerError(f"{where}: expected a template named 'default', found {', '.join(map(repr, named))[:200]}")
    return TemplateSources(named.get("default"), named.get(TOOL_USE))


def _checked(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TokenizerError(f"{where}: expected text, found {type(value).__name__}")


def _text(path: Path) -> str | None:
    """The text of a file; None: there is none."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TokenizerError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: expected UTF-8 text: {error}") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None
