"""The `tokenizer.*` metadata of a GGUF file -> a vocabulary. Knows the keys; reads no file.

Key names and token types are those of llama.cpp. Only byte-level BPE ("gpt2") is read.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError
from fanlight.text.pretokenizers import build_pre_tokenizer, find_pre_tokenizer
from fanlight.text.tokenizer import END_OF_TEXT_TOKENS, Vocabulary, is_panic

if TYPE_CHECKING:
    import tokenizers

    from fanlight.text.pretokenizers import PreTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
OTHER_KINDS = {
    "llama": "SentencePiece BPE",
    "t5": "SentencePiece unigram",
    "bert": "WordPiece",
    "rwkv": "RWKV's greedy trie",
    "plamo2": "PLaMo-2's table-driven unigram",
    "gemma4": "SentencePiece BPE with Gemma's rules",
    "none": "no tokenizer",
    "no_vocab": "no tokenizer",
}
_MAX_TOKENS = 1 << 24


def read(metadata: Mapping[str, Any]) -> Vocabulary:
    """TokenizerError where a key is missing, of the wrong type, or contradicts another."""
    kind = _get(metadata, "model", str)
    if kind != "gpt2":
        what = OTHER_KINDS.get(kind, "unknown here")
        raise TokenizerError(
            f"tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), found {kind!r} ({what}); this kind is not read "
            "yet: use a model with byte-level BPE"
        )
    tokens = _strings(metadata, "tokens")
    types = _types(metadata, len(tokens))
    rule = find_pre_tokenizer(_get(metadata, "pre", str, "default"))
    backend = _backend(tokens, _strings(metadata, "merges"), rule)
    if _get(metadata, "add_space_prefix", bool, False):
        _add_space_prefix(backend)

    bos_id, eos_id = _token_id(metadata, "bos_token_id", tokens), _token_id(metadata, "eos_token_id", tokens)
    by_type: dict[int, list[int]] = {}
    for match in re.finditer(rb"[^\x01]", types, re.DOTALL):
        by_type.setdefault(match.group()[0], []).append(match.start())
    if "tokenizer.ggml.token_type" not in metadata:  # then the ids that the file names are all there is to go by
        by_type[CONTROL] = sorted({i for i in (bos_id, eos_id) if i is not None})
    control = sorted([*by_type.get(CONTROL, ()), *by_type.get(UNKNOWN, ())])
    user_defined = by_type.get(USER_DEFINED, [])
    _add(backend, tokens, control, special=True)
    _add(backend, tokens, user_defined, special=False)
    ends = [eos_id, *(_token_id(metadata, f"{name}_token_id", tokens) for name in ("eot", "eom"))]
    ends += [i for i in control if tokens[i] in END_OF_TEXT_TOKENS]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))

    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"tokenizer.chat_template: expected text, found {type(template).__name__}")
    add_bos = _get(metadata, "add_bos_token", bool, rule.add_bos) and bos_id is not None
    add_eos = _get(metadata, "add_eos_token", bool, False) and eos_id is not None
    return Vocabulary(
        backend=backend,
        n_vocab=len(tokens),
        literal_ids=frozenset((*control, *user_defined, *by_type.get(UNUSED, ()))),
        special_ids=frozenset((*control, *eos_ids, *([] if bos_id is None else [bos_id]))),
        prefix=(bos_id,) if add_bos and bos_id is not None else (),
        suffix=(eos_id,) if add_eos and eos_id is not None else (),
        bos_id=bos_id,
        eos_ids=eos_ids,
        pad_id=_token_id(metadata, "padding_token_id", tokens),
        unk_id=_token_id(metadata, "unknown_token_id", tokens),
        chat_template=template,
        raw_bytes={i: _byte(tokens[i], i) for i in by_type.get(BYTE, ())},
    )


def _backend(tokens: Sequence[str], merges: Sequence[str], rule: PreTokenizer) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models

    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocab) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise TokenizerError(f"tokenizer.ggml.tokens: {twice!r} stands there twice; the file is damaged")
    if not {1}.issuperset(map(str.count, merges, repeat(" "))):
        odd = next(merge for merge in merges if merge.count(" ") != 1)
        raise TokenizerError(f"tokenizer.ggml.merges: expected two pieces and a space between, found {odd!r}")
    # One split of one long string: no Python loop over the merges. "a b" and "c d" -> a b c d -> (a, b), (c, d)
    half = iter(" ".join(merges).split(" ") if merges else [])
    try:
        with _collector_paused():  # 50,000 new tuples set it off again and again: a quarter of the time
            model = models.BPE(vocab, list(zip(half, half, strict=True)), ignore_merges=rule.ignore_merges)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise TokenizerError(f"tokenizer.ggml.merges: they do not fit tokenizer.ggml.tokens: {error}") from error
        raise
    backend = Tokenizer(model)
    backend.pre_tokenizer = build_pre_tokenizer(rule)
    return backend


@contextmanager
def _collector_paused() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _add(backend: tokenizers.Tokenizer, tokens: Sequence[str], ids: Iterable[int], *, special: bool) -> None:
    from tokenizers import AddedToken

    entries = [AddedToken(tokens[i], special=special, normalized=False) for i in ids if tokens[i]]
    if special:
        backend.add_special_tokens(entries)
    else:
        backend.add_tokens(entries)


def _add_space_prefix(backend: tokenizers.Tokenizer) -> None:
    """Text that does not begin with a space gets one, after every special token too."""
    from tokenizers import Regex, normalizers

    two_to_one = normalizers.Replace(Regex(r"\A {2}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), two_to_one])


# -- checked access to the metadata -----------------------------------------------------------------------------------

_REQUIRED: Any = object()


def _get(metadata: Mapping[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key, default)
    if value is _REQUIRED:
        raise TokenizerError(f"{key}: expected {kind.__name__}, but the file has no such key; it holds no tokenizer")
    if not isinstance(value, kind):
        raise TokenizerError(f"{key}: expected {kind.__name__}, found {type(value).__name__}; the file is damaged")
    return value


def _strings(metadata: Mapping[str, Any], name: str) -> Sequence[str]:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        found = "no such key" if value is None else type(value).__name__
        raise TokenizerError(f"{key}: expected a list of strings, found {found}; the file holds no usable vocabulary")
    if len(value) > _MAX_TOKENS or (name == "tokens" and not value):
        raise TokenizerError(f"{key}: expected 1 to {_MAX_TOKENS} strings, found {len(value)}; the file is damaged")
    if set(map(type, value)) - {str}:
        raise TokenizerError(f"{key}: expected strings only, found other types; the file is damaged")
    return value


def _types(metadata: Mapping[str, Any], n_vocab: int) -> bytes:
    value = metadata.get("tokenizer.ggml.token_type")
    if value is None:
        return bytes([NORMAL]) * n_vocab
    try:
        types = bytes(list(value))
    except (TypeError, ValueError):
        raise TokenizerError(
            "tokenizer.ggml.token_type: expected small integers, found others; the file is damaged"
        ) from None
    if len(types) != n_vocab:
        raise TokenizerError(f"tokenizer.ggml.token_type: expected {n_vocab} entries, one a token, found {len(types)}")
    return types


def _token_id(metadata: Mapping[str, Any], name: str, tokens: Sequence[str]) -> int | None:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if value is None or value == 0xFFFF_FFFF:  # how old files say "none"
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(tokens):
        raise TokenizerError(f"{key}: expected an id from 0 to {len(tokens) - 1}, found {value!r}; the file is damaged")
    return value


def _byte(token: str, token_id: int) -> bytes:
    match = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    if match is None:
        raise TokenizerError(
            f"tokenizer.ggml.tokens: token {token_id} is of type byte: expected '<0x00>' to '<0xFF>', found {token!r}"
        )
    return bytes.fromhex(match.group(1))
