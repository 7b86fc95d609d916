"""A tokenizer -> the `tokenizer.*` metadata of a GGUF file. Knows the keys; writes no file.

The inverse of `gguf_vocabulary.py`, and checked against it: what the metadata is read as must find the same ids on
`probes.py`, or a TokenizerError says that GGUF cannot hold this tokenizer. Two losses are accepted, since llama.cpp has
no way to say these things: that text is put in a Unicode normal form first (Qwen2's NFC), and that a space is put before
it only where it begins with none (Metaspace) and not after special tokens too (its "first").
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError
from fanlight.text.gguf_kinds import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from fanlight.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer, build_pre_tokenizer
from fanlight.text.probes import PROBES
from fanlight.text.spelling import SPACE
from fanlight.text.spm import ScoredBpe
from fanlight.text.template_sources import TOOL_USE
from fanlight.text.tokenizer import Tokenizer
from fanlight.text.vocabulary import FIRST, Vocabulary

if TYPE_CHECKING:
    import tokenizers

_UNREACHED = -1e9


def to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """Keys and values: texts, booleans, integers, and lists of texts, floats or integers.

    TokenizerError: a tokenizer that GGUF cannot hold.
    """
    v = tokenizer.vocabulary
    library = v.backend.library()
    data = json.loads(library.to_str())
    make = {"byte-level": _byte_level, "wordpiece": _wordpiece}.get(v.spelling.kind, _sentencepiece)
    keys = {**make(v, library, data), **_special_ids(v), **_around(v)}
    metadata: dict[str, Any] = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    if v.templates.default is not None:
        metadata["tokenizer.chat_template"] = v.templates.default
    if v.templates.tool_use is not None:
        metadata["tokenizer.chat_templates"] = [TOOL_USE]
        metadata[f"tokenizer.chat_template.{TOOL_USE}"] = v.templates.tool_use
    _check(tokenizer, metadata, data)
    return metadata


def _check(tokenizer: Tokenizer, metadata: dict[str, Any], data: dict[str, Any]) -> None:
    import unicodedata

    read = Tokenizer.from_gguf(metadata)
    shape = json.dumps([data["normalizer"], data["pre_tokenizer"]])
    for text in PROBES:
        probe = unicodedata.normalize("NFC", text) if '"type": "NFC"' in shape else text
        probe = probe.lstrip(" ") if '"type": "Metaspace"' in shape else probe
        encode = (one.vocabulary.backend.ids(probe, parse_special=False) for one in (tokenizer, read))
        if len({tuple(ids) for ids in encode}) > 1:
            raise TokenizerError(f"GGUF cannot hold this tokenizer: read back, it would cut {probe!r} in another way")


# -- each kind --------------------------------------------------------------------------------------------------------


def _byte_level(v: Vocabulary, library: tokenizers.Tokenizer, data: dict[str, Any]) -> dict[str, Any]:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    prefix = '"add_prefix_space": true' in json.dumps(data["pre_tokenizer"]) or bool(v.gguf.get("add_space_prefix"))
    return {
        "model": "gpt2",
        "pre": v.gguf.get("pre") or _rule_of(library, data),
        **_tokens(v),
        "merges": merges,
        "add_space_prefix": prefix,
    }


def _rule_of(library: tokenizers.Tokenizer, data: dict[str, Any]) -> str:
    """The name of the rule that cuts the probes as this tokenizer does."""
    cut = library.pre_tokenizer
    if cut is None:
        raise TokenizerError("GGUF cannot hold this tokenizer: it does not cut text before merging")
    prefixed = '"add_prefix_space": true' in json.dumps(data["pre_tokenizer"])
    probes = [f" {text.lstrip()}" for text in PROBES] if prefixed else PROBES
    wanted = [cut.pre_tokenize_str(text) for text in probes]
    ignore_merges = bool(data["model"].get("ignore_merges"))
    tried: dict[PreTokenizer, bool] = {}
    near: str | None = None
    for name, rule in PRE_TOKENIZERS.items():
        if rule not in tried:
            built = build_pre_tokenizer(rule)
            tried[rule] = all(built.pre_tokenize_str(t) == w for t, w in zip(probes, wanted, strict=True))
        if tried[rule]:
            if rule.ignore_merges == ignore_merges:
                return name
            near = near or name
    if near is None:
        raise TokenizerError("GGUF cannot hold this tokenizer: it cuts text by a rule that llama.cpp has no name for")
    return near


def _sentencepiece(v: Vocabulary, library: tokenizers.Tokenizer, data: dict[str, Any]) -> dict[str, Any]:
    model, known = data["model"], _tokens(v)
    tokens, types = known["tokens"], known["token_type"]
    shape = json.dumps([data["normalizer"], data["pre_tokenizer"]])
    prefix = v.spelling.strip != "nothing"
    if isinstance(v.backend, ScoredBpe):
        scores = [v.backend.scores.get(token, 0.0) for token in tokens]
        return {"model": "llama", "pre": "default", **known, "scores": scores, "add_space_prefix": prefix}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]] + [0.0] * (len(tokens) - len(model["vocab"]))
        charsmap = _charsmap(data["normalizer"])
        return {
            "model": "t5",
            "pre": "default",
            **known,
            "scores": scores,
            "add_space_prefix": prefix,
            "remove_extra_whitespaces": "WhitespaceSplit" in shape or " {2,}" in shape,
            **({"precompiled_charsmap": list(charsmap)} if charsmap else {}),
        }
    rank: dict[str, float] = {}
    for i, merge in enumerate(model["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), -float(i))
    for i, token in enumerate(tokens):  # what no merge makes must not be made of its score
        if types[i] == NORMAL and len(token) > 1 and token not in rank:
            types[i] = UNUSED
    scores = [rank.get(token, _UNREACHED if types[i] == NORMAL else 0.0) for i, token in enumerate(tokens)]
    return {"model": "llama", "pre": "default", **known, "scores": scores, "add_space_prefix": prefix}


def _charsmap(normalizer: dict[str, Any] | None) -> bytes:
    import base64

    if normalizer is None:
        return b""
    if normalizer["type"] == "Precompiled":
        return base64.b64decode(normalizer["precompiled_charsmap"])
    return b"".join(_charsmap(inner) for inner in normalizer.get("normalizers", ()))


def _wordpiece(v: Vocabulary, library: tokenizers.Tokenizer, data: dict[str, Any]) -> dict[str, Any]:
    known = _tokens(v)
    prefix = v.spelling.prefix
    tokens = [
        token
        if kind != NORMAL or (token.startswith("[") and token.endswith("]") and len(token) > 2)
        else token.removeprefix(prefix)
        if token.startswith(prefix) and len(token) > len(prefix)
        else f"{SPACE}{token}"
        for token, kind in zip(known["tokens"], known["token_type"], strict=True)
    ]
    normalizer = data["normalizer"] or {}
    lower = bool(normalizer.get("lowercase"))
    strip = normalizer.get("strip_accents")
    return {
        "model": "bert",
        "pre": "default",
        **known,
        "tokens": tokens,
        "token_type_count": 2,
        "normalizer.lowercase": lower,
        "normalizer.strip_accents": lower if strip is None else bool(strip),
    }


# -- what all have ----------------------------------------------------------------------------------------------------


def _tokens(v: Vocabulary) -> dict[str, Any]:
    tokens: list[str] = []
    types: list[int] = []
    for token in range(v.n_vocab):
        piece = v.backend.piece(token)
        if not piece:
            tokens.append(f"[PAD{token}]")  # a row that no token uses; so llama.cpp's own converter names it
            types.append(UNUSED)
            continue
        tokens.append(piece)
        special = token in v.backend.special
        if isinstance(v.backend, ScoredBpe) and not special and token not in v.raw_bytes:
            types.append(NORMAL if piece in v.backend.scores else UNUSED)
            continue
        unknown = token == v.unk_id and v.spelling.kind == "sentencepiece"
        types.append(UNKNOWN if unknown else CONTROL if special else BYTE if token in v.raw_bytes else NORMAL)
    for token, entry in v.backend.library().get_added_tokens_decoder().items():
        if not entry.special:
            types[token] = USER_DEFINED
            if entry.normalized and v.spelling.kind == "sentencepiece":
                tokens[token] = tokens[token].replace(SPACE, " ")
    return {"tokens": tokens, "token_type": types}


def _special_ids(v: Vocabulary) -> dict[str, int]:
    ids = {
        "bos_token_id": v.bos_id if v.bos_id is not None else v.cls_id,
        "eos_token_id": v.eos_ids[0] if v.eos_ids else None,
        "unknown_token_id": v.unk_id,
        "padding_token_id": v.pad_id,
        "seperator_token_id": v.sep_id,
        "cls_token_id": v.cls_id,
        "mask_token_id": v.mask_id,
    }
    if v.spelling.kind == "byte-level":  # it writes every byte; what its files call unknown is never written
        ids["unknown_token_id"] = None
    if len(v.eos_ids) > 1:
        ids["eot_token_id"] = v.eos_ids[1]
    return {name: token for name, token in ids.items() if token is not None}


def _around(v: Vocabulary) -> dict[str, bool]:
    at = next(i for i, (what, _) in enumerate(v.single) if what == FIRST)
    before, after = ([what for what, _ in part] for part in (v.single[:at], v.single[at + 1 :]))
    bos = v.bos_id if v.bos_id is not None else v.cls_id
    eos = v.eos_ids[0] if v.eos_ids else None
    encoder = v.spelling.kind == "wordpiece"
    end = v.sep_id if encoder else eos
    if before not in ([], [bos]) or after not in ([], [end]):
        raise TokenizerError(
            f"GGUF cannot hold this tokenizer: around a text it can put bos and eos only, found {before} and {after}"
        )
    flags = {"add_bos_token": bool(before), "add_eos_token": bool(after) and not encoder}
    return {**flags, "add_sep_token": bool(after)} if encoder else flags
