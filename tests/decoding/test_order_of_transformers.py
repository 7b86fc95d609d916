"""The order of processors and what they make of a row together, beside the list that transformers builds for the same settings."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig as TheirConfig

from decoding.rows import BOTH, INF, built, plain_rows, run, softmax
from models import tiny

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

N_VOCAB, EOS = tiny.N_VOCAB, tiny.EOS
NAMES = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "EncoderRepetitionPenaltyLogitsProcessor": "encoder_repetition_penalty",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "MinLengthLogitsProcessor": "min_length",
    "MinNewTokensLengthLogitsProcessor": "min_new_tokens",
    "ForcedBOSTokenLogitsProcessor": "forced_bos_token_id",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
    "TemperatureLogitsWarper": "temperature",
    "TopHLogitsWarper": "top_h",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
    "TypicalLogitsWarper": "typical_p",
    "EpsilonLogitsWarper": "epsilon_cutoff",
    "EtaLogitsWarper": "eta_cutoff",
    "WatermarkLogitsProcessor": "watermarking_config",
    "LogitNormalization": "renormalize_logits",
}
BEFORE_SAMPLING: dict[str, Any] = {
    "sequence_bias": [[[3], -1.5], [[7, 9], 2.5], [[EOS], 0.25]],
    "encoder_repetition_penalty": 1.2,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[4], [7, 11], [EOS]],
    "min_length": 5,
    "min_new_tokens": 2,
    "forced_bos_token_id": 12,
    "forced_eos_token_id": [EOS],
    "exponential_decay_length_penalty": (1, 1.4),
    "suppress_tokens": [20, 21],
    "begin_suppress_tokens": [22, 23, 24],
    "renormalize_logits": True,
}
SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_h": 0.917,
    "top_k": 40,
    "top_p": 0.9173,
    "min_p": 0.0171,
    "typical_p": 0.9317,
    "epsilon_cutoff": 3.17e-4,
    "eta_cutoff": 2.13e-3,
}
EVERYTHING: dict[str, Any] = {
    **BEFORE_SAMPLING,
    **SAMPLING,
    "guidance_scale": 1.5,
    "remove_invalid_values": True,
    "watermarking_config": {"bias": 2.0, "seeding_scheme": "lefthash"},
    "do_sample": True,
}


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return tiny.gpt2()


def theirs(model: Any, options: dict[str, Any], prompt: list[int], max_length: int = 12) -> LogitsProcessorList:
    config = TheirConfig(**{"top_k": 0, "max_length": max_length} | options)
    config._eos_token_tensor = torch.tensor([EOS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: LogitsProcessorList = model._get_logits_processor(
            config, input_ids_seq_length=len(prompt), encoder_input_ids=torch.tensor([prompt]), device="cpu"
        )
    return found


def ours(options: dict[str, Any], prompt: list[int], ops: Any = BOTH[0], max_length: int = 12) -> Any:
    return built(options, ops, n_vocab=N_VOCAB, prompt_ids=tuple(prompt), eos_ids=(EOS,), max_length=max_length)


def random_settings(seed: int) -> dict[str, Any]:
    choice = random.Random(seed)
    options = {name: value for name, value in BEFORE_SAMPLING.items() if choice.random() < 0.4}
    if choice.random() < 0.7:
        options |= {name: value for name, value in SAMPLING.items() if choice.random() < 0.4} | {"do_sample": True}
    return options


def test_all_processors_stand_in_the_order_of_transformers(gpt2: Any) -> None:
    names = [NAMES[type(processor).__name__] for processor in theirs(gpt2, EVERYTHING, [1, 2, 3])]
    assert set(names) == set(EVERYTHING) - {"do_sample"}
    assert [processor.name for processor in ours(EVERYTHING, [1, 2, 3])] == names


def test_any_settings_give_the_processors_of_transformers_in_its_order(gpt2: Any) -> None:
    for seed in range(300):
        options = random_settings(seed)
        names = [NAMES[type(processor).__name__] for processor in theirs(gpt2, options, [1, 2])]
        assert [processor.name for processor in ours(options, [1, 2])] == names, options


def test_any_settings_give_the_final_row_of_transformers(gpt2: Any) -> None:
    """At several lengths, so that beginnings, ends and repeats come up."""
    reached: set[str] = set()
    for seed, row in zip(range(120), plain_rows(N_VOCAB, 120), strict=True):
        options = random_settings(seed)
        history = random.Random(seed).choices(range(5, 13), k=12)
        n_prompt = 1 + seed % 4
        their_list = theirs(gpt2, options, history[:n_prompt])
        for ops in BOTH:
            processors = ours(options, history[:n_prompt], ops)
            for length in (n_prompt, n_prompt + 1, 7, 11):
                ids = history[:length]
                expected = their_list(torch.tensor([ids]), torch.tensor(row, dtype=torch.float64)[None])[0].numpy()
                result = run(processors, row, ids)
                where = f"{ops.name}, {options}, {ids}"
                np.testing.assert_array_equal(np.isneginf(result), np.isneginf(expected), err_msg=where)
                if (expected > -INF).any():
                    np.testing.assert_allclose(softmax(result), softmax(expected), atol=2e-6, err_msg=where)
                    reached |= set(options)
    assert reached >= set(BEFORE_SAMPLING) | set(SAMPLING)


def test_beams_that_are_drawn_keep_one_token_beside_the_ends(gpt2: Any) -> None:
    """So that a beam can go on where the end of the text takes all the probability."""
    options = {"do_sample": True, "num_beams": 3, "top_p": 0.1}
    row = np.zeros(N_VOCAB, np.float32)
    row[EOS] = 50
    expected = theirs(gpt2, options, [1])(torch.tensor([[1]]), torch.tensor(row)[None])[0].numpy()
    result = run(ours(options, [1]), row, [1])
    assert (result > -INF).sum() == (expected > -INF).sum() == 2
    without_ends = built(options, BOTH[0], n_vocab=N_VOCAB)
    assert (run(without_ends, row, [1]) > -INF).sum() == 2
