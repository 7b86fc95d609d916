"""The `tokenizer.*` metadata of a GGUF file -> a vocabulary. Knows the keys; reads no file.

Key names, token types and what holds where a key is missing are those of llama.cpp. How each kind cuts text is in
`gguf_kinds.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.errors import TokenizerError
from fanlight.text.gguf_kinds import BYTE, CONTROL, KINDS, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Pieces
from fanlight.text.template_sources import sources_of_gguf
from fanlight.text.vocabulary import END_OF_TEXT_TOKENS, Vocabulary, around

OTHER_KINDS = {
    "rwkv": "RWKV's greedy trie",
    "plamo2": "PLaMo-2's table-driven unigram",
    "gemma4": "BPE with Gemma's rules",
    "none": "no tokenizer",
    "no_vocab": "no tokenizer",
}
_STEMS = {name: name for name in ("bos", "eos", "eot", "eom", "cls", "mask")}
_STEMS |= {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # so the format spells it
_MAX_TOKENS = 1 << 24
_REQUIRED: Any = object()


def read(metadata: Mapping[str, Any]) -> Vocabulary:
    """TokenizerError where a key is missing, of the wrong type, or contradicts another."""
    keys = Keys(metadata)
    name = keys.get("model", str)
    kind = KINDS.get(name)
    if kind is None:
        known = ", ".join(f"{key!r} ({kind.what})" for key, kind in KINDS.items())
        raise TokenizerError(
            f"tokenizer.ggml.model: expected {known}, found {name!r} ({OTHER_KINDS.get(name, 'unknown here')}); "
            "use another file of the model, or a model of a kind that is read"
        )
    tokens = keys.strings("tokens")
    types = keys.types(len(tokens))
    special = {key: keys.token_id(stem, len(tokens), kind.default_ids.get(key)) for key, stem in _STEMS.items()}
    by_type: dict[int, list[int]] = {}
    for match in re.finditer(rb"[^\x01]", types, re.DOTALL):
        by_type.setdefault(match.group()[0], []).append(match.start())
    if "tokenizer.ggml.token_type" not in metadata:  # then the ids that the file names are all there is to go by
        named = [i for key, i in special.items() if i is not None and (key in ("bos", "eos") or kind.marks_all)]
        by_type[CONTROL] = sorted(set(named))
    control = sorted([*by_type.get(CONTROL, ()), *by_type.get(UNKNOWN, ())])
    user_defined = by_type.get(USER_DEFINED, [])
    raw_bytes = {i: byte_of(tokens[i], i) for i in by_type.get(BYTE, ())}
    pieces = Pieces(tokens=tokens, types=types, control=control, user_defined=user_defined, raw_bytes=raw_bytes)
    built = kind.build(keys, pieces, special["unk"])

    bos, eos = special["bos"] if special["bos"] is not None else special["cls"], special["eos"]
    ends = [eos, special["eot"], special["eom"], *(i for i in control if tokens[i] in END_OF_TEXT_TOKENS)]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    first = bos if keys.get("add_bos_token", bool, built.add_bos) else None
    last = eos if keys.get("add_eos_token", bool, built.add_eos) else None
    sep = special["sep"] if keys.get("add_sep_token", bool, built.add_sep) else None
    # llama.cpp puts the separator after a single text only for WordPiece, between two texts always
    single, pair = around([first], [sep, last] if kind.marks_all else [last], between=sep)
    encoder = kind.marks_all
    return Vocabulary(
        backend=built.backend,
        spelling=built.spelling,
        n_vocab=len(tokens),
        literal_ids=frozenset((*control, *user_defined, *by_type.get(UNUSED, ()))),
        special_ids=frozenset((*control, *eos_ids, *([] if bos is None or encoder else [bos]))),
        single=single,
        pair=pair,
        bos_id=bos,
        eos_ids=eos_ids,
        pad_id=special["pad"],
        unk_id=special["unk"],
        cls_id=bos if encoder else special["cls"],
        sep_id=special["sep"],
        mask_id=special["mask"],
        templates=sources_of_gguf(metadata),
        raw_bytes=raw_bytes,
        missing_bytes=built.missing_bytes,
        byte_complete=built.byte_complete,
        gguf={key: metadata[f"tokenizer.ggml.{key}"] for key in built.kept if f"tokenizer.ggml.{key}" in metadata},
    )


class Keys:
    """Checked access to the metadata: what is not as it must be is a TokenizerError that names the key."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """A single value."""
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key, default)
        if value is _REQUIRED:
            raise TokenizerError(
                f"{key}: expected {kind.__name__}, but the file has no such key; it holds no tokenizer"
            )
        if value is not default and not isinstance(value, kind):
            raise TokenizerError(f"{key}: expected {kind.__name__}, found {type(value).__name__}; the file is damaged")
        return value

    def strings(self, name: str) -> Sequence[str]:
        """A list of strings."""
        key = f"tokenizer.ggml.{name}"
        value = self._metadata.get(key)
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            found = "no such key" if value is None else type(value).__name__
            raise TokenizerError(
                f"{key}: expected a list of strings, found {found}; the file holds no usable vocabulary"
            )
        if len(value) > _MAX_TOKENS or (name == "tokens" and not value):
            raise TokenizerError(f"{key}: expected 1 to {_MAX_TOKENS} strings, found {len(value)}; the file is damaged")
        if set(map(type, value)) - {str}:
            raise TokenizerError(f"{key}: expected strings only, found other types; the file is damaged")
        return value

    def types(self, n_vocab: int) -> bytes:
        """The type of every token; all NORMAL where the file has none."""
        value = self._metadata.get("tokenizer.ggml.token_type")
        if value is None:
            return bytes([NORMAL]) * n_vocab
        try:
            types = bytes(list(value))
        except (TypeError, ValueError):
            raise TokenizerError(
                "tokenizer.ggml.token_type: expected small integers, found others; the file is damaged"
            ) from None
        if len(types) != n_vocab:
            raise TokenizerError(
                f"tokenizer.ggml.token_type: expected {n_vocab} entries, one a token, found {len(types)}"
            )
        return types

    def scores(self, n_vocab: int) -> list[float]:
        """A finite number for every token."""
        key = "tokenizer.ggml.scores"
        value = self._metadata.get(key)
        if value is None:
            raise TokenizerError(
                f"{key}: expected {n_vocab} numbers, one a token, found no such key; the file is damaged"
            )
        try:
            scores = list(map(float, value))
        except (TypeError, ValueError, OverflowError):
            raise TokenizerError(f"{key}: expected numbers, found others; the file is damaged") from None
        if len(scores) != n_vocab:
            raise TokenizerError(f"{key}: expected {n_vocab} numbers, one a token, found {len(scores)}")
        if not -1e30 < sum(map(abs, scores)) < 1e30:  # NaN too
            token = next(i for i, score in enumerate(scores) if not abs(score) < 1e30 / len(scores))
            raise TokenizerError(
                f"{key}: token {token}: expected a finite number, found {scores[token]}; the file is damaged"
            )
        return scores

    def data(self, name: str) -> bytes:
        """A list of bytes; empty if there is none."""
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        try:
            return b"" if value is None else bytes(byte & 0xFF for byte in value)  # signed in some files
        except TypeError:
            raise TokenizerError(f"tokenizer.ggml.{name}: expected bytes, found others; the file is damaged") from None

    def token_id(self, name: str, n_vocab: int, default: int | None) -> int | None:
        """The id of a special token; the default, where there is none and it is in the vocabulary."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self._metadata.get(key)
        if value is None:
            return default if default is not None and default < n_vocab else None
        if value == 0xFFFF_FFFF:  # how old files say "none"
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n_vocab:
            raise TokenizerError(f"{key}: expected an id from 0 to {n_vocab - 1}, found {value!r}; the file is damaged")
        return value


def byte_of(token: str, token_id: int) -> bytes:
    """The byte that a token of type BYTE stands for."""
    match = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    if match is None:
        raise TokenizerError(
            f"tokenizer.ggml.tokens: token {token_id} is of type byte: expected '<0x00>' to '<0xFF>', found {token!r}"
        )
    return bytes.fromhex(match.group(1))
