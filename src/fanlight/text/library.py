"""Ids of a text by the `tokenizers` library: byte-level BPE, Unigram, WordPiece. In: its object. Knows no file.

Two objects over one model: one recognises special tokens in text, the other never does. Tokens that a model adds but
does not call special (runs of spaces, say) are words of the vocabulary to both.
"""

from __future__ import annotations

import json
import os
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from fanlight.errors import TokenizerError
from fanlight.text.vocabulary import is_panic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import tokenizers

_Made = TypeVar("_Made")


class LibraryBackend:
    """A `Backend`. Nothing that shows changes after construction, so threads share it."""

    __slots__ = ("_hidden", "_parsing", "_plain", "special", "unknown")

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """backend: recognises all added tokens, adds neither bos nor eos. TokenizerError: added tokens that do not fit."""
        added = backend.get_added_tokens_decoder()
        self.special = frozenset(token for token, entry in added.items() if entry.special)
        self.unknown = _unknown(backend)
        self._parsing = backend
        self._plain = _without_special(backend, added)
        self._hidden: tokenizers.Tokenizer | None = None

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """See `Backend`."""
        found = _ids(self._parsing if parse_special else self._plain, text)
        if parse_special or self.special.isdisjoint(found) or self.special.intersection(found) == {self.unknown}:
            return found
        # The model itself spells a special token (Unigram has them all among its pieces): it must not find them.
        if self._hidden is None:
            self._hidden = _hidden(self._parsing, self.special - {self.unknown})
        return _ids(self._hidden, text)

    def split(self, text: str) -> list[int | str]:
        """See `Backend`."""
        parts: list[int | str] = []
        end = 0
        encoding = _encode(self._parsing, text)
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if (
                token in self.special
                and stop > start
                and not (token == self.unknown and text[start:stop] != self.piece(token))
            ):
                parts += [text[end:start], token] if start > end else [token]
                end = stop
        return [*parts, text[end:]] if end < len(text) else parts

    def piece(self, token: int) -> str | None:
        """See `Backend`."""
        piece: str | None = self._parsing.id_to_token(token)
        return piece

    def id_of(self, piece: str) -> int | None:
        """See `Backend`."""
        token: int | None = self._parsing.token_to_id(piece)
        return token

    def library(self) -> tokenizers.Tokenizer:
        """See `Backend`."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self._parsing.to_str())


def guarded(what: str, build: Callable[[], _Made]) -> _Made:
    """build(), whatever goes wrong inside `tokenizers` told as one TokenizerError that begins with `what`."""
    try:
        return build()
    except TokenizerError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise TokenizerError(f"{what}{' '.join(str(error).split())}") from error
        raise


def add_tokens(backend: tokenizers.Tokenizer, entries: Iterable[tokenizers.AddedToken]) -> None:
    """Added tokens in the order given, so that each gets the next id, or the one that the model has for it."""
    for special, run in groupby(entries, key=lambda entry: bool(entry.special)):
        (backend.add_special_tokens if special else backend.add_tokens)(list(run))


def _encode(backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    try:
        return backend.encode(text, add_special_tokens=False)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise TokenizerError(f"text of {len(text)} characters: the tokenizer failed on it: {error}") from error
        raise


def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    ids: list[int] = _encode(backend, text).ids
    return ids


def _unknown(backend: tokenizers.Tokenizer) -> int | None:
    """The token that the model itself writes for what it does not know."""
    from tokenizers import models

    model = backend.model
    if isinstance(model, models.Unigram):
        number: int | None = json.loads(model.__getstate__())["unk_id"]
        return number
    text = getattr(model, "unk_token", None)
    return None if text is None else model.token_to_id(text)


def _without_special(backend: tokenizers.Tokenizer, added: dict[int, Any]) -> tokenizers.Tokenizer:
    """A second tokenizer over the same model, which takes special tokens for plain text."""
    from tokenizers import Tokenizer

    plain = Tokenizer(backend.model)  # shares the vocabulary and merges
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    # All of them, in order of id, so that each gets the id it had.
    add_tokens(plain, (entry for _, entry in sorted(added.items())))
    plain.encode_special_tokens = True
    for token, entry in added.items():
        if plain.token_to_id(entry.content) != token:
            raise TokenizerError(
                f"added token {entry.content!r}: expected id {token}, found {plain.token_to_id(entry.content)}; "
                "the vocabulary has gaps where added tokens should be"
            )
    return plain


def _hidden(backend: tokenizers.Tokenizer, special: frozenset[int]) -> tokenizers.Tokenizer:
    """A third one, whose model has no special tokens: their pieces are renamed to what nobody can write."""
    from tokenizers import Tokenizer

    data = json.loads(backend.to_str())
    model, salt = data["model"], os.urandom(8).hex()
    names = {
        entry["content"]: f"{entry['content']}\x00{salt}" for entry in data["added_tokens"] if entry["id"] in special
    }
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): token for piece, token in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if "".join(_pair(pair)) not in names]
    data["added_tokens"] = [
        {**entry, "content": names.get(entry["content"], entry["content"])} for entry in data["added_tokens"]
    ]
    data["truncation"] = data["padding"] = data["post_processor"] = None
    return guarded("the tokenizer without its special tokens: ", lambda: Tokenizer.from_str(json.dumps(data)))


def _pair(merge: list[str] | str) -> Iterator[str]:
    yield from merge.split(" ") if isinstance(merge, str) else merge
