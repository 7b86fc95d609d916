"""What was set and yet has no effect, in sentences. In: a GenerationConfig. Knows no model and no request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.decoding.config import DEFAULTS, OPTIONS

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig

NEEDS = {
    "dynatemp_exponent": "dynatemp_range",
    "smoothing_curve": "smoothing_factor",
    "mirostat_tau": "mirostat",
    "mirostat_eta": "mirostat",
    "adaptive_decay": "adaptive_target",
    "xtc_threshold": "xtc_probability",
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_penalty_last_n": "dry_multiplier",
    "dry_sequence_breakers": "dry_multiplier",
    "negative_prompt": "guidance_scale",
    "negative_prompt_ids": "guidance_scale",
    "include_stop_string": "stop_strings",
    "loop_min_tokens": "loop_repeats",
    "max_matching_ngram_size": "prompt_lookup_num_tokens",
    "vote_pattern": "best_of",
    "length_penalty": "num_beams",
    "early_stopping": "num_beams",
    "diversity_penalty": "num_beam_groups",
}
"""Option -> the one that must be on for it."""


def is_set(config: GenerationConfig, name: str) -> bool:
    """Whether an option is away from its default."""
    return bool(getattr(config, name) != DEFAULTS[name])


def no_effect(config: GenerationConfig) -> dict[str, str]:
    """Option -> why it does nothing, of those that are set."""
    found: dict[str, str] = {}
    if not config.samples:
        reason = "temperature is 0" if config.do_sample else "do_sample is false"
        for name, option in OPTIONS.items():
            asks_for_it = name == "temperature" and config.temperature == 0  # 0 asks for what happens
            used = name == "top_k" and config.penalty_alpha > 0
            if option.sampling and is_set(config, name) and not asks_for_it and not used:
                found[name] = reason
    for name, other in NEEDS.items():
        if is_set(config, name) and not is_set(config, other):
            found.setdefault(name, f"{other} is not set")
    penalties = ("repetition_penalty", "frequency_penalty", "presence_penalty")
    for name in ("repetition_penalty_range", "penalize_prompt"):
        from_preset = (
            dict(config.origins).get(name, "").startswith("preset ")
        )  # there for penalties that are set over it
        if is_set(config, name) and not from_preset and not any(is_set(config, penalty) for penalty in penalties):
            found[name] = "no penalty is set"
    if config.max_length is not None and config.new_tokens is not None:
        found["max_length"] = f"max_new_tokens={config.new_tokens} takes precedence"
    if config.xtc_probability and config.xtc_threshold > 0.5:
        found.setdefault("xtc_probability", "no two tokens can both be above xtc_threshold")
    if config.ignore_eos and config.eos_token_id:
        found["eos_token_id"] = "ignore_eos is true, and so it ends nothing"
    if config.pad_token_id is not None:
        found["pad_token_id"] = "batches here need no padding"
    if config.output_hidden_states and (config.num_beams > 1 or config.penalty_alpha > 0):
        found["output_hidden_states"] = "a search keeps none"
    if config.output_attentions:
        found["output_attentions"] = "attention weights are not recorded here"
    from fanlight.decoding.processors import SWITCHES, left_out

    for name in left_out(config):
        processor = next((known for known, options in SWITCHES.items() if name in options), name)
        found.setdefault(name, f"processors does not name {processor}")
    return found


def notes(config: GenerationConfig) -> tuple[str, ...]:
    """A sentence each."""
    said = [f"{name} has no effect: {why}" for name, why in no_effect(config).items()]
    if config.do_sample and not config.samples:
        said.insert(0, "temperature is 0: the most probable token is taken, as with do_sample false")
    if not config.use_cache:
        said.append("use_cache is false: the text is the same, and every token computes the whole text again")
    return tuple(said)
