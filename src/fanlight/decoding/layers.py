"""Settings from several places, one over the other. In: a model's own, a preset, a file, options. Out: a GenerationConfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import CALL, COMMAND, GenerationConfig

if TYPE_CHECKING:
    from fanlight.decoding.defaults import ModelDefaults


def layered(
    defaults: ModelDefaults | None = None,
    *,
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
) -> GenerationConfig:
    """Settings, each over those before it: own (a command's), a model's, a preset, a file, options. Errors: OptionError."""
    from fanlight.decoding.presets import options_from_file
    from fanlight.decoding.presets import preset as preset_options

    layers: list[tuple[str, Mapping[str, Any]]] = [(COMMAND, own or {})]
    if defaults is not None and defaults.values:
        layers.append((os.path.basename(defaults.origin) or defaults.origin, defaults.values))
    if preset is not None:
        layers.append((f"preset {preset}", preset_options(preset)))
    if file is not None:
        layers.append((os.fspath(file), options_from_file(file)))
    return GenerationConfig.from_layers([*layers, (CALL, options)])
