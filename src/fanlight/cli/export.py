"""`fanlight export MODEL TARGET`: a model as a Hugging Face folder or as a GGUF file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.exporting import ExportReport

USAGE = "fanlight export MODEL TARGET [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    if not 1 <= len(words) <= 2:
        raise OptionError(f"a model and where to write it are expected; usage: {USAGE}")
    from fanlight.exporting import export

    model, target = words if len(words) == 2 else (None, words[0])
    report = export(model, target, dtype=values.get("type"))
    if values.get("json", False):
        from fanlight.cli.as_json import dumps

        output.line(dumps(asdict(report)))
        return 0
    for note in report.notes:
        output.note(note)
    output.summary(_summary(report))
    output.line(report.path)
    return 0


def _summary(report: ExportReport) -> str:
    types = ", ".join(f"{dtype} {size / 1e6:.1f} MB" for dtype, size in report.dtypes.items())
    return f"{report.n_arrays} arrays, {report.n_bytes / 1e6:.1f} MB: {types}"


COMMAND = Command(
    usage=USAGE,
    about="""\
Write a model in the other form, and print where it lies.

TARGET is a GGUF file if it ends in .gguf: llama.cpp loads it. Otherwise it is a new folder as Hugging Face has them,
with config.json, model.safetensors and the tokenizer's files: transformers loads it, to the same logits. With one word
only, the default model is written there. What the other form cannot say is an error; nothing is left out.""",
    groups=(
        (
            "what to write",
            (
                Option(
                    "type",
                    "type of the matrices; a folder can have the first three (default: as they are, or f32 where the form has "
                    "no such type)",
                    choices=("f32", "f16", "bf16", "q8_0", "q4_1", "q4_0"),
                ),
            ),
        ),
        ("what to print", (Option("json", "one JSON object", kind="flag"),)),
    ),
    run=run,
    max_words=2,
)
