"""SentencePiece's byte-pair encoding by scores: text -> ids. In: pieces and scores. Knows no file.

The algorithm is that of SentencePiece (Kudo and Richardson 2018) and of llama.cpp's "llama" tokenizer: of all neighbours
whose concatenation is a piece, the pair with the highest score is joined, the leftmost of equals, until none is left.
What then is no piece is written with byte tokens. It needs no list of merges, which is long to make (a second for
256,000 pieces) and could not tell equal scores as this does, so it is written here rather than given to `tokenizers`.
"""

from __future__ import annotations

import re
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from fanlight.text.spelling import SPACE
from fanlight.text.vocabulary import collector_paused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import tokenizers
    from tokenizers.normalizers import Normalizer

_CACHED_WORDS = 1 << 16
_LONGEST_CACHED = 64


class ScoredBpe:
    """A `Backend`. Its cache of words aside nothing changes after construction, so threads share it."""

    __slots__ = (
        *("_added", "_bytes", "_cache", "_escaped", "_everything", "_ids", "_normalizer", "_once"),
        *("_only_words", "_prefix", "_scores", "_texts", "_unk_id", "_words", "special"),
    )

    def __init__(
        self,
        pieces: Sequence[str],
        ids: dict[str, int],
        scores: Mapping[str, float],
        *,
        special: Sequence[int],
        words: Sequence[int],
        byte_tokens: Mapping[int, int],
        unk_id: int | None,
        space_prefix: bool,
        only_once: bool = False,
        escaped_words: Sequence[int] = (),
        normalizer: Normalizer | None = None,
    ) -> None:
        """pieces: all, by id; ids: the same the other way round. scores: of those that text may be cut into.

        special: found only where asked for. words: found in text before anything else. byte_tokens: ids by byte.
        space_prefix: text begins with a space, after every special token too unless only_once. normalizer: of text.
        escaped_words: found after spaces have been marked, as they are spelled.
        """
        self._texts = pieces
        self._ids = ids
        self._scores = scores
        self._bytes = dict(byte_tokens)
        self._unk_id, self._prefix, self._once, self._normalizer = unk_id, space_prefix, only_once, normalizer
        self.special = frozenset(special)
        self._added = (tuple(special), tuple(words), tuple(escaped_words))
        self._only_words = _finder([pieces[token] for token in words])
        self._everything = _finder([pieces[token] for token in (*special, *words)])
        self._escaped = _finder([pieces[token] for token in escaped_words])
        # No piece goes over the beginning of a word: then words can be cut one by one, and remembered.
        joined = "\n".join(scores)
        self._words = None if re.search(f"[^\n{SPACE}]{SPACE}", joined) else re.compile(f"{SPACE}*[^{SPACE}]*")
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """See `Backend`."""
        ids: list[int] = []
        for i, part in enumerate(self._parts(text, self._everything if parse_special else self._only_words)):
            ids += [part] if isinstance(part, int) else self._plain(part, self._prefix and not (i and self._once))
        return ids

    def split(self, text: str) -> list[int | str]:
        """See `Backend`."""
        parts: list[int | str] = []
        for part in self._parts(text, self._everything):
            shown = self._texts[part] if isinstance(part, int) and part not in self.special else part
            if isinstance(shown, str) and parts and isinstance(parts[-1], str):
                parts[-1] += shown
            else:
                parts.append(shown)
        return parts

    def piece(self, token: int) -> str | None:
        """See `Backend`."""
        return self._texts[token] if 0 <= token < len(self._texts) else None

    def id_of(self, piece: str) -> int | None:
        """See `Backend`."""
        return self._ids.get(piece)

    @property
    def scores(self) -> Mapping[str, float]:
        """Of the pieces that text may be cut into."""
        return self._scores

    def library(self) -> tokenizers.Tokenizer:
        """See `Backend`. Merges are every pair whose concatenation is a piece, the highest score first.

        Of pairs with one concatenation, or one score, the library cannot take the leftmost in the text: it has an order
        of its own. That shows only where such pairs overlap.
        """
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        from fanlight.text.library import add_tokens

        unknown = None if self._unk_id is None else self._texts[self._unk_id]
        with collector_paused():
            model = models.BPE(
                self._ids, self.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=len(self._bytes) == 256
            )
        backend = Tokenizer(model)
        steps: list[Any] = [] if self._normalizer is None else [self._normalizer]
        cut: list[Any] = []
        if self._prefix and not self._once:
            steps.append(normalizers.Prepend(SPACE))
        elif self._prefix:
            cut.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False))
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
        if self._words is not None:
            cut.append(pre_tokenizers.Split(Regex(f"{SPACE}*[^{SPACE}]+"), "isolated"))
        if cut:
            backend.pre_tokenizer = pre_tokenizers.Sequence(cut)
        back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if self._prefix else [])])
        special, words, escaped = self._added
        # (the library would put a prefix before escaped words too, so with one they are found in the text as it is)
        entries = [(token, True, False) for token in special] + [(token, False, False) for token in words]
        entries += [(token, False, not self._prefix) for token in escaped]
        add_tokens(
            backend,
            [AddedToken(self._texts[t], special=mark, normalized=late) for t, mark, late in sorted(entries)],
        )
        return backend

    def merges(self) -> list[tuple[str, str]]:
        """Every pair of pieces whose concatenation is a piece: the highest score first, then the longer left."""
        scores = self._scores
        found: list[tuple[float, int, str, str]] = []
        for piece, score in scores.items():
            for at in range(1, len(piece)):
                left, right = piece[:at], piece[at:]
                if left in scores and right in scores:
                    found.append((-score, -at, left, right))
        found.sort()
        return [(left, right) for _, _, left, right in found]

    # -- text -> ids --------------------------------------------------------------------------------------------------

    def _parts(self, text: str, finder: re.Pattern[str] | None) -> list[int | str]:
        if finder is None:
            return [text] if text else []
        parts: list[int | str] = []
        end = 0
        for match in finder.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            parts.append(self._ids[match.group()])
            end = match.end()
        return [*parts, text[end:]] if end < len(text) else parts

    def _plain(self, text: str, prefix: bool) -> list[int]:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if not text:
            return []
        text = (SPACE if prefix else "") + text.replace(" ", SPACE)
        ids: list[int] = []
        for part in self._parts(text, self._escaped):
            found = [part] if isinstance(part, int) else self._cut(part)
            # what is unknown is told once, however long it is
            ids += found[1:] if found and ids and found[0] == self._unk_id == ids[-1] else found
        return ids

    def _cut(self, text: str) -> list[int]:
        ids: list[int] = []
        unk_id, cache = self._unk_id, self._cache
        for word in [text] if self._words is None else self._words.findall(text):
            found = cache.get(word)
            if found is None:
                found = self._merged(word)
                if len(word) <= _LONGEST_CACHED and len(cache) < _CACHED_WORDS:
                    cache[word] = found
            ids += found[1:] if found and ids and found[0] == unk_id == ids[-1] else found
        return ids

    def _merged(self, word: str) -> list[int]:
        """The algorithm. Symbols are a chain; the queue holds (worse first: -score, place of the left one, length)."""
        scores = self._scores
        symbols: list[str] = list(word)
        n = len(symbols)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))
        queue: list[tuple[float, int, int]] = []
        for i in range(n - 1):
            pair = symbols[i] + symbols[i + 1]
            if pair in scores:
                heappush(queue, (-scores[pair], i, 2))
        while queue:
            _, left, length = heappop(queue)
            right = after[left]
            if right >= n or not symbols[left] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of the two has been joined with another since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = following = after[right]
            if following < n:
                before[following] = left
                pair = symbols[left] + symbols[following]
                if pair in scores:
                    heappush(queue, (-scores[pair], left, len(pair)))
            previous = before[left]
            if previous >= 0:
                pair = symbols[previous] + symbols[left]
                if pair in scores:
                    heappush(queue, (-scores[pair], previous, len(pair)))
        return self._spelled(symbols)

    def _spelled(self, symbols: list[str]) -> list[int]:
        ids: list[int] = []
        for symbol in filter(None, symbols):
            if symbol in self._scores:
                ids.append(self._ids[symbol])
            elif self._bytes:
                ids += [self._bytes[byte] for byte in symbol.encode("utf-8") if byte in self._bytes]
            elif self._unk_id is not None and ids[-1:] != [self._unk_id]:
                ids.append(self._unk_id)
        return ids


def _finder(texts: Sequence[str]) -> re.Pattern[str] | None:
    """Finds the leftmost of some texts, the longest of those; None if there are none."""
    known = sorted(filter(None, set(texts)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known))) if known else None
