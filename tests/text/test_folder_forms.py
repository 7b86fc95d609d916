"""The older forms of a folder (vocab.txt; vocab.json and merges.txt with flags), and a tokenizer.json made to do harm."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.errors import TokenizerError
from fanlight.text.tokenizer import Tokenizer
from text.corpus import NASTY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:this model's vocabulary cannot write")


def _write(folder: Path, files: dict[str, str], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


# -- vocab.txt --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocab_txt(folders_of_kinds: dict[str, Path]) -> str:
    vocab = json.loads((folders_of_kinds["bert"] / "tokenizer.json").read_text())["model"]["vocab"]
    return "\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n"


@pytest.mark.parametrize(
    "config",
    [{}, {"do_lower_case": False}, {"do_lower_case": False, "strip_accents": True}, {"tokenize_chinese_chars": False}],
)
def test_vocab_txt_gives_the_ids_of_transformers(config: dict[str, Any], vocab_txt: str, tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    folder = _write(tmp_path, {"vocab.txt": vocab_txt}, tokenizer_class="BertTokenizer", **config)
    ours, theirs = Tokenizer.from_folder(folder), BertTokenizerFast.from_pretrained(folder)
    for text in NASTY.values():
        assert ours.encode(text, parse_special=True) == theirs.encode(text), text
        pair = theirs("a b", text or "c")
        assert ours.encode_pair("a b", text or "c", parse_special=True) == (pair["input_ids"], pair["token_type_ids"])
    assert (ours.cls_id, ours.sep_id, ours.mask_id) == (theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id)
    assert (ours.pad_id, ours.unk_id) == (theirs.pad_token_id, theirs.unk_token_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n[UNK]\n", "'a' stands there twice"),
        ("a\nb\n", "expected a piece for what is unknown"),
        ("", "expected a piece for what is unknown"),
    ],
)
def test_damaged_vocab_txt_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(_write(tmp_path, {"vocab.txt": text}))


# -- vocab.json and merges.txt ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocab_and_merges(folders_of_kinds: dict[str, Path]) -> dict[str, str]:
    model = json.loads((folders_of_kinds["gpt2"] / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": "\n".join(["#version: 0.2", *merges, ""])}


_OPT = {name: {"__type": "AddedToken", "content": "<|begin|>"} for name in ("bos_token", "eos_token", "unk_token")}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**_OPT, "add_bos_token": True, "pad_token": "<|endoftext|>"},
        {"add_prefix_space": True},
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "<|begin|>"},
    ],
)
def test_vocab_and_merges_give_the_ids_of_transformers(
    config: dict[str, Any], vocab_and_merges: dict[str, str], tmp_path: Path
) -> None:
    from transformers import GPT2TokenizerFast

    folder = _write(tmp_path, vocab_and_merges, tokenizer_class="GPT2Tokenizer", **config)
    ours, theirs = Tokenizer.from_folder(folder), GPT2TokenizerFast.from_pretrained(folder)
    for text in NASTY.values():
        assert ours.encode(text, parse_special=True) == theirs.encode(text), text
    assert (ours.bos_id, ours.eos_ids[0]) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.add_bos == bool(config.get("add_bos_token"))


# -- harm -------------------------------------------------------------------------------------------------------------


def _cut(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}}


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
_BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
_PLAIN = {"version": "1.0", "model": _BPE, "decoder": _BYTE_LEVEL}


@pytest.mark.parametrize(
    "harm",
    [
        _cut("("),
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}},  # panics at the first text
        {"model": {**_BPE, "vocab": {"a": -1}}},
        {"model": {**_BPE, "vocab": {"a": 2**32 - 1, "b": 1, "ab": 2}}},
        {"model": {**_BPE, "merges": ["a z"]}},
        {"model": {**_BPE, "merges": ["a"]}},
        {"model": {**_BPE, "continuing_subword_prefix": "ab"}},  # panics at load
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}, "decoder": _METASPACE},
        {"model": {"type": "Unigram", "vocab": [], "unk_id": None}, "decoder": _METASPACE},
        {"decoder": {"type": "Replace", "pattern": {"String": "\u2581"}, "content": "x"}},
        {"decoder": {**_METASPACE, "replacement": "_"}},
        {"decoder": None},
    ],
)
def test_a_harmful_tokenizer_is_refused_at_once(
    harm: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _write(tmp_path, {"tokenizer.json": json.dumps({**_PLAIN, **harm})})
    started = time.perf_counter()
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_folder(folder)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    deep = '{"type":"Sequence","decoders":[' * 20_000 + json.dumps(_BYTE_LEVEL) + "]}" * 20_000
    text = json.dumps({**_PLAIN, "decoder": "DEEP"}).replace('"DEEP"', deep)
    with pytest.raises(TokenizerError, match="recursion limit"):
        Tokenizer.from_folder(_write(tmp_path, {"tokenizer.json": text}))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(?:a|a?)+$"])
def test_a_pattern_that_would_take_for_ever_is_an_error_of_the_text(pattern: str, tmp_path: Path) -> None:
    """Oniguruma counts its steps; `tokenizers` panics when they are too many."""
    folder = _write(tmp_path, {"tokenizer.json": json.dumps({**_PLAIN, **_cut(pattern)})})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("ab") == [2]
    started = time.perf_counter()
    for call in (tokenizer.encode, tokenizer.split_special):
        with pytest.raises(TokenizerError, match="the tokenizer failed on it"):
            call("a" * 40 + "!")
    assert time.perf_counter() - started < 10


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt", "tokenizer.model"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)  # sparse: takes no room
        with pytest.raises(TokenizerError, match=rf"{name}: expected at most \d+ bytes, found {1 << 40}"):
            Tokenizer.from_folder(folder)
