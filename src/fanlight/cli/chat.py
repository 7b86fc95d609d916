"""`fanlight chat`: a conversation in the model's own chat template, on a terminal or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fanlight.cli.kept import check_new, said
from fanlight.cli.looks import LOOKS, trace_options
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, decode_utf8
from fanlight.cli.settings import (
    COLOR,
    HELPERS,
    MODEL_OPTIONS,
    check_early,
    explained,
    load_helpers,
    load_model,
    make_config,
    say_defaults,
    say_notes,
    setting_groups,
)
from fanlight.errors import ContextOverflow, FanlightError, OptionError

if TYPE_CHECKING:
    from fanlight.api import Model, Stream
    from fanlight.decoding.config import GenerationConfig
    from fanlight.trace.stop import Stop

USAGE = "fanlight chat [OPTIONS]"
MAX_NEW_TOKENS = 512
INTERRUPTED = 130
HELP = {"/help": "this list", "/reset": "begin anew", "/exit": "leave (or Ctrl-D)"}


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    check_early(values, make_config(values))  # a mistake shows before the model is read
    folder = values["trace"].rstrip("/") + "/" if "trace" in values else None
    tracing = trace_options(values, folder)
    check_new(folder)
    if folder is not None and values.get("candidates") == 0:
        raise OptionError("--trace keeps what each step saw: --candidates must be at least 1 with it")
    own: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, **({"candidates": 0} if folder is None else {})}
    if values.get("explain_settings"):
        explained(values, make_config(values, load_model(values, output), **own), output)
        return 0
    is_interactive = sys.stdin is not None and sys.stdin.isatty()
    model = load_model(values, output)
    if model.tokenizer.chat_template is None:
        raise OptionError(f"{model.name} has no chat template, so it cannot chat; use: fanlight generate PROMPT")
    config = make_config(values, model, **own)
    say_defaults(values, model, config, output)
    say_notes(config, output, values)
    if "candidates" in values and folder is None:
        output.note("candidates has no effect in a chat")
    helpers = {**load_helpers(values), **({"trace": tracing} if folder is not None else {})}
    chat = Chat(model, config, values.get("system"), output, helpers)
    if not is_interactive:
        return _from_pipe(chat, output)
    output.summary(f"{model.name}. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
    return _from_terminal(chat, output)


class Chat:
    """The messages so far, and the next answer."""

    def __init__(
        self, model: Model, config: GenerationConfig, system: str | None, output: Output, helpers: dict[str, Any]
    ) -> None:
        self._model, self._config, self._output, self._helpers = model, config, output, helpers
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)

    def reset(self) -> None:
        """Back to the system message."""
        self.messages = list(self._first)

    def answer(self, text: str) -> bool:
        """Answer a user's message, as it is generated. False: Ctrl-C ended it; what was written counts as the answer.

        Errors: as `Model.chat`; the message is then taken back.
        """
        turn = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        stop: Stop | None = None
        stream: Stream | None = None
        try:
            stream = self._model.stream_chat(turn, self._config, **self._helpers)
            with stream:
                if stream.n_texts > 1:  # the best of them is known at the end
                    best = stream.result()
                    pieces, stop = [best.text], best.stop
                    self._output.write_text(best.text)
                for step in stream:
                    pieces.append(step.text)
                    self._output.write_text(step.text)
                    stop = step.stop
        except KeyboardInterrupt:
            self._end(turn, pieces)
            self._keep(stream)
            return False
        except ContextOverflow as error:
            raise ContextOverflow(f"the conversation is too long: {error}, or begin anew with /reset") from error
        self._end(turn, pieces)
        self._keep(stream)
        if stop is not None and stop.reason.value in ("max_new_tokens", "context_window"):
            self._output.note(f"the answer is {stop.detail}")
        return True

    def _keep(self, stream: Stream | None) -> None:
        """Say where the trace of an answer lies, if one is wanted."""
        for text in stream.result().all if stream is not None and "trace" in self._helpers else ():
            assert text.trace is not None
            said(text.trace, self._output, [note for note in text.notes if note.startswith("the trace was ")])

    def _end(self, turn: list[dict[str, str]], pieces: list[str]) -> None:
        self._output.end_line()
        self.messages = [*turn, {"role": "assistant", "content": "".join(pieces)}]


def _command(line: str, chat: Chat, output: Output) -> bool | None:
    """Carry out a /command. None: it is none; False: leave."""
    word = line.strip()
    if not (word.startswith("/") and word[1:].isalpha()):
        return None
    if word in ("/exit", "/quit", "/bye"):
        return False
    if word == "/reset":
        chat.reset()
        output.summary("the conversation begins anew")
    else:
        if word != "/help":
            output.error(f"unknown command {word}; there are {', '.join(HELP)}")
        else:
            for name, what in HELP.items():
                output.summary(f"{name:<8} {what}")
    return True


# -- a terminal --------------------------------------------------------------------------------------------------------


def _from_terminal(chat: Chat, output: Output) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401  (input() then has history and editing)
    while True:
        try:
            line = _ask(output)
        except KeyboardInterrupt:
            output.line()
            return INTERRUPTED
        if line is None:
            output.line()
            return 0
        try:
            goes_on = _command(line, chat, output) if line.strip() else True
            if goes_on is False:
                return 0
            if goes_on is None and not chat.answer(line):
                output.summary("(stopped)")
            elif goes_on is None:
                output.line()
        except FanlightError as error:
            output.error(str(error))


def _ask(output: Output) -> str | None:
    """The next line; None at the end."""
    while True:
        try:
            if output.is_terminal:
                return input("> ")
            sys.stderr.write("> ")  # the answers go somewhere else
            sys.stderr.flush()
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        except EOFError:
            return None
        except UnicodeDecodeError:
            output.error("that line is not valid UTF-8; please type it again")


# -- a pipe ------------------------------------------------------------------------------------------------------------


def _from_pipe(chat: Chat, output: Output) -> int:
    for line in _lines():
        goes_on = _command(line, chat, output) if line.strip() else True
        if goes_on is False:
            break
        if goes_on is None and not chat.answer(line):
            return INTERRUPTED
    return 0


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise OptionError("a chat reads standard input, which is closed")
    for number, line in enumerate(sys.stdin.buffer, 1):
        yield decode_utf8(line.rstrip(b"\r\n"), f"line {number} of standard input").removeprefix("\ufeff")


COMMAND = Command(
    usage=USAGE,
    about=f"""\
Talk with the model; the conversation is kept. On a terminal, Ctrl-C stops an answer and Ctrl-D leaves. From a pipe,
each line is one message, and only the answers are written to standard output.

commands in the chat: {", ".join(f"{name} ({what})" for name, what in HELP.items())}""",
    groups=(
        (
            "conversation",
            (
                Option("system", "how the assistant is to behave", metavar="TEXT"),
                Option("trace", "keep what each step of an answer saw: a file an answer in FOLDER", metavar="FOLDER"),
                *LOOKS,
                COLOR,
            ),
        ),
        *setting_groups(max_new_tokens=str(MAX_NEW_TOKENS), candidates="0; 20 with --trace"),
        ("model", (*MODEL_OPTIONS, *HELPERS)),
    ),
    run=run,
    max_words=0,
)
