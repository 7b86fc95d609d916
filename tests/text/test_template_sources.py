"""Where chat templates come from: each file of a folder, several by name, GGUF; and the one that is used for tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.errors import TokenizerError
from fanlight.text.chat import ChatTemplate
from fanlight.text.template_sources import TemplateSources, sources_of_folder, sources_of_gguf

if TYPE_CHECKING:
    from pathlib import Path

NAMED = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]
CHAT = [{"role": "user", "content": "x"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("files", "config", "expected"),
    [
        ({}, {}, (None, None)),
        ({}, {"chat_template": None}, (None, None)),
        ({}, {"chat_template": "c"}, ("c", None)),
        ({}, {"chat_template": NAMED}, ("d", "t")),
        ({}, {"chat_template": NAMED[:1]}, ("d", None)),
        ({}, {"chat_template": []}, (None, None)),
        ({"chat_template.json": json.dumps({"chat_template": "j"})}, {"chat_template": "c"}, ("j", None)),
        ({"chat_template.json": json.dumps({"chat_template": NAMED})}, {"chat_template": "c"}, ("d", "t")),
        ({"chat_template.jinja": "é\n", "chat_template.json": "{"}, {"chat_template": NAMED}, ("é\n", None)),
        ({"chat_template.jinja": "a", "additional_chat_templates/tool_use.jinja": "b"}, {}, ("a", "b")),
    ],
)
def test_the_templates_of_a_folder(
    tmp_path: Path, files: dict[str, str], config: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert sources_of_folder(tmp_path, config) == expected


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_same_one_as_in_transformers(tmp_path: Path, tools: Any, theirs: Any) -> None:
    sources = sources_of_folder(tmp_path, {"chat_template": NAMED})
    assert sources.default is not None
    named = {item["name"]: item["template"] for item in NAMED}
    assert theirs.chat_template is None
    try:
        theirs.chat_template = named
        expected = theirs.apply_chat_template(CHAT, tools=tools, tokenize=False)
    finally:
        theirs.chat_template = None
    assert ChatTemplate(sources.default, tool_source=sources.tool_use).render(CHAT, tools=tools) == expected
    assert expected == ("d" if tools is None else "t")


def test_one_template_serves_chats_with_tools_too() -> None:
    assert ChatTemplate("{{ tools is none }}").render(CHAT, tools=TOOLS) == "False"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (7, "tokenizer_config.json: chat_template: expected text, found int"),
        ({"default": "x"}, "chat_template: expected text, found dict"),
        ([{"name": "default"}], r"chat_template\[0\]: expected a name and a template, found {'name': 'default'}"),
        ([NAMED[0], "x"], r"chat_template\[1\]: expected a name and a template, found 'x'"),
        ([NAMED[0], NAMED[0]], r"chat_template\[1\]: the name 'default' occurs twice"),
        (NAMED[1:], "expected a template named 'default', found 'tool_use', 'rag'"),
    ],
)
def test_templates_that_are_none(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        sources_of_folder(tmp_path, {"chat_template": config})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("chat_template.json", b"{", "chat_template.json: expected JSON"),
        ("chat_template.json", b"[" * 99_999, "chat_template.json: expected JSON"),
        ("chat_template.json", b"[]", "expected an object with 'chat_template', found list"),
        ("chat_template.json", b'{"chat_template": 1}', "chat_template.json: chat_template: expected text, found int"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: expected UTF-8 text"),
        ("chat_template.jinja", b"x" * (1 << 20) + b"x", "expected at most 1048576 bytes, found more"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TokenizerError, match=message):
        sources_of_folder(tmp_path, {})


def test_the_templates_of_a_gguf_file() -> None:
    key = "tokenizer.chat_template"
    assert sources_of_gguf({}) == TemplateSources(None)
    assert sources_of_gguf({key: "a"}) == TemplateSources("a")
    assert sources_of_gguf({key: "a", key + ".tool_use": "b", key + "s": ["tool_use"]}) == TemplateSources("a", "b")
    with pytest.raises(TokenizerError, match=r"tokenizer\.chat_template\.tool_use: expected text, found int"):
        sources_of_gguf({key + ".tool_use": 1})
