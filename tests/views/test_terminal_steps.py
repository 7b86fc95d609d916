"""The window onto one step: what is in it, and that it fits."""

from __future__ import annotations

import re

import pytest

from fanlight.trace.stop import Stop, StopReason
from fanlight.views.terminal import Canvas, columns
from fanlight.views.terminal_steps import closing, colored_text, heading, legend, step_window
from views.records import label, record

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
PROBS = [0.5, 0.3, 0.1, 0.06, 0.04]
COOLER = [0.7, 0.22, 0.05, 0.02, 0.01]
CUT = [0.7, 0.22, 0.0, 0.0, 0.0]  # as a filter leaves them: not normalised again
EFFECTS = [("temperature(0.7)", False, COOLER), ("top_p(0.9)", True, CUT)]


def test_without_processors_a_row_is_a_name_a_number_and_a_bar() -> None:
    lines = step_window(record(PROBS), label, Canvas(), index=0, rows=3).split("\n")
    assert lines[0] == "  1  [␣tok0]  50.0% · rank 1 · entropy 1.24 nats · end of text 4.0%"
    assert re.fullmatch(r" {5}▸ ␣tok0 +50\.0%  █+", lines[1])
    assert re.fullmatch(r" {7}␣tok1 +30\.0%  █+[▏▎▍▌▋▊▉]?", lines[2])
    assert re.fullmatch(r" {7}2 others +10\.0%  ░+", lines[4])
    assert len(lines) == 5
    assert lines[1].count("█") > lines[2].count("█") > lines[3].count("█")


def test_with_processors_both_sides_show_and_a_removed_token_names_its_filter() -> None:
    lines = step_window(record(PROBS, effects=EFFECTS), label, Canvas(), index=11, rows=3).split("\n")
    assert lines[0].startswith(" 12  [␣tok0]  50.0% → 76.1% · rank 1 · entropy 1.24 → 0.55 nats")
    assert re.fullmatch(r" +▐?█+  50\.0% +▸␣tok0◂ +76\.1%  █+[▏▎▍▌▋▊▉]?", lines[1])
    assert re.fullmatch(r" +▐?█*  10\.0% +␣tok2 +╌╌ top_p\(0\.9\)", lines[3])
    assert re.fullmatch(r" +░+  10\.0% +2 others +╌╌ all cut", lines[4])
    assert re.fullmatch(r" {5}temperature\(0\.7\) +entropy 1\.24 → 0\.86", lines[5])
    assert re.fullmatch(r" {5}top_p\(0\.9\) +2 of 5 left +cuts 8\.0% +entropy 0\.86 → 0\.55", lines[6])


def test_a_filter_that_keeps_all_says_so() -> None:
    window = step_window(record(PROBS, effects=[("top_k(50)", True, PROBS)]), label, Canvas(), index=0, rows=3)
    assert "all 5 left" in window
    assert "cuts" not in window


def test_the_others_that_are_left_have_their_share() -> None:
    only_top = [("top_k(4)", True, [0.5, 0.3, 0.1, 0.06, 0.0])]
    window = step_window(record(PROBS, effects=only_top), label, Canvas(), index=0, rows=3)
    assert re.search(r"10\.0% +2 others +6\.2% +░", window)


def test_the_chosen_token_shows_even_if_it_was_improbable() -> None:
    window = step_window(record(PROBS, chosen=4, effects=EFFECTS[:1]), label, Canvas(), index=0, rows=2)
    assert "▸␣tok4◂" in window
    assert "␣tok0" in window
    assert "␣tok1" not in window
    assert "rank 5" in window


def test_a_certain_step_is_short() -> None:
    lines = step_window(record([0.9999, 0.00006, 0.00004]), label, Canvas(), index=0, rows=3).split("\n")
    assert len(lines) == 3  # the facts, the one token, all others
    assert "2 others" in lines[2]


def test_the_end_is_told_with_its_reason() -> None:
    stop = Stop(StopReason.STOP_STRING, "stopped by the stop string '\\n'\x1b")
    window = step_window(record(PROBS, stop=stop), label, Canvas(), index=0, rows=3)
    assert window.endswith("ends here: stopped by the stop string '\\n'\\x1b")


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("unicode", [False, True])
def test_every_picture_fits_its_canvas(width: int, color: bool, unicode: bool) -> None:
    canvas = Canvas(width=width, color=color, unicode=unicode)
    some = record(PROBS, effects=EFFECTS)
    long_label = "␣internationalisation".__mul__
    pictures = [
        heading(canvas, two_sided=True),
        heading(canvas, two_sided=False),
        *step_window(some, lambda token: long_label(token + 1), canvas, index=998, rows=3).split("\n")[1:-2],
        *step_window(record(PROBS), lambda token: "日本" * 20, canvas, index=998, rows=3).split("\n")[1:],
    ]
    for line in pictures:
        bare = ESCAPE.sub("", line)
        assert columns(bare) <= width
        assert color or "\x1b" not in line
        assert unicode or bare.isascii()


def test_the_text_in_colour_is_the_text() -> None:
    pieces = [("Hello", 0.9), ("\nwor", 0.3), ("ld", 0.01)]
    painted = colored_text(pieces, Canvas(color=True))
    assert ESCAPE.sub("", painted) == "Hello\nworld"
    assert len(set(ESCAPE.findall(painted))) == 4  # three colours and their end
    assert colored_text(pieces, Canvas()) == "Hello\nworld"
    assert legend(Canvas()) == ""
    assert "less than 5%" in legend(Canvas(color=True))


def test_closing_names_the_least_expected_token_and_the_widest_choice() -> None:
    records = [record([0.9, 0.1]), record(PROBS, chosen=1), record([0.6, 0.4])]
    text = closing(records, label, Canvas())
    assert "perplexity 1.83" in text  # (0.9 * 0.3 * 0.6) ** (-1 / 3)
    assert "least expected ␣tok1 (30.0%, step 2)" in text
    assert "widest choice at step 2" in text
    assert closing([], label, Canvas()) == ""
