"""Green lists: each row and each score equal those of transformers; marked texts are told from others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from transformers import WatermarkDetector as TheirDetector
from transformers import WatermarkingConfig
from transformers.generation.logits_process import WatermarkLogitsProcessor

from fanlight.decoding.watermark import Watermark, WatermarkDetector, WatermarkProcessor, shuffled
from fanlight.errors import OptionError
from fanlight.kernels import reference
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference)
SCHEMES = ["lefthash", "selfhash"]
KEYS = [15485863, 0, 1, -7, 2**63 - 1, -(2**63), 982451653 * 2**30]


def settings_of(**options: Any) -> tuple[Watermark, dict[str, Any]]:
    return Watermark.from_options(options), WatermarkingConfig(**options).to_dict()


def random_row(seed: int, n_vocab: int, n_removed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    row = random.normal(0, 4, (1, n_vocab)).astype(np.float32)
    row[0, random.permutation(n_vocab)[:n_removed]] = -np.inf
    return row


def written(n_tokens: int, seed: int, processor: WatermarkProcessor | None, n_vocab: int = 211) -> list[int]:
    """Drawn from a model that is a random table: the last token -> logits."""
    table = np.random.default_rng(3).normal(0, 1.5, (n_vocab, n_vocab)).astype(np.float32)
    ids = [5, 17, 2]
    for position in range(n_tokens):
        row = Tensor(table[ids[-1]][None])
        row = cast("Tensor", processor(ids, row)) if processor else row
        ids.append(OPS.gumbel_argmax(row, seed, position)[0])
    return ids[3:]


@pytest.mark.parametrize("n_vocab", [41, 257, 1000])
@pytest.mark.parametrize("context_width", [1, 2, 5])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_row_equals_that_of_transformers(scheme: str, context_width: int, n_vocab: int) -> None:
    for seed, key in enumerate(KEYS):
        ours, theirs = settings_of(
            seeding_scheme=scheme,
            context_width=context_width,
            hashing_key=key,
            bias=(2.5, -1.3)[seed % 2],
            greenlist_ratio=(0.25, 0.5, 0.9)[seed % 3],
        )
        processor = WatermarkProcessor(ours, n_vocab, OPS)
        expected = WatermarkLogitsProcessor(n_vocab, "cpu", **theirs)
        ids = np.random.default_rng(100 + seed).integers(0, n_vocab, 7).tolist()
        for n_ids in (context_width, 6, 7):
            row = random_row(seed, n_vocab, n_removed=(0, 31)[n_ids % 2])
            result = processor(ids[:n_ids], Tensor(row)).numpy()
            np.testing.assert_array_equal(result, expected(torch.tensor([ids[:n_ids]]), torch.tensor(row)).numpy())
            assert (result != row).any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_several_steps_equal_those_of_transformers(scheme: str) -> None:
    ours, theirs = settings_of(seeding_scheme=scheme, context_width=2)
    processor = WatermarkProcessor(ours, 97, OPS)
    expected = WatermarkLogitsProcessor(97, "cpu", **theirs)
    ids = [3]
    for step in range(9):
        row = random_row(step, 97)
        result = processor(ids, Tensor(row)).numpy()
        np.testing.assert_array_equal(result, expected(torch.tensor([ids]), torch.tensor(row)).numpy())
        ids.append(int(result.argmax()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_prompt_shorter_than_the_context_changes_nothing(scheme: str) -> None:
    processor = WatermarkProcessor(Watermark(seeding_scheme=scheme, context_width=3), 61, OPS)
    row = Tensor(random_row(0, 61))
    assert processor([], row) is row
    assert processor([4, 60], row) is row
    assert (processor([4, 60, 0], row).numpy() != row.numpy()).any()


def test_selfhash_marks_among_the_forty_most_probable_alone() -> None:
    row = random_row(1, 1000)
    result = WatermarkProcessor(Watermark(seeding_scheme="selfhash"), 1000, OPS)([9], Tensor(row)).numpy()
    changed = np.flatnonzero(result != row)
    assert 0 < len(changed) < 40
    assert set(changed) <= set(np.argsort(-row[0])[:40].tolist())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_vocabulary_of_a_few_tokens_works(scheme: str) -> None:
    row = random_row(2, 7)
    result = WatermarkProcessor(Watermark(seeding_scheme=scheme, greenlist_ratio=0.5), 7, OPS)([6], Tensor(row)).numpy()
    assert set(np.unique(np.round(result - row, 3)).tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_depends_on_ids_and_logits_alone_and_is_not_written_to(scheme: str) -> None:
    settings = Watermark(seeding_scheme=scheme, context_width=2)
    once, again = WatermarkProcessor(settings, 67, OPS), WatermarkProcessor(settings, 67, OPS)
    row = Tensor(random_row(5, 67))
    texts = [[1, 2], [2, 1], [66, 0, 2], [1, 2]]
    results = [once(ids, row).numpy() for ids in texts]
    assert [again(ids, row).numpy().tolist() for ids in reversed(texts)] == [x.tolist() for x in reversed(results)]
    np.testing.assert_array_equal(row.numpy(), random_row(5, 67))


def test_removed_tokens_stay_removed() -> None:
    row = random_row(4, 83, n_removed=70)
    for scheme in SCHEMES:
        result = WatermarkProcessor(Watermark(seeding_scheme=scheme), 83, OPS)([8], Tensor(row)).numpy()
        np.testing.assert_array_equal(np.isneginf(result), np.isneginf(row))


@pytest.mark.parametrize("key", [15485863, -7, 2**62 + 5])
def test_the_shuffled_table_is_that_of_torch(key: int) -> None:
    for n in (1, 7, 1009, 1_000_003):
        expected = torch.randperm(n, generator=torch.Generator().manual_seed(key))[:4099].tolist()
        assert shuffled(key, n, min(n, 4099)) == tuple(expected)


def test_it_says_what_it_is() -> None:
    processor = WatermarkProcessor(Watermark(bias=1.5, seeding_scheme="selfhash"), 61, OPS)
    assert (processor.name, str(processor), processor.removes) == (
        "watermarking_config",
        "watermark(selfhash, 0.25, +1.5)",
        False,
    )


# -- detection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_width", [1, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_score_equals_that_of_transformers(scheme: str, context_width: int) -> None:
    ours, theirs = settings_of(seeding_scheme=scheme, context_width=context_width, greenlist_ratio=0.3)
    model = SimpleNamespace(bos_token_id=0, is_encoder_decoder=False, vocab_size=61)
    detector = WatermarkDetector(ours, 61, OPS, bos_id=0)
    for seed, n_tokens in enumerate((context_width + 1, 31, 150)):
        ids = np.random.default_rng(seed).integers(1, 9 if seed else 61, n_tokens).tolist()  # few kinds: n-grams repeat
        for ignore in (False, True):
            expected = TheirDetector(cast("Any", model), "cpu", theirs, ignore_repeated_ngrams=ignore)
            for text in (ids, [0, *ids]):
                score = detector.detect(text, ignore_repeated_ngrams=ignore, z_threshold=0.5)
                them = cast("Any", expected(torch.tensor([text]), z_threshold=0.5, return_dict=True))
                assert (score.n_tokens, score.n_green) == (them.num_tokens_scored[0], them.num_green_tokens[0])
                assert score.green_fraction == them.green_fraction[0]
                assert score.z_score == pytest.approx(them.z_score[0], rel=1e-12)
                assert score.p_value == pytest.approx(them.p_value[0], rel=1e-9)
                assert score.confidence == pytest.approx(them.confidence[0], rel=1e-9)
                assert score.is_watermarked == bool(them.prediction[0])


@pytest.mark.parametrize(
    "options", [{}, {"seeding_scheme": "selfhash"}, {"seeding_scheme": "selfhash", "context_width": 3}]
)
def test_a_marked_text_is_found_and_another_is_not(options: dict[str, Any]) -> None:
    settings = Watermark(bias=3.0, **options)
    detector = WatermarkDetector(settings, 211, OPS)
    processor = WatermarkProcessor(settings, 211, OPS)
    for seed in range(3):
        marked, plain = written(150, seed, processor), written(150, seed, None)
        whole = detector.detect(marked)
        assert whole.z_score > 4
        assert whole.is_watermarked
        assert abs(detector.detect(plain).z_score) < 4
        random = np.random.default_rng(seed)
        edited = [int(random.integers(211)) if i % 2 else token for i, token in enumerate(marked)]
        assert detector.detect(edited).z_score < whole.z_score * 0.6
        other = WatermarkDetector(Watermark(hashing_key=77, **options), 211, OPS)
        assert abs(other.detect(marked, ignore_repeated_ngrams=True).z_score) < 4


def test_a_text_too_short_to_score_is_refused() -> None:
    detector = WatermarkDetector(Watermark(context_width=2), 61, OPS, bos_id=1)
    assert detector.detect([1, 7, 8, 9]).n_tokens == 1
    for text in ([], [7], [7, 8], [1, 7, 8]):
        with pytest.raises(OptionError, match="needs 3 tokens or more to score"):
            detector.detect(text)


def test_a_text_of_another_vocabulary_is_refused() -> None:
    detector = WatermarkDetector(Watermark(), 61, OPS)
    for outside in (61, -1):
        with pytest.raises(OptionError, match=f"token 1 of the text must be an id from 0 to 60: got {outside}"):
            detector.detect([3, outside, 5])


# -- settings -------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_transformers() -> None:
    theirs = WatermarkingConfig()
    assert Watermark.from_options(theirs) == Watermark.from_options(theirs.to_dict()) == Watermark()
    assert {name: getattr(Watermark(), name) for name in theirs.to_dict()} == theirs.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"greenlist_ratio": 0.0}, "greenlist_ratio must be a number above 0 and below 1: got 0.0"),
        ({"greenlist_ratio": 1}, "greenlist_ratio must be"),
        ({"greenlist_ratio": float("nan")}, "greenlist_ratio must be"),
        ({"bias": float("inf")}, "bias must be"),
        ({"bias": "2"}, "bias must be"),
        ({"bias": True}, "bias must be"),
        ({"hashing_key": 2**63}, "hashing_key must be an integer from"),
        ({"hashing_key": 1.5}, "hashing_key must be"),
        ({"seeding_scheme": "righthash"}, "seeding_scheme must be 'lefthash' or 'selfhash': got 'righthash'"),
        ({"seeding_scheme": ["selfhash"]}, "seeding_scheme must be"),
        ({"context_width": 0}, "context_width must be"),
        ({"ratio": 0.5}, "unknown setting 'ratio'; known settings: greenlist_ratio, bias"),
    ],
)
def test_ranges_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        Watermark.from_options(options)
    assert str(caught.value).startswith("watermarking_config")


def test_what_holds_no_settings_is_refused() -> None:
    with pytest.raises(OptionError, match="must be a mapping or an object with greenlist_ratio, bias"):
        Watermark.from_options(3)


def test_a_vocabulary_too_small_for_a_green_token_is_refused() -> None:
    with pytest.raises(OptionError, match=r"at least one of 7 tokens green: got 0\.1"):
        WatermarkProcessor(Watermark(greenlist_ratio=0.1), 7, OPS)
