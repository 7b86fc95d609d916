"""Attention in a terminal: shades and numbers are the weights, in what order it was recorded."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import OptionError
from fanlight.trace.looks import Attention
from fanlight.views.attention import looked
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_attention import attention_pair_text, attention_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, said, unbroken

WORDS = ["The", "\u2423cat", "\u2423sat", "\u2423on", "\u2423the", "\u2423mat"]


def weights(n: int, *, layers: int = 2, heads: int = 3, encoder: bool = False, queries: int | None = None) -> Attention:
    random = np.random.default_rng(n)
    scores = random.normal(0, 1.5, (layers, heads, n, n))
    if not encoder:
        scores[..., np.triu(np.ones((n, n), bool), 1)] = -np.inf
    found = np.exp(scores - scores.max(-1, keepdims=True))
    found /= found.sum(-1, keepdims=True)
    first = n - (queries or n)
    return Attention(
        layers=tuple(range(5, 5 + layers)), heads=tuple(range(heads)), queries=tuple(range(first, n)),
        weights=found[:, :, first:].astype(np.float16), windows=(0,) * layers,
    )  # fmt: skip


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize(("n", "queries"), [(1, 1), (6, 6), (31, 7), (97, 97)])
def test_all_views_fit(canvas: Canvas, n: int, queries: int) -> None:
    found, labels = weights(n, heads=17, queries=queries), (WORDS * 20)[:n]
    for where in ({}, {"layer": 5}, {"layer": -1, "head": 11}):
        check(attention_text(found, labels, **where, canvas=canvas), canvas)


@anything
@given(st.lists(LABELS, min_size=3, max_size=9), SIZES)
def test_all_views_fit_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    found = weights(len(labels))
    check(attention_text(found, labels, layer=5, head=0, canvas=canvas), canvas)
    names = ["x", *labels]
    other = weights(len(names), encoder=True)
    check(attention_pair_text(other, other, names, names, token="x", canvas=canvas), canvas)


def test_a_head_holds_its_weights_in_percent_and_where_most_goes() -> None:
    found = weights(6)
    rows = lines(attention_text(found, WORDS, layer=6, head=2, canvas=Canvas(width=80)))[-8:-2]
    for i, row in enumerate(rows):
        own = found.weights[1, 2, i].astype(float)
        cells = re.match(rf"{i} \S+ +", row)
        assert cells is not None
        at = 7
        numbers = [row[at + 3 * j : at + 3 * j + 3].strip() for j in range(6)]
        assert numbers == [
            "\u00b7" if j > i else str(round(own[j] * 100)) if round(own[j] * 100) else "" for j in range(6)
        ]
        most = int(own.argmax())
        assert row.endswith(f" {most} {WORDS[most]}")


def test_a_long_text_shows_its_last_queries_and_says_so() -> None:
    text = attention_text(weights(97), (WORDS * 20)[:97], layer=5, head=0, canvas=Canvas(width=60, unicode=False))
    assert (
        "Shown: the last 40 of 97 queries. Of 97 keys, those that share a column have their largest weight."
        in unbroken(text)
    )
    assert len([line for line in lines(text) if re.match(r"\d\d _?\w+ ", line)]) == 40
    assert lines(text)[-3].startswith("96 ")


def test_the_whole_model_has_a_cell_for_each_head() -> None:
    found = weights(9, layers=3, heads=4)
    text = said(attention_text(found, (WORDS * 2)[:9], canvas=Canvas(width=80)))
    for i in range(3):
        row = next(line for line in text.split("\n") if re.match(rf" +{5 + i}  [FIBO]", line))
        for j, cell in enumerate(re.findall(r"[FIBO][ \d]\d", row)[:4]):
            one = looked(found, i, j)
            parts = {"F": one.first, "I": one.itself, "B": one.previous, "O": one.rest}
            name = max(parts, key=lambda part: parts[part])
            assert cell == f"{name}{min(99, round(parts[name] * 100)):>2}"


def test_a_layer_shows_each_head_and_says_the_same_without_colour() -> None:
    found = weights(20, heads=5)
    for canvas in (Canvas(width=80), Canvas(width=80, color=True), Canvas(width=80, color=True, unicode=False)):
        text = said(attention_text(found, (WORDS * 4)[:20], layer=5, canvas=canvas))
        assert re.findall(r"head (\d)", text) == list("01234")
        assert len(re.findall(r"(?:first|itself|before|others) \d+%", text)) == 5


def test_a_decoder_may_not_see_what_follows_and_an_encoder_may() -> None:
    names = ["[CLS]", *(word.strip("\u2423").lower() for word in WORDS), "[SEP]"]
    text = attention_pair_text(weights(6), weights(8, encoder=True), WORDS, names, canvas=Canvas(width=90))
    assert "What 'sat' may look at: 3 of 6 tokens in the decoder, 8 of 8 tokens in the encoder" in unbroken(text)
    assert len(re.findall(r"\u2423(?:on|the|mat) +\u00d7", said(text))) == 3
    assert len(re.findall(r"\u25b8 \S*sat +[\d.]+%", said(text))) == 2
    mean = float(weights(8, encoder=True).weights.astype(float).mean((0, 1))[3, 6])
    assert re.search(rf"mat +{mean:.0%}" if mean >= 0.0995 else rf"mat +{mean:.1%}", said(text))


def test_what_was_not_recorded_is_refused() -> None:
    found, canvas = weights(6), Canvas()
    with pytest.raises(OptionError, match="head 1 of which layer"):
        attention_text(found, WORDS, head=1, canvas=canvas)
    with pytest.raises(OptionError, match="layer 4 was not recorded; there is 5, 6"):
        attention_text(found, WORDS, layer=4, canvas=canvas)
    with pytest.raises(OptionError, match="a label for each of the 6"):
        attention_text(found, WORDS[1:], canvas=canvas)
    with pytest.raises(OptionError, match="the sentence has no token 'dog'"):
        attention_pair_text(found, found, WORDS, WORDS, token="dog", canvas=canvas)
    with pytest.raises(OptionError, match=r"position 0 .The. was not recorded as a query"):
        attention_pair_text(weights(6, queries=2), found, WORDS, WORDS, token="the", canvas=canvas)
