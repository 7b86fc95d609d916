"""How objects show themselves in notebooks: right without styles and scripts, escaped, and never an exception."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fakes.traces import a_search, a_trace
from fanlight.errors import OptionError
from fanlight.trace.distribution import Distribution
from fanlight.trace.stop import Stop, StopReason
from fanlight.views.notebook import MOST_TOKENS, html_of
from fanlight.views.ribbon_colors import contrast
from fanlight.views.ribbon_html import HEAT, MOST_HEAT, ribbon_html
from fanlight.views.terminal import percent
from views.records import label, record
from views.test_comparison import three
from views.test_comparison_html import HOSTILE

if TYPE_CHECKING:
    from fanlight import Model


class Shown(HTMLParser):
    """What is left where a viewer takes out styles: words with line breaks, tooltips, cells."""

    VOID = ("br", "meta", "hr")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words, self.titles, self.rows = "", list[str](), list[list[str]]()
        self.styles: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        assert set(found) <= {"style", "title", "dir", "role"}, found
        self.titles += [found["title"] or ""] if "title" in found else []
        self.styles += [found["style"] or ""] if "style" in found else []
        if tag == "br":
            self.words += "\n"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\n", " ") if "pre" not in self.open else data
        data = re.sub(" +", " ", data).replace("\u00a0", " ")  # as a browser folds blanks
        self.words += data.lstrip(" ") if self.words.endswith("\n") else data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_a_trace_shows_its_text_its_settings_and_what_each_token_was() -> None:
    trace = a_trace(n_steps=31)
    shown = Shown(html_of(trace))
    text = trace.text.replace("\t", "    ")
    assert re.sub(r"\s+", " ", text).strip()[:60] in re.sub(r"\s+", " ", shown.words).replace("<eos>", "")[:9999]
    assert "31 tokens by tiny-fake" in shown.words
    assert "ended cut off by max_new_tokens=31" in shown.words
    assert len(shown.titles) == 31
    for i, step in enumerate(trace.steps):
        assert shown.titles[i].startswith(
            f"step {i}: {trace.token_label(step.id)}  surprise {-step.raw_logprob:.2f} nats"
        )
    assert not {"script", "style"} & shown.tags


def test_line_ends_and_blanks_stay_without_styles() -> None:
    words = [b"<eos>", b"a\n\nb", b"  c", b"\td", *(b"x" for _ in range(29))]
    trace = a_trace(n_steps=200, vocabulary=words)
    assert {"a\n\nb", "  c", "\td"} <= set(trace.pieces)
    words_shown = Shown(html_of(trace)).words
    assert "a\n\nb" in words_shown
    assert "  c" in words_shown
    assert "    d" in words_shown


def test_an_incomplete_trace_says_so() -> None:
    shown = Shown(html_of(a_trace(n_steps=2, complete=False, problem="no room")))
    assert "This trace is incomplete: no room." in shown.words


def test_nothing_becomes_markup() -> None:
    words = [HOSTILE.encode(), b"<!--", "\u202e".encode(), b"\xff", *(b"%d" % i for i in range(29))]
    trace = a_trace(n_steps=30, vocabulary=words, prompt=HOSTILE, notes=(HOSTILE,), complete=False, problem="\ud800")
    for html in (html_of(trace), html_of(trace.steps[4])):
        shown = Shown(html)
        assert not {"img", "script"} & shown.tags
        assert not {"\x1b", "\u202e", "\ud800"} & set(html)
    page = ribbon_html(trace)
    assert "<img" not in page
    page.encode("utf-8")


def test_a_step_is_a_table_of_its_candidates() -> None:
    step = record(
        (0.5, 0.25, 0.125, 0.0625, 0.0625),
        chosen=1,
        effects=[("top_k(2)", True, (2 / 3, 1 / 3, 0, 0, 0))],
        stop=Stop(StopReason.EOS, "the end"),
    )
    shown = Shown(html_of(step))
    assert shown.rows[0] == ["token", "model", "chosen from"]
    assert shown.rows[1] == ["#0", "50.0%", percent(2 / 3)]
    assert shown.rows[2] == ["▸ #1", "25.0%", percent(1 / 3)]
    assert shown.rows[3][:2] == ["#2", "12.5%"]
    assert shown.rows[3][2].startswith("removed: ")
    assert shown.rows[4] == ["2 others", "12.5%", "all removed"]
    assert "ends here the end" in shown.words


def test_a_step_without_processors_has_no_second_column() -> None:
    shown = Shown(html_of(record((0.75, 0.25), shown=2)))
    assert shown.rows == [["token", "model"], ["▸ #0", "75.0%"], ["#1", "25.0%"]]


def test_a_distribution_says_how_much_is_left() -> None:
    row = np.log(np.array([0.6, *[0.4 / 46] * 46], np.float32))
    shown = Shown(html_of(Distribution.of_row(row, label, context="The cat")))
    assert shown.rows[1] == ["␣tok0", "60.0%"]
    assert shown.rows[-1] == ["27 others", percent(0.4 * 27 / 46)]
    assert "after The cat: entropy" in shown.words


def test_a_comparison_shows_every_setting_with_its_first_text() -> None:
    found = three(samples=2)
    shown = Shown(html_of(found))
    assert [row[0] for row in shown.rows[1:]] == [variant.label for variant in found.variants]
    assert all(v.texts[0].text in row[1] for v, row in zip(found.variants, shown.rows[1:], strict=True))


def test_a_search_says_how_many_texts_it_followed() -> None:
    shown = Shown(html_of(a_search([3, 4, 5, 6])))
    assert "beam search" in shown.words
    assert "nodes 6" in shown.words
    assert "pruned 2" in shown.words


def test_what_is_longer_than_its_colours_is_there_to_the_end() -> None:
    some = a_trace(n_steps=50).steps
    looks = {"lens": False, "attention": False, "contributions": False, "norms": False, "timings": False}
    trace = a_trace(records=[some[i % 50] for i in range(MOST_TOKENS + 7)], **looks)
    shown = Shown(html_of(trace))
    assert len(shown.titles) == MOST_TOKENS
    assert "from token 2,000 on without colour" in shown.words


@pytest.mark.parametrize("thing", [None, 3, object(), "<b>", [1]])
def test_anything_else_is_shown_in_its_own_words(thing: object) -> None:
    shown = Shown(html_of(thing))
    assert str(thing) in shown.words


def test_it_never_raises() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    class Trace(Broken):
        __module__ = "fanlight.somewhere"

    assert "Broken" in html_of(Broken())
    assert "Trace" in html_of(Trace())
    trace = a_trace(n_steps=2)
    assert "Trace(" in html_of(trace, by="no such measure")
    broken: Any = replace(trace.steps[0], candidate_ids=())
    assert "StepRecord" in Shown(html_of(broken)).words


def test_text_on_the_strongest_ground_can_be_read_on_light_and_on_dark() -> None:
    heat = [int(part) for part in HEAT.split(",")]
    for page, ink in ((255, 0), (17, 238)):
        ground = [round(page + (part - page) * MOST_HEAT) for part in heat]
        assert contrast((ink, ink, ink), (ground[0], ground[1], ground[2])) > 4.5


def test_the_ribbon_as_a_page_may_ask_for_nothing_and_names_its_measure() -> None:
    page = ribbon_html(a_trace(n_steps=9), by="entropy")
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "entropy: how undecided the model was" in page
    with pytest.raises(OptionError, match="can be coloured by"):
        ribbon_html(a_trace(n_steps=1), by="heat")


def test_a_generation_shows_its_text_and_the_settings_that_count(smollm: Model) -> None:
    found = smollm.generate("The cat", max_new_tokens=5, do_sample=True, temperature=0.9, seed=3)
    shown = Shown(html_of(found))
    assert found.text.strip() in shown.words
    assert len(shown.titles) == 5
    assert "temperature 0.9" in shown.words
    assert "seed 3" in shown.words
    assert "max_new_tokens 5" in shown.words
    step = Shown(html_of(found.steps[2]))
    assert step.words.startswith(f"step 2: {smollm.tokenizer.token_label(found.ids[2])}")
    assert len(step.rows) == 14  # head, 12 candidates, the others


def test_a_generation_without_records_is_plain_text(smollm: Model) -> None:
    found = smollm.generate("The cat", max_new_tokens=4, candidates=0)
    shown = Shown(html_of(found))
    assert found.text.strip() in shown.words
    assert shown.titles == []
    assert "not recorded" in html_of(found.steps[0])


def test_a_description_is_its_table(smollm: Model) -> None:
    found = smollm.describe()
    assert [row[0] for row in Shown(html_of(found)).rows] == list(found.facts)
