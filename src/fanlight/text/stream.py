"""Token ids, one at a time -> text, never half a character. Knows no model and no vocabulary.

A character outside ASCII may be spread over several tokens; its bytes wait here until the character is complete.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Detokenizer:
    """One request's text, as it grows. The pieces, put together, are the decoding of the whole.

    A token may leave other bytes at the beginning of a text than inside it (a space that is not there): `first_bytes`.
    Bytes that are not UTF-8 become U+FFFD, as `bytes.decode("utf-8", errors="replace")` of the whole would have it.
    """

    __slots__ = ("_decoder", "_first_bytes", "_next_first", "_skip", "_token_bytes")

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        skip: Collection[int] = (),
        first_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        """token_bytes: a token's raw bytes. skip: ids that leave no text (special tokens).

        first_bytes: those of the first token that has any, where a text begins; None: a text is continued.
        """
        self._first_bytes = self._next_first = first_bytes
        self._token_bytes = token_bytes
        self._skip = frozenset(skip)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that is certain now: "" while a character is incomplete."""
        if token in self._skip:
            return ""
        raw = self._token_bytes(token)
        if raw and self._next_first is not None:
            raw, self._next_first = self._next_first(token), None
        return self._decoder.decode(raw)

    def flush(self) -> str:
        """What is left at the end: "", or U+FFFD for a character that never was completed. Resets."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._next_first = self._first_bytes
        return rest
