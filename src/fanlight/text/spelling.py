"""How a vocabulary spells text: one piece -> the bytes it stands for, inside a text and at its beginning. Knows no ids.

Three spellings are read. Byte-level (GPT-2): each character is a byte. SentencePiece: "\u2581" is a space, and the one that
was put before the text goes away again at its beginning. WordPiece: a piece without "##" begins a word, so that a space
stands before it, except at the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fanlight.text.byte_level import to_bytes

SPACE = "\u2581"
_CLEANED = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"))
_CLEANED_MORE = ((" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


@dataclass(frozen=True, slots=True)
class Spelling:
    """One of the three, with its variations."""

    kind: Literal["byte-level", "sentencepiece", "wordpiece"]
    strip: Literal["nothing", "one space", "all spaces"] = "nothing"
    """sentencepiece: what the first token of a text loses."""
    prefix: str = "##"
    """wordpiece: how a piece begins that continues a word."""
    cleanup: bool = True
    """wordpiece: no space before a full stop and the like."""

    def inside(self, piece: str) -> bytes:
        """The bytes of a piece with text before it."""
        if self.kind == "byte-level":
            return to_bytes(piece)
        if self.kind == "sentencepiece":
            return _utf8(piece.replace(SPACE, " "))
        return _utf8(self._cleaned(piece.removeprefix(self.prefix) if piece.startswith(self.prefix) else f" {piece}"))

    def first(self, piece: str) -> bytes:
        """The bytes of a piece that begins a text."""
        if self.kind == "wordpiece":
            return _utf8(self._cleaned(piece))
        if self.strip == "all spaces":
            return _utf8(piece.replace(SPACE, ""))
        return self.stripped(self.inside(piece))

    def stripped(self, raw: bytes) -> bytes:
        """What is left of raw bytes at the beginning of a text."""
        return raw.removeprefix(b" ") if self.strip == "one space" else raw

    def _cleaned(self, text: str) -> str:
        if self.cleanup:
            for old, new in (*_CLEANED, *_CLEANED_MORE):
                text = text.replace(old, new)
        return text


def spelling_of(decoder: dict[str, Any] | None) -> Spelling | None:
    """The spelling that a tokenizer.json's decoder undoes; None if it is none of the three."""
    steps = _steps(decoder)
    kinds = [str(step.get("type")) for step in steps]
    if "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
        return Spelling("byte-level")
    if kinds == ["WordPiece"]:
        return Spelling("wordpiece", prefix=str(steps[0].get("prefix")), cleanup=bool(steps[0].get("cleanup")))
    if "Metaspace" in kinds and set(kinds) <= {"Metaspace", "ByteFallback", "Fuse"}:
        step = steps[kinds.index("Metaspace")]
        return (
            Spelling("sentencepiece", "nothing" if step.get("prepend_scheme") == "never" else "all spaces")
            if step.get("replacement") == SPACE
            else None
        )
    if kinds[:1] != ["Replace"] or not set(kinds[1:]) <= {"ByteFallback", "Fuse", "Strip"}:
        return None
    if (steps[0].get("pattern"), steps[0].get("content")) != ({"String": SPACE}, " "):
        return None
    strips = [(step.get("content"), step.get("start"), step.get("stop")) for step in steps if step["type"] == "Strip"]
    if not strips or strips == [(" ", 0, 0)]:
        return Spelling("sentencepiece")
    return Spelling("sentencepiece", "one space") if strips == [(" ", 1, 0)] and kinds[-1] == "Strip" else None


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    inner = (decoder or {}).get("decoders")
    return [step for d in inner for step in _steps(d)] if isinstance(inner, list) else [decoder] if decoder else []


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
