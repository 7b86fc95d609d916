"""Text <-> token ids. In: str; out: ids of one vocabulary. Knows no model; reads no weights.

The work is done by the `tokenizers` library, or by `spm.py` where a file holds scores and no merges. What is added here:
the raw bytes of every token, so that a text can be shown as it grows, what stands around a text or a pair of texts, and
a firm line between text and control: what a user wrote never becomes a special token unless the caller asks for it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

from fanlight.errors import TokenizerError
from fanlight.text.stream import Detokenizer
from fanlight.text.vocabulary import END_OF_TEXT_TOKENS, FIRST, SECOND, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

__all__ = ["END_OF_TEXT_TOKENS", "AnyTokenizer", "Tokenizer", "Vocabulary", "label"]


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
    def cls_id(self) -> int | None: ...
    @property
    def sep_id(self) -> int | None: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def tool_template(self) -> str | None: ...
    @property
    def add_bos(self) -> bool: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def encode_pair(self, first: str, second: str, *, parse_special: bool = False) -> tuple[list[int], list[int]]: ...
    def split_special(self, text: str) -> list[int | str]: ...
    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str: ...
    def detokenizer(self, after: Sequence[int] = ()) -> Detokenizer: ...
    def token_bytes(self, token: int) -> bytes: ...
    def token_text(self, token: int) -> str: ...
    def token_label(self, token: int) -> str: ...
    def missing_characters(self, text: str) -> list[str]: ...


class Tokenizer:
    """One vocabulary. Immutable and thread-safe: nothing that shows changes after construction, so requests share it."""

    __slots__ = ("_labels", "_raw", "_v")

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Usually called by `from_gguf` or `from_folder`."""
        self._v = vocabulary
        self._raw: dict[int, bytes] = {}  # of tokens that came up, as their labels
        self._labels: dict[int, str] = {}

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the `tokenizer.*` keys of a GGUF file. TokenizerError: missing, damaged, or of a kind not read."""
        from fanlight.text.gguf_vocabulary import read

        return cls(read(metadata))

    @classmethod
    def from_folder(cls, path: str | PathLike[str], *, n_vocab: int | None = None) -> Tokenizer:
        """From a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt, vocab.txt, or tokenizer.model.

        n_vocab: rows of the model's embedding where it has more than the vocabulary; the ids in between have no text.
        """
        from fanlight.text.folder_vocabulary import read

        return cls(read(path, n_vocab))

    def save(self, folder: str | PathLike[str]) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, as transformers reads them.

        The folder is made if there is none. TokenizerError: a kind that these files cannot hold. OSError: as it comes.
        """
        from fanlight.text.folder_export import save

        save(self._v, folder)

    @property
    def vocabulary(self) -> Vocabulary:
        """All that this tokenizer knows, for those who write it to files."""
        return self._v

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
    def cls_id(self) -> int | None:
        """The token that begins a text of an encoder."""
        return self._v.cls_id

    @property
    def sep_id(self) -> int | None:
        """The token after each text of an encoder."""
        return self._v.sep_id

    @property
    def mask_id(self) -> int | None:
        """The token that stands for a word to be guessed."""
        return self._v.mask_id

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that control, rather than stand for text."""
        return self._v.special_ids

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that the model came with."""
        return self._v.templates.default

    @property
    def tool_template(self) -> str | None:
        """The Jinja source for chats with tools; None: `chat_template` is for them too."""
        return self._v.templates.tool_use

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts the bos token first."""
        return self._v.bos_id is not None and self._v.single[0] == (self._v.bos_id, 0)

    def __repr__(self) -> str:
        return f"Tokenizer(n_vocab={self.n_vocab}, bos_id={self.bos_id}, eos_ids={self.eos_ids})"

    # -- text -> ids --------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of a text.

        add_special: put before and after it what the model wants there (bos, eos; an encoder's [CLS] and [SEP]).
        parse_special: "<|im_end|>" in the text becomes that special token; otherwise it is the characters it is written
        with. Warns (UserWarning) of characters that the vocabulary cannot write: they are left out, or become its
        unknown token, as the model's own tokenizer does.
        """
        ids = self._ids(text, parse_special)
        if not add_special:
            return ids
        at = next(i for i, (what, _) in enumerate(self._v.single) if what == FIRST)
        before, after = self._v.single[:at], self._v.single[at + 1 :]
        return [*(int(token) for token, _ in before), *ids, *(int(token) for token, _ in after)]

    def encode_pair(self, first: str, second: str, *, parse_special: bool = False) -> tuple[list[int], list[int]]:
        """Two texts as one input, with what the model wants around them: the ids, and each one's segment (0 or 1).

        For an encoder of the BERT kind: [CLS] first [SEP] second [SEP]. Warns as `encode` does.
        """
        texts = {FIRST: self._ids(first, parse_special), SECOND: self._ids(second, parse_special)}
        ids: list[int] = []
        segments: list[int] = []
        for what, segment in self._v.pair:
            part = texts[what] if isinstance(what, str) else [what]
            ids += part
            segments += [segment] * len(part)
        return ids, segments

    def split_special(self, text: str) -> list[int | str]:
        """The special tokens in a text, as ids, and the plain text between them; nothing empty."""
        self._check(text)
        return self._v.backend.split(text)

    def missing_characters(self, text: str) -> list[str]:
        """The characters of a text that this vocabulary cannot write, each once, in order of appearance."""
        missing = set(self._v.missing_bytes)
        characters = list(dict.fromkeys(text))
        if self._v.byte_complete:
            return [c for c in characters if not missing.isdisjoint(c.encode("utf-8", errors="surrogatepass"))]
        return [c for c in characters if self._unknown(c.encode("utf-8", errors="replace").decode())]

    def _unknown(self, text: str) -> bool:
        ids = self._v.backend.ids(text, parse_special=False)
        return not ids if self._v.unk_id is None else self._v.unk_id in ids

    def _ids(self, text: str, parse_special: bool) -> list[int]:
        raw = self._check(text)
        ids = self._v.backend.ids(text, parse_special=parse_special)
        if self._v.missing_bytes and len(raw.translate(None, self._v.missing_bytes)) != len(raw):
            self._warn(text, "left out of the prompt")
        elif not self._v.byte_complete and self._v.unk_id in ids:
            self._warn(text, f"{self.token_text(self._v.unk_id)} instead" if self._v.unk_id is not None else "left out")
        return ids

    def _warn(self, text: str, what: str) -> None:
        names = [f"U+{ord(c):04X}" for c in self.missing_characters(text)]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        if shown:  # a word may be unknown whose characters are not
            warnings.warn(f"this model's vocabulary cannot write {shown}: {what}", stacklevel=4)

    def _check(self, text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"text: character {error.start}: expected Unicode text, found the lone surrogate "
                f"U+{ord(text[error.start]):04X}; decode the input as UTF-8 with errors='replace'"
            ) from None
        except AttributeError:
            raise TokenizerError(f"text: expected str, found {type(text).__name__}; decode bytes first") from None

    # -- ids -> text --------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. skip_special: leave special tokens out.

        The ids are a text from its beginning: a space that the vocabulary writes before every text is taken away.
        """
        pieces: list[bytes] = []
        begun = False
        for token in ids:
            if not (skip_special and token in self._v.special_ids):
                raw = self._inside(token)
                pieces.append(raw if begun or not raw else self._first(token))
                begun = begun or bool(raw)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def detokenizer(self, after: Sequence[int] = ()) -> Detokenizer:
        """What turns ids into text one by one; special tokens leave none.

        after: the ids that stand before. If they hold text, that text is continued: decode(after) and the pieces that
        come make decode(after + the new ids), without special tokens. Otherwise a text begins.
        """
        special = self._v.special_ids
        continued = any(token not in special and self._inside(token) for token in after)
        return Detokenizer(self._inside, special, None if continued else self._first)

    def token_bytes(self, token: int) -> bytes:
        """The raw bytes of one token inside a text, maybe a part of a character; of a special token, its text in UTF-8."""
        found = self._raw.get(token)
        if found is None:
            found = self._raw[token] = self._bytes_of(token)
        return found

    def _bytes_of(self, token: int) -> bytes:
        if not 0 <= token < self._v.n_vocab:
            raise TokenizerError(f"token id {token} is outside the vocabulary: expected 0 to {self._v.n_vocab - 1}")
        if token in self._v.raw_bytes:
            return self._v.raw_bytes[token]
        piece = self._v.backend.piece(token)
        if piece is None:  # a row of the embedding that no token uses
            return b""
        return (
            piece.encode("utf-8", errors="replace") if token in self._v.literal_ids else self._v.spelling.inside(piece)
        )

    def _inside(self, token: int) -> bytes:
        raw = self.token_bytes(token)
        return b" " + raw if token in self._v.literal_ids and self._v.spelling.kind == "wordpiece" else raw

    def _first(self, token: int) -> bytes:
        raw = self.token_bytes(token)
        if token in self._v.raw_bytes or token in self._v.literal_ids:
            return self._v.spelling.stripped(raw)
        piece = self._v.backend.piece(token)
        return raw if piece is None else self._v.spelling.first(piece)

    def token_text(self, token: int) -> str:
        """One token for display; a part of a character shows as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_label(self, token: int) -> str:
        """One token for a table: spaces as U+2423, unprintables and parts of characters escaped."""
        found = self._labels.get(token)
        if found is None:
            found = self._labels[token] = label(self.token_bytes(token)) or f"<unused {token}>"
        return found


def label(raw: bytes) -> str:
    """Bytes as one visible, unbroken word."""
    text = raw.decode("utf-8", errors="backslashreplace")
    return "".join(
        "\u2423" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
