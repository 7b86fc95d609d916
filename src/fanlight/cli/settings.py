"""What several commands share: the flags of GenerationConfig and of the model, and both made from their values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Option
from fanlight.cli.output import COLORS, Output
from fanlight.decoding.config import GenerationConfig
from fanlight.kernels import KINDS
from fanlight.kernels.ops import QUANTIZE

if TYPE_CHECKING:
    from fanlight.api import Model

HELP: Mapping[str, str] = {
    "max_new_tokens": "end the text after N tokens",
    "do_sample": "draw each token from the distribution; otherwise take the most probable one",
    "temperature": "divide the logits by T: below 1 sharpens, above 1 flattens, 0 takes the most probable token",
    "top_k": "keep the K most probable tokens; 0 keeps all",
    "top_p": "keep the most probable tokens that reach P together, above 0 to 1",
    "min_p": "keep tokens at least P times as probable as the first, 0 to 1",
    "repetition_penalty": "make tokens that are in the text already less probable: 1 is off, 1.1 is common",
    "seed": "any integer; the same request with the same seed gives the same text (default: a new one each time)",
    "stop_strings": "end the text before TEXT; may be given several times (a newline: $'\\n')",
    "eos_token_id": "ids that end the text, instead of the model's own; 1,2 or several times",
    "ignore_eos": "go on after an end-of-text token",
    "candidates": "how many of the most probable tokens to record at each step",
}
_METAVARS = {
    "max_new_tokens": "N",
    "temperature": "T",
    "top_k": "K",
    "top_p": "P",
    "min_p": "P",
    "repetition_penalty": "R",
}
_KINDS = {
    "int": ("int", False, False),
    "bool": ("flag", False, False),
    "float": ("float", False, False),
    "int | None": ("int", False, True),
    "float | None": ("float", False, True),
    "tuple[str, ...]": ("text", True, False),
    "tuple[int, ...] | None": ("int", True, False),
}
"""Annotation -> (kind, many, nullable)."""

MODEL_OPTIONS = (
    Option(
        "model",
        "a .gguf file, a Hugging Face folder, or a name on the hub: gpt2-medium, org/name, org/name@revision, org/name:FILE.gguf, "
        "org/name:Q4_K_M (default: FANLIGHT_MODEL, else the installed default model)",
        metavar="MODEL",
        short="m",
    ),
    Option("threads", "how many threads to use (default: FANLIGHT_THREADS, else all cores)", kind="int", metavar="N"),
    Option(
        "kernels",
        "the C++ kernels, or their NumPy twins, which are far slower (default: native where it was built)",
        choices=KINDS,
    ),
    Option(
        "quantize",
        "store float weights in fewer bits: smaller, faster, a little less exact",
        choices=tuple(name.lower() for name in QUANTIZE),
    ),
    Option(
        "backend",
        "Fanlight's own code, or transformers (default: native where Fanlight knows the architecture)",
        choices=("auto", "native", "hf"),
    ),
    Option("device", "where transformers computes, with --backend hf: cpu, cuda:0, mps", metavar="DEVICE"),
    Option("n_ctx", "a shorter context window; of Phi-3's long models, a longer one", kind="int", metavar="N"),
)
LOADING = ("threads", "kernels", "quantize", "backend", "device", "n_ctx")
COLOR = Option(
    "color", "colour on standard output; NO_COLOR and FORCE_COLOR are heeded", choices=COLORS, default="auto"
)


def setting_options(**defaults: str) -> tuple[Option, ...]:
    """A flag for every field of GenerationConfig, so that none can be forgotten. defaults: where a command has its own."""
    options = []
    for field in fields(GenerationConfig):
        kind, many, nullable = _KINDS[str(field.type)]
        default = defaults.get(field.name, _default(field.default))
        metavar = _METAVARS.get(field.name, {"int": "N", "float": "X", "text": "TEXT", "flag": ""}[kind])
        short = "n" if field.name == "max_new_tokens" else ""
        help_line = HELP.get(field.name, "")
        options.append(
            Option(
                field.name,
                help_line,
                kind=kind,
                metavar=metavar,
                short=short,
                many=many,
                nullable=nullable,
                default=default,
            )
        )
    return tuple(options)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None or value == () else str(value)


def make_config(values: Mapping[str, Any], model: Model | None = None, **defaults: Any) -> GenerationConfig:
    """The settings among a command's values, over the model's defaults, over the command's own. Errors: OptionError."""
    given = {field.name: values[field.name] for field in fields(GenerationConfig) if field.name in values}
    return GenerationConfig.from_options({**defaults, **(model.defaults.values if model else {}), **given})


def say_defaults(values: Mapping[str, Any], model: Model, output: Output) -> None:
    """Which settings are the model's own wish."""
    own = [f"{name} {value}" for name, value in model.defaults.values.items() if name not in values]
    if own:
        output.note(f"the model's own settings: {', '.join(own)} ({model.defaults.origin})")
    for note in model.defaults.notes():
        output.note(note)


def say_notes(config: GenerationConfig, output: Output) -> None:
    """What was set and has no effect."""
    for note in config.notes():
        output.note(f"{note} (add --do-sample)" if note.endswith("do_sample is false") else note)


def load_model(values: Mapping[str, Any], output: Output) -> Model:
    """The model that the flags ask for; says if it will be slow. Errors: as `fanlight.load`."""
    from fanlight.api import load
    from fanlight.kernels import slow_notice
    from fanlight.sources import without_progress

    how = {name: values[name] for name in LOADING if name in values}
    with without_progress() if values.get("json") else nullcontext():
        model = load(values.get("model"), **how)
    notice = None if values.get("kernels") == "reference" else slow_notice(model.decoder.ops)
    if notice:
        output.note(notice)
    return model
