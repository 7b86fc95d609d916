"""The settings that a model comes with: taken where Fanlight has the option, named where it has not."""

from __future__ import annotations

from typing import Any

import pytest

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
    found = defaults_from_hf({"no_repeat_ngram_size": 3, "num_beams": 4, "max_length": 50}, "f", 4096)
    assert found.ignored == {"no_repeat_ngram_size": 3, "num_beams": 4, "max_length": 50}
    assert found.notes()[0] == "f asks for no_repeat_ngram_size 3, which is not applied"


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 1},
        {"typical_p": 1.0},
        {"penalty_alpha": None},
        {"temperature": 1.0},
        {"top_k": 50},
        {"length_penalty": 1},
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
    found = defaults_from_hf({"num_beams": [1], "typical_p": {}, "x": "y"}, "f", 4096)
    assert set(found.ignored) == {"num_beams", "typical_p", "x"}


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
