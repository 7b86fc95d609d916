"""Each form of a tokenizer in a folder -> what cuts its text, and what stands around it. Knows no weights.

tokenizer.json says everything itself, and so it counts, whatever the flags of tokenizer_config.json say; the older forms
leave half of it to a class of transformers, and the facts of those classes are here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError
from fanlight.text.byte_level import CHARACTERS
from fanlight.text.folder_files import check_size, read_text
from fanlight.text.library import LibraryBackend, guarded
from fanlight.text.spelling import Spelling, spelling_of
from fanlight.text.vocabulary import FIRST, SECOND, Backend, Template, around

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers
    from tokenizers import AddedToken

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
SENTENCEPIECE_NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_GPT2_DEFAULTS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_BERT_DEFAULTS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_READ = "byte-level BPE, SentencePiece's BPE or Unigram, or WordPiece"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder, and what its small files say."""

    folder: Path
    config: Mapping[str, Any]
    texts: Mapping[str, Any]
    added: Mapping[int, AddedToken]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A form's part of a vocabulary."""

    backend: Backend
    spelling: Spelling
    n_known: int
    named: Mapping[str, int | None]
    literal_ids: frozenset[int]
    single: Template
    pair: Template
    raw_bytes: Mapping[int, bytes]
    missing_bytes: bytes
    byte_complete: bool


def from_json(source: Source) -> Made:
    """tokenizer.json. TokenizerError: damaged, or of a kind that is not read."""
    path = source.folder / "tokenizer.json"
    check_size(path)

    def build() -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path))

    library = guarded(f"{path}: expected a tokenizer, found data that cannot be used: ", build)
    from tokenizers import models

    kind = type(library.model).__name__
    decoder = None if library.decoder is None else json.loads(library.decoder.__getstate__())
    spelling = spelling_of(decoder)
    kinds = {
        "byte-level": (models.BPE,),
        "wordpiece": (models.WordPiece,),
        "sentencepiece": (models.BPE, models.Unigram),
    }
    if spelling is None or not isinstance(library.model, kinds[spelling.kind]):
        found = " + ".join(re.findall(r'"type": ?"(\w+)"', json.dumps(decoder))) or "nothing"
        raise TokenizerError(
            f"{path}: expected {_READ}, found {kind} decoded by {found}; this kind of tokenizer is not read"
        )
    library.no_truncation()  # a training setting; it would cut prompts without a word
    library.no_padding()
    if isinstance(library.model, models.BPE):
        library.model.dropout = None  # so would this make ids random
    return _finished(source, library, spelling, source.texts)


def from_vocab(source: Source) -> Made:
    """vocab.json and merges.txt: GPT-2's tokenizer, or Qwen2's."""
    from fanlight.text.pretokenizers import build_pre_tokenizer, find_pre_tokenizer

    path, merges = source.folder / "vocab.json", source.folder / "merges.txt"
    check_size(path)
    check_size(merges)

    def build() -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        library = Tokenizer(models.BPE.from_file(str(path), str(merges)))
        if "Qwen2" in str(source.config.get("tokenizer_class")):
            library.normalizer = normalizers.NFC()
            library.pre_tokenizer = build_pre_tokenizer(find_pre_tokenizer("qwen2"))
        else:
            prefix = source.config.get("add_prefix_space") is True
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        return library

    library = guarded(f"{path}: expected a tokenizer, found data that cannot be used: ", build)
    known = library.token_to_id("<|endoftext|>") is not None
    texts = {**_GPT2_DEFAULTS, **source.texts} if known else source.texts
    return _finished(
        source, library, Spelling("byte-level"), texts, flags={"add_bos_token": False, "add_eos_token": False}
    )


def from_vocab_txt(source: Source) -> Made:
    """vocab.txt: BERT's WordPiece, a piece a line."""
    from fanlight.text.wordpiece import wordpiece

    path = source.folder / "vocab.txt"
    lines = read_text(path).split("\n")
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1:] == [""] else lines)]
    vocab = {piece: token for token, piece in enumerate(lines)}
    if len(vocab) != len(lines):
        twice = next(piece for token, piece in enumerate(lines) if vocab[piece] != token)
        raise TokenizerError(f"{path}: {twice!r} stands there twice; the file is damaged")
    texts = {**{name: text for name, text in _BERT_DEFAULTS.items() if text in vocab}, **source.texts}
    unknown = _text_of(texts, "unk_token")
    if unknown not in vocab:
        raise TokenizerError(f"{path}: expected a piece for what is unknown ([UNK]), found none; this is no WordPiece")
    config = source.config
    library = wordpiece(
        vocab,
        unk_token=unknown,
        lowercase=config.get("do_lower_case") is not False,
        strip_accents=config.get("strip_accents"),
        split_chinese=config.get("tokenize_chinese_chars") is not False,
        where=str(path),
    )
    made = _finished(source, library, Spelling("wordpiece"), texts, flags={})
    cls, sep = made.named["cls_token"], made.named["sep_token"]
    single, pair = around([cls], [sep], between=sep)
    return _with_templates(made, single, pair)


def from_sentencepiece(source: Source) -> Made:
    """tokenizer.model: SentencePiece's BPE or Unigram, cut as SentencePiece itself does."""
    from fanlight.text import sentencepiece
    from fanlight.text.spm import ScoredBpe

    path = next(source.folder / name for name in SENTENCEPIECE_NAMES if (source.folder / name).is_file())
    check_size(path)
    model = sentencepiece.parse(path.read_bytes(), str(path))
    pieces, kinds = _extended(model, source, path)
    prefix = source.config.get("add_prefix_space")
    prefix = model.add_dummy_prefix if not isinstance(prefix, bool) else prefix
    ids = {piece: token for token, piece in enumerate(pieces)}
    names = {"bos_token": model.bos_id, "eos_token": model.eos_id, "unk_token": model.unk_id, "pad_token": model.pad_id}
    texts = {**{k: pieces[i] for k, i in names.items() if 0 <= i < len(pieces)}, **source.texts}
    special = [i for i, kind in enumerate(kinds) if kind in (2, 3)]
    named = {name: _named(ids.get(str(_text_of(texts, name))), texts, name, source.folder) for name in NAMES}
    special = sorted({*special, *(i for i in named.values() if i is not None)})
    words = [i for i, kind in enumerate(kinds) if kind == 4 and i not in special]
    byte_tokens = {
        int(pieces[i][3:5], 16): i for i, kind in enumerate(kinds) if kind == 6 and _is_byte(pieces[i], i, path)
    }
    strip = Spelling("sentencepiece", "one space" if prefix else "nothing")
    steps = sentencepiece.normalizing(model.charsmap, model.remove_extra_whitespaces, str(path))
    if model.model_type == sentencepiece.BPE:
        from tokenizers import normalizers

        scores = dict(zip(model.pieces, model.scores, strict=True))
        backend: Backend = ScoredBpe(
            pieces,
            ids,
            {piece: scores.get(piece, 0.0) for piece, kind in zip(pieces, kinds, strict=True) if kind in (1, 4)},
            special=special,
            words=[i for i in words if i >= len(model.pieces)],
            byte_tokens=byte_tokens if model.byte_fallback else {},
            unk_id=model.unk_id,
            space_prefix=prefix,
            escaped_words=[i for i in words if i < len(model.pieces)],
            only_once=source.config.get("legacy") is False,
            normalizer=normalizers.Sequence(steps) if steps else None,
        )
        defaults = {"add_bos_token": True, "add_eos_token": False}
    else:
        backend = _unigram(model, pieces, special, words, prefix, str(path))
        defaults = {"add_bos_token": False, "add_eos_token": True}
    single, pair = around(*_flags(source.config, named, defaults))
    return Made(
        backend=backend,
        spelling=strip,
        n_known=len(pieces),
        named=named,
        literal_ids=frozenset(i for i, kind in enumerate(kinds) if kind in (2, 3)),
        single=single,
        pair=pair,
        raw_bytes={i: bytes([byte]) for byte, i in byte_tokens.items()},
        missing_bytes=b"",
        byte_complete=model.byte_fallback and len(byte_tokens) == 256,
    )


# -- parts ------------------------------------------------------------------------------------------------------------


def _finished(
    source: Source,
    library: tokenizers.Tokenizer,
    spelling: Spelling,
    texts: Mapping[str, Any],
    flags: Mapping[str, bool] | None = None,
) -> Made:
    """flags: where tokenizer_config.json decides of bos and eos; None: the post-processor does."""
    _add_declared(library, source)
    named = {name: _special(library, texts, name, source.folder) for name in NAMES}
    backend = LibraryBackend(library)
    named["unk_token"] = backend.unknown if named["unk_token"] is None else named["unk_token"]
    added = library.get_added_tokens_decoder()
    bytes_of: dict[int, bytes] = {}
    if spelling.kind == "sentencepiece":
        tokens = ((library.token_to_id(f"<0x{byte:02X}>"), bytes([byte])) for byte in range(256))
        bytes_of = {token: byte for token, byte in tokens if token is not None}
    fallback = getattr(library.model, "byte_fallback", None)
    if fallback is None:
        fallback = json.loads(library.model.__getstate__()).get("byte_fallback", False)
    byte_level = spelling.kind == "byte-level"
    single, pair = (
        guarded(f"{source.folder}: the tokenizer failed on a text: ", lambda: _templates(library))
        if flags is None
        else around(*_flags(source.config, named, flags))
    )
    return Made(
        backend=backend,
        spelling=spelling,
        n_known=max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        named=named,
        literal_ids=frozenset(token for token, entry in added.items() if entry.special or byte_level),
        single=single,
        pair=pair,
        raw_bytes=bytes_of,
        missing_bytes=bytes(b for b in range(256) if library.token_to_id(CHARACTERS[b]) is None) if byte_level else b"",
        byte_complete=byte_level or bool(fallback and len(bytes_of) == 256),
    )


def _with_templates(made: Made, single: Template, pair: Template) -> Made:
    from dataclasses import replace

    return replace(made, single=single, pair=pair)


def _add_declared(library: tokenizers.Tokenizer, source: Source) -> None:
    for token, entry in source.added.items():
        if library.get_added_tokens_decoder().get(token) != entry:
            library.add_special_tokens([entry]) if entry.special else library.add_tokens([entry])
        if library.token_to_id(entry.content) != token:
            raise TokenizerError(
                f"{source.folder / 'tokenizer_config.json'}: added token {entry.content!r}: expected id {token}, "
                f"found {library.token_to_id(entry.content)}; the files of this folder do not belong together"
            )


def _text_of(texts: Mapping[str, Any], name: str) -> Any:
    value = texts.get(name)
    return value.get("content") if isinstance(value, dict) else value


def _named(token: int | None, texts: Mapping[str, Any], name: str, folder: Path) -> int | None:
    text = _text_of(texts, name)
    if text is not None and token is None and name not in ("pad_token", "mask_token"):  # often named and never used
        raise TokenizerError(
            f"{folder}: {name}: expected a token of the vocabulary, found {text!r}; the files do not belong together"
        )
    return None if text is None else token


def _special(library: tokenizers.Tokenizer, texts: Mapping[str, Any], name: str, folder: Path) -> int | None:
    """The id of a special token that the configuration names; it is marked special if it was not."""
    from tokenizers import AddedToken

    text = _text_of(texts, name)
    token = _named(library.token_to_id(text) if isinstance(text, str) else None, texts, name, folder)
    if token is not None:
        entry = library.get_added_tokens_decoder().get(token)
        if entry is None or not entry.special:
            library.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return token


def _flags(
    config: Mapping[str, Any], named: Mapping[str, int | None], defaults: Mapping[str, bool]
) -> tuple[list[int | None], list[int | None]]:
    """What stands before and after a text by add_bos_token and add_eos_token."""
    wanted = {
        name: config.get(name) if isinstance(config.get(name), bool) else default for name, default in defaults.items()
    }
    return (
        [named["bos_token"]] if wanted.get("add_bos_token") else [],
        [named["eos_token"]] if wanted.get("add_eos_token") else [],
    )


def _templates(library: tokenizers.Tokenizer) -> tuple[Template, Template]:
    """What tokenizer.json's post-processor puts around a text and around two: found by trying."""
    for text in ("a", "0", ".", "a 0", "\u2581a", "\n"):
        if library.encode(text, add_special_tokens=False).ids:
            return _template(library.encode(text)), _template(library.encode(text, text))
    return ((FIRST, 0),), ((FIRST, 0), (SECOND, 1))


def _template(encoding: tokenizers.Encoding) -> Template:
    parts: list[tuple[int | str, int]] = []
    for token, sequence, segment in zip(encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True):
        part = (token if sequence is None else SECOND if sequence else FIRST, segment)
        if sequence is None or part not in parts:
            parts.append(part)
    return tuple(parts)


def _extended(model: Any, source: Source, path: Path) -> tuple[list[str], bytearray]:
    """The pieces of the file and the added tokens that come after them, with their types."""
    pieces, kinds = list(model.pieces), bytearray(model.types)
    for token, entry in source.added.items():
        if token == len(pieces):
            pieces.append(entry.content)
            kinds.append(3 if entry.special else 4)
        elif token > len(pieces) or pieces[token] != entry.content:
            raise TokenizerError(
                f"{source.folder}: added token {entry.content!r}: expected id {token}, found {len(pieces)} tokens before it, "
                f"and {pieces[token] if token < len(pieces) else None!r} there; the files of this folder do not belong together"
            )
        elif entry.special:
            kinds[token] = 3
    if len(set(pieces)) != len(pieces):
        twice = next(piece for i, piece in enumerate(pieces) if piece in pieces[:i])
        raise TokenizerError(f"{path}: {twice!r} stands there twice; the file is damaged")
    return pieces, kinds


def _is_byte(piece: str, token: int, path: Path) -> bool:
    if re.fullmatch("<0x[0-9A-F]{2}>", piece) is None:
        raise TokenizerError(f"{path}: piece {token} is of type byte: expected '<0x00>' to '<0xFF>', found {piece!r}")
    return True


def _unigram(model: Any, pieces: list[str], special: list[int], words: list[int], prefix: bool, where: str) -> Backend:
    from tokenizers import AddedToken

    from fanlight.text.library import add_tokens
    from fanlight.text.sentencepiece import unigram

    scored = [
        (piece, 0.0 if kind == 4 else score)
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True)
    ]
    library = unigram(
        scored,
        unk_id=model.unk_id,
        byte_fallback=model.byte_fallback,
        charsmap=model.charsmap,
        space_prefix=prefix,
        merge_spaces=model.remove_extra_whitespaces,
        where=where,
    )
    marks = sorted([(i, True) for i in special] + [(i, False) for i in words])
    add_tokens(library, [AddedToken(pieces[i], special=s, normalized=False) for i, s in marks])
    return LibraryBackend(library)
