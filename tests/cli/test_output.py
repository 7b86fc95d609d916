"""Where text goes: colour, closed and full streams, control characters."""

from __future__ import annotations

import io

import pytest

from fanlight.cli.output import Output, OutputError, decode_utf8
from fanlight.errors import FanlightError


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no descriptor")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("flag", "variables", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_follows_the_flag_then_the_environment_then_the_terminal(
    monkeypatch: pytest.MonkeyPatch, flag: str, variables: dict[str, str], terminal: bool, expected: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = Output(Terminal() if terminal else io.StringIO(), None)
    output.color = flag
    assert output.canvas.color is expected


@pytest.mark.parametrize(("columns", "width"), [("70", 70), ("7", 60), ("999", 100), ("x", 80), ("0", 80)])
def test_the_width_is_the_terminals_within_reason(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Output(Terminal(), None).canvas.width == width


def test_pictures_are_ascii_where_the_encoding_is_not_unicode() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    output = Output(out, None)
    assert not output.canvas.unicode
    output.write_text("é日")  # does not raise
    out.seek(0)
    assert out.read() == "é?"


def test_control_characters_reach_a_pipe_and_not_a_terminal() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        Output(stream, None).write_text("a\x1b[2Jb\n")
    assert pipe.getvalue() == "a\x1b[2Jb\n"
    assert terminal.getvalue() == "a\\x1b[2Jb\n"


def test_end_line_adds_a_newline_only_where_one_is_missing() -> None:
    for text, expected in (("", ""), ("a", "a\n"), ("a\n", "a\n")):
        out = io.StringIO()
        output = Output(out, None)
        output.write_text(text)
        output.end_line()
        assert out.getvalue() == expected


def test_painted_text_counts_as_ended_where_its_last_character_is_a_newline() -> None:
    out = Terminal()
    output = Output(out, None)
    output.write_text("a\n", "dim")
    output.end_line()
    assert out.getvalue() == "\x1b[2ma\n\x1b[0m"


def test_a_note_in_the_middle_of_a_line_on_a_terminal_starts_a_new_one() -> None:
    screen = Terminal()
    output = Output(screen, screen)
    output.write_text("abc")
    output.note("so")
    assert screen.getvalue() == "abc\nnote: so\n"


def test_errors_and_notes_are_one_line_whatever_is_in_them() -> None:
    err = io.StringIO()
    output = Output(io.StringIO(), err)
    output.error("a\nb\x1b[2J")
    assert err.getvalue() == "fanlight: a b\\x1b[2J\n"


def test_notes_can_be_collected() -> None:
    output = Output(io.StringIO(), None)
    output.notes = []
    output.note("one")
    assert output.notes == ["one"]


def test_closed_streams_are_an_error_for_text_and_silence_for_notes() -> None:
    output = Output(None, None)
    output.note("nobody hears")
    with pytest.raises(OutputError, match="standard output is closed"):
        output.write("text")
    closed = io.StringIO()
    closed.close()
    Output(io.StringIO(), closed).error("nobody hears")


def test_the_first_byte_that_is_not_utf8_is_named() -> None:
    with pytest.raises(FanlightError, match="standard input is not valid UTF-8: byte 0xff at offset 4 of 6"):
        decode_utf8(b"\xc3\xa9ab\xff\xff", "standard input")
    assert decode_utf8("é".encode(), "x") == "é"
