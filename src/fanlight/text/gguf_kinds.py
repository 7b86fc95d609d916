"""The kinds of vocabulary that GGUF files hold, and what cuts text into each. In: checked pieces. Knows no file.

`tokenizer.ggml.model` is "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5" (Unigram) or "bert" (WordPiece).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from fanlight.errors import TokenizerError
from fanlight.text.byte_level import CHARACTERS
from fanlight.text.library import LibraryBackend, add_tokens, guarded
from fanlight.text.pretokenizers import build_pre_tokenizer, find_pre_tokenizer
from fanlight.text.spelling import SPACE, Spelling
from fanlight.text.vocabulary import Backend, collector_paused

if TYPE_CHECKING:
    import tokenizers

    from fanlight.text.gguf_vocabulary import Keys

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The tokens of a file, and those that are no normal ones."""

    tokens: Sequence[str]
    types: bytes
    control: Sequence[int]
    user_defined: Sequence[int]
    raw_bytes: Mapping[int, bytes]

    def ids(self) -> dict[str, int]:
        """Ids by piece. TokenizerError: one stands there twice."""
        ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(ids) != len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if ids[token] != i)
            raise TokenizerError(f"tokenizer.ggml.tokens: {twice!r} stands there twice; the file is damaged")
        return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A kind's part of a vocabulary; the add_* are what holds where the file does not say."""

    backend: Backend
    spelling: Spelling
    add_bos: bool = False
    add_eos: bool = False
    add_sep: bool = False
    missing_bytes: bytes = b""
    byte_complete: bool = True
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One value of tokenizer.ggml.model. marks_all: an encoder, whose special tokens are those that the file names."""

    what: str
    build: Callable[[Keys, Pieces, int | None], Built]
    default_ids: Mapping[str, int]
    marks_all: bool = False


def _byte_level(keys: Keys, pieces: Pieces, unk_id: int | None) -> Built:
    rule = find_pre_tokenizer(keys.get("pre", str, "default"))
    vocab, merges = pieces.ids(), keys.strings("merges")
    if not {1}.issuperset(map(str.count, merges, repeat(" "))):
        odd = next(merge for merge in merges if merge.count(" ") != 1)
        raise TokenizerError(f"tokenizer.ggml.merges: expected two pieces and a space between, found {odd!r}")
    # One split of one long string: no Python loop over the merges. "a b" and "c d" -> a b c d -> (a, b), (c, d)
    half = iter(" ".join(merges).split(" ") if merges else [])

    def build() -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, models

        with collector_paused():
            return Tokenizer(models.BPE(vocab, list(zip(half, half, strict=True)), ignore_merges=rule.ignore_merges))

    backend = guarded("tokenizer.ggml.merges: they do not fit tokenizer.ggml.tokens: ", build)
    backend.pre_tokenizer = build_pre_tokenizer(rule)
    _add(backend, pieces)
    if keys.get("add_space_prefix", bool, False):
        _prefix_with_one_space(backend)
    return Built(
        backend=LibraryBackend(backend),
        spelling=Spelling("byte-level"),
        add_bos=rule.add_bos,
        add_sep=rule.add_sep,
        missing_bytes=bytes(byte for byte in range(256) if CHARACTERS[byte] not in vocab),
        kept=("pre", "add_space_prefix"),
    )


def _sentencepiece_bpe(keys: Keys, pieces: Pieces, unk_id: int | None) -> Built:
    ids = pieces.ids()
    prefix = keys.get("add_space_prefix", bool, True)
    scores = keys.scores(len(pieces.tokens))
    if pieces.types.count(NORMAL) == len(pieces.types):
        apart = {*pieces.control, *pieces.user_defined, *([] if unk_id is None else [unk_id])}
        usable = {token: scores[i] for i, token in enumerate(pieces.tokens) if i not in apart}
    else:
        triples = zip(pieces.tokens, scores, pieces.types, strict=True)
        usable = {token: score for token, score, kind in triples if kind in (NORMAL, USER_DEFINED)}
    byte_tokens = {raw[0]: token for token, raw in pieces.raw_bytes.items()}
    from fanlight.text.spm import ScoredBpe  # most files are of another kind

    backend = ScoredBpe(
        pieces.tokens,
        ids,
        usable,
        special=pieces.control,
        words=pieces.user_defined,
        byte_tokens=byte_tokens,
        unk_id=unk_id,
        space_prefix=prefix,
    )
    return Built(
        backend=backend,
        spelling=Spelling("sentencepiece", "one space" if prefix else "nothing"),
        add_bos=True,
        missing_bytes=_without_token(byte_tokens, usable) if byte_tokens else b"",
        byte_complete=bool(byte_tokens),
        kept=("add_space_prefix",),
    )


def _without_token(byte_tokens: Mapping[int, int], usable: Mapping[str, float]) -> bytes:
    """Bytes that neither a byte token nor an ASCII piece writes."""
    return bytes(b for b in range(256) if b not in byte_tokens and not (b < 0x80 and (chr(b) in usable or b == 0x20)))


def _unigram(keys: Keys, pieces: Pieces, unk_id: int | None) -> Built:
    from fanlight.text.sentencepiece import unigram

    pieces.ids()
    scores = keys.scores(len(pieces.tokens))
    # words that the user defined are found before all else; in the lattice they are best of all too
    usable = [0.0 if kind == USER_DEFINED else score for score, kind in zip(scores, pieces.types, strict=True)]
    if unk_id is None:
        raise TokenizerError(
            "tokenizer.ggml.unknown_token_id: expected the id of a token, found none; a Unigram needs it"
        )
    prefix = keys.get("add_space_prefix", bool, False)
    backend = unigram(
        list(zip(pieces.tokens, usable, strict=True)),
        unk_id=unk_id,
        byte_fallback=bool(pieces.raw_bytes),
        charsmap=keys.data("precompiled_charsmap"),
        space_prefix=prefix,
        merge_spaces=keys.get("remove_extra_whitespaces", bool, False),
        where="tokenizer.ggml",
    )
    _add(backend, pieces)
    return Built(
        backend=LibraryBackend(backend),
        spelling=Spelling("sentencepiece", "one space" if prefix else "nothing"),
        add_eos=True,
        byte_complete=len(pieces.raw_bytes) == 256,
        kept=("add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap"),
    )


def _wordpiece(keys: Keys, pieces: Pieces, unk_id: int | None) -> Built:
    from fanlight.text.wordpiece import wordpiece

    # In the file a piece that begins a word has "\u2581" before it, one that continues a word has nothing; here the
    # latter has "##". What has brackets around it is a special or unused token, and is as it is.
    apart = {*pieces.control, *pieces.user_defined, *(i for i, kind in enumerate(pieces.types) if kind == UNUSED)}
    words = [
        token
        if i in apart or (token.startswith("[") and token.endswith("]") and len(token) > 2)
        else token[1:]
        if token.startswith(SPACE) and len(token) > 1
        else f"##{token}"
        for i, token in enumerate(pieces.tokens)
    ]
    vocab = Pieces(tokens=words, types=b"", control=(), user_defined=(), raw_bytes={}).ids()
    if unk_id is None:
        raise TokenizerError(
            "tokenizer.ggml.unknown_token_id: expected the id of a token, found none; WordPiece needs it"
        )
    lower = keys.get("normalizer.lowercase", bool, True)
    backend = wordpiece(
        vocab, unk_token=words[unk_id], lowercase=lower, strip_accents=keys.get("normalizer.strip_accents", bool, lower)
    )
    _add(backend, pieces)
    return Built(
        backend=LibraryBackend(backend),
        spelling=Spelling("wordpiece"),
        add_bos=True,
        add_sep=True,
        byte_complete=False,
        kept=("normalizer.lowercase", "normalizer.strip_accents"),
    )


def _add(backend: tokenizers.Tokenizer, pieces: Pieces) -> None:
    from tokenizers import AddedToken

    for ids, special in ((pieces.control, True), (pieces.user_defined, False)):
        texts: Iterable[str] = (pieces.tokens[i] for i in ids)
        add_tokens(backend, [AddedToken(text, special=special, normalized=False) for text in texts if text])


def _prefix_with_one_space(backend: tokenizers.Tokenizer) -> None:
    """Text that does not begin with a space gets one, after every special token too."""
    from tokenizers import Regex, normalizers

    two_to_one = normalizers.Replace(Regex(r"\A {2}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), two_to_one])


KINDS: Mapping[str, Kind] = {
    "gpt2": Kind(what="byte-level BPE", build=_byte_level, default_ids={}),
    "llama": Kind(what="SentencePiece BPE", build=_sentencepiece_bpe, default_ids={"bos": 1, "eos": 2, "unk": 0}),
    "t5": Kind(what="Unigram", build=_unigram, default_ids={"eos": 1, "unk": 2, "pad": 0}),
    "bert": Kind(
        what="WordPiece",
        build=_wordpiece,
        default_ids={"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
        marks_all=True,
    ),
}
