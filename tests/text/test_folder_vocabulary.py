"""Hugging Face folders -> tokenizer: the same ids as transformers for both forms of the files, and damaged folders."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.errors import TokenizerError
from fanlight.text.tokenizer import Tokenizer
from text.corpus import NASTY

if TYPE_CHECKING:
    from pathlib import Path


def _trained(special: list[str]) -> Any:
    """A GPT-2-type BPE over a few sentences."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*NASTY.values()] * 3, trainer)
    return backend


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One vocabulary in the two forms: tokenizer.json; vocab.json and merges.txt."""
    root = tmp_path_factory.mktemp("gpt2")
    backend = _trained(["<|endoftext|>"])
    for name in ("json", "vocab"):
        (root / name).mkdir()
    backend.save(str(root / "json" / "tokenizer.json"))
    backend.model.save(str(root / "vocab"))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    }
    (root / "json" / "tokenizer_config.json").write_text(json.dumps(config))
    return {"json": root / "json", "vocab": root / "vocab"}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tokenizer.json folder, to be spoilt."""
    shutil.copytree(folders["json"], tmp_path / "model")
    return tmp_path / "model"


def _update(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize("form", ["json", "vocab"])
def test_ids_are_those_of_transformers(form: str, folders: dict[str, Path]) -> None:
    from transformers import GPT2Tokenizer

    ours, theirs = Tokenizer.from_folder(folders[form]), GPT2Tokenizer.from_pretrained(folders[form])
    assert ours.n_vocab == len(theirs)
    assert (ours.bos_id, ours.eos_ids) == (theirs.bos_token_id, (theirs.eos_token_id,))
    for text in NASTY.values():
        assert ours.encode(text, parse_special=True) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text
        assert ours.special_ids.isdisjoint(ours.encode(text))


def test_both_forms_are_one_tokenizer(folders: dict[str, Path]) -> None:
    a, b = (Tokenizer.from_folder(folders[form]) for form in ("json", "vocab"))
    assert [a.token_bytes(i) for i in range(a.n_vocab)] == [b.token_bytes(i) for i in range(b.n_vocab)]
    assert (a.special_ids, a.eos_ids, a.unk_id, a.add_bos) == (b.special_ids, b.eos_ids, b.unk_id, b.add_bos)


def test_added_tokens_keep_their_ids_and_their_kind(folder: Path) -> None:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    n = backend.get_vocab_size()
    backend.add_special_tokens([AddedToken("<|im_start|>", normalized=False)])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    backend.add_special_tokens([AddedToken("<|im_end|>", normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    _update(folder / "tokenizer_config.json", eos_token="<|im_end|>")
    tokenizer = Tokenizer.from_folder(folder)
    text = "<think><|im_end|>"
    assert tokenizer.encode(text, parse_special=True) == [n + 1, n + 2]
    plain = tokenizer.encode(text)
    assert plain[0] == n + 1  # a word of the vocabulary, not a special token
    assert max(plain[1:]) < n
    assert tokenizer.decode(plain) == text
    assert tokenizer.eos_ids == (n + 2, 0)  # named by the file; <|endoftext|> ends a text in any case


def test_bos_from_the_post_processor(folder: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors
    from transformers import GPT2Tokenizer

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.add_bos
    assert tokenizer.encode("abc") == [0, *tokenizer.encode("abc", add_special=False)]
    assert tokenizer.encode("") == [0]
    assert tokenizer.encode("abc") == GPT2Tokenizer.from_pretrained(folder).encode("abc")


@pytest.mark.parametrize(("form", "adds"), [("vocab", True), ("json", False)])
def test_bos_from_the_configuration_where_there_is_no_post_processor(
    form: str, adds: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import GPT2Tokenizer

    shutil.copytree(folders[form], tmp_path / "model")
    _update(tmp_path / "model" / "tokenizer_config.json", add_bos_token=True, bos_token="<|endoftext|>")
    tokenizer = Tokenizer.from_folder(tmp_path / "model")
    assert tokenizer.encode("abc") == GPT2Tokenizer.from_pretrained(tmp_path / "model").encode("abc")
    assert tokenizer.add_bos == adds


def test_truncation_and_padding_of_the_training_are_off(folder: Path) -> None:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=5)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(folder)
    for parse_special in (False, True):
        for text in ("a", NASTY["plain"]):
            assert tokenizer.decode(tokenizer.encode(text, parse_special=parse_special)) == text


def test_end_tokens_from_the_generation_config(folder: Path) -> None:
    _update(folder / "generation_config.json", eos_token_id=[0, 7])
    assert Tokenizer.from_folder(folder).eos_ids == (0, 7)


def test_ids_beyond_the_vocabulary_have_no_text(folder: Path) -> None:
    known = Tokenizer.from_folder(folder).n_vocab
    tokenizer = Tokenizer.from_folder(folder, n_vocab=known + 10)
    assert tokenizer.n_vocab == known + 10
    assert tokenizer.token_bytes(known + 9) == b""
    assert tokenizer.token_label(known + 9) == f"<unused {known + 9}>"
    with pytest.raises(TokenizerError, match=rf"expected token ids below {known - 1}, .* found up to {known - 1}"):
        Tokenizer.from_folder(folder, n_vocab=known - 1)


def test_the_chat_template_is_found_wherever_it_is(folder: Path) -> None:
    assert Tokenizer.from_folder(folder).chat_template is None
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "a list"}]
    _update(folder / "tokenizer_config.json", chat_template=named)
    assert Tokenizer.from_folder(folder).chat_template == "a list"
    _update(folder / "tokenizer_config.json", chat_template="text")
    assert Tokenizer.from_folder(folder).chat_template == "text"
    (folder / "chat_template.jinja").write_text("a file \u00e9", encoding="utf-8")
    assert Tokenizer.from_folder(folder).chat_template == "a file \u00e9"


def test_special_tokens_as_objects_and_in_the_older_file(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    _update(folder / "special_tokens_map.json", bos_token="<|endoftext|>", eos_token={"content": "<|endoftext|>"})
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.unk_id) == (0, (0,), None)


def test_added_tokens_of_the_older_form(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["vocab"], tmp_path / "model")
    n = Tokenizer.from_folder(tmp_path / "model").n_vocab
    _update(tmp_path / "model" / "added_tokens.json", **{"<sep>": n, "<turn>": n + 1})
    _update(tmp_path / "model" / "tokenizer_config.json", eos_token="<turn>")
    tokenizer = Tokenizer.from_folder(tmp_path / "model")
    assert tokenizer.encode("a<sep><turn>", parse_special=True)[-2:] == [n, n + 1]
    assert tokenizer.eos_ids == (n + 1, 0)
    assert n + 1 not in tokenizer.encode("a<sep><turn>")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"expected tokenizer\.json, or vocab\.json and merges\.txt, vocab\.txt, or tokenizer\.model, found none",
    ):
        Tokenizer.from_folder(tmp_path)


def test_another_kind_of_tokenizer_is_named(folder: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    backend = Backend(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    backend.decoder = decoders.BPEDecoder()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"expected byte-level BPE, .*, found WordLevel decoded by BPEDecoder"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: expected a tokenizer"),
        ("tokenizer.json", '{"version": "1.0"}', r"tokenizer\.json: expected a tokenizer"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: expected JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: expected a JSON object, found list"),
        ("tokenizer_config.json", "[" * 100_000, r"tokenizer_config\.json: expected JSON"),
        ("tokenizer_config.json", '{"eos_token": "<nope>"}', "eos_token: expected a token of the vocabulary"),
        ("tokenizer_config.json", '{"bos_token": 3}', "bos_token: expected a token of the vocabulary, found 3"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template: expected text, found int"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"0": {}}}', r"added_tokens_decoder\['0'\]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "expected an id, found 'x'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": {"content": "<new>"}}}', "expected id 5, found"),
        ("generation_config.json", '{"eos_token_id": "2"}', "eos_token_id: expected an id or a list of ids"),
        ("generation_config.json", '{"eos_token_id": 100000}', "found up to 100000"),
    ],
)
def test_damaged_folders_are_refused(file: str, content: str, message: str, folder: Path) -> None:
    (folder / file).write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(("file", "content"), [("vocab.json", '{"a": "b"}'), ("merges.txt", "#version\nzz qq\n")])
def test_damaged_vocabularies_are_refused(file: str, content: str, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["vocab"], tmp_path / "model")
    (tmp_path / "model" / file).write_text(content)
    with pytest.raises(TokenizerError, match=r"vocab\.json: expected a tokenizer"):
        Tokenizer.from_folder(tmp_path / "model")
