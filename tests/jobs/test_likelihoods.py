"""Likelihoods of given ids, and what the harness's options mean here: all of `fanlight.evaluating` that needs no lm_eval."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from fanlight.errors import ContextOverflow, OptionError
from fanlight.evaluating.arguments import DEFAULT_BATCH, INSTEAD, NEUTRAL, Arguments, options_of, seed_for
from fanlight.evaluating.scoring import fitted, score
from models import tiny

if TYPE_CHECKING:
    from fanlight import Model

WINDOW = 131


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("likelihoods") / "llama", tiny.llama())


@pytest.fixture
def model(folder: Path) -> Model:
    """With an empty prefix cache."""
    return fanlight.load(folder)


def some_ids(random: Random, n: int) -> tuple[int, ...]:
    return tuple(random.randrange(tiny.N_VOCAB) for _ in range(n))


def awkward_pairs() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Contexts of 1 to 131 ids, some that begin alike; continuations of 1 to 131, some of them alike but for the last."""
    random = Random(7)
    head = some_ids(random, 67)
    contexts = [some_ids(random, n) for n in (1, 7, 31, 64, 65)] + [head + some_ids(random, n) for n in (0, 1, 33)]
    pairs = []
    for context in contexts:
        first = some_ids(random, 5)
        pairs += [
            (context, (3,)),
            (context, (97,)),
            (context, first),
            (context, (*first[:-1], 11)),
            (context, first[:2]),
        ]
    pairs += [(head[:1], some_ids(random, WINDOW)), (some_ids(random, WINDOW), (5,)), pairs[0], pairs[3]]
    random.shuffle(pairs)
    return pairs


def expected(model: Model, before: tuple[int, ...], given: tuple[int, ...]) -> tuple[float, bool]:
    """From all logits of the text at once."""
    rows = model.logits((*before, *given[:-1]))[len(before) - 1 :].astype(np.float64)
    logprobs = rows - np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    logprobs -= rows.max(axis=1, keepdims=True)
    found = logprobs[np.arange(len(given)), list(given)].sum()
    return float(found), rows.argmax(axis=1).tolist() == list(given)


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_sums_of_log_softmax_over_the_raw_logits(model: Model) -> None:
    pairs = awkward_pairs()
    found, _ = score(model, pairs, max_batch=5)
    wanted = [expected(model, *pair) for pair in pairs]
    assert [one.logprob for one in found] == pytest.approx([logprob for logprob, _ in wanted], abs=1e-4)
    assert [one.is_greedy for one in found] == [is_greedy for _, is_greedy in wanted]


def test_scores_do_not_depend_on_the_batch(folder: Path) -> None:
    pairs = awkward_pairs()
    one, three, many = (score(fanlight.load(folder), pairs, max_batch=n)[0] for n in (1, 3, 33))
    assert one == three == many


def test_what_greedy_decoding_writes_is_greedy_and_no_other_end_of_it_is(model: Model) -> None:
    before = (9, 4, 33)
    written = model.generate(before, max_new_tokens=7, ignore_eos=True).ids
    others = [(*written[:-1], token) for token in range(tiny.N_VOCAB)]
    found, work = score(model, [(before, written), *((before, other) for other in others)], max_batch=4)
    assert found[0].is_greedy
    assert [token for token, one in enumerate(found[1:]) if one.is_greedy] == [written[-1]]
    assert work.n_jobs == 1


def test_the_last_ids_of_one_row_have_probabilities_that_sum_to_one(model: Model) -> None:
    found, work = score(model, [((8, 15, 2), (token,)) for token in range(tiny.N_VOCAB)], max_batch=2)
    assert sum(np.exp(one.logprob) for one in found) == pytest.approx(1, abs=1e-5)
    assert work.n_jobs == 1


def test_a_common_context_is_computed_once(model: Model) -> None:
    random = Random(3)
    head = some_ids(random, 80)
    pairs = [(head, some_ids(random, n)) for n in (2, 3, 5, 7)] + [((*head, 4, 5), (6, 7))]
    found, work = score(model, pairs, max_batch=16)
    assert len(found) == work.n_jobs == len(pairs)
    assert work.n_computed + work.n_reused >= 5 * len(head)
    assert work.n_computed < 2 * len(head)


def test_each_score_is_told_once(model: Model) -> None:
    pairs = awkward_pairs()
    told: dict[int, Any] = {}

    def done(index: int, found: Any) -> None:
        assert index not in told
        told[index] = found

    found, _ = score(model, pairs, max_batch=4, done=done)
    assert [told[index] for index in range(len(pairs))] == found


def test_nothing_to_score_is_nothing(model: Model) -> None:
    assert score(model, [], max_batch=3) == ([], (0, 0, 0))


def test_the_settings_that_a_model_comes_with_do_not_change_its_likelihoods(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "opinionated")
    wish = {"do_sample": True, "temperature": 0.3, "top_k": 2, "repetition_penalty": 3.0}
    (other / "generation_config.json").write_text(json.dumps(wish))
    opinionated, pairs = fanlight.load(other), awkward_pairs()
    assert opinionated.defaults.values["repetition_penalty"] == 3.0
    assert score(opinionated, pairs, max_batch=4)[0] == score(fanlight.load(folder), pairs, max_batch=4)[0]


@pytest.mark.parametrize(
    ("n_before", "n_given", "window", "n_left"),
    [(1, 1, 1, 1), (9, 1, 1, 1), (9, 3, 31, 9), (29, 3, 31, 29), (30, 3, 31, 29), (500, 31, 31, 1), (1, 31, 31, 1)],
)
def test_a_pair_loses_its_beginning_until_all_but_its_last_id_fit(
    n_before: int, n_given: int, window: int, n_left: int
) -> None:
    before, given = tuple(range(n_before)), tuple(range(1000, 1000 + n_given))
    assert fitted(before, given, window) == (before[n_before - n_left :], given)
    assert n_left + n_given - 1 <= window


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(ContextOverflow, match="33 tokens are to be scored, the window holds 31"):
        fitted((1,), tuple(range(33)), 31)
    with pytest.raises(OptionError, match="found 0 and 1"):
        fitted((), (1,), 31)
    with pytest.raises(OptionError, match="found 1 and 0"):
        fitted((1,), (), 31)


# -- options ----------------------------------------------------------------------------------------------------------


def test_what_means_nothing_is_taken_and_left() -> None:
    neutral = {name: value for name, values in NEUTRAL.items() for value in values}
    assert Arguments.of({**neutral, "peft": None}) == Arguments()


@pytest.mark.parametrize("name", INSTEAD)
def test_what_only_another_model_of_the_harness_knows_says_what_to_do(name: str) -> None:
    with pytest.raises(OptionError, match=rf"model_args: {name}='something'") as error:
        Arguments.of({name: "something"})
    assert INSTEAD[name] in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"treads": 2}, "unknown argument 'treads'; did you mean 'threads'"),
        ({"pretraned": "x"}, "unknown argument 'pretraned'; did you mean 'pretrained'"),
        ({"zzz": 2}, "unknown argument 'zzz'; known ones: pretrained, add_bos_token"),
        ({"batch_size": 0}, "batch_size must be an integer from 1 to 512, or auto: got 0"),
        ({"batch_size": "many"}, "batch_size must be .* got 'many'"),
        ({"batch_size": True}, "batch_size must be .* got True"),
        ({"max_length": 0}, "max_length must be an integer of at least 1: got 0"),
        ({"max_gen_toks": 2.5}, r"max_gen_toks must be an integer of at least 1: got 2\.5"),
        ({"prefix_token_id": -1}, "prefix_token_id must be an integer of at least 0: got -1"),
        ({"add_bos_token": "yes"}, "add_bos_token must be true or false: got 'yes'"),
        ({"chat_template_args": "a"}, "chat_template_args must be a JSON object: got 'a'"),
        ({"think_end_token": ""}, "think_end_token must be a token's text or id: got ''"),
        ({"enable_thinking": True}, "enable_thinking needs think_end_token"),
        ({"device": "mps"}, "device is 'mps', and backend auto: native kernels use the CPU; add backend=hf"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Arguments.of(given)


@pytest.mark.parametrize(
    ("given", "n"),
    [
        ({}, DEFAULT_BATCH),
        ({"batch_size": "auto"}, DEFAULT_BATCH),
        ({"batch_size": "auto:4", "max_batch_size": 3}, 3),
        ({"batch_size": "auto", "max_batch_size": 99}, DEFAULT_BATCH),
        ({"batch_size": 7, "max_batch_size": 3}, 7),
        ({"batch_size": "33"}, 33),
    ],
)
def test_the_batch_size_is_how_many_are_computed_together(given: dict[str, Any], n: int) -> None:
    assert Arguments.of(given).max_batch == n


def test_the_harness_own_device_is_no_wish() -> None:
    assert Arguments.of({"device": "cuda:0"}).device == "cuda:0"
    assert Arguments.of({"device": "mps", "backend": "hf"}).device == "mps"


def test_the_template_is_told_what_the_arguments_say() -> None:
    given = Arguments.of({"chat_template_args": {"tone": "dry"}, "enable_thinking": False})
    assert given.template_variables == {"tone": "dry", "enable_thinking": False}
    assert Arguments().template_variables == {}


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"max_gen_toks": 7}, {"max_new_tokens": 7}),
        ({"max_gen_toks": 7, "do_sample": False, "temperature": 0.0}, {"max_new_tokens": 7, "do_sample": False}),
        ({"max_gen_toks": 7, "max_length": 31}, {"max_length": 31}),
        (
            {"max_gen_toks": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3},
            {"max_new_tokens": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3},
        ),
        ({"max_gen_toks": 5, "num_beams": 3}, {"max_new_tokens": 5, "num_beams": 3}),
    ],
)
def test_generation_kwargs_are_options(asked: dict[str, Any], options: dict[str, Any]) -> None:
    assert options_of(asked) == {"candidates": 0, **options}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temprature": 1}, "generation_kwargs: unknown option 'temprature'; did you mean 'temperature'"),
        ({"stop": ["x"]}, "generation_kwargs: stop cannot be had: the harness's name for it is until"),
        ({"stop_strings": ["x"]}, "generation_kwargs: stop_strings cannot be had"),
        ({"num_return_sequences": 3}, "generation_kwargs: num_return_sequences cannot be had: .* repeats"),
        ({"top_p": 3, "do_sample": True}, "generation_kwargs: top_p must be above 0 and at most 1: got 3"),
    ],
)
def test_generation_kwargs_that_cannot_be_are_refused_by_name(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options_of({"max_gen_toks": 7, **asked})


def test_every_answer_has_a_seed_of_its_own() -> None:
    seeds = [seed_for(base, text, nth) for base in (0, 1) for text in ("a", "b") for nth in (0, 1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == seed_for(0, "a", 0)
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_every_argument_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = page.partition("## `--model_args`")[2].partition("##")[0]
    assert {field.name for field in fields(Arguments)} <= set(re.findall(r"`([a-z_]+)`", table))
