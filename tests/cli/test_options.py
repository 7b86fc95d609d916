"""From words to values: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from fanlight.cli.main import COMMANDS
from fanlight.cli.options import Command, Option, help_text, parse
from fanlight.cli.settings import make_config, setting_options
from fanlight.decoding.config import OPTIONS as SETTING_TABLE
from fanlight.decoding.option_help import HELP
from fanlight.decoding.watermarks import watermark_of
from fanlight.errors import OptionError

SETTINGS = setting_options()
OPTIONS = (*SETTINGS, Option("json", "", kind="flag"), Option("color", "", choices=("auto", "never")))


def values(*words: str) -> dict[str, object]:
    return parse(words, OPTIONS)[0]


def test_every_field_of_generation_config_has_a_flag_and_a_help_line() -> None:
    typed = {name for name, option in SETTING_TABLE.items() if option.rule.kind != "none"}
    assert {option.name for option in SETTINGS} == typed
    assert set(SETTING_TABLE) - typed == {"stopping_criteria"}  # functions
    assert set(HELP) == set(SETTING_TABLE)
    assert all(option.help for option in SETTINGS)


EXAMPLES: dict[str, tuple[str | None, object]] = {
    "top_k": ("0", 0),
    "seed": ("-3", -3),
    "stop_strings": ("a b", ("a b",)),
    "dry_sequence_breakers": ("-", ("-",)),
    "choice": ("yes, please", ("yes, please",)),
    "mirostat": ("2", 2),
    "loop_repeats": ("3", 3),
    "temperature": ("0.5", 0.5),
    "dry_base": ("1.5", 1.5),
    "smoothing_curve": ("2.5", 2.5),
    "processors": ("top_k, temperature", ("top_k", "temperature")),
    "sequence_bias": ("[[[1, 2], -1.5]]", (((1, 2), -1.5),)),
    "logit_bias": ('{"5": null}', ((5, -float("inf")),)),
    "bad_words_ids": ("[[1], [2, 3]]", ((1,), (2, 3))),
    "exponential_decay_length_penalty": ("[4, 1.5]", (4, 1.5)),
    "early_stopping": ("never", "never"),
    "num_assistant_tokens_schedule": ("heuristic", "heuristic"),
    "dola_layers": ("low", "low"),
    "force_words_ids": ("[[1, 2], [[3], [4, 5]]]", (((1, 2),), ((3,), (4, 5)))),
    "constraints": ("[[6]]", (((6,),),)),
    "json_schema": ('{"type": "object"}', '{"type": "object"}'),
    "watermarking_config": ('{"bias": 3.0}', watermark_of({"bias": 3.0})),
    "negative_prompt": ("a b", "a b"),
    "vote_pattern": ("[0-9]+", "[0-9]+"),
    "regex": ("a|b", "a|b"),
    "grammar": ('start: "a"', 'start: "a"'),
}
"""Where "7", "1,2", "0.25" or nothing would not do."""


def example(name: str) -> tuple[str | None, object]:
    rule = SETTING_TABLE[name].rule
    plain = {"int": ("1,2", (1, 2)) if rule.many else ("7", 7), "float": ("0.25", 0.25), "flag": (None, True)}
    return EXAMPLES[name] if name in EXAMPLES else plain[rule.kind]


@pytest.mark.parametrize("field", [option.name for option in SETTINGS])
@pytest.mark.parametrize("spelling", ["dashes", "underscores", "equals"])
def test_every_setting_reaches_the_config_however_it_is_spelt(field: str, spelling: str) -> None:
    text, expected = example(field)
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
