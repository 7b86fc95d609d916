"""A tokenizer without a vocabulary file: ids 0-255 are the bytes of UTF-8, 256 is bos, 257 is eos.

It has the public surface of `fanlight.text.tokenizer.Tokenizer`, so that others are tested without weights.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fanlight.errors import TokenizerError
from fanlight.text.stream import Detokenizer
from fanlight.text.tokenizer import label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOS, EOS = 256, 257
SPELLINGS = {BOS: "<bos>", EOS: "<eos>"}
_IDS = {spelling: token for token, spelling in SPELLINGS.items()}


class ByteTokenizer:
    """Every byte is a token. `add_bos` as given; `chat_template` too."""

    n_vocab = 258
    bos_id = BOS
    eos_ids = (EOS,)
    pad_id = None
    unk_id = None
    cls_id = None
    sep_id = None
    mask_id = None
    special_ids = frozenset(SPELLINGS)

    def __init__(self, *, add_bos: bool = False, chat_template: str | None = None) -> None:
        self.add_bos = add_bos
        self.chat_template = chat_template
        self.tool_template: str | None = None

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        ids: list[int] = [BOS] if add_special and self.add_bos else []
        for part in self.split_special(text) if parse_special else [text]:
            ids += [part] if isinstance(part, int) else self._bytes(part)
        return ids

    def split_special(self, text: str) -> list[int | str]:
        self._bytes(text)
        return [_IDS.get(part, part) for part in re.split("(<bos>|<eos>)", text) if part]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        kept = [token for token in ids if not (skip_special and token in self.special_ids)]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def detokenizer(self, after: Sequence[int] = ()) -> Detokenizer:
        return Detokenizer(self.token_bytes, self.special_ids)

    def encode_pair(self, first: str, second: str, *, parse_special: bool = False) -> tuple[list[int], list[int]]:
        a, b = (self.encode(text, add_special=False, parse_special=parse_special) for text in (first, second))
        return [*a, *b], [0] * len(a) + [1] * len(b)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.n_vocab:
            raise TokenizerError(f"token id {token} is outside the vocabulary: expected 0 to {self.n_vocab - 1}")
        return SPELLINGS[token].encode() if token in SPELLINGS else bytes([token])

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_label(self, token: int) -> str:
        return label(self.token_bytes(token))

    def missing_characters(self, text: str) -> list[str]:
        self._bytes(text)
        return []

    @classmethod
    def from_gguf(cls, metadata: object) -> ByteTokenizer:
        return cls()

    @classmethod
    def from_folder(cls, path: object, *, n_vocab: int | None = None) -> ByteTokenizer:
        return cls()

    def _bytes(self, text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"text: character {error.start}: expected Unicode text, found a lone surrogate"
            ) from None
