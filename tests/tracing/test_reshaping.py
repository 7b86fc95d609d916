"""A distribution under other settings: what decoding would make of the row, and never a guess where the row is not whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decoding.rows import all_rows, built, run, softmax
from fanlight.decoding.config import GenerationConfig
from fanlight.errors import OptionError
from fanlight.kernels import load_ops
from fanlight.trace.distribution import Distribution
from fanlight.tracing.reshaping import OF_A_ROW, Reshaped, reshaped

FILTERS: dict[str, Any] = {
    "top_k": 5,
    "top_p": 0.7,
    "min_p": 0.1,
    "typical_p": 0.6,
    "top_n_sigma": 1.0,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.02,
    "tfs": 0.8,
    "top_a": 0.3,
    "top_h": 0.5,
}
SHAPES: dict[str, Any] = {"temperature": 0.6, "smoothing_factor": 0.4, "renormalize_logits": True}


def label(token: int) -> str:
    return f"t{token}"


def whole(row: Any) -> Distribution:
    return Distribution.of_row(row, label)


def part(row: Any, n: int, extra: tuple[int, ...] = ()) -> Distribution:
    """The first n tokens of a row, and others from further down."""
    found = whole(row)
    keep = np.array(sorted({*range(n), *extra}))
    return replace(found, ids=found.ids[keep], logits=found.logits[keep], n_top=None)


def same(found: Reshaped, other: Reshaped, n: int) -> None:
    """Whether a part says what the whole says of its first n tokens, and that nothing else is left."""
    assert np.array_equal(found.kept[:n], other.kept[:n])
    assert not other.kept[n:].any()
    assert found.n_kept == other.n_kept
    assert found.probs[:n] == pytest.approx(other.probs[:n], abs=1e-9)
    assert found.entropy == pytest.approx(other.entropy, abs=1e-7)
    assert found.removed_prob == pytest.approx(other.removed_prob, abs=1e-7)


@pytest.mark.parametrize("n_vocab", [7, 33, 1000])
@pytest.mark.parametrize("options", [*({name: value} for name, value in (FILTERS | SHAPES).items()), FILTERS | SHAPES])
def test_a_whole_row_becomes_what_the_processors_of_decoding_make_of_it(n_vocab: int, options: dict[str, Any]) -> None:
    processors = built({"do_sample": True} | options, load_ops(), n_vocab=n_vocab)
    for name, row in all_rows(n_vocab):
        if name == "huge":  # logits beyond what a temperature below 1 can divide
            continue
        expected = run(processors, row)
        found = reshaped(whole(row), options)
        ids = whole(row).ids
        kept = expected[ids] > -np.inf
        assert np.array_equal(found.kept, kept), name
        assert found.probs == pytest.approx(softmax(expected)[ids], abs=1e-6), name
        assert found.n_kept == kept.sum()
        assert found.removed_prob == pytest.approx(softmax(row)[ids][~kept].sum(), abs=1e-6)
        positive = found.probs[found.probs > 0]
        assert found.entropy == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-9)
        assert found.labels == tuple(processor.label for processor in processors)


def test_no_setting_leaves_a_distribution_as_it_is() -> None:
    row = np.array([0.5, 2.0, -1.0, 2.0, -np.inf], np.float32)
    for distribution in (whole(row), part(row, 3)):
        found = reshaped(distribution, {})
        assert found.probs == pytest.approx(distribution.probs)
        assert found.entropy == pytest.approx(distribution.entropy)
        assert found.removed_prob == pytest.approx(0, abs=1e-12)
        assert found.labels == ()


@pytest.mark.parametrize("options", [{"temperature": 0}, {"do_sample": False}, GenerationConfig()])
def test_settings_that_draw_nothing_leave_the_arg_max(options: Any) -> None:
    row = np.array([0.5, 2.0, -1.0, 2.0, 1.0], np.float32)
    for distribution in (whole(row), part(row, 3)):
        if distribution.is_whole or isinstance(options, GenerationConfig):
            found = reshaped(distribution, options, n_top=3)
            assert distribution.ids[found.kept].tolist() == [1]
            assert (found.n_kept, found.entropy) == (1, 0.0)
            assert found.probs.max() == 1


def test_what_is_left_of_a_whole_row_with_removed_tokens() -> None:
    """Logits of -inf were never possible: they are not counted as removed mass, nor kept."""
    row = np.array([-np.inf, 1.0, -np.inf, 0.0, -np.inf], np.float32)
    found = reshaped(whole(row), {"top_k": 2})
    assert found.n_kept == 2
    assert found.removed_prob == pytest.approx(0, abs=1e-12)
    one = np.full(33, -np.inf, np.float32)
    one[7] = -3.5
    for name, value in FILTERS.items():
        found = reshaped(whole(one), {name: value})
        assert (found.n_kept, found.entropy, found.probs[0]) == (1, 0.0, 1.0), name


def test_a_row_that_a_step_recorded_wholly_may_lack_impossible_ids() -> None:
    row = np.array([-np.inf, 1.0, 3.0, -np.inf, 2.0], np.float32)
    recorded = replace(part(row, 3), n_vocab=3)
    assert recorded.is_whole
    assert reshaped(recorded, {"typical_p": 0.5}).n_kept == reshaped(whole(row), {"typical_p": 0.5}).n_kept


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"top_k", "top_p", "min_p", "epsilon_cutoff", "top_a"}))
def test_a_part_is_not_enough_for_a_filter_that_measures_the_whole_row(name: str) -> None:
    row = np.array([9.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], np.float32)
    with pytest.raises(OptionError, match=r"4 of 7 tokens.*give the prompt.*candidates=-1"):
        reshaped(part(row, 4), {name: FILTERS[name]}, n_top=4)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 2.0},
        {"top_p": 0.9999},
        {"top_k": 5},
        {"temperature": 1.5, "top_p": 0.995},
        {"min_p": 1e-6},
        {"logit_bias": {1: 2.0}},
        {"suppress_tokens": [6]},
        {"top_k": 2, "logit_bias": {6: 50.0}},
        {"temperature": 0.7, "dynatemp_range": 0.2, "top_k": 2},
    ],
)
def test_a_part_is_not_enough_where_the_others_may_matter(options: dict[str, Any]) -> None:
    row = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.9, 4.8], np.float32)
    with pytest.raises(OptionError, match="candidates=-1"):
        reshaped(part(row, 4), options, n_top=4)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3},
        {"temperature": 1.7, "top_k": 3},
        {"top_p": 0.9},
        {"min_p": 0.2},
        {"temperature": 0.5, "min_p": 0.02},
        {"temperature": 0.4, "top_p": 0.9},
        {"epsilon_cutoff": 0.1},
        {"top_a": 0.5},
        {"top_k": 3, "typical_p": 0.5, "temperature": 1.3, "top_n_sigma": 0.8},
    ],
)
def test_a_part_that_suffices_says_what_the_whole_says(options: dict[str, Any]) -> None:
    row = np.array([7.0, 9.0, 8.0, 6.0, 3.0, 2.9, 2.8], np.float32)
    same(reshaped(part(row, 4), options, n_top=4), reshaped(whole(row), options), 4)


def test_without_knowing_the_most_probable_ones_only_their_mass_proves_anything() -> None:
    row = np.array([9.0, 8.0, 7.0, 6.0, 5.5, 5.4, 5.3], np.float32)
    gap = replace(part(row, 2, extra=(4,)))  # the third and fourth are not there
    assert reshaped(gap, {"top_k": 1}).n_kept == 1  # more probable than all others together
    with pytest.raises(OptionError, match="needs more of the row"):
        reshaped(gap, {"top_k": 3})
    with pytest.raises(OptionError, match="needs more of the row"):
        reshaped(gap, {"top_p": 0.99}, n_top=2)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 10**6),
    st.sampled_from([5, 9, 33]),
    st.integers(1, 8),
    st.sampled_from([0.5, 2.0, 6.0]),
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0.1, 3),
            "top_k": st.integers(1, 9),
            "top_p": st.floats(0.05, 1),
            "min_p": st.floats(0, 1),
            "epsilon_cutoff": st.floats(0, 0.3),
            "top_a": st.floats(0, 1),
            "typical_p": st.floats(0.1, 1),
            "top_n_sigma": st.floats(0.1, 2),
        },
    ),
    st.booleans(),
)
def test_what_a_part_says_is_never_wrong(
    seed: int, n_vocab: int, n: int, spread: float, options: dict[str, Any], is_told: bool
) -> None:
    row = np.random.default_rng(seed).normal(0, spread, n_vocab).astype(np.float32)
    if seed % 3 == 0:
        row = np.round(row)  # ties
    n = min(n, n_vocab - 1)
    recorded = part(row, n, extra=(n_vocab - 1,) if seed % 2 else ())
    assume(not recorded.is_whole)
    try:
        found = reshaped(recorded, options, n_top=n if is_told else None)
    except OptionError:
        return
    true = reshaped(whole(row), options)
    if found.labels:
        same(found, true, n)
    else:
        assert found.n_kept == true.n_kept == n_vocab


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.2},
        {"mirostat": 2},
        {"xtc_probability": 0.5},
        {"regex": "a+"},
        {"no_repeat_ngram_size": 3},
        {"guidance_scale": 2.0},
        {"max_new_tokens": 5},
        {"num_beams": 3},
        {"adaptive_target": 0.5},
        {"min_new_tokens": 3},
        {"processors": [lambda ids, logits: logits]},
    ],
)
def test_what_is_no_matter_of_one_row_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="more than reshape one distribution"):
        reshaped(whole(np.array([1.0, 2.0, 0.5], np.float32)), options)


def test_settings_of_a_run_are_refused_only_for_what_would_change_the_row() -> None:
    row = whole(np.array([1.0, 2.0, 0.5], np.float32))
    config = GenerationConfig(do_sample=True, max_new_tokens=3, top_k=2, stop_strings=["x"])
    assert reshaped(row, config).n_kept == 2
    with pytest.raises(OptionError, match="repetition_penalty"):
        reshaped(row, config.replace(repetition_penalty=1.2))
    with pytest.raises(OptionError, match="min_new_tokens"):
        reshaped(row, config.replace(min_new_tokens=2))
    with pytest.raises(OptionError, match="json_schema"):
        reshaped(row, config.replace(json_schema='{"type": "object"}'))


def test_an_unknown_or_impossible_option_is_an_error_of_settings() -> None:
    row = whole(np.array([1.0, 2.0, 0.5], np.float32))
    with pytest.raises(OptionError, match="top_p"):
        reshaped(row, {"topp": 0.5})
    with pytest.raises(OptionError, match="above 0"):
        reshaped(row, {"top_p": 0})


def test_an_order_of_ones_own_is_followed() -> None:
    row = whole(np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05], np.float32)))
    options = {"temperature": 3.0, "top_p": 0.8}
    assert reshaped(row, options | {"processors": ["top_p", "temperature"]}).n_kept == 3
    assert reshaped(row, options).n_kept == 4


def test_every_processor_of_a_row_is_known_to_decoding() -> None:
    from fanlight.decoding.processors import makers

    assert set(OF_A_ROW) <= set(makers())
