"""The line that a download draws on a terminal."""

from __future__ import annotations

import io

import pytest

from fanlight.checkpoints.progress import ProgressLine


def test_the_line_says_how_much_how_fast_and_how_long() -> None:
    line = ProgressLine(io.StringIO(), "org/name")
    line("a", 0, 200_000_000)
    text = line.text("model.safetensors", 50_000_000, 200_000_000, 2.0)
    assert text.startswith("org/name [######------------------] 50.0 of 200.0 MB  25.0 MB/s, 0:06 left")
    assert len(text) < 80


@pytest.mark.parametrize(("done", "total"), [(0, 0), (5, 0), (7, 5), (0, 10**15)])
def test_odd_numbers_are_drawn_too(done: int, total: int) -> None:
    line = ProgressLine(io.StringIO(), "n")
    line("a", 0, total)
    assert "MB" in line.text("a", done, total, 1.0)


def test_what_was_here_before_does_not_count_as_speed() -> None:
    line = ProgressLine(io.StringIO(), "n")
    line("a", 90_000_000, 100_000_000)
    assert "1.0 MB/s" in line.text("a", 92_000_000, 100_000_000, 2.0)


def test_control_characters_of_a_name_do_nothing() -> None:
    assert "\x1b" not in ProgressLine(io.StringIO(), "n").text("\x1b[2Jevil", 1, 2, 0.0)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_line_is_wiped_out_at_the_end(error: type[BaseException] | None) -> None:
    terminal = io.StringIO()
    try:
        with ProgressLine(terminal, "n") as line:
            line("a", 1, 2)
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert terminal.getvalue().endswith("a\x1b[K\r\x1b[K")


def test_a_terminal_that_is_gone_ends_no_download() -> None:
    terminal = io.StringIO()
    line = ProgressLine(terminal, "n")
    terminal.close()
    line("a", 1, 2)
