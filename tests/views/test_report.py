"""The page of a trace as a file: complete, escaped, without a network. What it does in a browser: test_report_in_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fakes.traces import a_trace
from fanlight.errors import OptionError
from fanlight.views.report import report_html, write_report
from views.test_comparison_html import HOSTILE, Page


def test_the_page_asks_nothing_of_a_network_and_may_not() -> None:
    source = report_html(a_trace())
    page = Page(source)
    assert not page.open
    code = source.replace(page.script, "").replace("http://www.w3.org/2000/svg", "")  # a name, which is not fetched
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|document\.write|eval\(", code)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "img")
        assert not {"src", "href"} & set(attributes)
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_nothing_of_a_trace_becomes_markup() -> None:
    words = [HOSTILE.encode(), b"<!--", b"]]>", "\u202eabc".encode(), b"\xff", b"\x00", *(b"%d" % i for i in range(27))]
    trace = a_trace(n_steps=40, vocabulary=words, prompt=HOSTILE, problem=HOSTILE, complete=False, notes=(HOSTILE,))
    source = report_html(trace)
    page = Page(source)
    assert not page.open
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert "\x1b" not in source
    assert "\x00" not in source
    data = json.loads(page.script)
    assert data["notes"] == [HOSTILE]
    assert "".join(data["pieces"]) == trace.text
    assert page.script.isascii()


def test_a_lone_surrogate_does_not_break_the_file(tmp_path: Path) -> None:
    trace = a_trace(n_steps=3, prompt="a\udc80b", problem="\ud800", complete=False)
    write_report(trace, tmp_path / "page.html")
    assert "a?b" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_without_scripts_the_text_is_there() -> None:
    trace = a_trace(n_steps=6, complete=False, problem="the disk is full")
    words = Page(report_html(trace)).words
    assert trace.header.prompt in words
    assert "This trace is incomplete: the disk is full." in words


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    trace = a_trace(n_steps=2)
    write_report(trace, tmp_path / "page.html", by="rank")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == report_html(trace, by="rank")
    with pytest.raises(OptionError, match="cannot be written"):
        write_report(trace, tmp_path / "no" / "page.html")
    with pytest.raises(OptionError, match="did you mean 'entropy'"):
        write_report(trace, tmp_path / "page.html", by="entropi")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
