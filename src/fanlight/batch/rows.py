"""A row of a batch: from what a file says to a checked Row, and from an outcome to what is written. Knows no file, no model.

In:  {"id": "a", "prompt": "Once", "temperature": 0.7}, or {"messages": [...], "settings": {...}, "metadata": ...}.
Out: {"id": "a", "index": 0, "text": ..., "stop": {...}, ...}, or {"id": "a", "index": 0, "error": {"type": ..., "message": ...}}.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fanlight.decoding.config import DEFAULTS, OPTIONS, suggestion
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.errors import FanlightError
    from fanlight.generation import Generation, Step
    from fanlight.trace.stop import Stop

KEYS = ("id", "prompt", "messages", "settings", "metadata")
"""Keys of a row that are no settings."""
OTHER_KEYS = {  # what other programs call them
    "custom_id": "id",
    "request_id": "id",
    "text": "prompt",
    "input": "prompt",
    "inputs": "prompt",
    "instruction": "prompt",
    "conversation": "messages",
    "conversations": "messages",
    "chat": "messages",
    "options": "settings",
    "params": "settings",
    "parameters": "settings",
    "sampling_params": "settings",
    "config": "settings",
    "meta": "metadata",
}
ARRAYS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""Settings whose results are arrays, which a row does not hold."""
MAX_ID_CHARS = 1000
SEED_BYTES = 6  # below 2^48, which survives JSON

StepJson = Callable[["Step"], Mapping[str, Any]]
"""A step -> what is written of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to generate."""

    index: int
    """Its line in the file, from 0; blank lines count."""
    id: str
    """Its own, or the index."""
    prompt: str | list[dict[str, Any]]
    """A text, or a chat's messages."""
    settings: dict[str, Any]
    """By GenerationConfig's names, not checked yet; "preset" may be among them."""
    metadata: Any = None
    """Whatever the row wants to find again beside its result."""


class Answer(Protocol):
    """What came of a row: one of the two is there."""

    @property
    def generation(self) -> Generation | None:
        """The text."""

    @property
    def error(self) -> FanlightError | None:
        """Why there is none."""


def line_of(index: int) -> str:
    """How messages name a row."""
    return f"line {index + 1}"


def parse_row(value: Mapping[str, Any], index: int) -> Row:
    """A row from what stands in the file. Errors: OptionError, which names the line, what was expected and what was found."""
    where = line_of(index)
    if not isinstance(value, Mapping):
        raise OptionError(
            f'{where}: expected an object such as {{"prompt": "..."}}, found {_kind(value)}; see fanlight batch --help'
        )
    try:
        settings = _settings(value)
        prompt = _prompt(value)
        _plain_text("metadata", value.get("metadata"))
        return Row(index, id_of(value, index), prompt, settings, value.get("metadata"))
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    except RecursionError:
        raise OptionError(f"{where}: nested too deeply") from None


def id_of(value: Mapping[str, Any], index: int) -> str:
    """A row's own id, or the index. Errors: OptionError."""
    found = value.get("id")
    if found is None:
        return str(index)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not 0 < len(found) <= MAX_ID_CHARS:
        shown = _kind(found) if isinstance(found, (list, Mapping)) else f"{found!r:.80}"
        raise OptionError(
            f"id must be a text of 1 to {MAX_ID_CHARS} characters, or a whole number: got {shown}; "
            "leave it out to use the line's number from 0"
        )
    _check_text("id", found)
    return found


def row_seed(seed: int, row_id: str) -> int:
    """The seed of a row that names none: a function of the job's seed and the row's id, whatever else runs and in what order."""
    digest = hashlib.blake2b(f"{seed}\n{row_id}".encode(), digest_size=SEED_BYTES)
    return int.from_bytes(digest.digest(), "little")


def fresh_seed() -> int:
    """A seed for a job that names none."""
    return int.from_bytes(os.urandom(SEED_BYTES), "little")


def check_arrays(asked: Callable[[str], object]) -> None:
    """Errors: OptionError for a setting that would keep arrays. asked: whether an option is on."""
    for name in ARRAYS:
        if asked(name):
            raise OptionError(
                f"{name} keeps arrays, which a file of rows does not hold; use model.generate, or --steps"
            )


# -- out ---------------------------------------------------------------------------------------------------------------


def result_of(
    row: Row, outcome: Answer, *, steps: StepJson | None = None, known_notes: Collection[str] | None = ()
) -> dict[str, Any]:
    """What is written of a row: plain data. steps: what to keep of each step. known_notes: said elsewhere; None: all are.

    Everything but "usage" is a function of the row and the settings: it does not depend on what ran beside it.
    """
    if outcome.error is not None or outcome.generation is None:
        return error_of(row.index, row.id, outcome.error or OptionError("no text came of it"), row.metadata)
    generation = outcome.generation
    found: dict[str, Any] = {"id": row.id, "index": row.index, **_text(generation, steps)}
    found["n_prompt_tokens"] = len(generation.prompt_ids)
    found["usage"] = {"n_reused": generation.usage.n_reused, "n_computed": generation.usage.n_computed}
    if generation.config.samples:
        found["seed"] = generation.request_seed
    if generation.others:
        found["others"] = [_other(other, steps) for other in generation.others]
    if known_notes is not None:
        notes = [note for note in generation.config.notes() if note not in known_notes]
        found |= {"notes": notes} if notes else {}
    if row.metadata is not None:
        found["metadata"] = row.metadata
    return found


def error_of(index: int, row_id: str | None, error: Exception, metadata: Any = None) -> dict[str, Any]:
    """What is written of a row that has no text; the message begins with its line. row_id None: it could not be read."""
    found: dict[str, Any] = {"id": row_id, "index": index}
    where = f"{line_of(index)}: "
    found["error"] = {"type": type(error).__name__, "message": where + str(error).removeprefix(where)}
    if metadata is not None:
        found["metadata"] = metadata
    return found


def _text(generation: Generation, steps: StepJson | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": generation.text,
        "stop": _stop(generation.stop),
        "n_new_tokens": len(generation.ids),
    }
    if generation.score is not None:
        found["score"] = generation.score
    if generation.votes is not None:
        found |= {"answer": generation.answer, "votes": generation.votes}
    if steps is not None:
        found["steps"] = [dict(steps(step)) for step in generation.steps]
    return found


def _other(generation: Generation, steps: StepJson | None) -> dict[str, Any]:
    found = _text(generation, steps)
    if generation.config.samples:
        found["text_seed"] = generation.seed
    return found


def _stop(stop: Stop) -> dict[str, Any]:
    return {"reason": stop.reason.value, "detail": stop.detail, "token": stop.token, "string": stop.string}


# -- in ----------------------------------------------------------------------------------------------------------------


def _prompt(value: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    has_prompt, has_chat = value.get("prompt") is not None, value.get("messages") is not None
    if has_prompt and has_chat:
        raise OptionError("both prompt and messages are given; a row has one of them")
    if not has_prompt and not has_chat:
        raise OptionError(f"neither prompt nor messages is given, found {_names(value)}; a row has one of them")
    if has_prompt:
        prompt = value["prompt"]
        if not isinstance(prompt, str):
            raise OptionError(f"prompt must be a text: got {_kind(prompt)}; a chat's messages go under messages")
        _check_text("prompt", prompt)
        return prompt
    messages = value["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise OptionError(
            f'messages must be a list of objects such as {{"role": "user", "content": "..."}}: got {_kind(messages)}'
            f"{' without any' if messages == [] else ''}"
        )
    _check_text("messages", _plain_text("messages", messages))
    return [dict(message) for message in messages]


def _settings(value: Mapping[str, Any]) -> dict[str, Any]:
    """Those at the top and those under "settings"."""
    inner = value.get("settings")
    if inner is not None and not isinstance(inner, Mapping):
        raise OptionError(f"settings must be an object of settings by their names: got {_kind(inner)}")
    found = {name: each for name, each in value.items() if name not in KEYS}
    for name, each in (inner or {}).items():
        if name in found:
            raise OptionError(f"{name} stands both in the row and in its settings; leave one of them out")
        if name in KEYS:
            raise OptionError(f"{name} belongs into the row itself, not into its settings")
        found[name] = each
    for name, each in found.items():
        if name != "preset" and name not in DEFAULTS:
            raise OptionError(f"unknown key {name!r:.80}; {_meant(name)}")
        if name != "preset" and OPTIONS[name].rule.kind == "none":
            raise OptionError(f"{name} takes functions, which a file does not hold")
        if isinstance(each, str):
            _check_text(name, each)
    check_arrays(found.get)
    return found


def _meant(name: str) -> str:
    from difflib import get_close_matches  # lazily: only a typo needs it

    near = OTHER_KEYS.get(name.lower()) or next(iter(get_close_matches(name, (*KEYS, "preset"), n=1)), None)
    if near is not None:
        return f"did you mean {near!r}?"
    hint = suggestion(name)
    if hint.startswith("did you mean"):
        return hint
    keys = ", ".join(KEYS)
    return (
        f"a row has {keys}, and settings as fanlight generate --help names them; what is to be kept and not used goes "
        "under metadata"
    )


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise OptionError(
            f"{name}: character {error.start + 1} is half a surrogate pair, {found}: it is no text"
        ) from None


def _plain_text(name: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"{name} must be what JSON can say: {error}") from None


def _names(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r:.40}" for name in list(value)[:5]) or "an empty object"


def _kind(value: object) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
