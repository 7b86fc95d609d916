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
    if config.new_tokens is not None and (config.min_new_tokens or 0) > config.new_tokens:
        found["min_new_tokens"] = f"max_new_tokens={config.new_tokens} ends the text sooner"
    if config.max_length is not None and config.new_tokens is None and config.min_length > config.max_length:
        found["min_length"] = f"max_length={config.max_length} ends the text sooner"
    if config.negative_prompt is not None and config.was_asked("negative_prompt_ids"):
        found["negative_prompt"] = "negative_prompt_ids is given too"
    if config.mirostat and config.samples and config.top_k and not config.was_asked("top_k"):
        found["top_k"] = "mirostat makes its own cut"
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


def without_helpers(config: GenerationConfig, *, assistant: bool, amateur: bool) -> tuple[str, ...]:
    """What has no effect for want of another model, a sentence each."""
    said = []
    if amateur and config.processors is not None and "contrastive_decoding" not in config.processors:
        return ("the amateur has no effect: processors does not name contrastive_decoding",)
    if not amateur:
        said += [(name, "there is no amateur") for name in ("contrastive_alpha", "contrastive_beta")]
    if not assistant:
        names = ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
        said += [
            (name, "nobody guesses: there is no assistant") for name in names if config.assistant_early_exit is None
        ]
    return tuple(f"{name} has no effect: {why}" for name, why in said if is_set(config, name))


def notes(config: GenerationConfig) -> tuple[str, ...]:
    """A sentence each; of what nobody asked for, nothing."""
    said = [f"{name} has no effect: {why}" for name, why in no_effect(config).items() if config.was_asked(name)]
    if config.do_sample and not config.samples:
        said.insert(0, "temperature is 0: the most probable token is taken, as with do_sample false")
    if not config.use_cache:
        said.append("use_cache is false: the text is the same, and every token computes the whole text again")
    return tuple(said)
