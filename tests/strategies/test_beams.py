"""Beam search finds what transformers' finds: the same ids, the same scores, the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

import fanlight
from fanlight import StopReason
from models import hf_tiny, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model

PROMPTS = ([5, 17, 40, 3], [88], [*range(30, 61, 3), 7])
SCORE = 1e-4  # or a hundred-thousandth: a negative length penalty multiplies what float32 rounds


class Pair:
    """A checkpoint in Fanlight and in transformers."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.theirs = model
        self.ours: Model = fanlight.load(tiny.write_folder(folder, model), kernels="native")

    def ends(self, prompt: list[int], n: int = 3) -> list[int]:
        """Tokens that greedy decoding meets soon, so that texts end."""
        ids = self.ours.generate(prompt, max_new_tokens=12, ignore_eos=True, candidates=0).ids
        return list(dict.fromkeys(ids[3:]))[:n]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp(request.param) / "tiny", getattr(tiny, request.param)())


def theirs(pair: Pair, prompt: list[int], options: dict[str, Any]) -> tuple[list[list[int]], list[float]]:
    """New ids up to the end token, and scores."""
    ids = torch.tensor([prompt])
    pad = tiny.N_VOCAB  # no token: what is padding can be told
    out = pair.theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=pad,
        **options,
    )
    texts = [[token for token in row[len(prompt) :].tolist() if token != pad] for row in out.sequences]
    return texts, [] if options.get("num_beams", 1) == 1 else out.sequences_scores.tolist()


def assert_same(pair: Pair, prompt: list[int], **options: Any) -> None:
    texts, scores = theirs(pair, prompt, options)
    found = pair.ours.generate(prompt, candidates=0, **options).all
    assert [list(generation.ids) for generation in found] == texts
    if scores:
        assert [generation.score for generation in found] == pytest.approx(scores, rel=1e-5, abs=SCORE)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("num_beams", [2, 3, 5])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_equal_those_of_transformers(pair: Pair, prompt: list[int], num_beams: int, early_stopping: Any) -> None:
    """Every length penalty, with ends that are met and with none."""
    for length_penalty in (-1.0, 0.0, 1.0, 2.0):
        for n_ends, n_return in ((1, 1), (3, num_beams)):
            assert_same(
                pair,
                prompt,
                num_beams=num_beams,
                num_return_sequences=n_return,
                early_stopping=early_stopping,
                length_penalty=length_penalty,
                eos_token_id=pair.ends(prompt, n_ends),
                max_new_tokens=11,
            )


def test_ends_are_met_in_these_tests(pair: Pair) -> None:
    """Or they would show nothing: texts of several lengths, ended and cut off."""
    lengths, reasons = set(), set()
    for prompt in PROMPTS:
        out = pair.ours.generate(
            prompt, num_beams=5, num_return_sequences=5, eos_token_id=pair.ends(prompt), max_new_tokens=11
        )
        lengths |= {len(generation.ids) for generation in out.all}
        reasons |= {generation.stop.reason.value for generation in out.all}
    assert len(lengths) > 3
    assert "eos" in reasons


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6},
        {"min_length": 9},
        {"suppress_tokens": [3, 4, 5]},
        {"bad_words_ids": [[7], [8, 9]]},
        {"sequence_bias": [[[11], -4.0], [[12, 13], 3.0]]},
        {"exponential_decay_length_penalty": (2, 1.3)},
        {"renormalize_logits": True, "repetition_penalty": 1.2},
        {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "length_penalty": 2.0},
    ],
    ids=str,
)
def test_processors_see_log_probabilities_as_in_transformers(pair: Pair, options: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        ends = pair.ends(prompt)
        assert_same(pair, prompt, num_beams=3, num_return_sequences=2, eos_token_id=ends, max_new_tokens=9, **options)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_length_that_counts_the_prompt_is_the_same(pair: Pair, num_beams: int) -> None:
    for prompt in PROMPTS:
        assert_same(pair, prompt, num_beams=num_beams, max_length=len(prompt) + 6, eos_token_id=pair.ends(prompt))


@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 5}], ids=str
)
def test_greedy_decoding_is_the_same(pair: Pair, options: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        assert_same(pair, prompt, eos_token_id=pair.ends(prompt), max_new_tokens=17, **options)


def test_no_end_token_at_all_is_the_same(pair: Pair) -> None:
    for prompt in PROMPTS:
        ours = pair.ours.generate(prompt, num_beams=3, ignore_eos=True, max_new_tokens=7, candidates=0)
        ids = torch.tensor([prompt])
        pair.theirs.generation_config.eos_token_id, kept = None, pair.theirs.generation_config.eos_token_id
        try:
            expected, scores = theirs(pair, prompt, {"num_beams": 3, "max_new_tokens": 7})
        finally:
            pair.theirs.generation_config.eos_token_id = kept
        assert [list(ours.ids)] == expected
        assert ours.score == pytest.approx(scores[0], rel=1e-5, abs=SCORE)
        assert ids.shape == (1, len(prompt))


def test_beams_of_a_model_that_runs_in_transformers_are_the_same(tmp_path: Path) -> None:
    model = hf_tiny.random_model("stablelm")
    pair = Pair(tmp_path / "tiny", model)
    for prompt in PROMPTS:
        assert_same(pair, prompt, num_beams=4, num_return_sequences=3, eos_token_id=pair.ends(prompt), max_new_tokens=8)


def test_logits_that_are_kept_are_those_of_the_returned_text(pair: Pair) -> None:
    """Raw logits, as one pass over the whole text gives them."""
    for prompt in PROMPTS:
        out = pair.ours.generate(prompt, num_beams=3, max_new_tokens=6, ignore_eos=True, output_logits=True)
        alone = pair.ours.logits([*prompt, *out.ids[:-1]])[len(prompt) - 1 :]
        assert (out.logits == alone).all()


def test_the_number_of_beams_may_exceed_the_vocabulary_at_first(pair: Pair) -> None:
    """The first step has one text alone: 101 tokens for 150 beams."""
    assert len(pair.ours.generate(PROMPTS[0], num_beams=150, num_return_sequences=2, max_new_tokens=2).all) == 2


@pytest.mark.parametrize("num_beams", [2, 4])
def test_stop_strings_end_beams_as_in_transformers(pair: Pair, num_beams: int) -> None:
    ended = [text for prompt in PROMPTS for text in _stopped(pair, prompt, num_beams)]
    assert len(ended) >= 2


def _stopped(pair: Pair, prompt: list[int], num_beams: int) -> list[fanlight.Generation]:
    """The texts that a stop string ended, all being those of transformers."""
    tokenizer = pair.ours.tokenizer
    strings = [text for token in pair.ends(prompt) if (text := tokenizer.token_text(token)).isprintable() and text]
    assert strings

    class HoldsString(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            texts = [tokenizer.decode(row[len(prompt) :].tolist()) for row in input_ids]
            return torch.tensor([any(string in text for string in strings) for text in texts])

    options = {"num_beams": num_beams, "num_return_sequences": num_beams, "max_new_tokens": 9}
    criteria = StoppingCriteriaList([HoldsString()])
    texts, scores = theirs(pair, prompt, {**options, "eos_token_id": None, "stopping_criteria": criteria})
    out = pair.ours.generate(prompt, candidates=0, ignore_eos=True, stop_strings=strings, **options)
    unpadded = [[token for token in text if token >= 0] for text in texts]
    assert [list(generation.ids) for generation in out.all] == unpadded
    assert [generation.score for generation in out.all] == pytest.approx(scores, rel=1e-5, abs=SCORE)
    stopped = [generation for generation in out.all if generation.stop.reason is StopReason.STOP_STRING]
    for generation in stopped:
        assert not any(string in generation.text for string in strings)
        assert generation.stop.string in strings
    return stopped
