"""The page of a comparison: complete, escaped, without a network, and right without its script."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fanlight.comparing.records import Alternative, Comparison, Text
from fanlight.errors import OptionError
from fanlight.views.comparison import part_in_words
from fanlight.views.comparison_html import comparison_page, save_page
from fanlight.views.terminal import percent
from views.test_comparison import comparison, text_of, three, token, variant

HOSTILE = '</script></p><img src=x onerror="alert(1)">&amp;\u2028\x1b[2J'


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the texts of spans, the data."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.columns: list[dict[str, str | None]] = []
        self.tokens: list[list[tuple[str, set[str]]]] = []
        self.script = self.words = ""
        self.feed(page.replace("<wbr>", ""))  # where a word may break is no part of it
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in self.VOID:
            self.open.append(tag)
        kinds = set((found.get("class") or "").split())
        if "text" in kinds:
            self.columns.append(found)
            self.tokens.append([])
        if "t" in kinds:
            self.tokens[-1].append(("", kinds))
            self.open[-1] = "token"
        if found.get("id") == "data":
            self.open[-1] = "data"

    def handle_endtag(self, tag: str) -> None:
        top = self.open.pop()
        assert tag == {"token": "span", "data": "script"}.get(top, top), f"<{top}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where == "token":
            text, kinds = self.tokens[-1][-1]
            self.tokens[-1][-1] = (text + data, kinds)
        elif where == "data":
            self.script += data
        elif where not in ("style", "script"):
            self.words += data + "\n"


def hostile() -> Comparison:
    other = Alternative(5, HOSTILE, 0.3, 0.0, HOSTILE)
    first = variant(HOSTILE, text_of("a", HOSTILE))
    return comparison(
        first,
        variant("other", text_of("a", token("b", others=(other,)), stop_detail=HOSTILE)),
        prompt=HOSTILE,
        model=HOSTILE,
    )


def test_every_token_of_every_text_is_there_in_order() -> None:
    found = three(samples=3)
    page = Page(comparison_page(found))
    assert not page.open
    assert len(page.columns) == 9
    data = json.loads(page.script)["texts"]
    for column, tokens in zip(page.columns, page.tokens, strict=True):
        text = found.variants[int(column["data-variant"] or "")].texts[int(column["data-sample"] or "")]
        assert "".join(word for word, _ in tokens) == text.text
        rows = data[int(column["data-text"] or "")]
        assert [row[1] for row in rows] == list(text.ids)
        assert [row[2] for row in rows] == [percent(token.raw_prob) for token in text.tokens]


def test_what_is_shared_and_where_it_parts_is_marked_without_a_script() -> None:
    found = three(samples=1)
    first, second, third = Page(comparison_page(found)).tokens
    assert not any({"same", "parts"} & kinds for _, kinds in first)
    assert all("same" in kinds for _, kinds in second)
    assert [sorted({"same", "parts"} & kinds) for _, kinds in third] == [["same"], ["parts"], [], []]
    assert "parts at token 2: ␣warm" in Page(comparison_page(found)).words


def test_a_probability_is_the_same_in_the_data_as_in_a_terminal() -> None:
    edge = 0.113496  # 0.1135 to four digits, which a second rounding makes 11.4%
    there = Alternative(sum(b"b"), "b", edge, edge, None)
    here = token("c", prob=edge, final=0.0, others=(there,))
    found = comparison(variant("one", text_of("a", "b")), variant("two", text_of("a", here)))
    parted = found.divergence(1, 0)
    assert parted is not None
    assert "11.3% → 0%" in part_in_words(parted)
    row = json.loads(Page(comparison_page(found)).script)["texts"][1][1]
    assert row[2:4] == ["11.3%", "0%"]
    assert row[6][0][2:4] == ["11.3%", "11.3%"]


def test_every_measure_has_its_name_beside_it_for_a_narrow_screen() -> None:
    source = comparison_page(three())
    names = re.findall(r'<td[^>]*><span class="key">([^<]+) <small>', source)
    heads = re.findall(r"<abbr[^>]*>([^<]+)</abbr>", source)
    assert names == heads * 3


def test_what_draws_nothing_stands_beside_every_sample() -> None:
    from dataclasses import replace

    found = three(samples=2)
    still = replace(found.variants[0], draws=False, texts=found.variants[0].texts[:1])
    page = Page(comparison_page(replace(found, variants=(still, *found.variants[1:]))))
    assert [column["data-text"] for column in page.columns if column["data-variant"] == "0"] == ["0", "0"]
    assert "The same for every sample" in page.words


def test_nothing_of_a_text_becomes_markup() -> None:
    source = comparison_page(hostile())
    page = Page(source)
    assert not page.open
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert "\x1b" not in source
    assert page.tokens[0][1][0] == HOSTILE.replace("\x1b", "\\x1b")
    assert json.loads(page.script)["texts"][1][1][6][0][0] == HOSTILE
    assert HOSTILE.replace("\x1b", "\\x1b") in page.words.replace("\n", "")


def test_the_page_asks_nothing_of_a_network_and_may_not() -> None:
    source = comparison_page(three())
    page = Page(source)
    assert not re.search(
        r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|document\.write",
        source.partition("</style>")[2],
    )
    assert not re.search(r"@import|url\(", source)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object")
        assert not {"src", "href"} & set(attributes)
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_all_measures_are_in_the_table_with_units_and_meanings() -> None:
    page = Page(comparison_page(three()))
    for word in ("perplexity", "nats", "distinct-3", "Self-BLEU", "4.06", "2 max_new_tokens", "temperature 1.3"):
        assert word in page.words
    meanings = [attributes["title"] for tag, attributes in page.elements if tag == "abbr"]
    assert len(meanings) == 12
    assert all(meanings)


def test_a_failed_text_and_an_empty_one_have_a_column() -> None:
    found = comparison(variant("bad", Text(sample=0, seed=1, error="no <token>")), variant("none", text_of()))
    page = Page(comparison_page(found))
    assert "failed: no <token>" in page.words
    assert "no token" in page.words
    assert len(json.loads(page.script)["texts"]) == 2


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    save_page("one", target)
    save_page("two é", target)
    assert target.read_text(encoding="utf-8") == "two é"
    with pytest.raises(OptionError, match="cannot be written"):
        save_page("x", tmp_path / "no" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
