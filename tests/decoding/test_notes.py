"""What is set and does nothing is said, option by option; what does something is not."""

from __future__ import annotations

from typing import Any

import pytest

from fanlight.decoding.config import DEFAULTS, OPTIONS, GenerationConfig
from fanlight.decoding.notes import NEEDS

VALUES: dict[str, Any] = {  # one value for each option that is not its default
    "max_new_tokens": 5,
    "max_length": 50,
    "min_length": 2,
    "min_new_tokens": 2,
    "max_time": 2.0,
    "stop_strings": "a",
    "include_stop_string": True,
    "eos_token_id": 3,
    "bos_token_id": 3,
    "pad_token_id": 3,
    "ignore_eos": True,
    "loop_repeats": 3,
    "loop_min_tokens": 3,
    "stopping_criteria": len,
    "do_sample": True,
    "seed": 3,
    "temperature": 0.5,
    "dynatemp_range": 0.5,
    "dynatemp_exponent": 2.0,
    "smoothing_factor": 0.5,
    "smoothing_curve": 2.0,
    "mirostat": 2,
    "mirostat_tau": 3.0,
    "mirostat_eta": 0.2,
    "adaptive_target": 0.3,
    "adaptive_decay": 0.5,
    "guidance_scale": 1.5,
    "negative_prompt": "a",
    "negative_prompt_ids": [3],
    "watermarking_config": {"bias": 2.0},
    "processors": "top_p",
    "min_tokens_to_keep": 2,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.5,
    "top_h": 0.5,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "top_n_sigma": 1.0,
    "tfs": 0.5,
    "top_a": 0.5,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "repetition_penalty": 1.2,
    "repetition_penalty_range": 3,
    "penalize_prompt": True,
    "encoder_repetition_penalty": 1.2,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "no_repeat_ngram_size": 3,
    "dry_multiplier": 0.8,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 3,
    "dry_sequence_breakers": "a",
    "sequence_bias": {(1,): 2.0},
    "logit_bias": {1: 2.0},
    "bad_words_ids": [[1]],
    "suppress_tokens": 1,
    "begin_suppress_tokens": 1,
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 1,
    "exponential_decay_length_penalty": (1, 1.5),
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "num_beams": 4,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "length_penalty": 2.0,
    "early_stopping": True,
    "num_return_sequences": 2,
    "best_of": 3,
    "vote_pattern": "a",
    "penalty_alpha": 0.5,
    "dola_layers": "low",
    "contrastive_alpha": 0.2,
    "contrastive_beta": 0.2,
    "force_words_ids": [[1]],
    "constraints": [[1]],
    "use_cache": False,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.5,
    "assistant_early_exit": 1,
    "regex": "a",
    "choice": "a",
    "json_schema": "{}",
    "grammar": "a",
    "token_healing": True,
    "candidates": 3,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}
ALWAYS_IDLE = {
    "pad_token_id": "pad_token_id has no effect: batches here need no padding",
    "output_attentions": "output_attentions has no effect: attention weights are not recorded here",
}
PENALTY = ("repetition_penalty_range", "penalize_prompt")


def notes(**options: Any) -> list[str]:
    return list(GenerationConfig.from_options(options).notes())


def test_there_is_a_value_for_every_option() -> None:
    assert list(VALUES) == list(DEFAULTS)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.sampling])
def test_what_only_sampling_uses_says_so(name: str) -> None:
    assert f"{name} has no effect: do_sample is false" in notes(**{name: VALUES[name]})
    cold = {"do_sample": True, "temperature": 0}
    if name != "temperature":
        assert f"{name} has no effect: temperature is 0" in notes(**cold | {name: VALUES[name]})


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_another_option_says_which(name: str) -> None:
    other = NEEDS[name]
    sampling = {"do_sample": True}
    assert f"{name} has no effect: {other} is not set" in notes(**sampling, **{name: VALUES[name]})
    both = {name: VALUES[name], other: VALUES[other]} | {other: VALUES[other] for other in [NEEDS.get(other)] if other}
    assert notes(**sampling, **both) == []


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_works_alone_says_nothing(name: str) -> None:
    found = notes(**{"do_sample": True, name: VALUES[name]})
    if name in ALWAYS_IDLE:
        assert found == [ALWAYS_IDLE[name]]
    elif name == "use_cache":
        assert found == ["use_cache is false: the text is the same, and every token computes the whole text again"]
    elif name in NEEDS or name in PENALTY:
        assert len(found) == 1
    else:
        assert found == []


@pytest.mark.parametrize("name", PENALTY)
def test_the_reach_of_penalties_needs_a_penalty(name: str) -> None:
    assert notes(**{name: VALUES[name]}) == [f"{name} has no effect: no penalty is set"]
    for penalty in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
        assert notes(**{name: VALUES[name], penalty: VALUES[penalty]}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"repetition_penalty": 1.2, "max_new_tokens": 0}, []),
        ({"top_p": 1.0, "top_k": 50, "temperature": 1.0}, []),  # said, but equal to the default
        ({"top_p": 0.9}, ["top_p has no effect: do_sample is false"]),
        (
            {"temperature": 0.7, "top_k": None, "min_p": 0.1, "seed": 0},
            [f"{name} has no effect: do_sample is false" for name in ("seed", "temperature", "top_k", "min_p")],
        ),
        ({"do_sample": True, "top_p": 0.9, "seed": 3}, []),
        ({"temperature": 0}, []),
        (
            {"do_sample": True, "temperature": 0, "top_k": 5},
            [
                "temperature is 0: the most probable token is taken, as with do_sample false",
                "top_k has no effect: temperature is 0",
            ],
        ),
        ({"penalty_alpha": 0.6, "top_k": 4}, []),  # contrastive search chooses among the top_k
        ({"ignore_eos": True}, []),
        (
            {"ignore_eos": True, "eos_token_id": 5},
            ["eos_token_id has no effect: ignore_eos is true, and so it ends nothing"],
        ),
        ({"max_length": 50}, []),
        ({"max_length": 50, "max_new_tokens": 9}, ["max_length has no effect: max_new_tokens=9 takes precedence"]),
        (
            {"do_sample": True, "xtc_probability": 0.5, "xtc_threshold": 0.6},
            ["xtc_probability has no effect: no two tokens can both be above xtc_threshold"],
        ),
    ],
)
def test_notes_say_what_has_no_effect(options: dict[str, Any], expected: list[str]) -> None:
    assert notes(**options) == expected


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("top_p", "top_p"),
        ("temperature", "temperature"),
        ("dynatemp_range", "temperature"),
        ("dry_multiplier", "dry"),
        ("xtc_probability", "xtc"),
        ("adaptive_target", "adaptive_p"),
        ("repetition_penalty", "repetition_penalty"),
        ("suppress_tokens", "suppress_tokens"),
        ("watermarking_config", "watermarking_config"),
        ("renormalize_logits", "renormalize_logits"),
    ],
)
def test_what_the_order_does_not_name_has_no_effect(name: str, processor: str) -> None:
    options = {"do_sample": True, "processors": "top_k", name: VALUES[name]}
    assert notes(**options) == [f"{name} has no effect: processors does not name {processor}"]
    assert notes(**options | {"processors": f"top_k,{processor}"}) == []
