"""A vocabulary -> the tokenizer files of a Hugging Face folder. Writes files; knows no model.

tokenizer.json holds all that cuts text and what stands around it; tokenizer_config.json names the special tokens, for
those who ask for them by name. transformers reads both as PreTrainedTokenizerFast, and finds the same ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.text.template_sources import TOOL_USE
from fanlight.text.vocabulary import FIRST, SECOND, Template, Vocabulary

if TYPE_CHECKING:
    from os import PathLike

    from fanlight.text.spelling import Spelling


def save(vocabulary: Vocabulary, folder: str | PathLike[str]) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; OSError as it comes."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    named = _named(vocabulary)
    for name, value in (
        ("tokenizer.json", tokenizer_json(vocabulary)),
        ("tokenizer_config.json", _config(vocabulary, named)),
        ("special_tokens_map.json", named),
    ):
        text = json.dumps(value, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        (path / name).write_text(text + "\n", encoding="utf-8")


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json."""
    data: dict[str, Any] = json.loads(vocabulary.backend.library().to_str())
    if data.get("decoder") is None:
        data["decoder"] = _decoder(vocabulary.spelling)
    pieces = {token: vocabulary.backend.piece(token) or "" for token in _tokens(vocabulary)}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": _template(vocabulary.single, pieces),
        "pair": _template(vocabulary.pair, pieces),
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for token, text in pieces.items()},
    }
    return data


def _decoder(spelling: Spelling) -> dict[str, Any]:
    """What undoes a spelling, where the file that the vocabulary came from had none."""
    if spelling.kind == "byte-level":
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if spelling.kind == "wordpiece":
        return {"type": "WordPiece", "prefix": spelling.prefix, "cleanup": spelling.cleanup}
    scheme = "always" if spelling.strip == "all spaces" else "never"
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}


def _tokens(vocabulary: Vocabulary) -> list[int]:
    parts = (*vocabulary.single, *vocabulary.pair)
    return list(dict.fromkeys(what for what, _ in parts if isinstance(what, int)))


def _template(template: Template, pieces: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {"Sequence": {"id": what, "type_id": segment}}
        if what in (FIRST, SECOND)
        else {"SpecialToken": {"id": pieces[int(what)], "type_id": segment}}
        for what, segment in template
    ]


def _named(v: Vocabulary) -> dict[str, str]:
    ids = {"bos": v.bos_id, "eos": v.eos_ids[0] if v.eos_ids else None, "unk": v.unk_id, "pad": v.pad_id}
    ids |= {"cls": v.cls_id, "sep": v.sep_id, "mask": v.mask_id}
    if v.spelling.kind == "wordpiece":  # the same token as cls; transformers' encoders have none of this name
        del ids["bos"]
    pieces = {name: None if token is None else v.backend.piece(token) for name, token in ids.items()}
    return {f"{name}_token": piece for name, piece in pieces.items() if piece is not None}


def _config(v: Vocabulary, named: dict[str, str]) -> dict[str, Any]:
    added = v.backend.library().get_added_tokens_decoder()
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    eos = v.eos_ids[0] if v.eos_ids else None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "add_bos_token": v.bos_id is not None and v.single[0] == (v.bos_id, 0),
        "add_eos_token": eos is not None and v.single[-1] == (eos, 0),
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(token): {flag: getattr(entry, flag) for flag in flags} for token, entry in sorted(added.items())
        },
    }
    default, tool_use = v.templates
    if default is None:
        return config
    several = [{"name": "default", "template": default}, {"name": TOOL_USE, "template": tool_use}]
    return {**config, "chat_template": default if tool_use is None else several}
