"""Decoding settings: what is accepted, what is refused and with which words, what is said to have no effect."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from fanlight.decoding.config import GenerationConfig
from fanlight.errors import OptionError

REFUSED: list[tuple[str, Any, str]] = [
    ("max_new_tokens", -1, "max_new_tokens must be an integer of at least 0: got -1"),
    ("max_new_tokens", 1.0, "max_new_tokens must be an integer of at least 0: got 1.0"),
    ("max_new_tokens", True, "max_new_tokens must be an integer of at least 0: got True"),
    ("max_new_tokens", None, "max_new_tokens must be an integer of at least 0: got None"),
    ("do_sample", 1, "do_sample must be true or false: got 1"),
    ("temperature", -0.1, "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got -0.1"),
    ("temperature", 1e-40, "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got 1e-40"),
    ("temperature", math.nan, "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got nan"),
    ("temperature", math.inf, "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got inf"),
    ("temperature", "0.7", "temperature must be 0 (greedy), or between 1e-06 and 1e+06: got '0.7'"),
    ("top_k", -1, "top_k must be an integer of at least 0 (0 or None: off): got -1"),
    ("top_p", 0, "top_p must be above 0 and at most 1: got 0"),
    ("top_p", 1.01, "top_p must be above 0 and at most 1: got 1.01"),
    ("top_p", None, "top_p must be above 0 and at most 1: got None"),
    ("min_p", -0.1, "min_p must be between 0 and 1, or None: got -0.1"),
    ("min_p", 2, "min_p must be between 0 and 1, or None: got 2"),
    ("repetition_penalty", 0, "repetition_penalty must be between 1e-06 and 1e+06: got 0"),
    ("seed", 1.5, "seed must be an integer or None: got 1.5"),
    ("stop_strings", "", "stop_strings must be a string or several, none of them empty: got ''"),
    ("stop_strings", ["a", 3], "stop_strings must be a string or several, none of them empty: got ['a', 3]"),
    ("stop_strings", 3, "stop_strings must be a string or several, none of them empty: got 3"),
    ("eos_token_id", -2, "eos_token_id must be token ids of at least 0: got -2"),
    ("eos_token_id", [1, "x"], "eos_token_id must be token ids of at least 0: got 'x'"),
    ("eos_token_id", "2", "eos_token_id must be a token id or several, or None: got '2'"),
    ("ignore_eos", "yes", "ignore_eos must be true or false: got 'yes'"),
    ("candidates", -1, "candidates must be an integer of at least 0 (0: no records): got -1"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_value_outside_its_range_is_refused_by_name(name: str, value: Any, message: str) -> None:
    for make in (
        lambda: GenerationConfig.from_options({name: value}),
        lambda: GenerationConfig().replace(**{name: value}),
    ):
        with pytest.raises(OptionError) as caught:
            make()
        assert str(caught.value) == message


def test_every_option_has_a_refused_value() -> None:
    assert {name for name, _, _ in REFUSED} == {field.name for field in fields(GenerationConfig)}


def test_values_are_brought_into_one_form() -> None:
    config = GenerationConfig(
        stop_strings="\n",  # type: ignore[arg-type]
        eos_token_id=2,  # type: ignore[arg-type]
        temperature=2,
        top_k=np.int64(3),  # type: ignore[arg-type]
        min_p=np.float32(0.5),  # type: ignore[arg-type]
    )
    assert config.stop_strings == ("\n",)
    assert config.eos_token_id == (2,)
    assert [type(x) for x in (config.temperature, config.top_k, config.min_p)] == [float, int, float]
    listed = config.replace(stop_strings=["a", "b"], eos_token_id=[1, 2])
    assert (listed.stop_strings, listed.eos_token_id) == (("a", "b"), (1, 2))
    assert hash(listed) == hash(listed.replace())


def test_the_edges_of_the_ranges_are_inside() -> None:
    options: dict[str, list[Any]] = {
        "max_new_tokens": [0, 10**9],
        "temperature": [0, 1e-6, 1e6],
        "top_k": [0, None, 1],
        "top_p": [1, 1e-9],
        "min_p": [None, 0, 1],
        "seed": [-1, 2**70, None],
        "candidates": [0, 10**6],
        "eos_token_id": [None, 0, ()],
    }
    for name, accepted in options.items():
        for value in accepted:
            GenerationConfig.from_options({name: value})


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        GenerationConfig().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "method", [GenerationConfig.from_options, lambda options: GenerationConfig().replace(**options)]
)
def test_an_unknown_option_suggests_the_nearest(method: Any) -> None:
    with pytest.raises(OptionError, match=r"^unknown option 'temprature'; did you mean 'temperature'\?$"):
        method({"temprature": 0.5})
    with pytest.raises(OptionError, match=r"^unknown option 'zzz'; known options: max_new_tokens, do_sample,"):
        method({"zzz": 1})


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({}, []),
        ({"repetition_penalty": 1.2, "max_new_tokens": 0}, []),
        ({"top_p": 1.0, "top_k": 50, "temperature": 1.0}, []),  # said, but equal to the default
        ({"top_p": 0.9}, ["top_p has no effect: do_sample is false"]),
        (
            {"temperature": 0.7, "top_k": None, "min_p": 0.1, "seed": 0},
            [f"{name} has no effect: do_sample is false" for name in ("temperature", "top_k", "min_p", "seed")],
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
        ({"ignore_eos": True}, []),
        ({"ignore_eos": True, "eos_token_id": 5}, ["eos_token_id ends nothing: ignore_eos is true"]),
    ],
)
def test_notes_say_what_has_no_effect(options: dict[str, Any], notes: list[str]) -> None:
    assert list(GenerationConfig.from_options(options).notes()) == notes


def test_sampling_needs_a_temperature() -> None:
    assert GenerationConfig(do_sample=True).samples
    assert not GenerationConfig(do_sample=True, temperature=0).samples
    assert not GenerationConfig(temperature=0.5).samples
