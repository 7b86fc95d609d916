"""Decoding settings: what is accepted, what is refused and with which words, what is said to have no effect."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fanlight.decoding.config import DEFAULTS, GROUPS, OPTIONS, OTHER_NAMES, GenerationConfig
from fanlight.decoding.option_help import HELP
from fanlight.errors import OptionError

WHOLE, PROB, SHARE = "an integer of at least {}", "between 0 and 1", "above 0 and at most 1"
CUTOFF = "at least 0 and below 1 (0: off)"
SCALE, FROM_ZERO, SIGNED = "between 1e-06 and 1e+06", "between 0 and 1e+06", "between -1e+06 and 1e+06"
STRINGS, IDS = "a string or several, none of them empty", "a token id or several"
RANGES: dict[str, tuple[str, list[Any]]] = {  # the range in words, and values outside it
    "max_new_tokens": (WHOLE.format(0) + ", or None", [-1, 1.0, True, "3"]),
    "max_length": (WHOLE.format(1) + ", or None", [0, 2.5]),
    "min_length": (WHOLE.format(0), [-1, None]),
    "min_new_tokens": (WHOLE.format(0) + ", or None", [-1, math.nan]),
    "max_time": ("a number of seconds above 0, or None", [0, -1.5, "1", math.nan, True]),
    "stop_strings": (STRINGS, ["", ["a", 3], 3, b"a", {"a": 1}, None]),
    "include_stop_string": ("true or false", [1, None, "yes"]),
    "eos_token_id": (IDS + ", or None", [-2, [1, "x"], "2", [True], 1.5, {1: 2}]),
    "bos_token_id": (WHOLE.format(0) + ", or None", [-1, [1]]),
    "pad_token_id": (WHOLE.format(0) + ", or None", [-1, "0"]),
    "ignore_eos": ("true or false", ["yes", 0]),
    "loop_repeats": ("0 (off), or at least 2", [-1, 1.5]),
    "loop_min_tokens": (WHOLE.format(1), [0, None]),
    "stopping_criteria": ("a function of (ids, text), or several", ["f", [len, "f"], 3]),
    "do_sample": ("true or false", [1, None]),
    "seed": ("an integer, or None", [1.5, True, "7"]),
    "temperature": (f"0 (greedy), or {SCALE}", [-0.1, 1e-40, math.nan, math.inf, "0.7", True, None]),
    "dynatemp_range": (FROM_ZERO, [-0.1, math.inf, None]),
    "dynatemp_exponent": ("above 0, up to 1e+06", [0, -1]),
    "smoothing_factor": (FROM_ZERO, [-0.1, 1e7]),
    "smoothing_curve": ("between 1 and 1e+06", [0.9]),
    "mirostat": ("0 (off), 1 or 2", [-1, 3, 1.0, True]),
    "mirostat_tau": ("above 0, up to 1e+06", [0, math.nan]),
    "mirostat_eta": (PROB, [-0.1, 1.1]),
    "adaptive_target": (PROB + ", or None", [-0.1, 1.1]),
    "adaptive_decay": ("between 0 and 0.99", [-0.1, 1.0]),
    "guidance_scale": ("above 0, up to 1e+06", [0, -1, None]),
    "negative_prompt": ("a text that is not empty, or None", ["", 3]),
    "negative_prompt_ids": (IDS + ", or None", [-1, "1"]),
    "watermarking_config": ("a mapping of watermark settings, or None", ["green"]),
    "processors": ("processor names and functions, in order, or None", ["a,,b", [3], 3, {"top_p": 1}, b"top_p"]),
    "min_tokens_to_keep": (WHOLE.format(1), [0, None]),
    "top_k": (WHOLE.format(0) + " (0: off), or None", [-1, 2.0]),
    "top_p": (SHARE, [0, 1.01, None, math.nan, "1"]),
    "min_p": (PROB + ", or None", [-0.1, 2]),
    "top_h": (SHARE + ", or None", [0, 1.5]),
    "typical_p": (SHARE, [0, 1.5, None]),
    "epsilon_cutoff": (CUTOFF, [-0.1, 1, None]),
    "eta_cutoff": (CUTOFF, [-0.1, 1, math.nan]),
    "top_n_sigma": (FROM_ZERO, [-1, math.inf]),
    "tfs": (SHARE, [0, 1.5]),
    "top_a": (PROB, [-0.1, 1.5]),
    "xtc_probability": (PROB, [-0.1, 1.5]),
    "xtc_threshold": (PROB, [-0.1, 1.5]),
    "repetition_penalty": (SCALE, [0, -1, 1e7]),
    "repetition_penalty_range": (WHOLE.format(0) + " (0: all)", [-1, None]),
    "penalize_prompt": ("true or false, or None", [1, "no"]),
    "encoder_repetition_penalty": (SCALE, [0, math.inf]),
    "frequency_penalty": (SIGNED, [math.inf, -1e7, None]),
    "presence_penalty": (SIGNED, [math.nan, "1"]),
    "no_repeat_ngram_size": (WHOLE.format(0), [-1, 2.0]),
    "dry_multiplier": (FROM_ZERO, [-1]),
    "dry_base": ("between 1 and 1e+06", [0.9]),
    "dry_allowed_length": (WHOLE.format(1), [0]),
    "dry_penalty_last_n": (WHOLE.format(0) + " (0: all)", [-1]),
    "dry_sequence_breakers": (STRINGS, [["a", ""], 3]),
    "sequence_bias": (
        "token id sequences with a number each, -inf to remove one",
        [3, "x", [[1, 2.0]], [[[], 1.0]], [[[1], "2"]], [[[1], math.nan]], [[[-1], 1.0]], {1: 2.0}, [[[1], True]]],
    ),
    "logit_bias": ("token ids with a number each, -inf to remove one", [3, "x", {"a": 1}, {-1: 2.0}, {1: "x"}, [1, 2]]),
    "bad_words_ids": ("lists of token ids, none of them empty", [[[]], [1], "x", 3, [[-1]], [["a"]]]),
    "suppress_tokens": (IDS, [-1, "1", [1.5], None]),
    "begin_suppress_tokens": (IDS, [[-1], None]),
    "forced_bos_token_id": (WHOLE.format(0) + ", or None", [-1, [1]]),
    "forced_eos_token_id": (IDS + ", or None", [-1, "1"]),
    "exponential_decay_length_penalty": (
        "(start, factor): an integer of at least 0, and a number above 0, or None",
        [(-1, 2.0), (1, 0), (1,), 3, "12", (1.5, 2), (1, math.inf), (1, math.nan), (1, "2"), (1, True)],
    ),
    "remove_invalid_values": ("true or false", [1]),
    "renormalize_logits": ("true or false", [None]),
    "num_beams": ("an integer from 1 to 512", [0, 513, None]),
    "num_beam_groups": ("an integer from 1 to 512", [0, 513]),
    "diversity_penalty": (FROM_ZERO, [-1]),
    "length_penalty": ("between -20 and 20", [math.inf, 21, -20.5]),
    "early_stopping": ("False, True or 'never'", [1, "always", None]),
    "num_return_sequences": ("an integer from 1 to 512", [0, 1.0]),
    "best_of": ("an integer from 1 to 512", [0, None]),
    "vote_pattern": ("a regular expression, or None", ["", 3]),
    "penalty_alpha": (PROB, [-0.1, 1.1]),
    "dola_layers": ("'low', 'high', or a list of layers, or None", ["mid", [], [-1], 3, ["low"]]),
    "contrastive_alpha": (SHARE, [0, 1.1]),
    "contrastive_beta": (FROM_ZERO, [-1]),
    "force_words_ids": (
        "a list of token id lists, or of lists of alternatives",
        [3, "x", [[]], [[[1], []]], [[[-1]]], [[1, "a"]]],
    ),
    "constraints": ("a list of token id lists, or of lists of alternatives", [3, [3]]),
    "use_cache": ("true or false", [1]),
    "prompt_lookup_num_tokens": (WHOLE.format(1) + ", or None", [0]),
    "max_matching_ngram_size": (WHOLE.format(1) + ", or None", [0]),
    "num_assistant_tokens": (WHOLE.format(1), [0, None]),
    "num_assistant_tokens_schedule": ("'constant', 'heuristic' or 'heuristic_transient'", ["linear", None]),
    "assistant_confidence_threshold": (PROB, [-0.1, 1.1]),
    "assistant_early_exit": (WHOLE.format(1) + ", or None", [0, 1.5]),
    "regex": ("a regular expression, or None", ["", 3]),
    "choice": (STRINGS, [["a", ""], 3]),
    "json_schema": ("a JSON schema, or None", [{1, 2}, len, {"a": math.nan}]),
    "grammar": ("a grammar, or None", ["", ["x"]]),
    "token_healing": ("true or false", [1]),
    "candidates": ("an integer of at least 0 (0: no records), or -1 (the whole vocabulary)", [-2, 1.0, None]),
    "output_scores": ("true or false", [1]),
    "output_logits": ("true or false", [1]),
    "output_attentions": ("true or false", [1]),
    "output_hidden_states": ("true or false", [1]),
}
REFUSED = [(name, value, words) for name, (words, values) in RANGES.items() for value in values]


@pytest.mark.parametrize(("name", "value", "words"), REFUSED, ids=lambda value: repr(value)[:30])
def test_a_value_outside_its_range_is_refused_by_name(name: str, value: Any, words: str) -> None:
    for make in (
        lambda: GenerationConfig(**{name: value}),
        lambda: GenerationConfig.from_options({name: value}),
        lambda: GenerationConfig().replace(**{name: value}),
    ):
        with pytest.raises(OptionError) as caught:
            make()
        assert str(caught.value).startswith(f"{name} must be {words}: got {value!r:.200}")


def test_every_option_has_a_refused_value() -> None:
    assert list(RANGES) == list(DEFAULTS) == list(OPTIONS)
    assert {field.name for field in fields(GenerationConfig)} == {*DEFAULTS, "origins"}


def test_every_option_says_what_it_does_and_in_which_group() -> None:
    assert list(HELP) == list(DEFAULTS)
    assert {option.group for option in OPTIONS.values()} == set(GROUPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop_repeats": 1}, "^loop_repeats must be 0 .off., or at least 2: got 1$"),
        ({"json_schema": "{"}, r"^json_schema must be a JSON schema, or None: got '\{' \(no JSON: "),
        ({"json_schema": "[" * 100_000}, r"^json_schema must be .* \(no JSON: "),
        ({"logit_bias": {1: 1e31}}, r"^logit_bias must be .*: got \{1: 1e\+31\} \(more than 1e\+30, or NaN\)$"),
        ({"sequence_bias": {(1,): math.inf}}, r"^sequence_bias must be .* \(more than 1e\+30, or NaN\)$"),
    ],
    ids=str,
)
def test_what_a_range_does_not_say_is_said_beside_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GenerationConfig.from_options(options)


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


@pytest.mark.parametrize(
    ("name", "given", "form"),
    [
        ("logit_bias", {"15": -1.5, 2: None}, ((2, -math.inf), (15, -1.5))),
        ("logit_bias", [[7, "-inf"], [7, 2]], ((7, 2.0),)),
        ("sequence_bias", {(1, 2): -math.inf}, (((1, 2), -math.inf),)),
        ("sequence_bias", [[[3], 0.5]], (((3,), 0.5),)),
        ("sequence_bias", [[[3], -3.4e38]], (((3,), -3.4e38),)),
        ("bad_words_ids", [[1], [2, 3]], ((1,), (2, 3))),
        ("suppress_tokens", 5, (5,)),
        ("suppress_tokens", np.array([5, 6]), (5, 6)),
        ("exponential_decay_length_penalty", [3, 2], (3, 2.0)),
        ("dola_layers", [4, 2, 4], (2, 4)),
        ("dola_layers", "low", "low"),
        ("force_words_ids", [[1, 2], [[3], [4, 5]]], (((1, 2),), ((3,), (4, 5)))),
        ("constraints", [SimpleNamespace(token_ids=[1, 2])], (((1, 2),),)),
        ("json_schema", {"type": "object"}, '{"type": "object"}'),
        ("json_schema", "{}", "{}"),
        ("processors", " top_p ; temperature,top_k", ("top_p", "temperature", "top_k")),
        ("processors", [len, "top_p"], (len, "top_p")),
        ("stopping_criteria", len, (len,)),
        ("early_stopping", "never", "never"),
        ("max_time", 3, 3.0),
        ("choice", "yes", ("yes",)),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_every_form_of_a_value_becomes_one(name: str, given: Any, form: Any) -> None:
    config = GenerationConfig.from_options({name: given})
    assert getattr(config, name) == form
    assert type(getattr(config, name)) is type(form)
    assert config == GenerationConfig.from_options({name: form})
    assert isinstance(hash(config), int)


def test_the_edges_of_the_ranges_are_inside() -> None:
    options: dict[str, list[Any]] = {
        "max_new_tokens": [0, 10**9, None],
        "max_length": [1, None],
        "max_time": [1e-9, 1e9],
        "temperature": [0, 1e-6, 1e6],
        "top_k": [0, None, 1],
        "top_p": [1, 1e-9],
        "min_p": [None, 0, 1],
        "top_h": [None, 1e-9, 1],
        "epsilon_cutoff": [0, 0.999],
        "adaptive_target": [None, 0, 1],
        "adaptive_decay": [0, 0.99],
        "num_beams": [1, 512],
        "loop_repeats": [0, 2],
        "seed": [-1, 2**70, None],
        "candidates": [-1, 0, 10**6],
        "eos_token_id": [None, 0, ()],
        "logit_bias": [{}, {0: 1e30}],
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
    with pytest.raises(OptionError, match=r"^unknown option 'zzz'; known options: max_new_tokens, max_length,"):
        method({"zzz": 1})


@pytest.mark.parametrize("other", OTHER_NAMES)
def test_the_name_that_another_program_has_is_understood_as_a_suggestion(other: str) -> None:
    with pytest.raises(OptionError) as caught:
        GenerationConfig.from_options({other: 1})
    assert str(caught.value) == f"unknown option {other!r}; did you mean {OTHER_NAMES[other]!r}?"
    assert OTHER_NAMES[other] in DEFAULTS


def test_sampling_needs_a_temperature() -> None:
    assert GenerationConfig(do_sample=True).samples
    assert not GenerationConfig(do_sample=True, temperature=0).samples
    assert not GenerationConfig(temperature=0.5).samples
