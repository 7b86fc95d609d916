"""SentencePiece's model files, and GGUF metadata of the same pieces: the ids of SentencePiece itself; and damaged files."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import TokenizerError
from fanlight.text.sentencepiece import checked_charsmap, parse
from fanlight.text.spm import ScoredBpe
from fanlight.text.tokenizer import Tokenizer
from text.corpus import NASTY
from text.vocabularies import LINES, MODELS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:this model's vocabulary cannot write")

_RNG = random.Random(11)
TEXTS = [
    *NASTY.values(),
    *LINES[:5],
    *("".join(_RNG.choices("ab  c=-\n_xyz1230e the\u2581", k=_RNG.randrange(1, 70))) for _ in range(150)),
]


@pytest.fixture(scope="module")
def theirs(models: dict[str, bytes]) -> dict[str, Any]:
    import sentencepiece

    return {name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in models.items()}


def _folder(path: Path, model: bytes, **config: Any) -> Path:
    path.mkdir()
    (path / "tokenizer.model").write_bytes(model)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_ids_and_text_are_those_of_sentencepiece(
    name: str, models: dict[str, bytes], theirs: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_folder(_folder(tmp_path / "model", models[name]))
    assert tokenizer.n_vocab == theirs[name].get_piece_size()
    for text in TEXTS:
        if name in ("t5", "unigram") and (text == NASTY["long word"] or "<0x" in text):
            continue  # runs of equal scores, and byte tokens spelled out: the library finds another of the best ways
        if name not in ("llama", "gemma") and text == NASTY["combining"]:
            continue  # of several marks on one letter the library's normalizer keeps the first, in transformers as well
        ids = tokenizer.encode(text, add_special=False)
        assert ids == theirs[name].encode(text), text
        if tokenizer.unk_id not in ids:  # SentencePiece shows it as a question mark
            assert tokenizer.decode(ids) == theirs[name].decode(ids)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_gguf_pieces_with_scores_give_the_ids_of_sentencepiece(
    name: str, models: dict[str, bytes], theirs: dict[str, Any]
) -> None:
    model = parse(models[name], name)
    texts = [
        piece.replace("\u2581", " ") if kind == 4 else piece
        for piece, kind in zip(model.pieces, model.types, strict=True)
    ]
    tokenizer = Tokenizer.from_gguf(_metadata(model, tokens=texts, add_space_prefix=model.add_dummy_prefix))
    for text in TEXTS:
        if name == "llama" or "\u2581" not in text:
            assert tokenizer.encode(text, add_special=False) == theirs[name].encode(text), text


def _metadata(model: Any, **changes: Any) -> dict[str, Any]:
    data = {
        "model": "llama",
        "tokens": list(model.pieces),
        "scores": list(model.scores),
        "token_type": list(model.types),
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in data.items() if value is not None}


def _slowly(word: str, scores: dict[str, float]) -> list[str]:
    """As one would explain it: join the best pair, the leftmost of equals, until there is none."""
    parts = list(word)
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            return parts
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(
    st.dictionaries(st.text("ab\u2581", min_size=1, max_size=5), st.integers(-4, 0).map(float), max_size=25),
    st.text("ab ", max_size=30),
)
def test_the_algorithm_is_the_plain_one(scores: dict[str, float], text: str) -> None:
    """With equal scores, and with pieces over the beginning of a word, as no trainer would make them."""
    scores = {**dict.fromkeys("ab\u2581", -9.0), **scores}
    pieces = list(scores)
    ids = {piece: i for i, piece in enumerate(pieces)}
    bpe = ScoredBpe(pieces, ids, scores, special=(), words=(), byte_tokens={}, unk_id=None, space_prefix=True)
    expected = _slowly("\u2581" + text.replace(" ", "\u2581"), scores) if text else []
    assert [pieces[i] for i in bpe.ids(text, parse_special=False)] == expected


def test_a_space_comes_first_and_after_special_tokens_unless_the_file_says_otherwise(
    models: dict[str, bytes], tmp_path: Path
) -> None:
    for folder, config, after in (("a", {}, "\u2581"), ("b", {"legacy": False}, "")):
        tokenizer = Tokenizer.from_folder(_folder(tmp_path / folder, models["llama"], **config))
        (first, *_), (second, *_) = (
            tokenizer.encode(t, add_special=False, parse_special=True) for t in ("qx", "<s>qx")
        )
        pieces = tokenizer.vocabulary.backend
        assert pieces.piece(first) == "\u2581"
        ids = tokenizer.encode("<s>qx", add_special=False, parse_special=True)
        assert (second, "".join(pieces.piece(i) or "" for i in ids[1:])) == (1, f"{after}qx")
    plain = Tokenizer.from_folder(_folder(tmp_path / "c", models["llama"], add_prefix_space=False))
    assert plain.decode(plain.encode(" a b")) == "<s> a b"


def test_bos_and_eos_follow_the_kind_and_the_flags(models: dict[str, bytes], tmp_path: Path) -> None:
    made = iter(range(99))

    def around(name: str, **config: Any) -> tuple[int, int]:
        tokenizer = Tokenizer.from_folder(_folder(tmp_path / str(next(made)), models[name], **config))
        ids = tokenizer.encode("the")
        return ids[0], ids[-1]

    assert around("llama")[0] == 1
    assert around("llama", add_bos_token=False)[0] > 2
    assert around("llama", add_eos_token=True)[1] == 2
    assert around("gemma")[0] == 2
    assert around("t5")[1] == 1


def test_added_tokens_after_the_pieces_of_the_file(models: dict[str, bytes], tmp_path: Path) -> None:
    n = len(parse(models["llama"], "x").pieces)
    added = {str(n): {"content": "<|user|>", "special": True}, str(n + 1): {"content": "<think>", "special": False}}
    tokenizer = Tokenizer.from_folder(_folder(tmp_path / "model", models["llama"], added_tokens_decoder=added))
    assert tokenizer.encode("<|user|><think>", add_special=False, parse_special=True) == [n, n + 1]
    plain = tokenizer.encode("<|user|><think>", add_special=False)
    assert n not in plain
    assert plain[-1] == n + 1
    wrong = _folder(tmp_path / "wrong", models["llama"], added_tokens_decoder={str(n + 3): {"content": "<x>"}})
    with pytest.raises(TokenizerError, match=r"added token '<x>': expected id .* do not belong together"):
        Tokenizer.from_folder(wrong)


# -- damaged ----------------------------------------------------------------------------------------------------------


def _field(number: int, value: bytes | int) -> bytes:
    key = number << 3 | (0 if isinstance(value, int) else 2)
    head = bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])
    return head + (bytes([value]) if isinstance(value, int) else bytes([len(value)]) + value)


def _piece(text: str, score: float, kind: int) -> bytes:
    number = bytes([2 << 3 | 5]) + struct.pack("<f", score)
    return _field(1, _field(1, text.encode()) + number + _field(3, kind))


def test_a_model_file_cut_anywhere_is_refused_or_a_shorter_vocabulary() -> None:
    pieces = [
        _piece("<unk>", 0, 2),
        _piece("<s>", 0, 3),
        _piece("</s>", 0, 3),
        _piece("a", -1, 1),
        _piece("aa", -0.5, 1),
    ]
    settings = [_field(2, _field(3, 2) + _field(40, 0)), _field(3, _field(3, 1))]
    model = b"".join([*settings, *pieces])
    whole = parse(model, "x")
    assert (whole.model_type, whole.add_dummy_prefix, list(whole.pieces)) == (
        2,
        True,
        ["<unk>", "<s>", "</s>", "a", "aa"],
    )
    ends = {len(b"".join([*settings, *pieces[:n]])): n for n in range(1, 6)}
    for end in range(len(model)):
        if end in ends:
            assert parse(model[:end], "x").pieces == whole.pieces[: ends[end]]
        else:
            with pytest.raises(TokenizerError, match=r"^x: ") as caught:
                parse(model[:end], "x")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found 0 pieces"),
        (b"\x0a", "expected a number at byte 1"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", f"expected {2**63 - 1} bytes, found 0; the file is incomplete"),
        (b"\x0a" + b"\xff" * 30, "10 bytes without one"),
        (b"\x0b\x00", "wire type 3"),
        (b"\x0a\x04\x0a\x02\xff\xfe", "piece 0: expected UTF-8"),
        (
            b"\x0a\x08\x0a\x01a\x15" + struct.pack("<f", float("nan")),
            "piece 0: score: expected a finite number, found nan",
        ),
        (b"\x0a\x05\x0a\x01a\x18\x09", "piece 0: type: expected 1 to 6, found 9"),
        (b"\x0a\x03\x0a\x01a\x12\x02\x18\x04", "expected a model of type unigram or bpe, found char"),
        (b"\x0a\x03\x0a\x01a\x12\x05\x18\x02\xc0\x02\x07", "unk_id: expected 0 to 0, found 7"),
        (b'{"a": 1}', "SentencePiece model|expected"),
    ],
)
def test_damaged_model_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", data)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_folder(folder)
    assert "tokenizer.model: " in str(caught.value)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: b"\x0a" + bytes([len(data)]) + data))
def test_any_bytes_are_a_model_or_refused(data: bytes) -> None:
    with contextlib.suppress(TokenizerError):
        assert parse(data, "x").pieces


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x08\x00\x00\x00abcd", b"\xff\xff\xff\xff" + b"a" * 40, b"\x03\x00\x00\x00abcdef"]
)
def test_a_table_of_replacements_must_have_the_size_it_says(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"precompiled_charsmap: expected a table of up to \d+ bytes"):
        checked_charsmap(data, "x")


_PIECES = ["<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab"]


def _small(**changes: Any) -> dict[str, Any]:
    data = {"model": "llama", "tokens": _PIECES, "scores": [0.0] * 7, "token_type": [2, 3, 3, 6, 1, 1, 1], **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in data.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "scores: expected 7 numbers, one a token, found no such key"),
        ({"scores": [0.0] * 6}, "scores: expected 7 numbers, one a token, found 6"),
        ({"scores": [0.0] * 6 + [float("nan")]}, "scores: token 6: expected a finite number, found nan"),
        ({"scores": [float("-inf")] + [0.0] * 6}, "scores: token 0: expected a finite number, found -inf"),
        ({"scores": [1e300] * 7}, "scores: token 0: expected a finite number"),
        ({"scores": ["x"] * 7}, "scores: expected numbers, found others"),
        ({"tokens": [*_PIECES[:6], "a"]}, "tokens: 'a' stands there twice"),
        ({"tokens": [*_PIECES[:3], "<0x-1>", *_PIECES[4:]]}, "token 3 is of type byte: .* found '<0x-1>'"),
        ({"tokens": [*_PIECES[:3], "<0x100>", *_PIECES[4:]]}, "token 3 is of type byte: .* found '<0x100>'"),
        ({"unknown_token_id": 7}, "unknown_token_id: expected an id from 0 to 6, found 7"),
        ({"add_space_prefix": "yes"}, "add_space_prefix: expected bool, found str"),
        ({"model": "t5", "precompiled_charsmap": [300, 2]}, "precompiled_charsmap: expected a table"),
        ({"model": "t5", "precompiled_charsmap": ["a"]}, "precompiled_charsmap: expected bytes"),
        ({"model": "t5", "scores": [float("nan")] * 7}, "scores: token 0: expected a finite number"),
        (
            {"model": "bert", "token_type": [1] * 7},
            "unknown_token_id: .* WordPiece needs it",
        ),
    ],
)
def test_damaged_metadata_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_gguf(_small(**changes))
    assert "\n" not in str(caught.value)


def test_missing_keys_mean_what_they_mean_to_llama_cpp() -> None:
    tokenizer = Tokenizer.from_gguf(_small())
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.unk_id) == (1, (2,), 0)
    assert tokenizer.encode("ab") == [1, 6]  # bos; the space before it has no token, and no bytes to be written with
    assert tokenizer.encode("<s>", add_special=False, parse_special=True) == [1]
    assert tokenizer.token_bytes(3) == b"A"


def test_a_large_vocabulary_loads_quickly() -> None:
    words = [
        f"\u2581{a}{b}{c}{d}"
        for a in "abcdefghijklm"
        for b in "nopqrstuvwxyz"
        for c in "abcdefghijklm"
        for d in "nopqrstuvwxyz"
    ]
    tokens = [*_PIECES[:3], *words, *words[:0]]
    scores = [-float(i) for i in range(len(tokens))]
    metadata = _small(tokens=tokens, scores=scores, token_type=[2, 3, 3] + [1] * len(words))
    started = time.perf_counter()
    Tokenizer.from_gguf(metadata)
    assert time.perf_counter() - started < 0.3
