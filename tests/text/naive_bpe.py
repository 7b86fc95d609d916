"""Byte-pair encoding as one would explain it, slowly: what the fast tokenizer is compared with. Knows no library."""

from __future__ import annotations

from itertools import pairwise

import regex

SMOLLM_CUT = regex.compile(
    r"(?<digit>\p{N})|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+", flags=regex.V1
)


def spell(raw: bytes) -> list[str]:
    """Bytes in GPT-2's alphabet."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in raw]


def encode(text: str, vocab: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Cut, spell, then merge the pair with the lowest rank until none is left."""
    ids: list[int] = []
    for match in SMOLLM_CUT.finditer(text):
        pieces = [piece for piece in spell(match.group().encode()) if piece in vocab]
        while True:
            pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
            if not pairs:
                break
            _, i = min(pairs)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        ids += [vocab[piece] for piece in pieces]
    return ids
