"""The default model's tokenizer: the ids of transformers, no byte lost, a firm line between text and control."""

from __future__ import annotations

import random
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.byte_tokenizer import ByteTokenizer
from fanlight.errors import TokenizerError
from fanlight.text.tokenizer import AnyTokenizer, Tokenizer, label
from text import naive_bpe
from text.corpus import NASTY

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.mark.parametrize("name", NASTY)
def test_ids_are_those_of_transformers(name: str, tokenizer: Tokenizer, theirs: Any) -> None:
    expected = theirs.encode(NASTY[name], add_special_tokens=False)
    assert tokenizer.encode(NASTY[name], parse_special=True) == expected


@pytest.mark.parametrize("name", NASTY)
def test_ids_are_those_of_the_plain_algorithm(name: str, tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    assert tokenizer.encode(NASTY[name]) == naive_bpe.encode(NASTY[name], vocab, ranks)


@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_survives_the_round_trip(name: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(NASTY[name])) == NASTY[name]


def test_random_unicode_gives_the_ids_of_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    rng = random.Random(7)
    alphabet = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(1, 60))) for _ in range(300)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [tokenizer.encode(text) for text in texts] == [
            theirs.encode(text, add_special_tokens=False) for text in texts
        ]


# Everything but surrogates, and but the characters that need one of the 21 bytes this vocabulary lacks.
_WRITABLE = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d"),
        st.sampled_from(" \n\t\r<|>_imendstart019\u200d\U0001f1eb\u0301"),
    ),
    max_size=60,
)


@given(_WRITABLE)
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_ids.isdisjoint(ids)


@given(_WRITABLE)
def test_parsing_special_tokens_keeps_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text
    parts = tokenizer.split_special(text)
    assert "".join(tokenizer.token_text(p) if isinstance(p, int) else p for p in parts) == text


# -- special tokens ---------------------------------------------------------------------------------------------------


def test_every_special_token_is_plain_text_unless_parsed(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.special_ids) == 17
    for token in tokenizer.special_ids:
        text = tokenizer.token_text(token)
        for around in (text, f"a{text}b", f" {text}{text}\n"):
            assert tokenizer.special_ids.isdisjoint(tokenizer.encode(around))
            assert tokenizer.decode(tokenizer.encode(around)) == around
        assert tokenizer.encode(text, parse_special=True) == [token]


def test_special_tokens_cut_the_text_around_them(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode("a "), tokenizer.encode(" b")
    assert tokenizer.encode("a <|im_end|> b", parse_special=True) == [*a, 2, *b]
    assert tokenizer.split_special("a <|im_end|><|im_start|> b<|im_start") == ["a ", 2, 1, " b<|im_start"]
    assert tokenizer.split_special("") == []


def test_facts_of_the_default_model(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    assert tokenizer.n_vocab == 49152
    assert tokenizer.bos_id == 1
    assert tokenizer.eos_ids == (2, 0)  # the turn's end, which the file names; the document's end
    assert (tokenizer.pad_id, tokenizer.unk_id) == (2, 0)
    assert not tokenizer.add_bos
    assert tokenizer.chat_template == metadata["tokenizer.chat_template"]
    assert tokenizer.special_ids == frozenset(range(17))


# -- single tokens ----------------------------------------------------------------------------------------------------


def test_decode_is_the_bytes_of_the_tokens_put_together(tokenizer: Tokenizer, theirs: Any) -> None:
    rng = random.Random(3)
    for _ in range(50):
        ids = [rng.randrange(tokenizer.n_vocab) for _ in range(31)]
        raw = b"".join(map(tokenizer.token_bytes, ids))
        assert tokenizer.decode(ids) == raw.decode("utf-8", errors="replace") == theirs.decode(ids)


def test_decode_can_leave_special_tokens_out(tokenizer: Tokenizer) -> None:
    ids = [1, *tokenizer.encode("user"), 2]
    assert tokenizer.decode(ids) == "<|im_start|>user<|im_end|>"
    assert tokenizer.decode(ids, skip_special=True) == "user"


def test_token_text_replaces_half_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U00020000")
    assert len(ids) > 1
    assert b"".join(map(tokenizer.token_bytes, ids)) == "\U00020000".encode()
    assert all("\ufffd" in tokenizer.token_text(token) for token in ids)


def test_labels_are_one_visible_word(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_label(t) for t in tokenizer.encode(" future\n")] == ["\u2423future", "\\n"]
    assert tokenizer.token_label(2) == "<|im_end|>"
    assert label(b"\xe2\x80 \t\xc2\xa0\x1b[1m") == "\\xe2\\x80\u2423\\t\\xa0\\x1b[1m"
    for token in range(0, tokenizer.n_vocab, 97):
        shown = tokenizer.token_label(token)
        assert shown
        assert shown.isprintable()
        assert " " not in shown


@pytest.mark.parametrize("token", [-1, 49152, 10**20])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=rf"{token} is outside the vocabulary: expected 0 to 49151"):
        tokenizer.decode([token])


# -- input that is not text -------------------------------------------------------------------------------------------


def test_lone_surrogates_are_refused_with_their_place(tokenizer: Tokenizer) -> None:
    for call in (tokenizer.encode, tokenizer.split_special):
        with pytest.raises(TokenizerError, match=r"character 2: .* lone surrogate U\+D83D"):
            call("ab\ud83dc")


def test_bytes_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="expected str, found bytes"):
        tokenizer.encode(b"abc")  # type: ignore[arg-type]


def test_characters_without_bytes_are_left_out_with_a_warning(tokenizer: Tokenizer, theirs: Any) -> None:
    text = "a\x04b\U00040000\x04"
    with pytest.warns(UserWarning, match=r"cannot write U\+0004, U\+40000: left out") as caught:
        ids = tokenizer.encode(text)
    assert caught[0].filename == __file__
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert tokenizer.missing_characters(text) == ["\x04", "\U00040000"]
    assert tokenizer.missing_characters("plain \u00e9 \U0001f600") == []


@pytest.mark.parametrize("text", [" " * 200_000 + "x", "a" * 200_000, "1" * 100_000, "\n \t" * 50_000])
def test_long_runs_take_linear_time(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


# -- sharing ----------------------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    texts = [f"<|im_start|>{name} {text[:200]}<|im_end|>" for name, text in NASTY.items()] * 5
    expected = [(tokenizer.encode(t), tokenizer.encode(t, parse_special=True)) for t in texts]

    def both(text: str) -> tuple[list[int], list[int]]:
        return tokenizer.encode(text), tokenizer.encode(text, parse_special=True)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(both, texts)) == expected


def test_a_tokenizer_cannot_be_changed(tokenizer: Tokenizer) -> None:
    with pytest.raises(AttributeError):
        tokenizer.bos_id = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        tokenizer.other = 3  # type: ignore[attr-defined]


# -- the fake ---------------------------------------------------------------------------------------------------------


def _public(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_the_fake_has_the_surface_of_the_tokenizer() -> None:
    assert _public(Tokenizer) == _public(AnyTokenizer) | {"from_gguf", "from_folder", "save", "vocabulary"}
    assert _public(ByteTokenizer()) == _public(AnyTokenizer) | {"from_gguf", "from_folder"}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_fake_keeps_the_same_promises(text: str) -> None:
    fake = ByteTokenizer(add_bos=True)
    assert fake.decode(fake.encode(text), skip_special=True) == text
    assert fake.encode(text + "<eos>", add_special=False, parse_special=True)[-1] == 257
    assert 257 not in fake.encode(text + "<eos>")
    with pytest.raises(TokenizerError):
        fake.encode(text + "\ud800")
