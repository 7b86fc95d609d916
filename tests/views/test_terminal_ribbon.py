"""The ribbon in a terminal: colours as the terminal has them, marks where it has none, lines that fit."""

from __future__ import annotations

import re

import pytest

from fakes.traces import a_trace
from fanlight.errors import OptionError
from fanlight.tracing.trace import Trace
from fanlight.views.ribbon_colors import color, ink_on, share_of
from fanlight.views.terminal import Canvas, columns
from fanlight.views.terminal_ribbon import nearest, ribbon_text

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
TRUE = {"COLORTERM": "truecolor"}


def letters(n_steps: int = 40, **options: object) -> Trace:
    """A text of words without line ends."""
    words = [b"<eos>", *(b" %c%c" % (97 + i % 26, 97 + i % 7) for i in range(32))]
    return a_trace(n_steps=n_steps, vocabulary=words, lens=False, attention=False, **options)  # type: ignore[arg-type]


def test_a_token_has_the_colour_of_the_other_ribbons() -> None:
    trace = letters()
    text = ribbon_text(trace, Canvas(width=400, color=True), environ=TRUE)
    record = max(trace.steps, key=lambda r: -r.raw_logprob)
    ground = color(share_of(record, "surprise"), dark=True)
    ink = ink_on(ground)
    code = ";".join(map(str, (48, 2, *ground, 38, 2, *ink)))
    assert f"\x1b[{code}m{trace.token_text(record.id)}\x1b[0m" in text


def test_a_light_terminal_gets_the_light_scale() -> None:
    trace = letters()
    record = max(trace.steps, key=lambda r: -r.raw_logprob)
    light = ";".join(map(str, color(share_of(record, "surprise"))))
    canvas = Canvas(width=400, color=True)
    assert f"48;2;{light};" in ribbon_text(trace, canvas, environ={**TRUE, "COLORFGBG": "0;15"})
    assert f"48;2;{light};" in ribbon_text(trace, canvas, environ=TRUE, dark=False)
    assert f"48;2;{light};" not in ribbon_text(trace, canvas, environ={**TRUE, "COLORFGBG": "15;0"})


def test_without_truecolour_it_takes_the_256_colours() -> None:
    text = ribbon_text(letters(), Canvas(width=80, color=True), environ={})
    assert re.search(r"\x1b\[48;5;\d+;38;5;\d+m", text)
    assert "48;2;" not in text


@pytest.mark.parametrize(
    ("rgb", "number"),
    [((0, 0, 0), 16), ((255, 255, 255), 231), ((255, 0, 0), 196), ((118, 118, 118), 243), ((95, 135, 0), 64)],
)
def test_the_nearest_colour_of_a_terminal(rgb: tuple[int, int, int], number: int) -> None:
    assert nearest(rgb) == number


@pytest.mark.parametrize("unicode", [True, False])
def test_without_colour_marks_stand_beneath_each_token(unicode: bool) -> None:
    trace = letters(20)
    text = ribbon_text(trace, Canvas(width=300, unicode=unicode), environ=TRUE)
    assert "\x1b" not in text
    assert text.isascii() or unicode
    line, marks = text.split("\n")[-2:]
    at = len(trace.header.prompt or "")
    assert line[:at].strip()
    for piece, record in zip(trace.pieces, trace.steps, strict=True):
        width = len(piece) if piece else len("<eos>")
        share = share_of(record, "surprise")
        expected = " " if share < 0.03 else (" ▁▂▃▄▅▆▇█" if unicode else " 12345678")[max(1, round(share * 8))]
        assert marks[at : at + width].ljust(width) == expected * width
        at += width


@pytest.mark.parametrize("width", [9, 31, 60, 97])
@pytest.mark.parametrize("alternatives", [0, 3])
def test_no_line_is_wider_than_the_terminal_and_no_token_is_lost(width: int, alternatives: int) -> None:
    trace = a_trace(n_steps=67)
    canvas = Canvas(width=width, color=True)
    text = ESCAPES.sub("", ribbon_text(trace, canvas, alternatives=alternatives, environ=TRUE))
    body = text.split("\n")[2:]
    if width >= 31:
        assert max(columns(line) for line in body) <= width
    if not alternatives:
        said = re.sub(r"\s", "", "".join(body)).replace("<eos>", "")
        wanted = (trace.header.prompt or "") + trace.text
        assert re.sub(r"\\xbc|\\xc3", "", said) == re.sub(r"\s", "", wanted)


def test_a_word_of_several_tokens_is_not_broken_where_there_is_room() -> None:
    words = [b"<eos>", *(b"ab" if i % 3 else b" cd" for i in range(32))]
    trace = a_trace(n_steps=60, vocabulary=words, n_prompt=0, attention=False)
    lines = ribbon_text(trace, Canvas(width=40, color=True), environ=TRUE).split("\n")[2:]
    plain = [ESCAPES.sub("", line) for line in lines]
    longest = max(len(word) for word in "".join(trace.pieces).split())
    assert longest < 40
    assert len(plain) > 2
    assert all(line.startswith((" cd", "<eos>")) for line in plain[1:])


def test_alternatives_stand_under_their_token() -> None:
    trace = letters(3, n_prompt=0)
    lines = ribbon_text(trace, Canvas(width=200), alternatives=2, environ={}).split("\n")[2:]
    at = 0
    for record in trace.steps:
        best = sorted((c for c in record.candidates if c.id != record.id), key=lambda c: -c.raw_prob)[:2]
        for k, c in enumerate(best):
            assert lines[2 + k][at:].startswith(trace.token_label(c.id))
        at += (
            max(len(f"{trace.token_label(c.id)} ") for c in best)
            + len(max((re.split(r"(?<=%) ", lines[2 + k][at:])[0].split(" ")[1] for k in range(2)), key=len))
            + 1
        )


def test_an_incomplete_trace_says_so_and_a_wrong_number_is_refused() -> None:
    canvas = Canvas(width=80)
    assert ribbon_text(a_trace(n_steps=2, complete=False, problem="no room"), canvas).endswith("incomplete: no room")
    for wrong in (-1, 10, True, 1.5):
        with pytest.raises(OptionError, match="from 0 to 9"):
            ribbon_text(letters(2), canvas, alternatives=wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="can be coloured by"):
        ribbon_text(letters(2), canvas, by="heat")
    assert ribbon_text(a_trace(n_steps=0), canvas).startswith("surprise, nats: ")


def test_no_sign_of_a_text_reaches_the_terminal_as_a_command() -> None:
    words = [b"<eos>", b"\x1b[2J", b"\r\x07", *(b" w" for _ in range(30))]
    text = ribbon_text(a_trace(n_steps=60, vocabulary=words), Canvas(width=70))
    assert not {"\x1b", "\r", "\x07"} & set(text)
