"""Settings to be compared -> a checked GenerationConfig for each. In: texts, mappings, configs, and what all share. Knows no model.

Layers, the later over the earlier: a command's own defaults, the model's (which any preset replaces), the common preset (which a
setting's own replaces), the common file, the common options, the setting's preset, its file, its options.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fanlight.comparing.grammar import EXAMPLES, Spec, label_of, read_spec
from fanlight.decoding.config import CALL, COMMAND, OPTIONS, GenerationConfig, check_names
from fanlight.decoding.notes import no_effect
from fanlight.decoding.presets import options_from_file, preset
from fanlight.decoding.strategies.choose import strategy_of
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from os import PathLike

    from fanlight.decoding.defaults import ModelDefaults

ALTERNATIVES = 5
"""Candidates that are recorded of each step, where nobody says how many."""
MOST_VARIANTS, MOST_SAMPLES = 1000, 512
IMPLIED = "an option that counts where tokens are drawn"
AnySetting = str | Mapping[str, Any] | GenerationConfig
AnySettings = Mapping[str, AnySetting] | Sequence[AnySetting]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What all settings share."""

    preset: str | None = None
    file: str | PathLike[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    """A command's own defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of them, ready."""

    label: str
    config: GenerationConfig
    notes: tuple[str, ...] = ()
    implied_by: str = ""
    """The option because of which tokens are drawn, although nobody said do_sample."""

    @property
    def draws(self) -> bool:
        """Whether another seed may give another text."""
        return self.config.samples


def read_specs(settings: AnySettings) -> tuple[Spec, ...]:
    """What is to be compared; a mapping's keys are the labels. Errors: OptionError, also for two of one label."""
    if isinstance(settings, (str, bytes, GenerationConfig)) or not isinstance(settings, (Mapping, Sequence)):
        raise OptionError(
            f"settings must be a list such as ['greedy', 'temperature=0.7'], or a mapping: got {settings!r:.80}"
        )
    named = settings.items() if isinstance(settings, Mapping) else ((None, setting) for setting in settings)
    specs = tuple(_spec(label, setting) for label, setting in named)
    if not specs:
        raise OptionError(f"there is no setting to compare; give some, such as {EXAMPLES}")
    if len(specs) > MOST_VARIANTS:
        raise OptionError(f"{len(specs)} settings are too many to be compared, at most {MOST_VARIANTS}")
    seen: set[str] = set()
    for spec in specs:
        if spec.label in seen:
            raise OptionError(
                f"two settings are called {spec.label!r:.80}; leave one out, or name it: other@{spec.label:.80}"
            )
        seen.add(spec.label)
    return specs


def _spec(label: object, setting: AnySetting) -> Spec:
    if label is not None and (not isinstance(label, str) or not label.strip()):
        raise OptionError(f"the name of a setting must be a text that is not empty: got {label!r:.80}")
    if isinstance(setting, str):
        spec = read_spec(setting)
    elif isinstance(setting, GenerationConfig):
        values = setting.values()
        options = {name: values[name] for name, origin in setting.origins if origin != COMMAND}
        spec = Spec(label=label_of(options) or "defaults", options=options, alone=True)
    elif isinstance(setting, Mapping):
        options = {name: value for name, value in setting.items() if name not in ("preset", "file")}
        check_names(options)
        spec = Spec(
            label=label_of(setting) or "base", preset=setting.get("preset"), file=setting.get("file"), options=options
        )
        if spec.preset is not None:
            preset(spec.preset)
    else:
        raise OptionError(
            f"a setting is a text such as {EXAMPLES}, a mapping of options or a GenerationConfig: got {setting!r:.80}"
        )
    return spec if label is None else replace(spec, label=str(label).strip())


def resolve(specs: Sequence[Spec], base: Base, defaults: ModelDefaults | None = None) -> tuple[Setting, ...]:
    """A config for each. defaults: the model's own. Errors: OptionError, with the label of the setting that is at fault."""
    check_names(base.options)
    return tuple(_resolve(spec, base, defaults) for spec in specs)


def _resolve(spec: Spec, base: Base, defaults: ModelDefaults | None) -> Setting:
    where = f"setting {spec.label!r:.80}"
    layers: list[tuple[str, Mapping[str, Any]]] = [(COMMAND, {"candidates": ALTERNATIVES, **base.own})]
    common = base.preset if spec.preset is None else None
    if defaults is not None and defaults.values and common is None and spec.preset is None and not spec.alone:
        layers.append((os.path.basename(defaults.origin) or defaults.origin, defaults.values))
    if common is not None:
        layers.append((f"preset {common}", preset(common)))
    if base.file is not None:
        layers.append((str(base.file), options_from_file(base.file)))
    layers.append((CALL, base.options))
    if spec.preset is not None:
        layers.append((f"preset {spec.preset}", preset(spec.preset)))
    own = set(spec.names)
    if spec.file is not None:
        read = options_from_file(spec.file)
        own |= set(read)
        layers.append((str(spec.file), read))
    layers.append((where, spec.options))
    config = GenerationConfig.from_layers(layers)
    implied_by = "" if config.was_asked("do_sample") else _asks_for_draws(config, own, base)
    if implied_by:
        config = GenerationConfig.from_layers([*layers, (IMPLIED, {"do_sample": True})])
    try:
        _check(config)
        strategy_of(config)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    notes = [f"{spec.label}: {name} has no effect: {why}" for name, why in no_effect(config).items() if name in own]
    return Setting(label=spec.label, config=config, notes=tuple(notes), implied_by=implied_by)


def _asks_for_draws(config: GenerationConfig, own: Collection[str], base: Base) -> str:
    """An option that counts where tokens are drawn alone, and that this setting names, be it with its default; "": none.

    Common options do not make draws of a search.
    """
    if config.penalty_alpha > 0:
        return ""
    named = [*own, *(base.options if config.num_beams == 1 else ())]
    off = {"seed"} | ({"temperature"} if config.temperature == 0 else set())
    return next((name for name, option in OPTIONS.items() if option.sampling and name in named and name not in off), "")


def _check(config: GenerationConfig) -> None:
    if config.num_return_sequences > 1:
        raise OptionError(
            "num_return_sequences is not for comparisons; samples says how many texts there are of each setting"
        )
    if config.candidates == 0:
        raise OptionError("candidates=0 leaves nothing to measure; it must be at least 1")


def checked_count(name: str, value: object, most: int) -> int:
    """A whole number from 1 to `most`. Errors: OptionError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise OptionError(f"{name} must be a whole number from 1 to {most}: got {value!r:.80}")
    return value


def differing(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Of each setting, the options in which any two of them differ."""
    values = [setting.config.values() for setting in settings]
    names = [name for name in values[0] if any(v[name] != values[0][name] for v in values[1:])]
    return [{name: v[name] for name in names} for v in values]
