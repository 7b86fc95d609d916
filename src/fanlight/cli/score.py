"""`fanlight score TEXT`: how likely a model finds a text that it did not write. In: a text. Out: surprise of every token."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fanlight.cli.kept import BY, check_new, groups_of_settings, said, settings
from fanlight.cli.looks import LOOKS, TRACE, trace_options
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, decode_utf8, read_prompt
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, load_model
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

USAGE = "fanlight score TEXT [--prompt TEXT] [OPTIONS]"
BAR = 24
"""Columns of a bar."""


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    if values.get("json"):
        output.notes = []
        for name in ("by", "alternatives"):
            if name in values:
                raise OptionError(f"--{name} is of the coloured text: leave it out, or --json")
    path = values.get("trace")
    options, config = trace_options(values, path), settings(values)
    check_new(path)
    text = read_prompt(words, output, USAGE)
    prompt = decode_utf8(os.fsencode(values["prompt"]), "the prompt") if "prompt" in values else None
    model = load_model(values, output)
    trace = model.score(text, prompt=prompt, trace=options, **config)
    if values.get("json"):
        output.line(_json(trace, output))
        return 1 if path is not None and trace.header.problem else 0
    if not trace.n_steps:
        output.note("nothing is scored: the first token has nothing before it; give --prompt TEXT, or a longer text")
    _show(trace, values, output)
    return said(trace, output) if path is not None else 0


def _show(trace: Trace, values: dict[str, Any], output: Output) -> None:
    from fanlight.views.terminal_ribbon import ribbon_text

    canvas, n = output.canvas, trace.n_steps
    by, alternatives = values.get("by", "surprise"), values.get("alternatives", 0)
    output.line(ribbon_text(trace, canvas, by=by, alternatives=alternatives))
    if not n:
        return
    surprise = -sum(record.raw_logprob for record in trace.steps) / n
    output.line(
        f"\nperplexity {trace.perplexity:.2f}, {surprise:.2f} nats a token, over {n} token{'s' if n != 1 else ''}"
    )
    output.line("rank of the token among the model's choices:")
    for name, count in trace.rank_histogram().items():
        output.line(f"  {name:>8}  {count:>5}  {canvas.bar(count / n, BAR, 'model')} {count / n:.0%}".rstrip())


def _json(trace: Trace, output: Output) -> str:
    from math import exp

    from fanlight.cli.as_json import dumps
    from fanlight.tracing.plain import finite

    tokens = [
        {
            "token": trace.token_text(record.id),
            "id": record.id,
            "logprob": finite(record.raw_logprob),
            "prob": exp(record.raw_logprob),
            "rank": record.raw_rank,
            "entropy": record.raw_entropy,
        }
        for record in trace.steps
    ]
    return dumps(
        {
            "model": trace.header.origin.model,
            "text": trace.text,
            "n_tokens": trace.n_steps,
            "logprob": finite(sum(record.raw_logprob for record in trace.steps)),
            "perplexity": finite(trace.perplexity),
            "ranks": trace.rank_histogram(),
            "tokens": tokens,
            "trace": trace.path,
            "notes": [*(output.notes or ()), *trace.header.notes],
        }
    )


COMMAND = Command(
    usage=USAGE,
    about="""\
The account of a text that the model did not write, as if it had: how surprising each token was (nats, under the
model's own distribution), the perplexity, and how often the token was the model's first choice. - reads TEXT from
standard input. The first token has nothing before it and does not count, unless --prompt gives it something.

  fanlight score "The cat sat on the mat."
  fanlight score " Paris." --prompt "The capital of France is"
  fanlight score - --json < text.txt
  fanlight score "The cat sat on the mat." --trace mat.safetensors --look all""",
    groups=(
        (
            "output",
            (
                Option("prompt", "what stands before TEXT and is not scored", metavar="TEXT"),
                BY,
                Option("alternatives", "other tokens beneath each of the text's", kind="int", metavar="N", default="0"),
                TRACE,
                *LOOKS,
                Option("json", "one JSON object: logprob, rank and entropy of every token, perplexity", kind="flag"),
                COLOR,
            ),
        ),
        *groups_of_settings(candidates="20"),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
