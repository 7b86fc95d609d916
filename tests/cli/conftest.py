"""What the tests of the command line share: running it in this process with a fake model, and as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fanlight
from fakes.byte_tokenizer import ByteTokenizer
from fakes.decoder import FakeDecoder
from fanlight import Model, api
from fanlight.cli.main import main
from fanlight.loading import Loaded
from fanlight.models.weights import LoadReport

SOURCE = Path(fanlight.__file__).parents[1]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
COMMAND = [sys.executable, "-m", "fanlight"]


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line it should be."""
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removesuffix("\n")


def environment(**extra: str) -> dict[str, str]:
    """This process's, without what changes a command's looks."""
    hidden = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "FANLIGHT_MODEL", "FANLIGHT_KERNELS", "FANLIGHT_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    paths = [str(SOURCE), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **extra}


def fanlight_process(*words: str, stdin: bytes = b"", **extra: str) -> Ran:
    """`fanlight ...` with the default model, as a process."""
    done = subprocess.run(
        [*COMMAND, *words], input=stdin, capture_output=True, env=environment(**extra), timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def fake_model(**decoder: Any) -> Model:
    """Bytes as tokens, pseudo-random logits, a window of 64 tokens."""
    made = FakeDecoder(**decoder)
    tokenizer = ByteTokenizer(chat_template=TEMPLATE)
    return Model(Loaded(name="fake", decoder=made, tokenizer=tokenizer, report=LoadReport(path="fake", format="none")))


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """run("generate", "abc", stdin=b"", model=...): the command in this process, by default with the fake model."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "FANLIGHT_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, stdin: bytes = b"", model: Model | None = None) -> Ran:
        monkeypatch.setattr(api, "load", lambda *_args, **_options: model or fake_model())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(words)
        return Ran(code, *capfd.readouterr())

    return run
