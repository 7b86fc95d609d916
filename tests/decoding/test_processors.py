"""Processors: which are built from settings, in which order, and what all of them promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoding.rows import BOTH, INF, around, built, run, survivors
from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.decoding.presets import BEFORE, LLAMA_CPP_ORDER, PRESETS
from fanlight.decoding.processors import OnOps, build_processors, makers
from fanlight.errors import OptionError

FIVE = {"min_p": 0.05, "top_p": 0.9, "top_k": 40, "temperature": 0.7, "repetition_penalty": 1.1}


def labels(**options: Any) -> list[str]:
    return [processor.label for processor in build_processors(GenerationConfig(**options), around())]


def test_processors_stand_in_the_order_of_transformers() -> None:
    processors = build_processors(GenerationConfig(do_sample=True, **FIVE), around())  # type: ignore[arg-type]
    assert [str(processor) for processor in processors] == [
        "repetition_penalty(1.1)",
        "temperature(0.7)",
        "top_k(40)",
        "top_p(0.9)",
        "min_p(0.05)",
    ]
    assert [(processor.name, processor.removes) for processor in processors] == [
        ("repetition_penalty", False),
        ("temperature", False),
        ("top_k", True),
        ("top_p", True),
        ("min_p", True),
    ]


def test_what_would_change_nothing_is_left_out() -> None:
    assert labels(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0) == []
    assert labels(do_sample=True, top_k=None) == []
    assert labels(do_sample=True) == ["top_k(50)"]
    assert labels() == []


def test_greedy_uses_the_penalty_alone() -> None:
    assert labels(**FIVE) == ["repetition_penalty(1.1)"]
    assert labels(do_sample=True, **FIVE | {"temperature": 0}) == ["repetition_penalty(1.1)"]


def test_the_order_can_be_chosen_and_leaves_out_what_it_does_not_name() -> None:
    assert labels(do_sample=True, **FIVE, processors=["top_p", "temperature", "repetition_penalty"]) == [
        "top_p(0.9)",
        "temperature(0.7)",
        "repetition_penalty(1.1)",
    ]
    assert labels(do_sample=True, **FIVE, processors="min_p; top_k") == ["min_p(0.05)", "top_k(40)"]
    assert labels(do_sample=True, **FIVE, processors=()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("top_p,top_p", "^processors names 'top_p' twice$"),
        ("topp", r"^processors: unknown processor 'topp'; did you mean 'top_p'\?$"),
        ("qqq", "^processors: unknown processor 'qqq'; there are guidance_scale, contrastive_decoding, "),
    ],
)
def test_an_order_that_cannot_be_is_refused(names: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        labels(do_sample=True, processors=names)


def test_the_presets_put_the_temperature_first_and_last() -> None:
    everything = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "xtc_probability": 0.5}
    hf, llama_cpp = (
        [p.name for p in build_processors(GenerationConfig.preset(name, **everything), around())]
        for name in ("hf", "llama.cpp")
    )
    assert hf[0] == "temperature"
    assert llama_cpp[-1] == "temperature"
    assert sorted(hf) == sorted(llama_cpp)
    assert llama_cpp == ["top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"]


def test_the_order_of_llama_cpp_names_every_processor_once() -> None:
    assert sorted(LLAMA_CPP_ORDER) == sorted(makers())
    assert LLAMA_CPP_ORDER[: len(BEFORE)] == BEFORE
    assert PRESETS["llama.cpp"]["processors"] == LLAMA_CPP_ORDER


def test_every_processor_is_named_after_an_option_or_explained_by_one() -> None:
    others = {"contrastive_decoding", "dry", "xtc", "adaptive_p", "constraint"}
    assert set(makers()) - set(DEFAULTS) == others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suppress_tokens": [3, 33]}, "^suppress_tokens: id 33 is not in the model's vocabulary, 0 to 32$"),
        ({"begin_suppress_tokens": 40}, "^begin_suppress_tokens: id 40 "),
        ({"bad_words_ids": [[1], [2, 50]]}, "^bad_words_ids: id 50 "),
        ({"sequence_bias": {(1, 99): 1.0}}, "^sequence_bias: id 99 "),
        ({"logit_bias": {"33": 1}}, "^logit_bias: id 33 "),
        ({"forced_bos_token_id": 33}, "^forced_bos_token_id: id 33 "),
        ({"forced_eos_token_id": [1, 34]}, "^forced_eos_token_id: id 34 "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_id_outside_the_vocabulary_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        built(options, max_length=9)


def test_a_forced_end_needs_a_known_end() -> None:
    with pytest.raises(OptionError, match=r"^forced_eos_token_id needs an end that is known: set max_new_tokens"):
        built({"forced_eos_token_id": 2})


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_what_is_forced_cannot_be_suppressed(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} asks for 2, which suppress_tokens removes: take it out of one"):
        built({name: 2, "suppress_tokens": [1, 2]}, max_length=9)
    assert len(built({"forced_eos_token_id": [2, 3], "suppress_tokens": [1, 2]}, max_length=9)) == 2


def test_a_processor_that_needs_another_row_says_so() -> None:
    (guidance,) = built({"guidance_scale": 2})
    with pytest.raises(OptionError, match=r"^guidance_scale needs another row beside the logits"):
        run([guidance], np.zeros(33, np.float32))


def test_what_the_caller_made_is_never_left_out() -> None:
    """A constraint is a demand on the text: an order that does not name it puts it first."""
    for ops in BOTH:

        class OnlyThree(OnOps):
            __slots__ = ()
            name = "regex"

            def __call__(self, ids: Any, logits: Any) -> Any:
                return self.ops.keep(logits, (3,))

        given = (OnlyThree(0.0, ops),)
        options = {"do_sample": True, "temperature": 0.5, "suppress_tokens": [1]}
        for order, names in (
            (None, ["suppress_tokens", "regex", "temperature"]),
            (["temperature"], ["regex", "temperature"]),
            (["temperature", "constraint"], ["temperature", "regex"]),
        ):
            processors = built(options | {"processors": order}, ops, given=given)
            assert [processor.name for processor in processors] == names
            assert survivors(run(processors, np.zeros(33, np.float32))) == {3}


def test_a_filter_leaves_as_many_as_it_was_told_to() -> None:
    sharp = np.arange(33, dtype=np.float32) * 9
    filters: dict[str, Any] = {
        "top_k": 1,
        "top_p": 0.01,
        "min_p": 1.0,
        "top_h": 0.01,
        "typical_p": 0.01,
        "epsilon_cutoff": 0.99,
        "eta_cutoff": 0.99,
        "top_n_sigma": 0.001,
        "tfs": 0.01,
        "top_a": 1.0,
        "mirostat": 2,
    }
    for ops in BOTH:
        for name, value in filters.items():
            for n in (1, 2, 5, 40):
                options = {"do_sample": True, name: value, "min_tokens_to_keep": n, "mirostat_tau": 1e-3}
                result = run(built(options, ops), sharp, [1])
                if name != "tfs":  # its cut lies where the curve flattens, here after three tokens
                    assert len(survivors(result)) == min(n, 33), (ops.name, name, n)
                assert len(survivors(result)) >= min(n, 33), (ops.name, name, n)
                assert all(token in survivors(result) for token in range(33 - min(n, 33), 33)), (ops.name, name, n)


def test_biases_may_remove_and_are_summed_up() -> None:
    row = np.zeros(7, np.float32)
    for ops in BOTH:
        (bias,) = built({"logit_bias": {"2": 1.5, "3": None, 4: -2}}, ops, n_vocab=7)
        np.testing.assert_array_equal(run([bias], row), np.array([0, 0, 1.5, -INF, -2, 0, 0], np.float32))
        both = built({"logit_bias": {2: 1.0}, "sequence_bias": {(2,): 0.5, (1, 2): 0.25}}, ops, n_vocab=7)
        assert run(both, row, [1])[2] == 1.75
