"""`fanlight chat` from a pipe, with a fake model that answers what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fanlight
from cli.conftest import Run, fake_model
from fakes.byte_tokenizer import EOS
from fanlight import Model


def parrot(seen: list[str], *, n_ctx: int = 400) -> Model:
    """Answers "<n>!", n being the number of user messages so far; keeps each prompt it sees."""

    def logits_of(history: Sequence[int]) -> Any:
        text = bytes(token for token in history if token < 256).decode()
        head, _, said = text.rpartition("\n")
        if not said:
            seen.append(head)
        answer = [*f"{head.count('user: ')}!".encode(), EOS]
        logits = np.zeros(258, np.float32)
        logits[answer[len(said)]] = 50
        return logits

    return fake_model(n_ctx=n_ctx, logits_of=logits_of)


def test_each_line_is_a_turn_and_the_conversation_is_kept(run: Run) -> None:
    seen: list[str] = []
    done = run("chat", "--system", "Be brief.", stdin=b"hello\n\nagain\r\n", model=parrot(seen))
    assert (done.code, done.out) == (0, "1!\n2!\n")
    assert seen[0] == "system: Be brief.\nuser: hello"
    assert seen[-1] == "system: Be brief.\nuser: hello\nassistant: 1!\nuser: again"


def test_commands(run: Run) -> None:
    seen: list[str] = []
    done = run("chat", stdin=b"one\n/reset\ntwo\n/wat\n/etc/hosts is what?\n/exit\nnever", model=parrot(seen))
    assert done.out == "1!\n1!\n2!\n"
    assert seen[1] == "user: two"
    assert seen[-1].endswith("user: /etc/hosts is what?")
    assert "unknown command /wat; there are /help, /reset, /exit" in done.err
    assert "/reset" in run("chat", stdin=b"/help\n", model=parrot([])).err


def test_an_answer_that_is_cut_off_says_so(run: Run) -> None:
    done = run("chat", "-n", "1", stdin=b"hi\n", model=parrot([]))
    assert done.out == "1\n"
    assert done.error == "note: the answer is cut off by max_new_tokens=1 in mid-sentence"


def test_a_conversation_longer_than_the_window(run: Run) -> None:
    done = run("chat", stdin=b"hi\n" + b"a" * 50 + b"\n", model=parrot([], n_ctx=40))
    assert done.code == 2
    assert done.out == "1!\n"
    assert "the conversation is too long: the prompt has" in done.error
    assert "the context window holds 40" in done.error
    assert "/reset" in done.error


def test_a_line_that_is_not_utf8(run: Run) -> None:
    done = run("chat", stdin=b"hi\n\xff\n", model=parrot([]))
    assert done.code == 2
    assert "line 2 of standard input is not valid UTF-8: byte 0xff at offset 0" in done.error


def test_a_model_without_a_template_cannot_chat(run: Run) -> None:
    model = fake_model()
    model.tokenizer.chat_template = None  # type: ignore[misc]
    done = run("chat", stdin=b"hi\n", model=model)
    assert done.code == 2
    assert "fake has no chat template, so it cannot chat; use: fanlight generate PROMPT" in done.error


def test_settings_reach_the_chat_and_useless_ones_are_said(run: Run) -> None:
    done = run("chat", "--top-p", "0.5", "--candidates", "3", stdin=b"", model=parrot([]))
    assert (done.code, done.out) == (0, "")
    assert "note: top_p has no effect: do_sample is false (add --do-sample)\n" in done.err
    assert "note: candidates has no effect in a chat\n" in done.err


def test_no_new_tokens_at_all(run: Run) -> None:
    assert run("chat", "-n", "0", stdin=b"hi\n", model=parrot([])).code == 0


def test_every_answer_is_kept_in_a_folder(run: Run, smollm: Model, tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    words = ["chat", "-n", "4", "--trace", str(folder), "--look", "norms"]
    done = run(*words, stdin=b"hi\nwhat is 2+2?\n", model=smollm)
    assert done.code == 0
    traces = [fanlight.open_trace(path) for path in folder.iterdir()]
    assert sorted(trace.text.strip() for trace in traces) == sorted(done.out.strip().split("\n"))
    assert all(trace.has == ("norms",) for trace in traces)
    assert done.err.count(f"[trace {folder}/") == 2


def test_mistakes_with_traces_of_a_chat(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words, message in (
        (["--look", "norms"], "give --trace FILE with them"),
        (["--trace", str(tmp_path / "c"), "--candidates", "0"], "--candidates must be at least 1 with it"),
        (["--trace", str(tmp_path / "file")], "cannot be written"),
    ):
        done = run("chat", *words, stdin=b"hi\n", model=parrot([]))
        assert (done.code, done.out) == (2, "")
        assert message in done.error
