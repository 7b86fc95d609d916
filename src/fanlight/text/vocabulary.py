"""What the readers of GGUF metadata and of folders hand over: a vocabulary, and what cuts text into it. Knows no file.

Here stands what they share: the facts, the seam to whatever finds ids (`Backend`), and which tokens end a text.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fanlight.text.template_sources import NO_TEMPLATES, TemplateSources

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import tokenizers

from fanlight.text.spelling import Spelling

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

FIRST, SECOND = "A", "B"
"""Where the two texts of a pair stand in a `Template`."""

Template = tuple[tuple[int | str, int], ...]
"""What is put around text: (token id, or FIRST or SECOND, and the segment it belongs to), in order."""


class Backend(Protocol):
    """What finds the ids of a text. All added tokens are known to it; it adds neither bos nor eos."""

    @property
    def special(self) -> Collection[int]:
        """Tokens that it finds in text only where it is asked to."""

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of a text; the tokens of `special` are among them only with parse_special."""

    def split(self, text: str) -> list[int | str]:
        """The special tokens in a text, as ids, and the plain text between them; nothing empty."""

    def piece(self, token: int) -> str | None:
        """A token as the vocabulary spells it. None: no token has this id."""

    def id_of(self, piece: str) -> int | None:
        """The id of a piece of the vocabulary."""

    def library(self) -> tokenizers.Tokenizer:
        """The same as an object of the `tokenizers` library, for saving: a copy, without template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Everything that a `Tokenizer` knows."""

    backend: Backend
    spelling: Spelling
    n_vocab: int
    literal_ids: frozenset[int]  # tokens whose text stands for itself, not for bytes
    special_ids: frozenset[int]
    single: Template
    pair: Template
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    unk_id: int | None
    cls_id: int | None = None
    sep_id: int | None = None
    mask_id: int | None = None
    templates: TemplateSources = NO_TEMPLATES
    raw_bytes: Mapping[int, bytes]  # tokens that say which byte they are: "<0x0A>"
    missing_bytes: bytes = b""  # bytes that no token stands for; a character with one of them cannot be written
    byte_complete: bool = True  # no character is unknown, but for those of missing_bytes
    gguf: Mapping[str, object] = field(default_factory=dict)  # what a GGUF file says of text and no token shows


def around(
    prefix: Collection[int | None], suffix: Collection[int | None], between: int | None = None
) -> tuple[Template, Template]:
    """Templates of one text and of a pair: prefix A suffix; and B likewise, unless `between` alone parts the two."""
    before: Template = tuple((token, 0) for token in prefix if token is not None)
    after: Template = tuple((token, 0) for token in suffix if token is not None)
    single: Template = (*before, (FIRST, 0), *after)
    second: list[int | str] = [
        *([] if between is not None else [token for token, _ in before]),
        SECOND,
        *(token for token, _ in after),
    ]
    return single, (*single, *((token, 1) for token in second))


def is_panic(error: BaseException) -> bool:
    """Whether `tokenizers` failed in its own code: a BaseException, of a class that cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside: 50,000 new tuples set it off again and again, a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
