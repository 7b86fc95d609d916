"""The settings that a model comes with: taken where Fanlight has the option, named where it has not."""

from __future__ import annotations

from typing import Any

import pytest

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.defaults import defaults_from_gguf, defaults_from_hf
from fanlight.errors import CheckpointError

LLAMA_3 = {
    "_from_model_config": True,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "do_sample": True,
    "temperature": 0.6,
    "max_length": 4096,
    "top_p": 0.9,
    "transformers_version": "4.40.0.dev0",
}


def test_known_options_are_taken_and_bookkeeping_is_not_a_setting() -> None:
    found = defaults_from_hf(LLAMA_3, "x/generation_config.json", 4096)
    assert found.values == {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    assert found.ignored == {}
    assert found.origin == "x/generation_config.json"
    assert found.notes() == ()


def test_what_has_no_option_here_is_named() -> None:
    found = defaults_from_hf({"encoder_no_repeat_ngram_size": 3, "use_mtp": True, "max_length": 50}, "f", 4096)
    assert found.ignored == {"encoder_no_repeat_ngram_size": 3, "use_mtp": True, "max_length": 50}
    assert found.notes()[0] == "f asks for encoder_no_repeat_ngram_size 3, which is not applied"


def test_every_option_that_a_model_may_set_is_taken() -> None:
    values = {"no_repeat_ngram_size": 3, "num_beams": 4, "suppress_tokens": [1, 2], "sequence_bias": [[[1], 2.0]]}
    found = defaults_from_hf(values, "f", 4096)
    assert (found.values, found.ignored) == (values, {})
    assert GenerationConfig.from_layers([(found.origin, found.values)]).no_repeat_ngram_size == 3


def test_what_is_the_callers_alone_is_not_taken_from_a_model() -> None:
    values = {"seed": 3, "candidates": 5, "processors": ["top_p"], "max_length": 4096}
    found = defaults_from_hf(values, "f", 4096)
    assert found.values == {}
    assert set(found.ignored) == {"seed", "candidates", "processors"}


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 1},
        {"typical_p": 1.0},
        {"penalty_alpha": None},
        {"temperature": 1.0},
        {"top_k": 50},
        {"length_penalty": 1},
        {"encoder_no_repeat_ngram_size": 0, "max_length": 20},
        {"suppress_tokens": [], "bad_words_ids": None},
        {"is_assistant": False, "assistant_lookbehind": 10, "target_lookbehind": 10, "disable_compile": False},
    ],
    ids=str,
)
def test_neutral_values_say_nothing(values: dict[str, Any]) -> None:
    found = defaults_from_hf(values, "f", 4096)
    assert (found.values, found.ignored) == ({}, {})


@pytest.mark.parametrize("values", [{"top_p": 7}, {"temperature": "hot"}, {"do_sample": 1}, {"top_k": -1}], ids=str)
def test_a_value_outside_its_range_is_an_error_with_the_file(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"generation_config.json: {next(iter(values))}"):
        defaults_from_hf(values, "generation_config.json", 4096)


def test_values_of_any_json_type_are_survived() -> None:
    found = defaults_from_hf({"use_mtp": [1], "max_length": {}, "x": "y", "is_assistant": [False]}, "f", 4096)
    assert set(found.ignored) == {"use_mtp", "max_length", "x", "is_assistant"}
    for name, value in (("num_beams", [1]), ("typical_p", {}), ("stopping_criteria", "x")):
        with pytest.raises(CheckpointError, match=f"^f: {name} must be .*; correct the file$"):
            defaults_from_hf({name: value}, "f", 4096)


def test_gguf_sampling_keys() -> None:
    metadata = {
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 20,
        "general.sampling.mirostat": 2,
        "general.name": "x",
    }
    found = defaults_from_gguf(metadata, "m.gguf")
    assert found.values == {"temperature": 0.7, "top_k": 20, "do_sample": True}
    assert found.ignored == {"general.sampling.mirostat": 2}
    assert defaults_from_gguf({"general.name": "x"}, "m.gguf").origin == ""
