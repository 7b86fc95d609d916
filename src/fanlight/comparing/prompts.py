"""A file of prompts -> prompts with names. In: a .txt (one a line) or .jsonl file. Knows no model.

A line of JSON is a text, or an object with "prompt" (a text or ids) or "messages" (a chat), and perhaps "id".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from fanlight.errors import OptionError

KINDS = (".jsonl", ".ndjson", ".json")
KNOWN = ("id", "prompt", "messages")


class Prompt(NamedTuple):
    """What is continued, and what it is called."""

    id: str
    value: str | Sequence[int] | Sequence[dict[str, Any]]

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.id, self.value if isinstance(self.value, str) else list(self.value)]


def read_prompts(path: str | PathLike[str]) -> tuple[Prompt, ...]:
    """All prompts of a file, in order. Errors: OptionError, which names the file and the line."""
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{file}: byte {error.start} is not UTF-8; convert it first, as with: iconv -t UTF-8"
        ) from None
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    read = _from_json if file.suffix.lower() in KINDS else _from_text
    prompts = tuple(read(f"{file}:{i}", str(i), line.removesuffix("\r")) for i, line in lines)
    if not prompts:
        raise OptionError(f"{file}: there is no prompt in it; write one a line")
    return named(prompts, str(file))


def take_prompts(prompts: Iterable[Any]) -> tuple[Prompt, ...]:
    """Prompts from Python: texts, ids, chats, or objects as in a file. Errors: OptionError."""
    if isinstance(prompts, (str, bytes)):
        raise OptionError(f"prompts must be a list of them: got one text {prompts!r:.80}; put it in brackets")
    found = tuple(
        prompt if isinstance(prompt, Prompt) else _checked(f"prompt {i}", str(i), prompt)
        for i, prompt in enumerate(prompts, 1)
    )
    if not found:
        raise OptionError("there is no prompt; give one at least")
    return named(found, "prompts")


def named(prompts: tuple[Prompt, ...], where: str) -> tuple[Prompt, ...]:
    """The same. Errors: OptionError for two of one name."""
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise OptionError(f"{where}: two prompts have the id {prompt.id!r:.80}; each must have its own")
        seen.add(prompt.id)
    return prompts


def _from_text(where: str, name: str, line: str) -> Prompt:
    return Prompt(name, line)


def _from_json(where: str, name: str, line: str) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f'{where}: expected JSON on one line, as in {{"prompt": "..."}}: {error}') from None
    return _checked(where, name, row)


def _checked(where: str, name: str, row: Any) -> Prompt:
    if not isinstance(row, dict):
        return Prompt(name, _value(where, row))
    unknown = [key for key in row if key not in KNOWN]
    if unknown:
        raise OptionError(
            f"{where}: unknown key {unknown[0]!r:.80}; a prompt has {', '.join(KNOWN)}, settings are for --grid"
        )
    if ("prompt" in row) == ("messages" in row):
        raise OptionError(f'{where}: expected either "prompt" or "messages", found {", ".join(row) or "neither"}')
    given = row.get("id", name)
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise OptionError(f"{where}: an id must be a text or a whole number: got {given!r:.80}")
    value = _value(where, row["prompt"] if "prompt" in row else row["messages"])
    if "messages" in row and not _is_chat(value):
        raise OptionError(f'{where}: messages must be a list of objects such as {{"role": "user", "content": "..."}}')
    return Prompt(str(given), value)


def _value(where: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    is_list = isinstance(value, (list, tuple)) and bool(value)
    if is_list and (all(isinstance(item, int) and not isinstance(item, bool) for item in value) or _is_chat(value)):
        return list(value)
    raise OptionError(f"{where}: a prompt must be a text, token ids or the messages of a chat: got {value!r:.80}")


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, dict) for item in value)
