"""The byte-level alphabet: bytes <-> the printable characters that stand for them in a vocabulary. Knows nothing else.

Source: Radford et al. 2019 (GPT-2). Bytes that print in Latin-1 stand for themselves; the others, in order, are the
characters from U+0100 on, so that a vocabulary file holds no white-space and no control characters.
"""

from __future__ import annotations

_PRINTABLE = frozenset((*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)))


def _alphabet() -> tuple[str, ...]:
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in _PRINTABLE else next(others)) for byte in range(256))


CHARACTERS = _alphabet()
"""CHARACTERS[byte] stands for that byte."""

_BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def to_bytes(piece: str) -> bytes:
    """The bytes that a piece in the alphabet stands for; with any other character, it is UTF-8 itself."""
    try:
        return bytes([_BYTES[character] for character in piece])
    except KeyError:
        return piece.encode("utf-8", errors="replace")
