"""Text <-> token ids. In: str; out: ids of one vocabulary. Knows no model; reads no weights.

The work is done by the `tokenizers` library (byte-level BPE). What is added here: where a vocabulary comes from (GGUF
metadata or a folder), the raw bytes of every token, and a firm line between text and control: what a user wrote never
becomes a special token unless the caller asks for it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fanlight.errors import TokenizerError
from fanlight.text.byte_level import to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    import tokenizers

END_OF_TEXT_TOKENS = frozenset(
    (
        *("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>"),
        *("<end_of_turn>", "<EOT>", "<|EOT|>", "</s>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    )
)
"""Control tokens that end a text or a turn, whatever else the file says.

A file names one end token, but a model has often learned two: the end of its turn and the end of a document. What a
model writes after either is no continuation of the prompt but a new document, so both stop it. (For SmolLM2-Instruct:
<|im_end|>, which the file names, and <|endoftext|>, which its base model ended documents with.)
"""


class AnyTokenizer(Protocol):
    """What the engine and the views use of a tokenizer; `Tokenizer` has it, and so may a fake."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def unk_id(self) -> int | None: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def add_bos(self) -> bool: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def split_special(self, text: str) -> list[int | str]: ...
    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str: ...
    def token_bytes(self, token: int) -> bytes: ...
    def token_text(self, token: int) -> str: ...
    def token_label(self, token: int) -> str: ...
    def missing_characters(self, text: str) -> list[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the readers of GGUF metadata and of folders hand over."""

    backend: tokenizers.Tokenizer  # recognises all added tokens; adds neither bos nor eos
    n_vocab: int
    literal_ids: frozenset[int]  # tokens whose text stands for itself, not for bytes
    special_ids: frozenset[int]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    unk_id: int | None
    chat_template: str | None
    raw_bytes: Mapping[int, bytes]  # tokens that say which byte they are: "<0x0A>"


class Tokenizer:
    """One vocabulary. Immutable and thread-safe: nothing changes after construction, so requests share it.

    Two `tokenizers` objects over one shared BPE model: one recognises special tokens in text, the other never does.
    Tokens that a model adds but does not call special (runs of spaces, say) are words of the vocabulary to both.
    """

    __slots__ = ("_literal", "_missing", "_parsing", "_plain", "_v")

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Usually called by `from_gguf` or `from_folder`."""
        from fanlight.text.byte_level import CHARACTERS

        self._v = vocabulary
        self._literal = vocabulary.literal_ids
        self._parsing = vocabulary.backend
        self._plain = _without_special(self._parsing)
        self._missing = bytes(b for b in range(256) if self._parsing.token_to_id(CHARACTERS[b]) is None)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the `tokenizer.*` keys of a GGUF file. TokenizerError: missing, damaged, or of a kind not read."""
        from fanlight.text.gguf_vocabulary import read

        return cls(read(metadata))

    @classmethod
    def from_folder(cls, path: str | PathLike[str], *, n_vocab: int | None = None) -> Tokenizer:
        """From a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt.

        n_vocab: rows of the model's embedding where it has more than the vocabulary; the ids in between have no text.
        """
        from fanlight.text.folder_vocabulary import read

        return cls(read(path, n_vocab))

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def n_vocab(self) -> int:
        """Ids are 0 .. n_vocab - 1."""
        return self._v.n_vocab

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self._v.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text; the one that the files name comes first. See END_OF_TEXT_TOKENS."""
        return self._v.eos_ids

    @property
    def pad_id(self) -> int | None:
        """The token that fills a batch in training."""
        return self._v.pad_id

    @property
    def unk_id(self) -> int | None:
        """The token for what cannot be written."""
        return self._v.unk_id

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that control, rather than stand for text."""
        return self._v.special_ids

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that the model came with."""
        return self._v.chat_template

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts the bos token first."""
        return self._v.bos_id is not None and self._v.prefix[:1] == (self._v.bos_id,)

    def __repr__(self) -> str:
        return f"Tokenizer(n_vocab={self.n_vocab}, bos_id={self.bos_id}, eos_ids={self.eos_ids})"

    # -- text -> ids --------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of a text.

        add_special: put bos before and eos after, if the model wants them. parse_special: "<|im_end|>" in the text
        becomes that special token; otherwise it is the characters it is written with. Warns (UserWarning) of characters
        that the vocabulary cannot write; they are left out, as the model's own tokenizer does.
        """
        self._check(text)
        ids = _ids(self._parsing if parse_special else self._plain, text)
        return [*self._v.prefix, *ids, *self._v.suffix] if add_special else ids

    def split_special(self, text: str) -> list[int | str]:
        """The special tokens in a text, as ids, and the plain text between them; nothing empty."""
        self._check(text)
        parts: list[int | str] = []
        end = 0
        encoding = _encode(self._parsing, text)
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._v.special_ids:
                parts += [text[end:start], token] if start > end else [token]
                end = stop
        return [*parts, text[end:]] if end < len(text) else parts

    def missing_characters(self, text: str) -> list[str]:
        """The characters of a text that this vocabulary has no bytes for, each once, in order of appearance."""
        missing = set(self._missing)
        return [c for c in dict.fromkeys(text) if not missing.isdisjoint(c.encode("utf-8", errors="surrogatepass"))]

    def _check(self, text: str) -> None:
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"text: character {error.start}: expected Unicode text, found the lone surrogate "
                f"U+{ord(text[error.start]):04X}; decode the input as UTF-8 with errors='replace'"
            ) from None
        except AttributeError:
            raise TokenizerError(f"text: expected str, found {type(text).__name__}; decode bytes first") from None
        if self._missing and len(raw.translate(None, self._missing)) != len(raw):
            names = [f"U+{ord(c):04X}" for c in self.missing_characters(text)]
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            warnings.warn(f"this model's vocabulary cannot write {shown}: left out of the prompt", stacklevel=3)

    # -- ids -> text --------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. skip_special: leave special tokens out."""
        return b"".join(self._pieces(ids, skip_special)).decode("utf-8", errors="replace")

    def _pieces(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        for token in ids:
            if not (skip_special and token in self._v.special_ids):
                yield self.token_bytes(token)

    def token_bytes(self, token: int) -> bytes:
        """The raw bytes of one token, maybe a part of a character; of a special token, its text in UTF-8."""
        if not 0 <= token < self._v.n_vocab:
            raise TokenizerError(f"token id {token} is outside the vocabulary: expected 0 to {self._v.n_vocab - 1}")
        if token in self._v.raw_bytes:
            return self._v.raw_bytes[token]
        piece: str | None = self._parsing.id_to_token(token)
        if piece is None:  # a row of the embedding that no token uses
            return b""
        return piece.encode("utf-8", errors="replace") if token in self._literal else to_bytes(piece)

    def token_text(self, token: int) -> str:
        """One token for display; a part of a character shows as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_label(self, token: int) -> str:
        """One token for a table: spaces as U+2423, unprintables and parts of characters escaped."""
        return label(self.token_bytes(token)) or f"<unused {token}>"


def label(raw: bytes) -> str:
    """Bytes as one visible, unbroken word."""
    text = raw.decode("utf-8", errors="backslashreplace")
    return "".join(
        "\u2423" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def is_panic(error: BaseException) -> bool:
    """Whether `tokenizers` failed in its own code: a BaseException, of a class that cannot be imported."""
    return type(error).__name__ == "PanicException"


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


def _without_special(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A second tokenizer over the same model, which takes special tokens for plain text."""
    from tokenizers import Tokenizer as Backend

    added = backend.get_added_tokens_decoder()
    plain = Backend(backend.model)  # shares the vocabulary and merges
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    # All of them, in order of id, so that each gets the id it had.
    for special, group in _runs(sorted(added.items())):
        plain.add_special_tokens(group) if special else plain.add_tokens(group)
    plain.encode_special_tokens = True
    for token, entry in added.items():
        if plain.token_to_id(entry.content) != token:
            raise TokenizerError(
                f"added token {entry.content!r}: expected id {token}, found {plain.token_to_id(entry.content)}; "
                "the vocabulary has gaps where added tokens should be"
            )
    return plain


def _runs(added: list[tuple[int, Any]]) -> Iterator[tuple[bool, list[Any]]]:
    from itertools import groupby

    for special, group in groupby((entry for _, entry in added), key=lambda entry: bool(entry.special)):
        yield special, list(group)
