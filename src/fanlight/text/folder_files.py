"""The small files beside a tokenizer, each checked: JSON objects, added tokens, end tokens, the chat template. Knows no model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tokenizers import AddedToken

_MAX_BYTES = 256 << 20
MAX_ID = 1 << 26


def check_size(path: Path) -> None:
    """TokenizerError: larger than any tokenizer."""
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise TokenizerError(f"{path}: expected at most {_MAX_BYTES} bytes, found {size}; this is no tokenizer file")


def read_text(path: Path) -> str:
    """A file of UTF-8."""
    check_size(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: expected UTF-8 text: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is not there."""
    if not path.is_file():
        return {}
    check_size(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Those that tokenizer_config.json lists under their ids, and those of the older added_tokens.json; in order of id."""
    path = folder / "added_tokens.json"
    older = read_object(path)
    path_now = folder / "tokenizer_config.json"
    entries = config.get("added_tokens_decoder")
    if not older and not entries:
        return {}
    from tokenizers import AddedToken

    declared = {_id(token, path): AddedToken(text, normalized=False) for text, token in older.items()}
    for token, entry in (entries if isinstance(entries, dict) else {}).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise TokenizerError(f"{path_now}: added_tokens_decoder[{token!r}]: expected an object with 'content'")
        flags = {k: bool(entry.get(k, False)) for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        declared[_id(token, path_now)] = AddedToken(entry["content"], **flags)
    return dict(sorted(declared.items()))


def _id(value: Any, path: Path) -> int:
    try:
        token = int(value)
    except (TypeError, ValueError):
        raise TokenizerError(f"{path}: added tokens: expected an id, found {value!r}") from None
    if not 0 <= token < MAX_ID:
        raise TokenizerError(f"{path}: added tokens: expected an id from 0 to {MAX_ID - 1}, found {token}")
    return token


def generation_ends(folder: Path) -> list[int]:
    """The end tokens of generation_config.json."""
    path = folder / "generation_config.json"
    value = read_object(path).get("eos_token_id")
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(end) is int for end in ends):
        raise TokenizerError(f"{path}: eos_token_id: expected an id or a list of ids, found {value!r}")
    return ends
