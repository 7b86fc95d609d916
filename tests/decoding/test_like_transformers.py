"""Every processor that transformers has too gives its survivors and its probabilities, on plain and on awkward rows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from decoding.rows import BOTH, INF, SIZES, all_rows, built, run, softmax, survivors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoding.rows import Row

EOS = 0
"""The end of text in all vocabularies here, for the smallest has no other id."""


def theirs(processor: Any, row: Row, ids: Sequence[int], dtype: torch.dtype = torch.float64) -> Row:
    """Their row. In float64, so that their sums round no token over a limit; it rounds to the float32 of ours at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = processor(torch.tensor([list(ids)], dtype=torch.long), torch.tensor(row, dtype=dtype)[None])
    found: Row = result[0].to(torch.float32).numpy()
    return found


def histories(n_vocab: int) -> list[list[int]]:
    """Ids so far: one, few, many with repeats."""
    random = np.random.default_rng(n_vocab)
    loop = (random.integers(0, n_vocab, 5).tolist() * 4)[:18]
    return [[n_vocab - 1], random.integers(0, n_vocab, 3).tolist(), loop, random.integers(0, n_vocab, 40).tolist()]


def assert_equal(ours: Row, expected: Row, where: str) -> None:
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(expected), err_msg=where)
    if (expected > -INF).any():
        np.testing.assert_allclose(softmax(ours), softmax(expected), atol=1e-6, err_msg=where)
        left = expected > -INF
        np.testing.assert_allclose(ours[left], expected[left], rtol=2e-6, atol=1e-6, err_msg=where)


def assert_same_up_to_ties(ours: Row, expected: Row, where: str) -> None:
    """As many survivors, as probable: which of equal tokens stay is arbitrary there; here the largest, the lowest ids."""
    assert len(survivors(ours)) == len(survivors(expected)), where
    np.testing.assert_allclose(np.sort(softmax(ours)), np.sort(softmax(expected)), atol=1e-6, err_msg=where)
    assert (np.sort(ours) >= np.sort(expected)).all(), where


def has_ties(row: Row) -> bool:
    """Whether tokens are equally probable."""
    return len(set(softmax(row).tolist())) < len(row)


# -- by what the ids so far say --------------------------------------------------------------------------------------

LONG_BIASES = [[[0], -1.5], [[2 % 7, 1], 4.0], [[5, 6, 3], -2.25], [[3], 0.5], [[6, 3], 1.0]]
BIASES: list[tuple[dict[str, Any], Callable[[], Any]]] = [
    ({"repetition_penalty": 1.3}, lambda: hf.RepetitionPenaltyLogitsProcessor(1.3)),
    ({"repetition_penalty": 0.8}, lambda: hf.RepetitionPenaltyLogitsProcessor(0.8)),
    ({"no_repeat_ngram_size": 1}, lambda: hf.NoRepeatNGramLogitsProcessor(1)),
    ({"no_repeat_ngram_size": 2}, lambda: hf.NoRepeatNGramLogitsProcessor(2)),
    ({"no_repeat_ngram_size": 3}, lambda: hf.NoRepeatNGramLogitsProcessor(3)),
    ({"no_repeat_ngram_size": 6}, lambda: hf.NoRepeatNGramLogitsProcessor(6)),
    ({"sequence_bias": [[[0], -3.5]]}, lambda: hf.SequenceBiasLogitsProcessor([[[0], -3.5]])),
    ({"bad_words_ids": [[0, 0], [0]]}, lambda: hf.NoBadWordsLogitsProcessor([[0, 0], [0]], eos_token_id=[EOS])),
    ({"min_length": 4}, lambda: hf.MinLengthLogitsProcessor(4, EOS)),
    ({"min_length": 19}, lambda: hf.MinLengthLogitsProcessor(19, EOS)),
    ({"suppress_tokens": [0]}, lambda: hf.SuppressTokensLogitsProcessor([0])),
    ({"temperature": 0.7}, lambda: hf.TemperatureLogitsWarper(0.7)),
    ({"temperature": 3.0}, lambda: hf.TemperatureLogitsWarper(3.0)),
    ({"renormalize_logits": True}, lambda: hf.LogitNormalization()),
]


@pytest.mark.parametrize(("options", "other"), BIASES, ids=lambda value: str(value) if isinstance(value, dict) else "")
@pytest.mark.parametrize("n_vocab", SIZES)
def test_penalties_biases_and_shapes_equal_those_of_transformers(
    options: dict[str, Any], other: Callable[[], Any], n_vocab: int
) -> None:
    for ops in BOTH:
        processors = built({"do_sample": True} | options, ops, n_vocab=n_vocab, eos_ids=(EOS,))
        for name, row in all_rows(n_vocab):
            for ids in histories(n_vocab):
                expected = theirs(other(), row, ids, torch.float32)
                assert_equal(run(processors, row, ids), expected, f"{ops.name}, {name}, {ids}")


@pytest.mark.parametrize("n_vocab", [7, 33, 1000])
def test_biases_of_sequences_equal_those_of_transformers(n_vocab: int) -> None:
    bans = [[1], [2, 1], [5, 6, 3], [EOS], [EOS, 4]]
    endings = [[5, 6], [2], [4, 2], [6], [5, 6, 3], [0], [1, 2, 3, 5, 6]]
    for ops in BOTH:
        biased = built({"sequence_bias": LONG_BIASES}, ops, n_vocab=n_vocab)
        banned = built({"bad_words_ids": bans}, ops, n_vocab=n_vocab, eos_ids=(EOS,))
        for name, row in all_rows(n_vocab):
            for ids in endings:
                where = f"{ops.name}, {name}, {ids}"
                expected = theirs(hf.SequenceBiasLogitsProcessor(LONG_BIASES), row, ids, torch.float32)
                assert_equal(run(biased, row, ids), expected, where)
                expected = theirs(hf.NoBadWordsLogitsProcessor(bans, [EOS]), row, ids, torch.float32)
                assert_equal(run(banned, row, ids), expected, where)


@pytest.mark.parametrize("sequences", [{(3,): 1.0, (1, 3): -INF}, [[[3], 1.0], [[1, 3], -INF], [[3], 2.0]]], ids=str)
def test_a_bias_that_stands_twice_counts_as_the_last(sequences: Any) -> None:
    row, ids = np.zeros(33, np.float32), [4, 1]
    expected = theirs(hf.SequenceBiasLogitsProcessor(sequences), row, ids, torch.float32)
    for ops in BOTH:
        assert_equal(run(built({"sequence_bias": sequences}, ops), row, ids), expected, ops.name)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_the_penalty_of_the_prompt_equals_that_of_transformers(n_vocab: int) -> None:
    for ops in BOTH:
        for prompt in histories(n_vocab):
            processors = built({"encoder_repetition_penalty": 1.4}, ops, n_vocab=n_vocab, prompt_ids=tuple(prompt))
            other = hf.EncoderRepetitionPenaltyLogitsProcessor(1.4, torch.tensor([prompt]))
            for name, row in all_rows(n_vocab):
                expected = theirs(other, row, [*prompt, 0], torch.float32)
                assert_equal(run(processors, row, [*prompt, 0]), expected, f"{ops.name}, {name}, {prompt}")


@pytest.mark.parametrize("n_vocab", [7, 33])
@pytest.mark.parametrize("n_prompt", [1, 4])
@pytest.mark.parametrize("forced", [None, 2])
def test_what_depends_on_the_length_equals_transformers_at_every_length(
    n_vocab: int, n_prompt: int, forced: int | None
) -> None:
    prompt, ends = tuple(range(n_prompt)), [EOS, 5]
    begin = n_prompt + (1 if n_prompt == 1 and forced is not None else 0)  # as its generation loop sets it
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"min_new_tokens": 3}, hf.MinNewTokensLengthLogitsProcessor(n_prompt, 3, ends)),
        ({"min_length": 6}, hf.MinLengthLogitsProcessor(6, ends)),
        (
            {"begin_suppress_tokens": [1, 2], "forced_bos_token_id": forced},
            hf.SuppressTokensAtBeginLogitsProcessor([1, 2], begin),
        ),
        ({"forced_bos_token_id": 3}, hf.ForcedBOSTokenLogitsProcessor(3)),
        ({"forced_eos_token_id": 5}, hf.ForcedEOSTokenLogitsProcessor(9, 5)),
        ({"forced_eos_token_id": [5, 1]}, hf.ForcedEOSTokenLogitsProcessor(9, [5, 1])),
        (
            {"exponential_decay_length_penalty": (2, 1.3)},
            hf.ExponentialDecayLengthPenalty((2, 1.3), ends, n_prompt),
        ),
        (
            {"exponential_decay_length_penalty": (0, 0.9)},
            hf.ExponentialDecayLengthPenalty((0, 0.9), ends, n_prompt),
        ),
    ]
    for ops in BOTH:
        for options, other in cases:
            processors = built(options, ops, n_vocab=n_vocab, prompt_ids=prompt, eos_ids=tuple(ends), max_length=9)
            mine = [processor for processor in processors if processor.name == next(iter(options))]
            assert len(mine) == 1
            for length in range(n_prompt, 11):
                ids = [6, *range(1, length)] if length > 6 else list(range(length))
                for name, row in all_rows(n_vocab)[::2]:
                    if name == "huge" and "decay" in mine[0].name:
                        continue  # beyond float32: the test below
                    where = f"{ops.name}, {options}, {name}, length {length}"
                    assert_equal(run(mine, row, [i % 7 for i in ids]), theirs(other, row, ids, torch.float32), where)


def test_a_decay_that_leaves_float32_behind_makes_the_end_certain() -> None:
    for ops in BOTH:
        (decay,) = built({"exponential_decay_length_penalty": (0, 9.0)}, ops, eos_ids=(4, 4))
        row = run([decay], np.linspace(-2, 2, 33, dtype=np.float32), [1] * 5000)
        assert np.isfinite(row).all()
        assert softmax(row)[4] == 1


def test_an_end_of_text_that_is_named_twice_gains_once() -> None:
    row = np.linspace(-2, 2, 33, dtype=np.float32)
    options = {"exponential_decay_length_penalty": (0, 1.5)}
    for ops in BOTH:
        once, twice = (run(built(options, ops, eos_ids=ends), row, [1, 2, 3]) for ends in ((4,), (4, 4)))
        np.testing.assert_array_equal(once, twice)


# -- filters ---------------------------------------------------------------------------------------------------------

FILTERS: list[tuple[str, Any, Callable[[Any, int], Any]]] = [
    *(("top_k", k, lambda v, keep: hf.TopKLogitsWarper(v, min_tokens_to_keep=keep)) for k in (1, 2, 31, 5000)),
    *(("top_p", p, lambda v, keep: hf.TopPLogitsWarper(v, min_tokens_to_keep=keep)) for p in (0.0513, 0.49371, 0.9137)),
    *(("min_p", p, lambda v, keep: hf.MinPLogitsWarper(v, min_tokens_to_keep=keep)) for p in (0.0213, 0.317, 1.0)),
    *(("typical_p", p, lambda v, keep: hf.TypicalLogitsWarper(v, min_tokens_to_keep=keep)) for p in (0.213, 0.913)),
    *(
        ("epsilon_cutoff", e, lambda v, keep: hf.EpsilonLogitsWarper(v, min_tokens_to_keep=keep))
        for e in (3.1e-4, 0.213)
    ),
    *(("eta_cutoff", e, lambda v, keep: hf.EtaLogitsWarper(v, min_tokens_to_keep=keep)) for e in (3.1e-4, 0.213)),
]
ARBITRARY = ("top_p", "min_p", "top_h")
"""Filters of transformers that keep a number of tokens, whichever of equal ones."""


@pytest.mark.parametrize(("name", "value", "other"), FILTERS, ids=lambda value: "" if callable(value) else str(value))
@pytest.mark.parametrize("min_keep", [1, 3])
@pytest.mark.parametrize("n_vocab", SIZES)
def test_filters_keep_what_those_of_transformers_keep(
    name: str, value: Any, other: Callable[[Any, int], Any], min_keep: int, n_vocab: int
) -> None:
    for ops in BOTH:
        (ours,) = built({"do_sample": True, name: value, "min_tokens_to_keep": min_keep}, ops, n_vocab=n_vocab)
        for kind, row in all_rows(n_vocab):
            where = f"{ops.name}, {name} {value}, {kind}"
            if (value, kind) == (1.0, "tiny"):
                continue  # equal as probabilities there, different as logits here
            expected = theirs(other(value, min_keep), row, [0])
            result = run([ours], row, [0])
            if name == "typical_p" and has_ties(row):
                assert_nearest_to_the_entropy(result, expected, row, where)
            elif name in ARBITRARY and has_ties(row):
                assert_same_up_to_ties(result, expected, where)
            else:
                assert_equal(result, expected, where)


def assert_nearest_to_the_entropy(ours: Row, expected: Row, row: Row, where: str) -> None:
    """typical_p here stops among tokens of the same distance, by the lowest id; there it takes all of that distance."""
    prob = softmax(row)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(prob)
        distance = np.abs(surprise - np.nansum(prob * surprise))
    mine, others = (np.sort(distance[sorted(survivors(kept))]) for kept in (ours, expected))
    n = len(mine)
    np.testing.assert_allclose(mine, np.sort(distance)[:n], rtol=1e-6, err_msg=where)
    np.testing.assert_allclose(mine, others[:n], rtol=1e-6, err_msg=where)
    np.testing.assert_allclose(others[n:], mine[-1], rtol=1e-6, err_msg=where)


@pytest.mark.parametrize("h", [0.213, 0.637, 0.951, 1.0])
@pytest.mark.parametrize("n_vocab", SIZES)
def test_top_h_keeps_what_that_of_transformers_keeps(h: float, n_vocab: int) -> None:
    for ops in BOTH:
        (ours,) = built({"do_sample": True, "top_h": h}, ops, n_vocab=n_vocab)
        for kind, row in all_rows(n_vocab):
            where = f"{ops.name}, top_h {h}, {kind}"
            expected, result = theirs(hf.TopHLogitsWarper(h), row, [0]), run([ours], row, [0])
            result = np.where(softmax(result) > 0, result, -INF).astype(
                np.float32
            )  # theirs stops at a term of 0 * log 0
            if h == 1.0:  # their last of the hundred hangs on how a sum rounds
                assert survivors(result) >= survivors(expected) or has_ties(row), where
                assert len(survivors(result)) <= 100, where
            elif has_ties(row):
                assert_same_up_to_ties(result, expected, where)
            else:
                assert_equal(result, expected, where)


def test_a_vocabulary_of_equals_is_no_reason_to_keep_one_token() -> None:
    """All are below epsilon: as in transformers, all stay then that are as probable as the first."""
    for ops in BOTH:
        for name in ("epsilon_cutoff", "eta_cutoff"):
            (ours,) = built({"do_sample": True, name: 0.5}, ops)
            assert len(survivors(run([ours], np.zeros(33, np.float32)))) == 33


# -- guidance and damaged rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.7, 0.4, 7.5])
@pytest.mark.parametrize("n_vocab", SIZES)
def test_guidance_is_the_formula_of_transformers(scale: float, n_vocab: int) -> None:
    """Their processor runs the model itself; a model that answers with a fixed row stands in for it."""
    random = np.random.default_rng(n_vocab)
    for ops in BOTH:
        (ours,) = built({"guidance_scale": scale}, ops, n_vocab=n_vocab)
        assert ours.beside == "negative"
        for _ in range(4):
            row, negative = random.normal(0, 4, (2, n_vocab)).astype(np.float32)

            class Answer(dict[str, Any]):
                logits = torch.tensor(negative)[None, None]

            other = hf.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, lambda *_, **__: Answer())
            expected = theirs(other, row, [0], torch.float32)
            tensor, beside = ops.tensor(row, n_vocab), ops.tensor(negative, n_vocab)
            result = ours.between([0], tensor, beside).numpy()[0]
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(softmax(result), softmax(expected), atol=1e-5)


def test_invalid_values_are_mended_as_in_transformers_but_for_what_was_removed() -> None:
    row = np.array([1.0, np.nan, INF, -INF, -2.0, np.nan], np.float32)
    expected = theirs(hf.InfNanRemoveLogitsProcessor(), row, [0], torch.float32)
    for ops in BOTH:
        result = run(built({"remove_invalid_values": True}, ops, n_vocab=6), row)
        assert result[3] == -INF
        np.testing.assert_array_equal(np.delete(result, 3), np.delete(expected, 3))
