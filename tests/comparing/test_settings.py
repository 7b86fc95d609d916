"""Settings in words, and the configs that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.comparing.grammar import read_spec, split
from fanlight.comparing.settings import AnySettings, Base, Setting, differing, read_specs, resolve
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.defaults import ModelDefaults
from fanlight.errors import OptionError


def one(setting: Any, base: Base | None = None, defaults: ModelDefaults | None = None) -> Setting:
    return resolve(read_specs([setting]), base or Base(), defaults)[0]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("temperature=0.7,top_p=0.92", {"temperature": 0.7, "top_p": 0.92}),
        (" temperature = 0.7 , top-p = 0.92 ", {"temperature": 0.7, "top_p": 0.92}),
        ('stop_strings=["a,b","\\n"]', {"stop_strings": ("a,b", "\n")}),
        ("stop_strings=a,stop_strings=b", {"stop_strings": ("a", "b")}),
        ('stop_strings="it\'s, well"', {"stop_strings": ("it's, well",)}),
        ("stop_strings='\"'", {"stop_strings": ('"',)}),
        ("eos_token_id=[1,2]", {"eos_token_id": (1, 2)}),
        ("suppress_tokens=5", {"suppress_tokens": (5,)}),
        (r"regex=\d{2,4}", {"regex": r"\d{2,4}"}),
        ("regex=it's", {"regex": "it's"}),
        (r"regex=\(,top_k=3", {"regex": r"\(", "top_k": 3}),
        ("regex=a=b", {"regex": "a=b"}),
        ("do_sample,no_ignore_eos", {"do_sample": True, "ignore_eos": False}),
        ("do_sample=false", {"do_sample": False}),
        ("min_p=none,top_k=0", {"min_p": None, "top_k": 0}),
        ('logit_bias={"15": -1.5, "7": 2}', {"logit_bias": ((7, 2.0), (15, -1.5))}),
        ("dola_layers=low", {"dola_layers": "low"}),
        ("processors=[temperature,top_p]", {"processors": ("temperature", "top_p")}),
        ("order=top_p;temperature", {"processors": ("top_p", "temperature")}),
        (
            'json_schema={"type":"object","required":["a","b"]}',
            {"json_schema": '{"type":"object","required":["a","b"]}'},
        ),
    ],
)
def test_options_in_words(text: str, options: dict[str, Any]) -> None:
    spec = read_spec(text)
    assert spec.options == options
    assert (spec.preset, spec.file) == (None, None)
    assert spec.label == text.strip()


@pytest.mark.parametrize(
    ("text", "label", "preset", "file", "options"),
    [
        ("greedy", "greedy", "greedy", None, {}),
        ("preset:llama.cpp", "preset:llama.cpp", "llama.cpp", None, {}),
        ("preset=hf,temperature=0.9", "preset=hf,temperature=0.9", "hf", None, {"temperature": 0.9}),
        ("hot@preset:creative,temperature=1.3", "hot", "creative", None, {"temperature": 1.3}),
        ("my own@file:a@b.toml", "my own", None, "a@b.toml", {}),
        ("file:x=1.toml", "file:x=1.toml", None, "x=1.toml", {}),
        ('file:"a,b.toml",creative', 'file:"a,b.toml",creative', "creative", "a,b.toml", {}),
        ("base", "base", None, None, {}),
        ("stop_strings=a@b", "stop_strings=a@b", None, None, {"stop_strings": ("a@b",)}),
    ],
)
def test_presets_files_and_labels(
    text: str, label: str, preset: str | None, file: str | None, options: dict[str, Any]
) -> None:
    spec = read_spec(text)
    assert (spec.label, spec.preset, spec.file, spec.options) == (label, preset, file, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a setting is a text such as"),
        ("creativ", "did you mean 'creative'"),
        ("temprature=1", "did you mean 'temperature'"),
        ("do_sampel", "did you mean 'do_sample'"),
        ("temperature", "temperature needs a value"),
        ("temperature=", "temperature needs a value"),
        ("temperature=warm", "temperature takes a number: got 'warm'"),
        ("temperature=-1", "temperature must be 0"),
        ("top_k=1.5", "top_k takes a whole number"),
        ("do_sample=perhaps", "do_sample is a switch"),
        ("logit_bias={", "} is missing at the end"),
        ('stop_strings="a', '" is missing at the end'),
        ("logit_bias=[1", "] is missing at the end"),
        ("logit_bias={x}", "logit_bias takes JSON"),
        ("top_k=1,top_k=2", "top_k is set twice"),
        ("top_k=1,,top_p=0.5", "a comma too many"),
        ("top_k=1,", "a comma too many"),
        ("eos_token_id=1,2", "in brackets"),
        ("my.toml", "did you mean file:my.toml"),
        ("preset:nope", "unknown preset 'nope'"),
        ("preset:", "preset: needs a name"),
        ("file:", "file: needs a path"),
        ("greedy,creative", "one preset is expected"),
        ("prest:hf", "is neither preset: nor file:"),
        ("name@", "nothing is set"),
        ("stopping_criteria=x", "functions"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_spec(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_no_text_does_worse_than_an_option_error(text: str) -> None:
    try:
        spec = read_spec(text)
    except OptionError:
        return
    assert spec.label


@given(st.lists(st.text(alphabet="abc=.: 1", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_parts_without_quotes_and_brackets_are_split_at_commas(parts: list[str]) -> None:
    assert split(",".join(parts)) == parts


def test_settings_come_as_texts_mappings_and_configs() -> None:
    config = GenerationConfig(do_sample=True, top_p=0.8)
    settings: AnySettings = ["greedy", {"temperature": 0.5, "preset": "creative"}, config]
    first, second, third = resolve(read_specs(settings), Base(options={"max_new_tokens": 9}))
    assert [s.label for s in (first, second, third)] == [
        "greedy",
        "temperature=0.5, preset=creative",
        "do_sample=yes, top_p=0.8",
    ]
    assert [s.draws for s in (first, second, third)] == [False, True, True]
    assert (second.config.temperature, second.config.min_p) == (0.5, 0.05)
    assert [s.config.max_new_tokens for s in (first, second, third)] == [9, 9, 9]
    named = read_specs({"cold": "temperature=0.2", "hot": {"temperature": 1.5}})
    assert [spec.label for spec in named] == ["cold", "hot"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "there is no setting"),
        ("greedy", "must be a list"),
        ([7], "a setting is a text"),
        (["greedy", "greedy"], "two settings are called 'greedy'"),
        ([{"temprature": 1}], "did you mean 'temperature'"),
        ([{"preset": "nope"}], "unknown preset"),
        ({"": "greedy"}, "must be a text that is not empty"),
    ],
)
def test_settings_that_are_none(settings: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_specs(settings)


def test_layers_go_over_each_other_in_order(tmp_path: Path) -> None:
    common, own = tmp_path / "common.toml", tmp_path / "own.json"
    common.write_text("top_k = 11\ntop_p = 0.5\nmin_p = 0.01\n")
    own.write_text('{"top_p": 0.6, "tfs": 0.7}')
    base = Base(preset="balanced", file=common, options={"min_p": 0.03, "typical_p": 0.8})
    config = one(f"preset:precise,file:{own},tfs=0.9", base).config
    assert config.temperature == 0.3  # the setting's preset
    assert config.repetition_penalty == 1.0  # which replaces the common one
    assert config.top_k == 40  # and goes over the common file
    assert config.top_p == 0.6  # the setting's file over its preset
    assert config.min_p == 0.03  # a common option over the common file
    assert config.typical_p == 0.8
    assert config.tfs == 0.9  # the setting's option over its file
    assert one("base", base).config.repetition_penalty == 1.05


def test_a_models_own_settings_count_unless_there_is_a_preset_or_a_config() -> None:
    defaults = ModelDefaults(values={"do_sample": True, "temperature": 0.6}, origin="x/generation_config.json")
    assert one("top_p=0.9", defaults=defaults).config.temperature == 0.6
    assert one("creative", defaults=defaults).config.temperature == 1.1
    assert one("top_p=0.9", Base(preset="precise"), defaults).config.temperature == 0.3
    assert one(GenerationConfig(do_sample=True), defaults=defaults).config.temperature == 1.0


@pytest.mark.parametrize(
    ("setting", "common", "draws"),
    [
        ("temperature=0.7", {}, True),
        ("temperature=1", {}, True),  # asked for, although it is the default
        ("temperature=0", {}, False),
        ("seed=3", {}, False),
        ("repetition_penalty=1.2", {}, False),
        ("repetition_penalty=1.2", {"top_p": 0.9}, True),
        ("greedy", {"top_p": 0.9}, False),
        ("temperature=0.7,do_sample=false", {}, False),
        ("base", {}, False),
        ("num_beams=3", {"top_k": 0}, False),  # common options do not make draws of a search
        ("penalty_alpha=0.6,top_k=4", {}, False),
    ],
)
def test_an_option_that_counts_for_draws_alone_makes_a_setting_draw(
    setting: str, common: dict[str, Any], draws: bool
) -> None:
    found = one(setting, Base(options=common))
    assert found.draws is draws
    assert bool(found.implied_by) is draws


def test_options_without_effect_are_said_of_the_setting_that_has_them() -> None:
    greedy = one("greedy,top_p=0.5", Base(options={"min_p": 0.1}))
    assert greedy.notes == ("greedy,top_p=0.5: top_p has no effect: do_sample is false",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("num_return_sequences=2,do_sample", "samples says how many"),
        ("candidates=0", "at least 1"),
        ("num_beams=4,penalty_alpha=0.6", "cannot be combined"),
        ({"temperature": "hot"}, "temperature must be"),
        ("file:no-such.toml", "cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_carried_out_is_named(setting: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        one(setting)


def test_only_the_options_that_differ_are_told_apart() -> None:
    settings = resolve(read_specs(["temperature=0.7", "temperature=0.9,top_k=5"]), Base(options={"top_p": 0.9}))
    assert differing(settings) == [{"temperature": 0.7, "top_k": 50}, {"temperature": 0.9, "top_k": 5}]
    assert differing(settings[:1]) == [{}]
