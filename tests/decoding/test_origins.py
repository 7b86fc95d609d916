"""Where a setting came from: the call, a preset, a file, a model's own settings; and the table that shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.decoding.config import DEFAULTS, GROUPS, GenerationConfig
from fanlight.decoding.explaining import shown
from fanlight.decoding.presets import MAX_FILE_BYTES, PRESETS
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path


def origin(config: GenerationConfig, name: str) -> str:
    (found,) = (setting.origin for setting in config.explain() if setting.name == name)
    return found


# -- layers ------------------------------------------------------------------------------------------------------------


def test_a_later_layer_goes_over_an_earlier_one() -> None:
    config = GenerationConfig.from_layers(
        [
            ("generation_config.json", {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
            ("preset creative", {"temperature": 1.1, "min_p": 0.05}),
            ("call", {"min_p": 0.1, "top_k": 50}),
        ]
    )
    assert (config.temperature, config.top_p, config.min_p, config.top_k) == (1.1, 0.9, 0.1, 50)
    names = ("temperature", "top_p", "min_p", "top_k", "typical_p")
    assert [origin(config, name) for name in names] == [
        "preset creative",
        "generation_config.json",
        "call",
        "call",  # said, though it is the default
        "default",
    ]
    assert config.was_asked("top_k")
    assert not config.was_asked("typical_p")


def test_a_change_comes_from_the_call() -> None:
    config = GenerationConfig.preset("precise").replace(top_k=3)
    assert (origin(config, "top_k"), origin(config, "top_p")) == ("call", "preset precise")
    assert origin(GenerationConfig(top_k=3), "top_k") == "call"


def test_a_fault_in_a_layer_names_the_layer() -> None:
    with pytest.raises(OptionError, match=r"^settings.json: top_p must be above 0 and at most 1: got 7$"):
        GenerationConfig.from_layers([("settings.json", {"top_p": 7}), ("call", {"top_p": 0.5})])
    with pytest.raises(OptionError, match=r"^settings.json: unknown option 'topp'; did you mean 'top_p'\?$"):
        GenerationConfig.from_layers([("settings.json", {"topp": 0.7})])
    with pytest.raises(OptionError, match=r"^top_p must be"):
        GenerationConfig.from_layers([("settings.json", {}), ("call", {"top_p": 7})])


def test_where_settings_came_from_makes_no_difference_to_what_they_are() -> None:
    assert GenerationConfig.preset("precise") == GenerationConfig.from_options(PRESETS["precise"])
    assert hash(GenerationConfig.preset("precise")) == hash(GenerationConfig.from_options(PRESETS["precise"]))


def test_origins_are_no_option() -> None:
    with pytest.raises(OptionError, match=r"^unknown option 'origins'"):
        GenerationConfig.from_options({"origins": ()})


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 128),
        ({"max_new_tokens": 5}, 5),
        ({"max_length": 50}, None),
        ({"max_length": 50, "max_new_tokens": 128}, 128),  # asked for, though it is the default
        ({"max_new_tokens": None}, None),
    ],
    ids=str,
)
def test_max_length_alone_takes_the_place_of_the_default_length(options: dict[str, Any], n: int | None) -> None:
    assert GenerationConfig.from_options(options).new_tokens == n


# -- presets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_options_and_has_no_idle_one(name: str) -> None:
    config = GenerationConfig.preset(name)
    assert config.notes() == ()
    assert all(getattr(config, option) == value for option, value in PRESETS[name].items())
    assert {setting.origin for setting in config.explain().chosen} == {f"preset {name}"}


def test_a_preset_is_a_start_that_the_call_changes() -> None:
    config = GenerationConfig.preset("llama.cpp", temperature=0.5, repetition_penalty=1.1)
    assert (config.temperature, config.top_k, config.repetition_penalty_range) == (0.5, 40, 64)
    assert origin(config, "temperature") == "call"


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"^unknown preset 'creativ'; did you mean 'creative'\?$"):
        GenerationConfig.preset("creativ")
    with pytest.raises(
        OptionError, match=r"^unknown preset 'zzz'; there are greedy, precise, balanced, creative, hf, llama.cpp$"
    ):
        GenerationConfig.preset("zzz")


# -- files ---------------------------------------------------------------------------------------------------------------

SETTINGS = {"do_sample": True, "temperature": 0.6, "stop_strings": ["\n", "é"], "logit_bias": {"15": -1.5}}
TOML = 'do_sample = true\ntemperature = 0.6\nstop_strings = ["\\n", "é"]\nlogit_bias = {15 = -1.5}\n'


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "a.toml").write_text(TOML, encoding="utf-8")
    expected = GenerationConfig.from_options(SETTINGS)
    for path in (tmp_path / "a.json", str(tmp_path / "a.toml")):
        config = GenerationConfig.from_file(path, temperature=0.5)
        assert config.replace(temperature=0.6) == expected
        assert (origin(config, "temperature"), origin(config, "logit_bias")) == ("call", str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "expected settings as JSON: "),
        ("a.toml", b"top_p 1", "expected settings as TOML: "),
        ("a.json", b"[1]", "expected an object of settings, found a list$"),
        ("a.json", b"3", "expected an object of settings, found a int$"),
        ("a.json", b"\xff\xfe", "cannot be read: "),
        ("a.json", b"[" * 100_000, "expected settings as JSON: "),
        (
            "a.json",
            b" " * (MAX_FILE_BYTES + 1),
            f"{MAX_FILE_BYTES + 1} bytes of settings, expected at most {MAX_FILE_BYTES}$",
        ),
        ("a.json", b'{"top_p": 7}', "top_p must be above 0 and at most 1: got 7$"),
        ("a.json", b'{"tpo_p": 0.7}', r"unknown option 'tpo_p'; did you mean 'top_p'\?$"),
        ("a.toml", b"[sampling]\ntop_p = 0.7", "unknown option 'sampling'; "),
        ("a.json", b'{"top_p": NaN}', "top_p must be above 0 and at most 1: got nan$"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_with_a_fault_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OptionError, match=f"a.{name[2:]}: {message}"):
        GenerationConfig.from_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none.json: cannot be read: No such file or directory$"):
        GenerationConfig.from_file(tmp_path / "none.json")
    with pytest.raises(OptionError, match=r"cannot be read: Is a directory$"):
        GenerationConfig.from_file(tmp_path)


# -- the table -------------------------------------------------------------------------------------------------------------


def test_the_table_has_every_option_with_value_origin_and_effect() -> None:
    config = GenerationConfig.preset("balanced", stop_strings="\n", dry_base=2, top_k=5)
    explanation = config.explain()
    assert [setting.name for setting in explanation] == list(DEFAULTS)
    assert [setting.value for setting in explanation] == list(config.values().values())
    assert {setting.name for setting in explanation.chosen} == {*PRESETS["balanced"], "stop_strings", "dry_base"}
    lines = str(explanation).splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == list(GROUPS)
    by_name = {line.split()[0]: line.split(None, 2)[1:] for line in lines if line.startswith(" ")}
    assert list(by_name) == list(DEFAULTS)
    assert by_name["temperature"] == ["0.7", "preset balanced"]
    assert by_name["stop_strings"] == [r"\n", "call"]
    assert by_name["dry_base"] == ["2.0", "call  (no effect: dry_multiplier is not set)"]
    assert by_name["do_sample"] == ["yes", "preset balanced"]
    assert by_name["seed"] == ["none", "default"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((), "none"),
        (("a", "\n"), r"a, \n"),
        ((len, "top_p"), "len, top_p"),
        (False, "no"),
        (0.5, "0.5"),
        ("x" * 50, "x" * 37 + "..."),
        (((1, -1.5),), "(1, -1.5)"),
        ("é", r"\xe9"),
    ],
)
def test_a_value_fits_on_a_line(value: Any, text: str) -> None:
    assert shown(value) == text
