"""The detokenizer: pieces add up to the whole, and none holds half a character."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from fanlight.text.stream import Detokenizer

if TYPE_CHECKING:
    from fanlight.text.tokenizer import Tokenizer

_VALID = "na\u00efve \u65e5\u672c \U0001f468\u200d\U0001f469 \u0301"


def _stream(pieces: list[bytes], skip: set[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(lambda token: pieces[token], skip or set())
    return [*map(detokenizer.feed, range(len(pieces))), detokenizer.flush()]


# Bytes that often are UTF-8, or nearly: cut anywhere, and with wrong bytes between.
_NEARLY_UTF8 = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3).map(str.encode),
        st.binary(max_size=4),
        st.sampled_from(
            [b"\xf0\x9f", b"\x98\x80", b"\xe2", b"\x82\xac", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0\x80", b""]
        ),
    ),
    max_size=12,
)


@given(_NEARLY_UTF8)
def test_pieces_add_up_to_the_decoding_of_the_whole(pieces: list[bytes]) -> None:
    assert "".join(_stream(pieces)) == b"".join(pieces).decode("utf-8", errors="replace")


@given(st.lists(st.integers(1, 5), max_size=30))
def test_valid_text_cut_anywhere_never_shows_a_replacement(lengths: list[int]) -> None:
    raw, pieces, start = _VALID.encode(), [], 0
    for length in lengths:
        pieces.append(raw[start : start + length])
        start += length
    shown = _stream([*pieces, raw[start:]])
    assert "".join(shown) == _VALID
    assert all("\ufffd" not in piece for piece in shown)


def test_a_character_appears_with_its_last_byte() -> None:
    assert _stream([b"a\xe2", b"\x82", b"\xac", b"b"]) == ["a", "", "\u20ac", "b", ""]


def test_an_unfinished_character_appears_at_the_end() -> None:
    assert _stream([b"ab\xf0\x9f", b"\x98"]) == ["ab", "", "\ufffd"]


def test_skipped_tokens_leave_no_text_and_do_not_break_a_character() -> None:
    assert _stream([b"\xe2\x82", b"<|im_end|>", b"\xac"], skip={1}) == ["", "", "\u20ac", ""]


def test_after_flush_a_new_text_begins() -> None:
    detokenizer = Detokenizer({0: b"\xe2", 1: b"\x82\xac"}.__getitem__)
    assert (detokenizer.feed(0), detokenizer.flush()) == ("", "\ufffd")
    assert detokenizer.feed(1) == "\ufffd\ufffd"


@given(st.data())
def test_any_ids_of_the_default_model_stream_as_they_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_vocab - 1), max_size=30))
    for skip in (frozenset[int](), tokenizer.special_ids):
        detokenizer = Detokenizer(tokenizer.token_bytes, skip)
        text = "".join(map(detokenizer.feed, ids)) + detokenizer.flush()
        assert text == tokenizer.decode(ids, skip_special=bool(skip))
