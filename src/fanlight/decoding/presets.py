"""Settings under one name, and settings from a file. In: a name or a path. Out: options by their names. Knows no model.

The presets "hf" and "llama.cpp" are what those programs do where nobody says anything, with their order of processors: the same
numbers mean different things there, because llama.cpp divides by the temperature last and transformers first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fanlight.errors import OptionError

BEFORE = (
    *("guidance_scale", "contrastive_decoding", "dola_layers", "remove_invalid_values", "sequence_bias", "logit_bias"),
    *("encoder_repetition_penalty", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
    *("no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id"),
    *("forced_eos_token_id", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    *("constraint", "token_healing"),
)
LLAMA_CPP_ORDER = (
    *BEFORE,
    *("top_n_sigma", "top_k", "tfs", "typical_p", "top_p", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "top_a"),
    *("xtc", "temperature", "smoothing_factor", "mirostat", "adaptive_p", "watermarking_config", "renormalize_logits"),
)
"""llama.cpp's chain: penalties, dry, top-n-sigma, top-k, typical, top-p, min-p, xtc, temperature; what it has not, around it."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"do_sample": False},
    "precise": {"do_sample": True, "temperature": 0.3, "top_k": 40, "top_p": 0.9},
    "balanced": {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 50,
        "top_p": 0.92,
        "min_p": 0.02,
        "repetition_penalty": 1.05,
    },
    "creative": {
        "do_sample": True,
        "temperature": 1.1,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
    },
    "hf": {"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0},
    "llama.cpp": {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty_range": 64,
        "penalize_prompt": True,
        "processors": LLAMA_CPP_ORDER,
    },
}
MAX_FILE_BYTES = 1 << 20


def preset(name: str) -> Mapping[str, Any]:
    """The options of a preset. Errors: OptionError for an unknown name, and for what is none."""
    if not isinstance(name, str):
        raise OptionError(f"preset must be a name, one of {', '.join(PRESETS)}: got {name!r:.80}")
    if name not in PRESETS:
        from difflib import get_close_matches

        near = get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PRESETS)}"
        raise OptionError(f"unknown preset {name!r:.80}; {hint}")
    return PRESETS[name]


def options_from_file(path: str | PathLike[str]) -> dict[str, Any]:
    """The options in a JSON or TOML file; unknown names are found later. Errors: OptionError, which names the file."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise OptionError(f"{file}: {file.stat().st_size} bytes of settings, expected at most {MAX_FILE_BYTES}")
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            import tomllib

            values = tomllib.loads(text)
        else:
            values = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise OptionError(f"{file}: expected settings as {kind}: {error}") from None
    if not isinstance(values, dict):
        raise OptionError(f"{file}: expected an object of settings, found a {type(values).__name__}")
    return values
