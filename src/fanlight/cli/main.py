"""`fanlight COMMAND ...`. In: words. Out: an exit code. Turns every error into one line. Imports a command when it is called.

Exit codes: 0; 1 for a fault of ours or of the machine; 2 for what the user can mend; 3 if some rows of a batch or
texts of a sweep failed; 130 after Ctrl-C; 141 if the reader of a pipe went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fanlight.cli.output import Output, OutputError
from fanlight.errors import FanlightError, KernelError, NumericError, OptionError

COMMANDS = {
    "generate": ("generate", "continue a text"),
    "chat": ("chat", "talk with the model"),
    "next": ("next_token", "the next token under several temperatures"),
    "show": ("show", "pictures: the mask, attention, temperature, filters, the lens, ..."),
    "trace": ("trace", "kept runs: look, ask, replay, branch, what if"),
    "report": ("report", "one page of a kept run, every token of which opens"),
    "score": ("score", "how likely the model finds a text"),
    "compare": ("compare", "what several settings write, side by side"),
    "sweep": ("sweep", "a grid of settings over many prompts, measured"),
    "batch": ("batch", "many prompts from a file, here or on a cluster"),
    "detect": ("detect", "whether a text carries a watermark"),
    "inspect": ("inspect_model", "what a model is made of, and its vocabulary"),
    "models": ("models", "which models are there, and what they cost in memory"),
    "pull": ("pull", "fetch a model from the hub, or bring it up to date"),
    "export": ("export", "write a model as a GGUF file or as a Hugging Face folder"),
    "verify": ("verify", "compare a model's logits with transformers' or llama.cpp's"),
    "bench": ("bench", "how fast it runs on this machine"),
}
"""Name -> (file in this folder, what it does)."""

EPILOGUE = """\
try:
  fanlight generate "The future of artificial intelligence is"
  fanlight generate "The future of artificial intelligence is" --explain --do-sample --top-p 0.9
  fanlight next "The future of artificial intelligence is"

Without --model, FANLIGHT_MODEL or the installed default model is used.
"""
DONE, FAULT, MISTAKE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; None: this process's. Errors are printed, not raised."""
    output = Output(sys.stdout, sys.stderr)
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv), output)
        except KeyboardInterrupt:
            if argv is None:
                _ignore_ctrl_c()
            output.end_line()
            return INTERRUPTED
    except BaseException as error:
        if os.environ.get("FANLIGHT_DEBUG") and not isinstance(error, BrokenPipeError):
            raise
        return _explain(error, output)


def _ignore_ctrl_c() -> None:
    """This process is ending; a second Ctrl-C would only make its end look like a failure."""
    from signal import SIG_IGN, SIGINT, signal

    signal(SIGINT, SIG_IGN)


def _run(words: list[str], output: Output) -> int:
    name = words[0] if words else ""
    if name == "help" and words[1:2] and words[1] in COMMANDS:
        name, words = words[1], ["help", *words[2:], "--help"]
    if name in ("-h", "--help", "help"):
        output.write(_overview())
        return DONE
    flags = words[: words.index("--")] if "--" in words else words
    if name == "-V" or "--version" in flags:
        import fanlight

        output.line(f"fanlight {fanlight.__version__}")
        return DONE
    if name not in COMMANDS:
        raise _no_command(name)
    return _run_command(name, words[1:], output)


def _run_command(name: str, words: list[str], output: Output) -> int:
    import warnings
    from importlib import import_module

    from fanlight.cli.options import Command, help_text, parse

    warnings.showwarning = lambda message, *_args, **_more: output.note(str(message))
    command: Command = import_module(f"fanlight.cli.{COMMANDS[name][0]}").COMMAND
    flags = words[: words.index("--")] if "--" in words else words
    if "--help" in flags or "-h" in flags:  # whatever else is there
        output.write(help_text(command.part(flags)))
        return DONE
    values, others = parse(words, command.options)
    if len(others) > command.max_words == 0:
        raise OptionError(f"{name} takes options only, found {others[0]!r}; usage: {command.usage}")
    output.color = values.get("color", "auto")
    return command.run(values, others, output)


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    return f"""\
usage: fanlight COMMAND [OPTIONS]

Text generation you can see through.

commands:
{rows}

`fanlight COMMAND --help` lists a command's options; `fanlight --version` tells the version.

{EPILOGUE}"""


def _no_command(name: str) -> OptionError:
    if not name:
        return OptionError(f"a command is missing: {', '.join(COMMANDS)}; fanlight --help tells more")
    if name.startswith("-"):
        return OptionError(
            f"options follow the command, as in: fanlight generate {name} ...; fanlight --help tells more"
        )
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), COMMANDS, n=1) or [c for c in COMMANDS if c.startswith(name.lower())]
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
    return OptionError(
        f"unknown command {name!r:.80}; {hint}"
        if " " not in name
        else f'a command comes first: fanlight generate "{name:.60}"'
    )


# -- errors ------------------------------------------------------------------------------------------------------------


def _explain(error: BaseException, output: Output) -> int:
    """Say in one line what went wrong; the exit code."""
    if isinstance(error, BrokenPipeError):
        _let_go_of_stdout()
        return READER_GONE
    if isinstance(error, OutputError):
        output.error(str(error))
        _let_go_of_stdout()
        return FAULT
    code, text = _describe(error)
    try:
        output.end_line()
    except (OSError, OutputError):
        _let_go_of_stdout()
    output.error(text)
    return code


def _describe(error: BaseException) -> tuple[int, str]:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, FanlightError) and not isinstance(error, KernelError):
        return (FAULT if isinstance(error, NumericError) else MISTAKE), str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return MISTAKE, f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return FAULT, "out of memory; use a smaller model or a shorter prompt"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return FAULT, f"this is a fault of fanlight, not yours: {what}; FANLIGHT_DEBUG=1 shows where"


def _let_go_of_stdout() -> None:
    """What is still in the buffer cannot be written; without this the interpreter would try, and complain, when it ends."""
    try:
        fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, sys.__stdout__.fileno() if sys.__stdout__ else 1)
        os.close(fd)
    except (OSError, ValueError):
        pass
