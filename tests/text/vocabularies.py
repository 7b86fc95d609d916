"""Small vocabularies of every kind, as folders that a hub would have. Trained on the nasty corpus and some English."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text.corpus import NASTY

if TYPE_CHECKING:
    from collections.abc import Callable

_ENGLISH = """The quick brown fox jumps over the lazy dog, and the dog does not mind. What is it that makes a model write?
A tokenizer cuts a text into pieces; the model reads their numbers. It's 12:30, they're here, and we've 1,234 things.
def generate(model, prompt): return [token for token in model.stream(prompt) if token is not None]  # a comment
Once upon a time there was a princess who lived in a castle by the sea; every morning she counted the ships."""
LINES = [*_ENGLISH.split("\n") * 3, *(text.replace("\n", " ").replace("\0", "") for text in NASTY.values())]

Json = dict[str, Any]
SPACE = "\u2581"


def sentencepiece_model(**options: Any) -> bytes:
    """A model of SentencePiece's own trainer."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in LINES if line.strip() and len(line) < 500]),
        model_writer=out,
        **{"vocab_size": 700, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1, **options},
    )
    return out.getvalue()


_LLAMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "character_coverage": 0.98,
}
MODELS: dict[str, Json] = {
    "llama": _LLAMA,
    "gemma": {
        **_LLAMA,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<mask>", SPACE * 2, SPACE * 4, "tokenizer"],
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "vocab_size": 701,
    },
    "bpe": {"model_type": "bpe", "character_coverage": 0.98},
    "t5": {"model_type": "unigram", "character_coverage": 0.98, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "unigram": {**_LLAMA, "model_type": "unigram", "normalization_rule_name": "nfkc"},
}


def pieces_of(model: bytes) -> list[tuple[str, float]]:
    """Pieces and scores, as SentencePiece tells them."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def _added(texts: list[str], vocab: list[str], special: bool = True) -> list[Json]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return [{"id": vocab.index(text), "content": text, **flags} for text in texts]


def _template(single: list[str], pair: list[tuple[str, int]], vocab: list[str]) -> Json:
    def step(what: str, segment: int) -> Json:
        kind = {"Sequence": {"id": what, "type_id": segment}}
        return kind if what in "AB" else {"SpecialToken": {"id": what, "type_id": segment}}

    return {
        "type": "TemplateProcessing",
        "single": [step(what, 0) for what in single],
        "pair": [step(*part) for part in pair],
        "special_tokens": {
            what: {"id": what, "ids": [vocab.index(what)], "tokens": [what]} for what in single if what != "A"
        },
    }


def _bpe_json(model: bytes, **parts: Any) -> Json:
    """As published for Llama-like models: merges derived from the pieces by transformers."""
    from transformers.tokenization_utils_base import generate_merges

    scored = pieces_of(model)
    words = {piece: score for piece, score in scored if not piece.startswith("<")}
    ids = {piece: i for i, (piece, _) in enumerate(scored)}
    merges = [list(pair) for pair in generate_merges(words, words)]
    settings = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "dropout": None}
    return {"version": "1.0", "model": {"type": "BPE", "vocab": ids, "merges": merges, **settings}, **parts}


_BACK: list[Json] = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP: Json = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_ESCAPE: Json = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def llama2(model: bytes) -> Json:
    """Llama 1 and 2, Phi-3: the normalizer marks the spaces, and puts one first."""
    vocab = [piece for piece, _ in pieces_of(model)]
    return _bpe_json(
        model,
        added_tokens=_added(["<unk>", "<s>", "</s>"], vocab),
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _ESCAPE]},
        post_processor=_template(["<s>", "A"], [("<s>", 0), ("A", 0), ("<s>", 1), ("B", 1)], vocab),
        decoder={"type": "Sequence", "decoders": [*_BACK, _STRIP]},
    )


def mistral(model: bytes) -> Json:
    """Newer files: Metaspace marks the spaces, and puts one at the very beginning only."""
    vocab = [piece for piece, _ in pieces_of(model)]
    return _bpe_json(
        model,
        added_tokens=_added(["<unk>", "<s>", "</s>"], vocab),
        pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
        post_processor=_template(["<s>", "A", "</s>"], [("<s>", 0), ("A", 0), ("B", 1)], vocab),
        decoder={"type": "Sequence", "decoders": [*_BACK, _STRIP]},
    )


def gemma(model: bytes) -> Json:
    """Gemma: no space first; runs of spaces are tokens of their own."""
    vocab = [piece for piece, _ in pieces_of(model)]
    special = _added(["<pad>", "</s>", "<s>", "<unk>"], vocab)
    words = [{**entry, "normalized": False} for entry in _added(["<mask>", "tokenizer"], vocab, special=False)]
    return _bpe_json(
        model,
        added_tokens=special + words,
        normalizer=_ESCAPE,
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        post_processor=_template(["<s>", "A"], [("<s>", 0), ("A", 0), ("<s>", 1), ("B", 1)], vocab),
        decoder={"type": "Sequence", "decoders": _BACK},
    )


def t5(model: bytes) -> Json:
    """T5: Unigram over normalized words."""
    from base64 import b64encode

    from fanlight.text.sentencepiece import parse

    scored = pieces_of(model)
    vocab = [piece for piece, _ in scored]
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    charsmap = b64encode(parse(model, "t5").charsmap).decode()
    return {
        "version": "1.0",
        "added_tokens": _added(["<pad>", "</s>", "<unk>"], vocab),
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": _template(["A", "</s>"], [("A", 0), ("</s>", 0), ("B", 0), ("</s>", 0)], vocab),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [list(pair) for pair in scored], "byte_fallback": False},
    }


def bert() -> Json:
    """BERT, uncased."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=names, show_progress=False, limit_alphabet=200, continuing_subword_prefix="##"
    )
    backend.train_from_iterator(LINES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.decoder = decoders.WordPiece(prefix="##")
    return dict(json.loads(backend.to_str()))


def byte_level(cut: Json) -> Json:
    """Byte-level BPE over text that is cut by a rule."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|begin|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    return {**json.loads(backend.to_str()), "pre_tokenizer": cut}


QWEN2_CUT: Json = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {
                "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            },
            "behavior": "Isolated",
            "invert": False,
        },
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ],
}
GPT2_CUT: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

_SP_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_BERT_NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
KINDS: dict[str, tuple[Callable[[dict[str, bytes]], Json], Json]] = {
    "llama2": (lambda m: llama2(m["llama"]), _SP_NAMES),
    "mistral": (lambda m: mistral(m["llama"]), _SP_NAMES),
    "gemma": (lambda m: gemma(m["gemma"]), {**_SP_NAMES, "pad_token": "<pad>"}),
    "t5": (lambda m: t5(m["t5"]), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "bert": (lambda m: bert(), _BERT_NAMES),
    "gpt2": (lambda m: byte_level(GPT2_CUT), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "qwen2": (lambda m: byte_level(QWEN2_CUT), {"eos_token": "<|endoftext|>"}),
}


def write_folders(root: Path, models: dict[str, bytes]) -> dict[str, Path]:
    """A folder for each of KINDS, with tokenizer.json and tokenizer_config.json."""
    folders = {}
    for name, (make, names) in KINDS.items():
        folders[name] = root / name
        folders[name].mkdir()
        (folders[name] / "tokenizer.json").write_text(json.dumps(make(models)))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
        (folders[name] / "tokenizer_config.json").write_text(json.dumps(config))
    return folders
