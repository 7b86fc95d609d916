"""SynthID-Text: each row and each bit equal those of transformers, without its state; marked texts are told from others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from transformers import SynthIDTextWatermarkingConfig
from transformers.generation.logits_process import SynthIDTextWatermarkLogitsProcessor

from fanlight.decoding.synthid import MULTIPLIER, SynthID, SynthIDDetector, SynthIDProcessor, sampling_table
from fanlight.errors import OptionError
from fanlight.kernels import reference
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference)
THIRTY = tuple(np.random.default_rng(30).integers(1, 1000, 30).tolist())
SMALLEST = float(np.finfo(np.float32).min)


def twins(**options: Any) -> tuple[SynthID, SynthIDTextWatermarkLogitsProcessor]:
    options = {"keys": [654, 400, -836, 123, 2**62], "ngram_len": 3} | options
    config = SynthIDTextWatermarkingConfig(**options)
    return SynthID.from_options(config), cast("Any", config.construct_processor(0, "cpu"))


def random_row(seed: int, n_vocab: int, n_removed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    row = random.normal(0, 3, (1, n_vocab)).astype(np.float32)
    row[0, random.permutation(n_vocab)[:n_removed]] = -np.inf
    return row


def written(n_tokens: int, seed: int, settings: SynthID | None, n_vocab: int = 211) -> list[int]:
    """Drawn from a model that is a random table: the last token -> logits."""
    table = np.random.default_rng(3).normal(0, 1.2, (n_vocab, n_vocab)).astype(np.float32)
    processor = SynthIDProcessor(settings, 3, OPS) if settings else None
    ids = [5, 17, 2]
    for position in range(n_tokens):
        row = Tensor(table[ids[-1]][None])
        row = cast("Tensor", processor(ids, row)) if processor else row
        ids.append(OPS.gumbel_argmax(row, seed, position)[0])
    return ids[3:]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip_first_ngram_calls": True},
        {"context_history_size": 2},
        {"context_history_size": 7, "skip_first_ngram_calls": True},
        {"context_history_size": 0},
        {"ngram_len": 2, "keys": [3]},
        {"ngram_len": 5, "keys": THIRTY, "sampling_table_size": 1001, "sampling_table_seed": 31},
    ],
)
@pytest.mark.parametrize("n_prompt", [0, 1, 7])
def test_every_step_equals_that_of_transformers(options: dict[str, Any], n_prompt: int) -> None:
    settings, theirs = twins(**options)
    ours = SynthIDProcessor(settings, n_prompt, OPS)
    random = np.random.default_rng(n_prompt)
    ids = random.integers(0, 4, n_prompt).tolist()
    n_marked = 0
    for step in range(25):
        row = random_row(step, 33, n_removed=(0, 20)[step % 2])
        result = ours(ids, Tensor(row)).numpy()
        expected = theirs(torch.tensor([ids], dtype=torch.long), torch.tensor(row)).numpy()
        removed = np.isneginf(row)
        if (expected == row).all():
            np.testing.assert_array_equal(result, row)
        else:
            np.testing.assert_allclose(np.exp(result), np.exp(expected), rtol=0, atol=5e-6)
            likely = expected > math.log(1e-4)  # the others have lost digits in float32
            np.testing.assert_allclose(result[likely], expected[likely], rtol=1e-4, atol=1e-3)
            assert np.isneginf(result[removed]).all()
            assert (expected[removed] == SMALLEST).all()
            n_marked += 1
        ids.append(int(random.integers(0, 4)))  # so few kinds of tokens that contexts repeat
    assert 1 < n_marked <= 25


def test_repeated_contexts_are_left_as_they_are() -> None:
    settings, _ = twins(context_history_size=6)
    processor = SynthIDProcessor(settings, 1, OPS)
    row = Tensor(random_row(0, 33))
    text = [9, 1, 2, 3, 1, 2]
    assert processor(text, row) is row  # 1, 2 came before, three places earlier
    assert processor([9, 1, 2, 3, 4, 5, 6, 7, 1, 2], row) is not row  # but here it is seven
    assert processor([9, 1, 2, 3, 4, 5, 6, 1, 2], row) is row


def test_a_row_depends_on_ids_and_logits_alone_and_is_not_written_to() -> None:
    settings, _ = twins()
    once, again = SynthIDProcessor(settings, 2, OPS), SynthIDProcessor(settings, 2, OPS)
    row = Tensor(random_row(5, 67))
    texts = [[1, 2], [1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 3, 4, 3, 4], [1, 2]]
    results = [once(ids, row).numpy().tolist() for ids in texts]
    assert [again(ids, row).numpy().tolist() for ids in reversed(texts)] == results[::-1]
    np.testing.assert_array_equal(row.numpy(), random_row(5, 67))


def test_the_prompt_belongs_to_no_context() -> None:
    settings, _ = twins()
    row = Tensor(random_row(6, 33))
    results = [SynthIDProcessor(settings, len(p), OPS)([*p, 8], row).numpy() for p in ([], [1], [4, 4, 8, 8])]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_over_many_contexts_probabilities_stay_what_they_were() -> None:
    row = random_row(7, 7)
    probs = np.exp(row[0] - row[0].max())
    probs /= probs.sum()
    processor = SynthIDProcessor(SynthID(keys=(3, 5), ngram_len=2), 0, OPS)
    marked = np.exp([processor([token], Tensor(row)).numpy()[0] for token in range(1, 4001)])
    np.testing.assert_allclose(marked.sum(axis=1), 1, rtol=1e-5)
    error = marked.std(axis=0) / math.sqrt(len(marked))
    assert (np.abs(marked.mean(axis=0) - probs) < 4.5 * error).all()


def test_rows_with_nothing_to_mark_or_with_damage_go_through() -> None:
    processor = SynthIDProcessor(twins()[0], 0, OPS)
    for damaged in (np.nan, np.inf):
        row = random_row(1, 7)
        row[0, 3] = damaged
        tensor = Tensor(row)
        assert processor([1], tensor) is tensor
    empty = Tensor(np.full((1, 7), -np.inf, np.float32))
    assert processor([1], empty) is empty
    one = Tensor(random_row(1, 7, n_removed=6))
    result = processor([1], one).numpy()
    assert (result > -np.inf).sum() == 1
    assert result.max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n_vocab", [31, 4099, 70001])
def test_after_all_rounds_probabilities_sum_to_one(n_vocab: int) -> None:
    processor = SynthIDProcessor(SynthID(keys=THIRTY * 8, ngram_len=2), 0, OPS)
    for token in range(5):  # after 240 rounds nearly all is with one token
        result = processor([token + 1], Tensor(random_row(token, n_vocab))).numpy().astype(np.float64)
        assert not np.isnan(result).any()
        assert np.exp(result).sum() == pytest.approx(1, rel=1e-6)


def test_a_token_that_lost_for_certain_is_not_removed() -> None:
    row = np.array([[0.0, -2000.0, -3000.0, 0.0, -np.inf]], np.float32)
    result = SynthIDProcessor(twins()[0], 0, OPS)([1], Tensor(row)).numpy()[0]
    assert result[1] == result[2] == SMALLEST
    assert np.isneginf(result).tolist() == [False, False, False, False, True]


def test_a_text_without_its_prompt_is_refused() -> None:
    with pytest.raises(OptionError, match="must have the 3 tokens of its prompt: got 2"):
        SynthIDProcessor(twins()[0], 3, OPS)([1, 2], Tensor(random_row(0, 7)))


def test_it_says_what_it_is() -> None:
    processor = SynthIDProcessor(twins()[0], 0, OPS)
    assert (processor.name, str(processor), processor.removes) == (
        "watermarking_config",
        "synthid(5 keys, 3-grams)",
        False,
    )


# -- detection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [0, 1, 5, 1024])
@pytest.mark.parametrize("ngram_len", [2, 5])
def test_bits_and_repetitions_equal_those_of_transformers(ngram_len: int, history: int) -> None:
    settings, theirs = twins(ngram_len=ngram_len, context_history_size=history, sampling_table_size=1009)
    detector = SynthIDDetector(settings)
    for n_tokens in (ngram_len, 7, 133):
        ids = np.random.default_rng(n_tokens).integers(0, 4, n_tokens).tolist()
        text = torch.tensor([ids])
        np.testing.assert_array_equal(detector.g_values(ids), theirs.compute_g_values(text)[0].numpy())
        expected = theirs.compute_context_repetition_mask(text)[0].numpy()
        np.testing.assert_array_equal(detector.counted(ids), expected)


def test_a_context_that_hashes_to_zero_meets_the_empty_slots_of_the_history() -> None:
    inverse = pow(MULTIPLIER, -1, 2**64)
    token = (2**63 - inverse - 1) % 2**64 - 2**63  # (1 + token) * multiplier + 1 is 0
    for history, repeated in ((2, False), (5, True)):
        settings, theirs = twins(ngram_len=2, context_history_size=history)
        ids = [1, 2, 3, token, 4]
        expected = theirs.compute_context_repetition_mask(torch.tensor([ids]))[0].tolist()
        assert SynthIDDetector(settings).counted(ids).tolist() == expected
        assert expected[3] is not repeated
        row = Tensor(random_row(0, 7))
        assert (SynthIDProcessor(settings, 0, OPS)([1, 2, token], row) is row) is repeated


def test_scores_are_the_published_means() -> None:
    settings, theirs = twins(keys=THIRTY, ngram_len=5, context_history_size=9)
    ids = np.random.default_rng(0).integers(0, 3, 200).tolist()
    mask = theirs.compute_context_repetition_mask(torch.tensor([ids]))[0].double()
    g_values = theirs.compute_g_values(torch.tensor([ids]))[0].double()
    weights = torch.linspace(10, 1, 30, dtype=torch.float64)
    weights *= 30 / weights.sum()
    score = SynthIDDetector(settings).detect(ids)
    n_tokens = int(mask.sum())
    share = theirs.sampling_table.double().mean().item()
    assert score.n_tokens == n_tokens < 196
    assert score.mean == pytest.approx(((g_values * mask[:, None]).sum() / (30 * n_tokens)).item())
    assert score.weighted_mean == pytest.approx(((g_values * weights * mask[:, None]).sum() / (30 * n_tokens)).item())
    error = math.sqrt(share * (1 - share) / (30 * n_tokens))
    assert score.z_score == pytest.approx((score.mean - share) / error)
    spread = math.sqrt((weights**2).sum().item() / 30)
    assert score.weighted_z_score == pytest.approx((score.weighted_mean - share) / (error * spread))
    assert score.p_value == pytest.approx(1 - score.confidence)


def test_scores_of_unmarked_texts_are_standard_normal() -> None:
    detector = SynthIDDetector(twins(keys=THIRTY, ngram_len=5)[0])
    random = np.random.default_rng(12)
    scores = [detector.detect(random.integers(0, 50000, 150).tolist()) for _ in range(300)]
    for name in ("z_score", "weighted_z_score"):
        z_scores = np.array([getattr(score, name) for score in scores])
        assert abs(z_scores.mean()) < 0.3
        assert 0.8 < z_scores.std() < 1.25


@pytest.mark.parametrize("n_keys", [1, 7, 30])
def test_a_marked_text_is_found_and_another_is_not(n_keys: int) -> None:
    settings = SynthID(keys=THIRTY[:n_keys], ngram_len=4)
    n_tokens = 400 if n_keys == 1 else 150
    detector = SynthIDDetector(settings)
    for seed in range(3):
        marked, plain = written(n_tokens, seed, settings), written(n_tokens, seed, None)
        whole = detector.detect(marked)
        assert whole.z_score > 4
        assert whole.weighted_z_score > 4
        assert whole.is_watermarked
        assert abs(detector.detect(plain).z_score) < 4
        assert abs(detector.detect(plain).weighted_z_score) < 4
        random = np.random.default_rng(seed)
        edited = [int(random.integers(211)) if i % 2 else token for i, token in enumerate(marked)]
        assert detector.detect(edited).z_score < whole.z_score / 2
        other = SynthIDDetector(SynthID(keys=tuple(key + 1000 for key in settings.keys), ngram_len=4))
        assert abs(other.detect(marked).z_score) < 4


def test_a_text_ends_before_its_end_token() -> None:
    settings, theirs = twins()
    ids = [1, 2, 3, 4, 5, 6, 0, 7, 8, 0]
    score = SynthIDDetector(settings, eos_ids=(0, 99)).detect(ids)
    assert score == SynthIDDetector(settings).detect(ids[:6])
    assert score.n_tokens == int(theirs.compute_eos_token_mask(torch.tensor([ids]), 0)[0, 2:].sum()) == 4


def test_a_text_too_short_to_score_is_refused() -> None:
    detector = SynthIDDetector(twins()[0], eos_ids=(0,))
    assert detector.detect([1, 2, 3]).n_tokens == 1
    for text in ([], [1, 2], [1, 2, 0, 4, 5]):
        with pytest.raises(OptionError, match="ngram_len 3 needs as many tokens or more to score"):
            detector.detect(text)


# -- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_those_of_transformers() -> None:
    theirs = SynthIDTextWatermarkingConfig(ngram_len=5, keys=[1, 2])
    ours = SynthID(ngram_len=5, keys=(1, 2))
    assert SynthID.from_options(theirs) == SynthID.from_options(theirs.to_dict()) == ours
    known = {name: value for name, value in theirs.to_dict().items() if name != "debug_mode"}
    assert {name: getattr(ours, name) for name in known} == known | {"keys": (1, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": []}, "keys must be 1 to 256 signed 64-bit integers: got"),
        ({"keys": [1.5]}, "keys must be"),
        ({"keys": [2**63]}, "keys must be"),
        ({"keys": 7}, "keys must be"),
        ({"keys": "12"}, "keys must be"),
        ({"keys": range(257)}, "keys must be"),
        ({"ngram_len": 1}, "ngram_len must be an integer from 2 to 1024: got 1"),
        ({"ngram_len": 2.0}, "ngram_len must be"),
        ({"context_history_size": -1}, "context_history_size must be"),
        ({"sampling_table_size": 1}, "sampling_table_size must be"),
        ({"sampling_table_size": 2**24 + 1}, "sampling_table_size must be"),
        ({"sampling_table_seed": None}, "sampling_table_seed must be"),
        ({"skip_first_ngram_calls": 1}, "skip_first_ngram_calls must be true or false: got 1"),
        ({"debug_mode": True}, "debug_mode must be false"),
        ({"depth": 30}, "unknown setting 'depth'; known settings: keys, ngram_len"),
    ],
)
def test_ranges_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        SynthID.from_options({"keys": [1, 2, 3], "ngram_len": 5} | options)
    assert str(caught.value).startswith("watermarking_config")


def test_keys_and_ngram_len_must_be_given() -> None:
    with pytest.raises(OptionError, match="lacks ngram_len: got 'keys'"):
        SynthID.from_options({"keys": [1]})
    with pytest.raises(OptionError, match="lacks keys, ngram_len: got nothing"):
        SynthID.from_options({})


def test_debug_mode_of_an_object_is_refused_too() -> None:
    config = SynthIDTextWatermarkingConfig(ngram_len=5, keys=[1, 2], debug_mode=True)
    with pytest.raises(OptionError, match="debug_mode must be false"):
        SynthID.from_options(config)


def test_a_table_of_equal_bits_is_refused() -> None:
    seed = next(
        seed for seed in range(9) if torch.randint(0, 2, (2,), generator=torch.Generator().manual_seed(seed)).sum() != 1
    )
    with pytest.raises(OptionError, match="large enough for both bits"):
        SynthIDDetector(SynthID(keys=(1,), ngram_len=2, sampling_table_size=2, sampling_table_seed=seed))


@pytest.mark.parametrize("seed", [0, 31, -5, 2**63 - 1])
def test_the_sampling_table_is_that_of_torch(seed: int) -> None:
    expected = torch.randint(0, 2, (1009,), generator=torch.Generator().manual_seed(seed))
    np.testing.assert_array_equal(sampling_table(seed, 1009), expected.numpy())
