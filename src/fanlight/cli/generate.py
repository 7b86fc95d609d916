"""`fanlight generate PROMPT`: continue a text, plainly, with an explanation of every token, or as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import exp
from typing import TYPE_CHECKING, Any

from fanlight.cli.kept import check_new, said
from fanlight.cli.looks import LOOKS, TRACE, trace_options
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, read_prompt
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
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.api import Generation, Model, Step, Stream

USAGE = "fanlight generate PROMPT [OPTIONS]"
EXPLAINED = 6  # candidates that --explain shows
ECHOED_CHARS = 2000
INTERRUPTED = 130


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    explains, as_json = values.get("explain", False), values.get("json", False)
    if as_json:
        output.notes = []
    if explains and as_json:
        raise OptionError("--explain and --json exclude each other; --json holds all that --explain shows")
    if explains and values.get("candidates") == 0:
        raise OptionError("--explain shows candidates: --candidates must be at least 1 with it")
    tracing = trace_options(values, values.get("trace"))
    check_new(values.get("trace"))
    if "trace" in values and values.get("candidates") == 0:
        raise OptionError(
            "--trace keeps what each step saw: --candidates must be at least 1 with it, or -1 for all tokens"
        )
    keeps = as_json or "trace" in values
    defaults: dict[str, Any] = {} if keeps else {"candidates": EXPLAINED} if explains else {"candidates": 0}
    early = make_config(values, **defaults)  # a mistake shows before the model is read
    check_early(values, early)
    if explains and max(early.num_return_sequences, early.best_of) > 1:
        raise OptionError("--explain shows one text: use --json, or leave --num-return-sequences and --best-of out")
    if values.get("explain_settings"):
        explained(values, make_config(values, load_model(values, output), **defaults), output)
        return 0
    prompt = read_prompt(words, output, USAGE)
    started = time.perf_counter()
    model = load_model(values, output)
    load_seconds = time.perf_counter() - started
    config = make_config(values, model, **defaults)
    say_defaults(values, model, config, output)
    say_notes(config, output, values)
    if "candidates" in values and not explains and not keeps:
        output.note("candidates has no effect without --explain, --json or --trace")
    if "load_prefix" in values:
        output.note(f"{len(model.load_prefix(values['load_prefix']))} tokens loaded from {values['load_prefix']}")
    stream = model.stream(prompt, config, trace=tracing if "trace" in values else None, **load_helpers(values))
    code = _run(values, model, stream, prompt, load_seconds, output)
    if "trace" in values and not as_json:
        code = code or _say_traces(stream.result(), output)
    if "save_prefix" in values:
        n_bytes = model.save_prefix(values["save_prefix"], prompt)
        output.note(f"the prompt's keys and values saved in {values['save_prefix']}, {n_bytes / 1e6:.1f} MB")
    return code


def _run(values: dict[str, Any], model: Model, stream: Stream, prompt: str, load_seconds: float, output: Output) -> int:
    if not prompt:
        output.note(f"the prompt is empty: starting from {model.tokenizer.token_label(stream.prompt_ids[0])}")
    as_json = values.get("json", False)
    if stream.n_texts > 1 and not as_json:
        return _several(stream, output)
    if as_json:
        return _as_json(stream, output, model.name, prompt, load_seconds, has_trace="trace" in values)
    echo = prompt if values.get("echo", output.is_terminal) else ""
    if values.get("explain"):
        return _explain(stream, output, model, echo, stream.config.candidates)
    return _text(stream, output, echo)


def _say_traces(result: Generation, output: Output) -> int:
    """Where the traces lie; 1 if one could not be kept, or not whole."""
    codes = []
    for text in result.all:
        assert text.trace is not None
        for note in text.notes:
            if note.startswith("the trace has no "):
                output.note(note)
        codes.append(said(text.trace, output, [note for note in text.notes if note.startswith("the trace was ")]))
    return max(codes)


def _collect(stream: Stream, show: Callable[[Step], None]) -> tuple[Generation, bool]:
    """Show every step as it comes; (the result, whether Ctrl-C ended it)."""
    try:
        for step in stream:
            show(step)
    except KeyboardInterrupt:
        stream.close()
        return stream.result(), True
    return stream.result(), False


def _text(stream: Stream, output: Output, echo: str) -> int:
    output.write_text(_tail(echo), "dim")
    result, interrupted = _collect(stream, lambda step: output.write_text(step.text))
    output.end_line()
    output.summary(summary(result, interrupted))
    return INTERRUPTED if interrupted else 0


def _several(stream: Stream, output: Output) -> int:
    """Several texts: which comes first is known at the end."""
    result, interrupted = _collect(stream, lambda step: None)
    for i, text in enumerate(result.all):
        if result.others:
            score = f", {text.score:.3f}" if text.score is not None else ""
            votes = f", {text.votes} votes for {text.answer!r}" if text.votes is not None else ""
            output.summary(f"--- {i + 1} of {len(result.all)}{score}{votes}: {text.stop.detail}")
        output.write_text(text.text)
        output.end_line()
    output.summary(summary(result, interrupted))
    return INTERRUPTED if interrupted else 0


def _tail(text: str) -> str:
    """Of a long prompt, the end."""
    return text if len(text) <= ECHOED_CHARS else f"[...] {text[-ECHOED_CHARS:]}"


def _as_json(
    stream: Stream, output: Output, name: str, prompt: str, load_seconds: float, *, has_trace: bool = False
) -> int:
    from fanlight.cli.as_json import dumps, generation_json

    result, interrupted = _collect(stream, lambda step: None)
    found = generation_json(result, model=name, prompt=prompt, load_seconds=load_seconds)
    found["notes"] = output.notes
    code = INTERRUPTED if interrupted else 0
    if has_trace:
        traces = [text.trace for text in result.all if text.trace is not None]
        found["traces"] = [
            {"path": t.path, "id": t.id, "complete": t.header.complete, "problem": t.header.problem} for t in traces
        ]
        code = code or int(any(trace.path is None or trace.header.problem for trace in traces))
    output.line(dumps(found))
    return code


def _explain(stream: Stream, output: Output, model: Model, echo: str, rows: int) -> int:
    from fanlight.views.terminal_steps import closing, colored_text, heading, legend, step_window

    canvas, label = output.canvas, model.tokenizer.token_label

    def show(step: Step) -> None:
        record = step.record
        if step.index == 0:
            output.line(heading(canvas, two_sided=bool(record.effects)))
        output.line(step_window(record, label, canvas, index=step.index, rows=rows) + "\n")

    result, interrupted = _collect(stream, show)
    output.write_text(_tail(echo), "dim")
    output.line(colored_text([(step.text, exp(step.record.raw_logprob)) for step in result.steps], canvas))
    if result.steps:
        facts = closing([step.record for step in result.steps], label, canvas)
        output.line("\n" + "\n".join(filter(None, (legend(canvas), facts))))
    output.summary(summary(result, interrupted))
    return INTERRUPTED if interrupted else 0


def summary(result: Generation, interrupted: bool = False) -> str:
    """One line: why it stopped, how much, how fast, and the seed that would give it again."""
    n_prompt, n_new = len(result.prompt_ids), len(result.ids)
    parts = ["stopped by Ctrl-C" if interrupted else result.stop.detail]
    parts.append(f"{n_new} token{'s' if n_new != 1 else ''}")
    if n_new and result.prefill_seconds > 0:
        known = f", {result.usage.n_reused} known" if result.usage.n_reused else ""
        parts.append(f"prefill {n_prompt}{known} at {n_prompt / result.prefill_seconds:.0f} tok/s")
    if n_new > 1 and result.decode_seconds > 0:
        parts.append(f"decode at {(n_new - 1) / result.decode_seconds:.0f} tok/s")
    if result.speculation is not None:
        found = result.speculation
        saved = f", {found.seconds_saved:.2f} s saved" if found.seconds_saved is not None else ""
        parts.append(
            f"{found.n_right} of {found.n_guessed} guesses right, {found.tokens_per_pass:.1f} tokens a pass{saved}"
        )
    if result.config.samples:
        parts.append(f"seed {result.request_seed}")
    return "[" + " | ".join(parts) + "]"


COMMAND = Command(
    usage=USAGE,
    about="""\
Continue PROMPT; - reads it from standard input (UTF-8; one newline at its end does not count).

The text goes to standard output as it is generated. On a terminal the prompt is shown before it; in a pipe or a file
there is the new text only, and a newline. Notes and a summary go to standard error. After Ctrl-C, what was
generated stays.""",
    groups=(
        *setting_groups(candidates="20 with --json, 6 with --explain"),
        (
            "output",
            (
                Option("explain", "show each token with its alternatives, and what the settings did", kind="flag"),
                Option("json", "one JSON object: text, ids, stop, seed, config, notes, timings, steps", kind="flag"),
                TRACE,
                *LOOKS,
                Option(
                    "load_prefix",
                    "go on from keys and values in FILE where the prompt begins like them",
                    metavar="FILE",
                ),
                Option("save_prefix", "keep the prompt's keys and values in FILE", metavar="FILE"),
                Option("echo", "show the prompt before the text", kind="flag", default="on a terminal"),
                COLOR,
            ),
        ),
        ("model", (*MODEL_OPTIONS, *HELPERS)),
    ),
    run=run,
)
