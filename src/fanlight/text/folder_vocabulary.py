"""The tokenizer files of a Hugging Face folder -> a vocabulary. Knows file names; reads no weights and runs no code.

Read: tokenizer.json, or vocab.json and merges.txt (GPT-2's form); tokenizer_config.json, special_tokens_map.json,
generation_config.json (end tokens) and chat_template.jinja, each if there. Only byte-level BPE.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError
from fanlight.text.tokenizer import END_OF_TEXT_TOKENS, Vocabulary, is_panic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    import tokenizers

_MAX_BYTES = 256 << 20
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_GPT2_DEFAULTS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_BYTE_LEVEL_STEPS = frozenset(("ByteLevel", "Fuse"))


def read(path: str | PathLike[str], n_vocab: int | None = None) -> Vocabulary:
    """TokenizerError where the folder has no tokenizer, a damaged one, or one that is not byte-level BPE."""
    folder = Path(path)
    config = _object(folder / "tokenizer_config.json")
    texts = {**_object(folder / "special_tokens_map.json"), **{k: v for k, v in config.items() if v is not None}}
    if (folder / "tokenizer.json").is_file():
        backend = _guarded(folder / "tokenizer.json", _from_json)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend = _from_vocab_and_merges(folder)
        if backend.token_to_id("<|endoftext|>") is not None:
            texts = {**_GPT2_DEFAULTS, **texts}
    else:
        raise TokenizerError(
            f"{folder}: expected tokenizer.json, or vocab.json and merges.txt, found neither; "
            "copy them from the model's page"
        )
    _add_declared(backend, config, folder)
    ids = {name: _special(backend, texts, name, folder) for name in _SPECIAL_NAMES}
    added = backend.get_added_tokens_decoder()
    special = {i for i, entry in added.items() if entry.special}

    ends = [ids["eos_token"], *_generation_ends(folder)]
    ends += [i for i, entry in sorted(added.items()) if i in special and entry.content in END_OF_TEXT_TOKENS]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    known = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    total = known if n_vocab is None else n_vocab
    if total < known or any(not 0 <= i < total for i in eos_ids):
        raise TokenizerError(
            f"{folder}: expected token ids below {total}, the size of the model's vocabulary, "
            f"found up to {max(known - 1, *eos_ids)}; the tokenizer belongs to another model"
        )
    if (folder / "tokenizer.json").is_file():  # then its post-processor decides, whatever the flags say
        prefix, suffix = _around(backend)
    else:
        prefix, suffix = (_if_wanted(config, ids, name) for name in ("bos_token", "eos_token"))
    return Vocabulary(
        backend=backend,
        n_vocab=total,
        literal_ids=frozenset(added),
        special_ids=frozenset((*special, *eos_ids, *([] if ids["bos_token"] is None else [ids["bos_token"]]))),
        prefix=prefix,
        suffix=suffix,
        bos_id=ids["bos_token"],
        eos_ids=eos_ids,
        pad_id=ids["pad_token"],
        unk_id=ids["unk_token"],
        chat_template=_chat_template(folder, config),
        raw_bytes={},
    )


# -- the model --------------------------------------------------------------------------------------------------------


def _guarded(path: Path, build: Any) -> tokenizers.Tokenizer:
    """build(path), whatever goes wrong inside `tokenizers` told as one TokenizerError."""
    _check_size(path)
    try:
        backend: tokenizers.Tokenizer = build(path)
    except TokenizerError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise TokenizerError(f"{path}: expected a tokenizer, found data that cannot be used: {error}") from error
        raise
    return backend


def _from_json(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models

    backend = Tokenizer.from_file(str(path))
    kind = type(backend.model).__name__
    steps = [] if backend.decoder is None else _steps(json.loads(backend.decoder.__getstate__()))
    if not isinstance(backend.model, models.BPE) or "ByteLevel" not in steps or not _BYTE_LEVEL_STEPS.issuperset(steps):
        raise TokenizerError(
            f"{path}: expected byte-level BPE, found {kind} decoded by {' + '.join(steps) or 'nothing'}; "
            "this kind of tokenizer is not read yet"
        )
    backend.no_truncation()  # a training setting; it would cut prompts without a word
    backend.no_padding()
    backend.model.dropout = None  # so would this make ids random
    return backend


def _steps(decoder: Mapping[str, Any]) -> list[str]:
    inner = decoder.get("decoders")
    return [step for d in inner for step in _steps(d)] if isinstance(inner, list) else [str(decoder.get("type"))]


def _from_vocab_and_merges(folder: Path) -> tokenizers.Tokenizer:
    def build(path: Path) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, models

        from fanlight.text.pretokenizers import build_pre_tokenizer, find_pre_tokenizer

        backend = Tokenizer(models.BPE.from_file(str(path), str(folder / "merges.txt")))
        backend.pre_tokenizer = build_pre_tokenizer(find_pre_tokenizer("gpt-2"))
        return backend

    _check_size(folder / "merges.txt")
    return _guarded(folder / "vocab.json", build)


def _add_declared(backend: tokenizers.Tokenizer, config: Mapping[str, Any], folder: Path) -> None:
    """The added tokens that tokenizer_config.json lists under their ids, and those of the older added_tokens.json."""
    from tokenizers import AddedToken

    declared: dict[int, AddedToken] = {}
    for text, token in _object(folder / "added_tokens.json").items():
        declared[_int(token, folder / "added_tokens.json")] = AddedToken(text, normalized=False)
    path = folder / "tokenizer_config.json"
    entries = config.get("added_tokens_decoder")
    for token, entry in (entries if isinstance(entries, dict) else {}).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise TokenizerError(f"{path}: added_tokens_decoder[{token!r}]: expected an object with 'content'")
        flags = {k: bool(entry.get(k, False)) for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        declared[_int(token, path)] = AddedToken(entry["content"], **flags)
    for token, entry in sorted(declared.items()):
        if backend.get_added_tokens_decoder().get(token) != entry:
            backend.add_special_tokens([entry]) if entry.special else backend.add_tokens([entry])
        if backend.token_to_id(entry.content) != token:
            raise TokenizerError(
                f"{path}: added token {entry.content!r}: expected id {token}, "
                f"found {backend.token_to_id(entry.content)}; the files of this folder do not belong together"
            )


def _special(backend: tokenizers.Tokenizer, texts: Mapping[str, Any], name: str, folder: Path) -> int | None:
    """The id of a special token that the configuration names; it is marked special if it was not."""
    from tokenizers import AddedToken

    value = texts.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    token: int | None = backend.token_to_id(text) if isinstance(text, str) else None
    if token is None:
        if name == "pad_token":  # often named and never used
            return None
        raise TokenizerError(
            f"{folder}: {name}: expected a token of the vocabulary, found {text!r}; the files do not belong together"
        )
    entry = backend.get_added_tokens_decoder().get(token)
    if entry is None or not entry.special:
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return token


def _around(backend: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What tokenizer.json's post-processor puts before and after every text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), len(full))
    return tuple(full[:at]), tuple(full[at + len(bare) :])


def _if_wanted(config: Mapping[str, Any], ids: Mapping[str, int | None], name: str) -> tuple[int, ...]:
    token = ids[name]
    return () if token is None or not config.get(f"add_{name}") else (token,)


# -- the small files --------------------------------------------------------------------------------------------------


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise TokenizerError(f"{path}: expected at most {_MAX_BYTES} bytes, found {size}; this is no tokenizer file")


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is not there."""
    if not path.is_file():
        return {}
    _check_size(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _int(value: Any, path: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TokenizerError(f"{path}: added tokens: expected an id, found {value!r}") from None


def _generation_ends(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    value = _object(path).get("eos_token_id")
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(end) is int for end in ends):
        raise TokenizerError(f"{path}: eos_token_id: expected an id or a list of ids, found {value!r}")
    return ends


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        _check_size(path)
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: expected UTF-8 text: {error}") from None
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        path = folder / "tokenizer_config.json"
        raise TokenizerError(f"{path}: chat_template: expected text, found {type(template).__name__}")
    return template
