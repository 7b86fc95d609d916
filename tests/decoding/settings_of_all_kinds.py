"""Random settings, rows and histories for property tests. Knows no test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from decoding.rows import Row

N_VOCAB = 33
INF = float("inf")

PENALTIES: dict[str, st.SearchStrategy[Any]] = {
    "sequence_bias": st.sampled_from([[[[3], -1.5], [[7, 9], 2.5]], {(4, 5): -INF, (1,): 0.25}]),
    "logit_bias": st.sampled_from([{"2": 1.5}, {3: None, 9: -4}]),
    "encoder_repetition_penalty": st.sampled_from([0.7, 1.3]),
    "repetition_penalty": st.sampled_from([0.5, 1.2, 40.0]),
    "repetition_penalty_range": st.integers(0, 9),
    "penalize_prompt": st.booleans(),
    "frequency_penalty": st.sampled_from([-0.5, 0.3, 2.0]),
    "presence_penalty": st.sampled_from([-0.5, 0.7]),
    "dry_multiplier": st.sampled_from([0.8, 5.0]),
    "dry_allowed_length": st.integers(1, 3),
    "dry_sequence_breakers": st.sampled_from([[], ["3"], ["\n", "1"]]),
    "no_repeat_ngram_size": st.integers(1, 4),
    "bad_words_ids": st.sampled_from([[[4], [7, 8]], [[1, 2, 3]]]),
    "min_length": st.integers(0, 12),
    "min_new_tokens": st.integers(0, 9),
    "forced_bos_token_id": st.just(6),
    "forced_eos_token_id": st.sampled_from([5, [5, 6]]),
    "exponential_decay_length_penalty": st.sampled_from([(0, 1.3), (2, 0.8)]),
    "suppress_tokens": st.sampled_from([[9], [10, 11, 12]]),
    "begin_suppress_tokens": st.sampled_from([[13, 14]]),
    "remove_invalid_values": st.just(True),
    "renormalize_logits": st.just(True),
    "watermarking_config": st.sampled_from([{"bias": 3.0}, {"seeding_scheme": "selfhash"}]),
}
SHAPES_AND_FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.31, 0.9, 1.7, 30.0]),
    "dynatemp_range": st.sampled_from([0.13, 0.27]),
    "smoothing_factor": st.sampled_from([0.23, 1.7]),
    "smoothing_curve": st.sampled_from([1.0, 2.7]),
    "top_k": st.sampled_from([1, 3, 20, 500]),
    "top_p": st.sampled_from([0.0137, 0.513, 0.9137]),
    "min_p": st.sampled_from([0.0137, 0.213, 0.913]),
    "top_h": st.sampled_from([0.137, 0.713, 1.0]),
    "typical_p": st.sampled_from([0.137, 0.913]),
    "epsilon_cutoff": st.sampled_from([0.00137, 0.137, 0.913]),
    "eta_cutoff": st.sampled_from([0.00137, 0.137, 0.913]),
    "top_n_sigma": st.sampled_from([0.137, 1.37]),
    "tfs": st.sampled_from([0.137, 0.913]),
    "top_a": st.sampled_from([0.137, 0.913]),
    "xtc_probability": st.sampled_from([0.5, 1.0]),
    "xtc_threshold": st.sampled_from([0.0, 0.0537, 0.137]),
    "mirostat": st.sampled_from([1, 2]),
    "mirostat_tau": st.sampled_from([0.0137, 3.137]),
    "adaptive_target": st.sampled_from([0.0, 0.137, 1.0]),
    "min_tokens_to_keep": st.integers(1, 5),
}
GREEDY = st.fixed_dictionaries({}, optional=PENALTIES)
SAMPLED = st.fixed_dictionaries({"do_sample": st.just(True)}, optional=PENALTIES | SHAPES_AND_FILTERS)
FILTERED = st.fixed_dictionaries({"do_sample": st.just(True)}, optional=SHAPES_AND_FILTERS)
SETTINGS = st.one_of(GREEDY, SAMPLED, FILTERED)
HISTORIES = st.lists(st.integers(0, 12), min_size=1, max_size=11)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A random row: flat or peaked, some with holes; no two logits that are left are equal."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    row = random.normal(0, draw(st.sampled_from([0.1, 1.0, 4.0, 20.0])), N_VOCAB).astype(np.float32)
    row[random.random(N_VOCAB) < draw(st.sampled_from([0.0, 0.0, 0.3]))] = -INF
    row[random.integers(15, N_VOCAB, 6)] = random.normal(0, 1, 6)  # what no setting above bans
    return row


def text_of(token: int) -> str:
    """A tokenizer's part, for dry_sequence_breakers."""
    return str(token)
