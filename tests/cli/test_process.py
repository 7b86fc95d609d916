"""The command as a process of its own, with the default model: streams, signals, pipes, terminals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import COMMAND, environment, fanlight_process

PROMPT = "The future of artificial intelligence is"
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, pseudo-terminals and /dev/full are POSIX")


def test_generate_and_json_agree_and_nothing_but_the_text_is_on_standard_output() -> None:
    plain = fanlight_process("generate", PROMPT, "-n", "8")
    found = json.loads(fanlight_process("generate", "-", "-n", "8", "--json", stdin=PROMPT.encode()).out)
    assert plain.code == 0
    assert plain.out == found["text"] + "\n"
    assert plain.error.startswith("[cut off by max_new_tokens=8 in mid-sentence | 8 tokens | prefill 6 at ")
    assert len(found["steps"]) == 8
    assert len(found["steps"][0]["candidates"]) == 20


def test_explain_of_the_default_model() -> None:
    done = fanlight_process("generate", PROMPT, "-n", "2", "--explain", "--do-sample", "--top-p", "0.9", "--seed", "1")
    assert done.code == 0
    assert "top_k(50)               50 of 49,152 left" in done.out
    assert "top_p(0.9)" in done.out
    assert "␣to" in done.out
    assert "ends here: cut off by max_new_tokens=2" in done.out
    ascii_only = fanlight_process("generate", PROMPT, "-n", "1", "--explain", PYTHONIOENCODING="ascii")
    assert ascii_only.code == 0
    assert ascii_only.out.isascii()
    assert "_to" in ascii_only.out


def test_help_is_quick_and_imports_no_model_and_no_numbers() -> None:
    code = "import sys; from fanlight.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True, text=True)
    loaded = set(done.stdout.split("\n")[-2].split())
    heavy = {"numpy", "tokenizers", "jinja2", "argparse", "difflib", "json", "fanlight.api", "fanlight.kernels"}
    assert not loaded & heavy
    code = code.replace("'--help'", f"'generate', {PROMPT!r}, '-n', '1'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True, text=True)
    loaded = set(done.stdout.split("\n")[-2].split())
    assert "fanlight.api" in loaded
    assert not loaded & {"numpy", "jinja2", "argparse", "difflib", "statistics", "fanlight.views.terminal"}


@posix
def test_ctrl_c_keeps_the_text_and_ends_with_130() -> None:
    with _started("generate", PROMPT, "-n", "4000", "--ignore-eos") as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (first + out).endswith(b"\n")
    assert err.startswith(b"[stopped by Ctrl-C | ")
    assert err.count(b"\n") == 1


@posix
def test_a_reader_that_goes_away_is_no_error() -> None:
    for mode in ([], ["--explain"], ["--json"]):
        with _started("generate", PROMPT, "-n", "60", "--ignore-eos", *mode) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if mode != ["--json"]:
                process.stdout.read(1)
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=30)
        assert process.returncode == 141
        assert err == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_one_line() -> None:
    for words in (["--help"], ["generate", PROMPT, "-n", "2"], ["next", PROMPT]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
            )
        assert done.returncode == 1
        assert done.stderr == b"fanlight: cannot write the output: No space left on device\n"


@posix
def test_closed_streams_do_no_harm() -> None:
    shell = f"{sys.executable} -m fanlight generate x -n 2"
    closed = subprocess.run(f"{shell} >&-", shell=True, capture_output=True, env=environment(), check=False)
    assert (closed.returncode, closed.stderr) == (1, b"fanlight: standard output is closed\n")
    silent = subprocess.run(f"{shell} 2>&-", shell=True, capture_output=True, env=environment(), check=False)
    assert silent.returncode == 0
    assert silent.stdout
    no_input = subprocess.run(
        f"{sys.executable} -m fanlight generate - <&-", shell=True, capture_output=True, env=environment(), check=False
    )
    assert no_input.returncode == 2
    assert no_input.stderr.count(b"\n") == 1


def test_a_model_that_is_not_there() -> None:
    done = fanlight_process("generate", "x", FANLIGHT_MODEL="/nonexistent")
    assert done.code == 2
    assert done.error.startswith("fanlight: ")
    assert "/nonexistent" in done.error
    assert "give a .gguf file" in done.error


def test_a_prompt_longer_than_the_window_of_the_default_model() -> None:
    done = fanlight_process("generate", "-", stdin=b"word " * 8200)
    assert done.code == 2
    assert done.error.endswith("tokens, the context window holds 8192; shorten the prompt")


@posix
def test_a_terminal_sees_the_prompt_then_the_text_in_colour() -> None:
    screen, code = _on_terminal("generate", PROMPT, "-n", "4")
    assert code == 0
    assert f"\x1b[2m{PROMPT}\x1b[0m " in screen
    assert "\x1b[2m[cut off by max_new_tokens=4" in screen
    plain, _ = _on_terminal("generate", PROMPT, "-n", "2", "--explain", NO_COLOR="1")
    assert "\x1b" not in plain
    assert PROMPT in plain
    colored, _ = _on_terminal("generate", PROMPT, "-n", "2", "--explain")
    assert "\x1b[38;5;" in colored


@posix
def test_a_chat_on_a_terminal() -> None:
    terminal = _Terminal("chat", "-n", "2000", "--ignore-eos")
    terminal.wait_for("> ")
    terminal.type("/help\n")
    terminal.wait_for("Ctrl-D)")
    terminal.wait_for("> ")
    terminal.type("Count to a million.\n")
    terminal.wait_for("million.\r\n")
    terminal.wait_for_more(40)  # of the answer
    terminal.type("\x03")  # stops the answer, not the chat
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.type("/wat\n")
    terminal.wait_for("unknown command /wat")
    terminal.wait_for("> ")
    time.sleep(0.2)  # Ctrl-D counts for whoever reads the terminal, so the prompt must be reading
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.screen


@posix
def test_ctrl_c_at_the_prompt_of_a_chat_leaves() -> None:
    terminal = _Terminal("chat")
    terminal.wait_for("> ")
    terminal.interrupt()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.screen


# -- helpers -----------------------------------------------------------------------------------------------------------


def _started(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def _on_terminal(*words: str, **extra: str) -> tuple[str, int]:
    terminal = _Terminal(*words, **extra)
    code = terminal.end()
    return terminal.screen, code


class _Terminal:
    """A command on a pseudo-terminal, and all it wrote there."""

    def __init__(self, *words: str, **extra: str) -> None:
        import pty

        main, terminal = pty.openpty()
        self._main = main
        self.screen = ""
        self._seen = 0
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment(TERM="xterm-256color", **extra),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(terminal)

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it has appeared after what was waited for before."""
        start = self._seen
        self._read_until(lambda: text in self.screen[start:], f"{text!r} to appear")
        self._seen = self.screen.index(text, start) + len(text)

    def wait_for_more(self, length: int) -> None:
        self._read_until(lambda: len(self.screen) - self._seen >= length, f"{length} characters more")

    def interrupt(self) -> None:
        """Ctrl-C, until the process is gone: Python's readline may sleep through the first if it has just begun."""
        for _ in range(20):
            time.sleep(0.3)
            if self._process.poll() is not None:
                return
            self.type("\x03")

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._main)
        return self._process.wait(timeout=30)

    def _read_until(self, is_there: Callable[[], bool], what: str) -> None:
        while not is_there():
            assert self._read(), f"waited for {what}, found {self.screen!r}"

    def _read(self) -> bool:
        import select

        ready, _, _ = select.select([self._main], [], [], 30)
        assert ready, f"nothing came for 30 seconds after {self.screen!r}"
        try:
            chunk = os.read(self._main, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.screen += chunk.decode(errors="replace")
        return bool(chunk)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
