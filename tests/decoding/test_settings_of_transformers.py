"""Every setting of transformers' GenerationConfig that concerns a decoder's text is an option here, with the same default."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from transformers import GenerationConfig as TheirConfig

from fanlight.decoding.config import DEFAULTS, GenerationConfig

NOT_HERE = {  # and why
    "encoder_no_repeat_ngram_size": "of encoder-decoder models",
    "decoder_start_token_id": "of encoder-decoder models",
    "use_mtp": "of models with heads that guess ahead, which there are none of here",
    "speculation_type": "names a drafter that needs a model trained for it",
    "assistant_ensemble_weight": "changes the text, where speculation here gives the same text",
    "assistant_lookbehind": "aligns the vocabularies of two tokenizers; an assistant here has the model's own",
    "target_lookbehind": "aligns the vocabularies of two tokenizers; an assistant here has the model's own",
    "is_assistant": "set by the library itself",
    "cache_implementation": "how keys and values are stored, not what is written",
    "cache_config": "how keys and values are stored, not what is written",
    "max_cache_len": "how keys and values are stored, not what is written",
    "prefill_chunk_size": "how the prompt is computed, not what is written",
    "low_memory": "how searches are computed, not what is written",
    "compile_config": "of PyTorch",
    "disable_compile": "of PyTorch",
    "continuous_batching_config": "deprecated there",
    "return_dict_in_generate": "the form of the answer in Python; here there is one",
    "transformers_version": "bookkeeping",
    "_from_model_config": "bookkeeping",
}
DEFAULTS_OF_ITS_OWN = {  # where saying nothing means something else there, and why
    "max_length": "20 there, which cuts off any text; here max_new_tokens has a default",
}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(vars(TheirConfig()))


def test_every_setting_is_an_option_or_written_down_as_none(theirs: dict[str, Any]) -> None:
    assert set(theirs) - set(DEFAULTS) == set(NOT_HERE) & set(theirs)
    assert not set(NOT_HERE) & set(DEFAULTS)
    assert set(NOT_HERE) <= set(theirs), "a reason for what transformers no longer has"


def test_saying_nothing_means_the_same(theirs: dict[str, Any]) -> None:
    defaults = {name: value for name, value in theirs.items() if value is not None}
    defaults |= TheirConfig._get_default_generation_params()
    for name, value in defaults.items():
        if name not in DEFAULTS or name in DEFAULTS_OF_ITS_OWN:
            continue
        ours = DEFAULTS[name]
        assert (ours or None) == (value or None), name


def test_what_one_accepts_for_an_option_the_other_accepts() -> None:
    """Values in the form that generation_config.json has."""
    values: dict[str, Any] = {
        "max_new_tokens": 5,
        "min_new_tokens": 2,
        "max_time": 1.5,
        "stop_strings": ["a", "b"],
        "num_beams": 3,
        "early_stopping": "never",
        "temperature": 0.7,
        "top_k": 3,
        "top_h": 0.5,
        "epsilon_cutoff": 0.001,
        "bad_words_ids": [[1], [2, 3]],
        "sequence_bias": [[[1, 2], -1.5]],
        "suppress_tokens": [3, 4],
        "forced_eos_token_id": [1, 2],
        "exponential_decay_length_penalty": [3, 1.5],
        "watermarking_config": {
            "greenlist_ratio": 0.25,
            "bias": 2.0,
            "hashing_key": 15485863,
            "seeding_scheme": "lefthash",
        },
        "guidance_scale": 1.5,
        "token_healing": True,
        "prompt_lookup_num_tokens": 4,
        "eos_token_id": [1, 2],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TheirConfig(**values)
    config = GenerationConfig.from_options(values)
    assert all(config.was_asked(name) for name in values)
