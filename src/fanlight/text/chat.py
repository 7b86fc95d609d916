"""Messages -> prompt. In: messages and the model's Jinja template; out: text, or ids. Knows no model.

Where a user's words end and control begins is kept: in `encode_chat`, special tokens that the *template* writes become
tokens, and the same characters inside a message stay characters.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError

if TYPE_CHECKING:
    from jinja2 import Template

    from fanlight.text.tokenizer import AnyTokenizer

MAX_SOURCE_CHARS = 1 << 17  # the longest known has 40,000
_MAX_DEPTH = 64
_MAX_MESSAGE = 400
_FILENAME = "<chat template>"
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled chat template. Immutable; may be used by several threads."""

    __slots__ = ("_now", "_template", "_tool_template", "_variables", "source")

    def __init__(
        self,
        source: str,
        *,
        tool_source: str | None = None,
        now: Callable[[], datetime] = datetime.now,
        **special_tokens: str | None,
    ) -> None:
        """source: Jinja. tool_source: the one for chats with tools, if that is another. now: what `strftime_now` tells; fix
        it to make prompts with dates repeatable. special_tokens: bos_token, eos_token, ... as the template knows them.

        TokenizerError: not a valid template.
        """
        self.source = source
        self._now = now
        self._variables = {name: text for name, text in special_tokens.items() if text is not None}
        self._template = self._compiled(source)
        self._tool_template = self._template if tool_source is None else self._compiled(tool_source)

    def _compiled(self, source: str) -> Template:
        if len(source) > MAX_SOURCE_CHARS:
            raise TokenizerError(f"chat template: expected at most {MAX_SOURCE_CHARS} characters, found {len(source)}")
        from jinja2 import TemplateSyntaxError

        from fanlight.text.sandbox import BoundedEnvironment

        environment = BoundedEnvironment()
        environment.globals["strftime_now"] = self._strftime_now
        try:
            return environment.compile_bounded(source, _FILENAME)
        except TemplateSyntaxError as error:
            raise TokenizerError(f"chat template, line {error.lineno}: {_one_line(error)}") from None
        except (RecursionError, SyntaxError, ValueError, MemoryError) as error:  # nested too deep for Python's parser
            raise TokenizerError(f"chat template: cannot be compiled: {_one_line(error)}") from None

    def _strftime_now(self, format: str) -> str:  # noqa: A002  (the name that templates know)
        from fanlight.text.sandbox import checked_date_format

        return self._now().strftime(checked_date_format(format))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt, as transformers' `apply_chat_template(..., tokenize=False)` gives it.

        messages: {"role": ..., "content": text or a list of parts}, oldest first. add_generation_prompt: end with the
        opening of the assistant's turn. tools: JSON schemas. extra: what else the template knows.
        TokenizerError: messages of the wrong shape, or the template refuses them; with the template's line.
        """
        from fanlight.text import sandbox

        chat = [_with_reasoning(_without_none(message)) for message in check_messages(messages)]
        plain_extra = {name: _plain(value, name) for name, value in extra.items()}
        plain_tools = None if tools is None else _plain(_checked_tools(tools), "tools")
        given = {"tools": plain_tools, "documents": None, **self._variables, **plain_extra}
        variables = {**given, "messages": chat, "add_generation_prompt": add_generation_prompt}
        template = self._template if plain_tools is None else self._tool_template
        try:
            return sandbox.render(template, variables, _count_chars([chat, given]))
        except Exception as error:
            line = _line(error)
            where = "chat template" if line is None else f"chat template, line {line}"
            raise TokenizerError(f"{where}: {_one_line(error)}") from error


def template_of(tokenizer: AnyTokenizer) -> ChatTemplate | None:
    """The tokenizer's chat template, which knows its special tokens; None: it has none. Errors: TokenizerError."""
    if tokenizer.chat_template is None:
        return None
    ends = tokenizer.eos_ids
    ids = {"bos": tokenizer.bos_id, "eos": ends[0] if ends else None, "unk": tokenizer.unk_id, "pad": tokenizer.pad_id}
    ids |= {"cls": tokenizer.cls_id, "sep": tokenizer.sep_id, "mask": tokenizer.mask_id}
    known: dict[str, Any] = {
        f"{name}_token": None if token is None else tokenizer.token_text(token) for name, token in ids.items()
    }
    return ChatTemplate(tokenizer.chat_template, tool_source=tokenizer.tool_template, **known)


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as plain data, or a TokenizerError that names the message at fault."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TokenizerError(f"messages: expected a list of messages, found {type(messages).__name__}")
    if not messages:
        raise TokenizerError('messages: expected at least one, found none; give [{"role": "user", "content": "..."}]')
    return [_checked(message, f"messages[{i}]") for i, message in enumerate(messages)]


def encode_chat(
    tokenizer: AnyTokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **extra: Any,
) -> list[int]:
    """The ids of a chat. What messages, tools and extras contain stays text; only the template makes special tokens.

    How: where a special token is spelled inside the caller's data (or begun at the end of a string, so that two strings
    could complete it), the spelling is replaced by an unguessable word; the result is rendered and cut at the special
    tokens it then has, all of them the template's; in the text between, the words are turned back. Data without such
    spellings, nearly all of it, gives the same ids as encoding the rendered prompt. A template that inspects its
    messages sees the word in place of the spelling.
    """
    disguise = _Disguise(tokenizer.token_bytes(i).decode("utf-8", errors="replace") for i in tokenizer.special_ids)
    hidden = [disguise.hide(message) for message in check_messages(messages)]
    hidden_tools = None if tools is None else disguise.hide(_plain(_checked_tools(tools), "tools"))
    hidden_extra = {name: disguise.hide(_plain(value, name)) for name, value in extra.items()}
    text = template.render(hidden, add_generation_prompt=add_generation_prompt, tools=hidden_tools, **hidden_extra)
    if not disguise.used:
        return tokenizer.encode(text, add_special=False, parse_special=True)
    ids: list[int] = []
    for part in tokenizer.split_special(text):
        ids += [part] if isinstance(part, int) else tokenizer.encode(disguise.reveal(part), add_special=False)
    return ids


class _Disguise:
    """Spellings of special tokens <-> words that nobody can guess and no template has reason to change."""

    def __init__(self, spellings: Iterable[str]) -> None:
        self._spellings = sorted(filter(None, spellings), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._spellings)) or r"(?!)")
        # A role such as "user" must not be taken for the beginning of a token "unk".
        self._beginnings = {s[:n] for s in self._spellings if not s[0].isalnum() for n in range(1, len(s))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._secret = str(secrets.randbits(128))  # digits: no filter for case, JSON or HTML alters them
        self._words: dict[str, str] = {}

    @property
    def used(self) -> bool:
        return bool(self._words)

    def hide(self, value: Any) -> Any:
        """The same data, with every spelling in its strings (and names) replaced."""
        if isinstance(value, str):
            text = self._pattern.sub(lambda match: self._word(match.group()), value)
            for n in range(min(self._longest, len(text)), 0, -1):
                if text[-n:] in self._beginnings:
                    return text[:-n] + self._word(text[-n:])
            return text
        if isinstance(value, dict):
            return {self.hide(name): self.hide(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def reveal(self, text: str) -> str:
        for spelling, word in self._words.items():
            text = text.replace(word, spelling)
        return text

    def _word(self, spelling: str) -> str:
        return self._words.setdefault(spelling, f"~{self._secret}.{len(self._words)}~")


# -- checks on what the caller gives ----------------------------------------------------------------------------------


def _checked(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TokenizerError(f'{where}: expected {{"role": ..., "content": ...}}, found {type(message).__name__}')
    plain: dict[str, Any] = _plain(message, where)
    role, content = plain.get("role"), plain.get("content")
    if not isinstance(role, str) or not role:
        raise TokenizerError(f"{where}: expected a role such as 'system', 'user' or 'assistant', found {role!r}")
    if isinstance(content, list):
        for i, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise TokenizerError(
                    f'{where}: content[{i}]: expected a part like {{"type": "text", "text": ...}}, found {part!r:.60}'
                )
    elif content is None:
        if not plain.get("tool_calls"):
            raise TokenizerError(f"{where}: expected content, found none; give text (it may be '')")
    elif not isinstance(content, str):
        raise TokenizerError(f"{where}: content: expected text or a list of parts, found {type(content).__name__}")
    return plain


def _checked_tools(tools: Any) -> Any:
    is_list = isinstance(tools, Sequence) and not isinstance(tools, (str, bytes))
    if not is_list or not all(isinstance(tool, Mapping) for tool in tools):
        raise TokenizerError(f"tools: expected a list of JSON schemas (objects), found {tools!r:.60}")
    return tools


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Nothing but JSON's types, copied: a template must not reach live objects, nor change the caller's."""
    if depth > _MAX_DEPTH:
        raise TokenizerError(f"{where}: expected at most {_MAX_DEPTH} levels of lists and objects, found more")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # NumPy's numbers, for one, are float's children, and can write files
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TokenizerError(f"{where}: expected names that are text, found {name!r:.60}")
        return {str.__str__(name): _plain(item, where, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, depth + 1) for item in value]
    raise TokenizerError(f"{where}: expected text, numbers, lists and objects, found {type(value).__name__}")


def _without_none(message: dict[str, Any]) -> dict[str, Any]:
    """Templates that write "None" for content that is None do without it; so does transformers."""
    return {name: value for name, value in message.items() if value is not None}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates disagree on the name of an assistant's reasoning; give it under those they read."""
    found = next((message[name] for name in _REASONING_NAMES if message.get(name) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


def _count_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(name) + _count_chars(item) for name, item in value.items())
    return sum(map(_count_chars, value)) if isinstance(value, list) else 8


def _one_line(error: BaseException) -> str:
    """What an error says, even if the template wrote it, on one line of bounded length."""
    text = " ".join(str(getattr(error, "message", None) or error)[: 2 * _MAX_MESSAGE].split()) or type(error).__name__
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= _MAX_MESSAGE else shown[:_MAX_MESSAGE] + "..."


def _line(error: BaseException) -> int | None:
    """The line of the template where an error arose: Jinja maps its frames back to template lines."""
    line = getattr(error, "lineno", None)
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILENAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
