"""From words to values: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib import import_module

import pytest

from fanlight.cli.main import COMMANDS
from fanlight.cli.options import Command, Option, help_text, parse
from fanlight.cli.settings import HELP, make_config, setting_options
from fanlight.decoding.config import GenerationConfig
from fanlight.errors import OptionError

SETTINGS = setting_options()
OPTIONS = (*SETTINGS, Option("json", "", kind="flag"), Option("color", "", choices=("auto", "never")))


def values(*words: str) -> dict[str, object]:
    return parse(words, OPTIONS)[0]


def test_every_field_of_generation_config_has_a_flag_and_a_help_line() -> None:
    assert {option.name for option in SETTINGS} == {field.name for field in fields(GenerationConfig)} == set(HELP)
    assert all(option.help for option in SETTINGS)


EXAMPLES = {
    "max_new_tokens": ("7", 7),
    "do_sample": (None, True),
    "temperature": ("0.5", 0.5),
    "top_k": ("0", 0),
    "top_p": ("0.9", 0.9),
    "min_p": ("0.1", 0.1),
    "repetition_penalty": ("1.2", 1.2),
    "seed": ("-3", -3),
    "stop_strings": ("a b", ("a b",)),
    "eos_token_id": ("1,2", (1, 2)),
    "ignore_eos": (None, True),
    "candidates": ("3", 3),
}


@pytest.mark.parametrize("field", [field.name for field in fields(GenerationConfig)])
@pytest.mark.parametrize("spelling", ["dashes", "underscores", "equals"])
def test_every_setting_reaches_the_config_however_it_is_spelt(field: str, spelling: str) -> None:
    text, expected = EXAMPLES[field]
    flag = "--" + (field if spelling == "underscores" else field.replace("_", "-"))
    words = [flag] if text is None else [f"{flag}={text}"] if spelling == "equals" else [flag, text]
    assert getattr(make_config(values(*words)), field) == expected


def test_only_what_was_given_has_a_value_and_the_last_counts() -> None:
    assert values() == {}
    assert values("--seed", "1", "--seed", "2") == {"seed": 2}
    assert values("--do-sample", "--no-do-sample") == {"do_sample": False}
    assert values("--do_sample=false", "--json=true") == {"do_sample": False, "json": True}
    assert values("--no-do-sample=false") == {"do_sample": True}


def test_repeatable_flags_collect() -> None:
    assert values("--stop-strings", "a", "--stop_strings=--", "--eos-token-id", "1, 2", "--eos-token-id=3") == {
        "stop_strings": ("a", "--"),
        "eos_token_id": (1, 2, 3),
    }


def test_short_flags_none_and_other_words() -> None:
    assert parse(["one", "-n", "5", "-", "--", "--seed", "-n"], OPTIONS) == (
        {"max_new_tokens": 5},
        ["one", "-", "--seed", "-n"],
    )
    assert values("-n5") == values("-n=5") == {"max_new_tokens": 5}
    assert values("--top-k", "none", "--min-p", "None") == {"top_k": None, "min_p": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temprature", "1"], "unknown option --temprature; did you mean --temperature?"),
        (["--temp=1"], "unknown option --temp; did you mean --temperature?"),
        (["--max_tokens", "1"], "unknown option --max_tokens; did you mean --max-new-tokens?"),
        (["--stop", "x"], "unknown option --stop; did you mean --stop-strings?"),
        (["--greedy"], "unknown option --greedy; did you mean --no-do-sample?"),
        (["--no-do-sampel"], "unknown option --no-do-sampel; did you mean --no-do-sample?"),
        (["--no-seed"], "unknown option --no-seed; did you mean --seed?"),
        (["--qqqq"], "unknown option --qqqq; --help lists them all"),
        (["-x"], "unknown option -x; --help lists them all"),
        (["-5 degrees"], "unknown option '-5 degrees'; put -- before a text that begins with a dash"),
        (["--seed"], "--seed needs a value; write it as --seed=N"),
        (["--seed", "--json"], "--seed needs a value, found --json; write it as --seed=N"),
        (["--stop-strings", "--"], "--stop-strings needs a value, found --; write it as --stop-strings=TEXT"),
        (["--top-p", "much"], "--top-p takes a number: got 'much'"),
        (["--top-k", "1.5"], "--top-k takes a whole number or none: got '1.5'"),
        (["--eos-token-id", " "], "--eos-token-id takes a whole number: got ' '"),
        (["--seed", "9" * 5000], "--seed takes a whole number or none: got"),
        (["--json=maybe"], "--json is a switch: it takes no value, or true or false: got 'maybe'"),
        (["--color", "blue"], "--color can be auto, never: got 'blue'"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        parse(words, OPTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_every_option_and_fits_a_terminal(name: str) -> None:
    command: Command = import_module(f"fanlight.cli.{COMMANDS[name][0]}").COMMAND
    text = help_text(command)
    for option in command.options:
        assert re.search(rf"(^|[ ,]){option.flag}\b", text, re.MULTILINE), option.flag
        assert option.help
    assert text.startswith(f"usage: fanlight {name}")
    assert max(map(len, text.split("\n"))) <= 120
    assert "-h, --help" in text


def test_no_two_options_of_a_command_share_a_name() -> None:
    for file, _ in COMMANDS.values():
        options = import_module(f"fanlight.cli.{file}").COMMAND.options
        names = [option.name for option in options]
        shorts = [option.short for option in options if option.short]
        assert len(set(names)) == len(names)
        assert len({*shorts, "h"}) == len(shorts) + 1
