"""The settings that a model comes with. In: generation_config.json, or GGUF metadata. Out: options known here. Reads no file.

A model's makers often say how it is meant to be sampled. What they say counts where a caller says nothing; what Fanlight has no
option for is named, not dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.errors import CheckpointError, OptionError

TAKEN = frozenset(DEFAULTS) - {"max_length", "seed", "candidates", "processors"}
"""Options of generation_config.json that mean the same here. max_length there is a window, rather than a wish."""

NO_SETTINGS = frozenset(
    (
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "unk_token_id"),  # the tokenizer's
        *("transformers_version", "_from_model_config", "use_cache", "cache_implementation", "return_dict_in_generate"),
        *(
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_logits",
            "chat_format",
            "max_window_size",
        ),
    )
)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "encoder_no_repeat_ngram_size": (0,),
    "max_length": (20,),
    "is_assistant": (False,),
    "low_memory": (False,),
    "disable_compile": (False,),
    "assistant_lookbehind": (10,),
    "target_lookbehind": (10,),
}
"""Values of other options that change nothing."""

GGUF_OPTIONS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
GGUF_PREFIX = "general.sampling."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Options to start from."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By GenerationConfig's names, checked."""
    origin: str = ""
    """The file, or the metadata, that they come from."""
    ignored: Mapping[str, Any] = field(default_factory=dict)
    """What is said there and has no option here."""

    def notes(self) -> tuple[str, ...]:
        """What the model's makers ask for and does not happen, a sentence each."""
        return tuple(
            f"{self.origin} asks for {name} {value!r:.40}, which is not applied" for name, value in self.ignored.items()
        )


def defaults_from_hf(values: Mapping[str, Any], path: str, n_ctx: int) -> ModelDefaults:
    """From the content of generation_config.json. Errors: CheckpointError for a value outside its range."""
    taken, ignored = {}, {}
    for name, value in values.items():
        if value is None or name in NO_SETTINGS or value in NEUTRAL.get(name, ()):
            continue
        if name in TAKEN:
            if value != DEFAULTS[name]:
                taken[name] = value
        elif not (
            name == "max_length" and isinstance(value, int) and value >= n_ctx
        ):  # the window ends the text anyway
            ignored[name] = value
    return ModelDefaults(values=_checked(taken, path), origin=path, ignored=ignored)


def defaults_from_gguf(metadata: Mapping[str, Any], path: str) -> ModelDefaults:
    """From the general.sampling.* keys, which some converters write. Errors: CheckpointError for a value outside its range."""
    said = {key: value for key, value in metadata.items() if key.startswith(GGUF_PREFIX)}
    taken = {GGUF_OPTIONS[key]: value for key, value in said.items() if key in GGUF_OPTIONS}
    if taken:
        taken["do_sample"] = True  # they are a sampler's
    ignored = {key: value for key, value in said.items() if key not in GGUF_OPTIONS}
    return ModelDefaults(values=_checked(taken, path), origin=path if said else "", ignored=ignored)


def _checked(values: dict[str, Any], path: str) -> dict[str, Any]:
    try:
        config = GenerationConfig.from_options(values)
    except OptionError as error:
        raise CheckpointError(f"{path}: {error}; correct the file") from None
    return {name: value for name, value in values.items() if getattr(config, name) != DEFAULTS[name]}  # [] is ()
