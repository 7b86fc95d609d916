"""The tokenizer files of a Hugging Face folder -> a vocabulary. Knows file names; reads no weights and runs no code.

Read: tokenizer.json; or vocab.json and merges.txt (GPT-2's form); or vocab.txt (BERT's); or tokenizer.model
(SentencePiece's). With them tokenizer_config.json, special_tokens_map.json, generation_config.json (end tokens) and
chat_template.jinja, each if there. How each form is read is in `folder_models.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError
from fanlight.text.folder_files import MAX_ID, added_tokens, generation_ends, read_object
from fanlight.text.folder_models import (
    SENTENCEPIECE_NAMES,
    Source,
    from_json,
    from_sentencepiece,
    from_vocab,
    from_vocab_txt,
)
from fanlight.text.template_sources import sources_of_folder
from fanlight.text.vocabulary import END_OF_TEXT_TOKENS, Vocabulary

if TYPE_CHECKING:
    from os import PathLike


def read(path: str | PathLike[str], n_vocab: int | None = None) -> Vocabulary:
    """TokenizerError where the folder has no tokenizer, a damaged one, or one of a kind that is not read."""
    folder = Path(path)
    config = read_object(folder / "tokenizer_config.json")
    texts = {**read_object(folder / "special_tokens_map.json"), **{k: v for k, v in config.items() if v is not None}}
    made = _form(folder)(Source(folder=folder, config=config, texts=texts, added=added_tokens(folder, config)))
    ids, special = made.named, made.backend.special
    if made.n_known > MAX_ID:
        raise TokenizerError(
            f"{folder}: expected token ids below {MAX_ID}, found {made.n_known - 1}; the file is damaged"
        )

    ends = [ids["eos_token"], *generation_ends(folder)]
    ends += [i for i in sorted(special) if made.backend.piece(i) in END_OF_TEXT_TOKENS]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    total = made.n_known if n_vocab is None else n_vocab
    if total < made.n_known or any(not 0 <= i < total for i in eos_ids):
        raise TokenizerError(
            f"{folder}: expected token ids below {total}, the size of the model's vocabulary, "
            f"found up to {max((made.n_known - 1, *eos_ids))}; the tokenizer belongs to another model"
        )
    return Vocabulary(
        backend=made.backend,
        spelling=made.spelling,
        n_vocab=total,
        literal_ids=made.literal_ids,
        special_ids=frozenset((*special, *eos_ids, *([] if ids["bos_token"] is None else [ids["bos_token"]]))),
        single=made.single,
        pair=made.pair,
        bos_id=ids["bos_token"],
        eos_ids=eos_ids,
        pad_id=ids["pad_token"],
        unk_id=ids["unk_token"],
        cls_id=ids["cls_token"],
        sep_id=ids["sep_token"],
        mask_id=ids["mask_token"],
        templates=sources_of_folder(folder, config),
        raw_bytes=made.raw_bytes,
        missing_bytes=made.missing_bytes,
        byte_complete=made.byte_complete,
    )


def _form(folder: Path) -> Any:
    if (folder / "tokenizer.json").is_file():
        return from_json
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return from_vocab
    if any((folder / name).is_file() for name in SENTENCEPIECE_NAMES):
        return from_sentencepiece
    if (folder / "vocab.txt").is_file():
        return from_vocab_txt
    raise TokenizerError(
        f"{folder}: expected tokenizer.json, or vocab.json and merges.txt, vocab.txt, or tokenizer.model, found none; "
        "copy them from the model's page"
    )
