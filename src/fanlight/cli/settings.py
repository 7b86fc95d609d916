"""What several commands share: the flags of GenerationConfig and of the model, and both made from their values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fanlight.cache.paged import CACHE_TYPES
from fanlight.cli.options import Option
from fanlight.cli.output import COLORS, Output
from fanlight.decoding.config import DEFAULTS, GROUPS, OPTIONS, GenerationConfig
from fanlight.decoding.option_help import HELP
from fanlight.decoding.presets import PRESETS
from fanlight.errors import OptionError
from fanlight.kernels import KINDS
from fanlight.kernels.ops import QUANTIZE

if TYPE_CHECKING:
    from fanlight.api import Model

PRESET = Option("preset", "settings under one name", choices=tuple(PRESETS))
SETTINGS_FILE = Option("settings", "settings from a JSON or TOML file; flags go before them", metavar="FILE")
EXPLAIN_SETTINGS = Option(
    "explain_settings", "print every setting, its value, where it came from, and end", kind="flag"
)
SHARED = (PRESET, SETTINGS_FILE, EXPLAIN_SETTINGS)
ORDER = Option("order", "the same as --processors", metavar="NAME,...")
HELPERS = (
    Option("assistant", "a smaller model that guesses ahead: the same text, sooner", metavar="MODEL"),
    Option("amateur", "a smaller model for contrastive decoding", metavar="MODEL"),
)

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
    Option(
        "cache_type",
        "what keys and values are kept as (default: f32 for float checkpoints, f16 for others); int8 takes half of f16",
        choices=tuple(CACHE_TYPES),
    ),
)
LOADING = ("threads", "kernels", "quantize", "backend", "device", "n_ctx", "cache_type")
COLOR = Option(
    "color", "colour on standard output; NO_COLOR and FORCE_COLOR are heeded", choices=COLORS, default="auto"
)


def setting_groups(**defaults: str) -> tuple[tuple[str, tuple[Option, ...]], ...]:
    """The flags of all settings, by groups. defaults: where a command has its own."""
    known = {option.name: option for option in setting_options(**defaults)}
    groups = []
    for group in GROUPS:
        options = [known[name] for name, option in OPTIONS.items() if option.group == group and name in known]
        groups.append(
            (group, (*options, ORDER) if any(option.name == "processors" for option in options) else tuple(options))
        )
    return (("settings, named as in GenerationConfig", SHARED), *groups)


def setting_options(**defaults: str) -> tuple[Option, ...]:
    """A flag for every field of GenerationConfig that can be typed, so that none can be forgotten."""
    options = []
    for name, option in OPTIONS.items():
        rule = option.rule
        if rule.kind == "none":  # functions
            continue
        options.append(
            Option(
                name,
                HELP[name],
                kind=rule.kind,
                metavar=option.metavar
                or {"int": "N", "float": "X", "json": "JSON", "text": "TEXT", "flag": ""}[rule.kind],
                short="n" if name == "max_new_tokens" else "",
                many=rule.many,
                nullable=rule.nullable and not rule.many and rule.kind in ("int", "float"),
                default=defaults.get(name, _default(DEFAULTS[name])),
            )
        )
    return tuple(options)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None or isinstance(value, tuple) else str(value)


def make_config(values: Mapping[str, Any], model: Model | None = None, **defaults: Any) -> GenerationConfig:
    """The settings among a command's values: over a file, a preset, the model's, the command's own. Errors: OptionError."""
    from fanlight.api import layered

    given = {name: values[name] for name in DEFAULTS if name in values}
    if "order" in values and "processors" in values:
        raise OptionError("--order and --processors are the same: give one of them")
    if "order" in values:
        given["processors"] = values["order"]
    preset = values.get("preset")
    own = model.defaults if model is not None and preset is None else None
    return layered(own, preset=preset, file=values.get("settings"), options=given, own=defaults)


def check_early(values: Mapping[str, Any], config: GenerationConfig) -> None:
    """What no model can make possible, before one is read: contradictions, and forms that are none. Errors: OptionError.

    A model's own settings may make drawing of it, which the caller need not say.
    """
    from fanlight.decoding.strategies.choose import strategy_of
    from fanlight.engine.preparing import form_of

    helpers = {"has_assistant": "assistant" in values, "has_amateur": "amateur" in values}
    try:
        strategy_of(config, **helpers)
    except OptionError as error:
        if config.was_asked("do_sample"):
            raise
        try:
            strategy_of(config.replace(do_sample=True), **helpers)
        except OptionError:
            raise error from None
    kind = form_of(config)
    if kind is not None:
        from fanlight.decoding.grammar_limits import prepare

        prepare(kind, getattr(config, kind))


def explained(values: Mapping[str, Any], config: GenerationConfig, output: Output) -> bool:
    """Print the table of all settings, if --explain-settings asks for it; whether it did."""
    if values.get("explain_settings"):
        output.line(str(config.explain()))
    return bool(values.get("explain_settings"))


def load_helpers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The models of --assistant and --amateur. Errors: as `fanlight.load`."""
    from fanlight.api import load

    how = {name: values[name] for name in ("threads", "kernels") if name in values}
    return {name: load(values[name], **how) for name in ("assistant", "amateur") if name in values}


def say_defaults(values: Mapping[str, Any], model: Model, config: GenerationConfig, output: Output) -> None:
    """Which settings are the model's own wish."""
    replaced = values.get("preset") is not None
    origins = dict(config.origins)
    own = [
        f"{name} {value}"
        for name, value in model.defaults.values.items()
        if not replaced and origins.get(name) == os.path.basename(model.defaults.origin)
    ]
    if own:
        output.note(f"the model's own settings: {', '.join(own)} ({model.defaults.origin})")
    for note in model.defaults.notes():
        output.note(note)


def say_notes(config: GenerationConfig, output: Output, values: Mapping[str, Any]) -> None:
    """What was set and has no effect."""
    from fanlight.decoding.notes import without_helpers

    helpers = without_helpers(config, assistant="assistant" in values, amateur="amateur" in values)
    for note in (*config.notes(), *helpers):
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
