"""A comparison: each text is what its settings give alone, with the seed that it names; where texts part, and why."""

from __future__ import annotations

import json
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cli.conftest import fake_model
from fakes.decoder import hashed_logits, scripted_logits
from fanlight.comparing.measures import distinct, self_bleu
from fanlight.comparing.records import part
from fanlight.comparing.run import compare, seeded
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.request import Request
from fanlight.errors import ContextOverflow, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight import Model
    from fanlight.comparing.records import Comparison

SETTINGS = [
    "temperature=0.7,top_p=0.6",
    "greedy",
    "hot@preset:creative,temperature=1.5",
    "top_k=3,repetition_penalty=1.3",
]


def compared(settings: Any = None, **options: Any) -> Comparison:
    given = {"samples": 3, "seed": 11, "max_new_tokens": 7, **options}
    return compare(fake_model(), "abc", settings or SETTINGS, **given)


def test_every_text_is_what_its_settings_and_its_seed_give_alone() -> None:
    found = compared()
    assert [len(variant.texts) for variant in found.variants] == [3, 1, 3, 3]
    for variant in found.variants:
        for text in variant.texts:
            alone = fake_model().generate("abc", variant.config, seed=text.seed)
            assert text.text == alone.text
            assert text.ids == alone.ids
            assert text.stop_detail == alone.stop.detail
            assert text.perplexity == pytest.approx(
                exp(-sum(step.record.raw_logprob for step in alone.steps) / len(alone.steps))
            )
            assert [token.raw_rank for token in text.tokens] == [step.record.raw_rank for step in alone.steps]


def test_the_default_model_writes_the_same_alone(smollm: Model) -> None:
    found = compare(smollm, "The sea is", ["top_p=0.9", "greedy", "creative"], samples=2, seed=5, max_new_tokens=12)
    for variant in found.variants:
        for text in variant.texts:
            assert smollm.generate("The sea is", variant.config, seed=text.seed).ids == text.ids
    assert found.prompt_ids == smollm.prompt_ids("The sea is")


def test_sample_i_of_every_setting_has_the_same_seed_as_text_i_of_one_request() -> None:
    found = compared()
    several = fake_model().generate("abc", found.variants[0].config, seed=11, num_return_sequences=3)
    assert [text.seed for text in found.variants[0].texts] == [text.seed for text in several.all]
    assert [text.ids for text in found.variants[0].texts] == [text.ids for text in several.all]
    for variant in found.variants:
        assert [text.seed for text in variant.texts] == [text.seed for text in several.all][: len(variant.texts)]


def test_the_same_call_gives_the_same_texts_in_any_company() -> None:
    found, again = compared(), compared(max_batch=1)
    other = compared(["top_k=9", *reversed(SETTINGS)])
    for i, variant in enumerate(found.variants):
        assert [text.ids for text in variant.texts] == [text.ids for text in again.variants[i].texts]
        assert [text.ids for text in variant.texts] == [text.ids for text in other.variants[-1 - i].texts]


def test_a_setting_with_a_seed_of_its_own_keeps_it_and_is_said_to() -> None:
    found = compared(["top_k=5", "top_k=5,seed=99"])
    assert found.variants[1].texts[0].seed == 99
    assert any("a seed of its own" in note for note in found.notes)
    assert not any("a seed of its own" in note for note in compared().notes)


def test_seeds_are_those_of_a_request() -> None:
    config = GenerationConfig(do_sample=True)
    for sample in range(4):
        request = Request(id=0, prompt_ids=(), config=config, seed=5)
        assert seeded(config, 5, sample).seed == request.seed_of(sample)


def test_without_a_seed_one_is_drawn_and_gives_the_texts_again() -> None:
    found = compared(seed=None)
    assert compared(seed=found.seed).variants[2].texts[1].ids == found.variants[2].texts[1].ids
    assert found.seed != compared(seed=None).seed


def test_what_draws_nothing_has_one_text_that_counts_as_often_as_the_others() -> None:
    found = compared()
    greedy = found.variants[1]
    assert not greedy.draws
    assert greedy.counted == (greedy.texts[0].written,) * 3
    assert greedy.self_bleu == pytest.approx(1)
    once = distinct([greedy.texts[0].written], 2)
    assert once is not None
    assert greedy.across[1] == pytest.approx(once / 3)
    assert greedy.within[1] == pytest.approx(once)
    assert any("one text each of greedy" in note for note in found.notes)


def test_measures_of_a_setting_are_those_of_its_texts() -> None:
    variant = compared().variants[2]
    assert variant.self_bleu == self_bleu([text.written for text in variant.texts])
    assert variant.across[0] == distinct([text.written for text in variant.texts], 1)
    logprobs = [token.raw_logprob for text in variant.texts for token in text.tokens]
    assert variant.perplexity == pytest.approx(exp(-sum(logprobs) / len(logprobs)))
    assert variant.mean_tokens == pytest.approx(sum(text.n_tokens for text in variant.texts) / 3)
    assert sum(variant.stops.values()) == 3


def test_texts_part_where_their_ids_first_differ() -> None:
    found = compared()
    assert {(d.variant, d.sample) for d in found.divergences} == {(i, s) for i in (1, 2, 3) for s in range(3)}
    for parted in found.divergences:
        mine = found.variants[parted.variant].text_of(parted.sample)
        base = found.variants[0].text_of(parted.sample)
        assert mine is not None
        assert base is not None
        if parted.index is None:
            assert mine.ids == base.ids
            continue
        assert mine.ids[: parted.index] == base.ids[: parted.index]
        assert parted.here is not None
        assert parted.baseline is not None
        for choice, text in ((parted.here, mine), (parted.baseline, base)):
            if parted.index < text.n_tokens:
                assert choice.token == text.tokens[parted.index]
            else:
                assert choice.token is None
                assert choice.stop == text.stop_detail


def test_where_texts_part_the_model_thought_the_same_and_the_settings_did_not() -> None:
    found = compare(fake_model(), "abc", ["top_k=0", "top_k=2"], samples=5, seed=3, max_new_tokens=9, candidates=-1)
    parted = [d for d in found.divergences if d.index is not None]
    assert parted
    for d in parted:
        assert d.here is not None
        assert d.baseline is not None
        assert d.here.token is not None
        assert d.baseline.token is not None
        assert d.here.token.entropy == d.baseline.token.entropy
        assert d.here.token.final_entropy < d.baseline.token.final_entropy


def test_a_token_that_the_settings_removed_is_said_to_be_removed_and_by_what() -> None:
    def logits_of(history: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        row = np.full(258, -20, np.float32)
        row[[97, 98]] = [1.0, 0.9]  # a, and b close behind
        return row

    model = fake_model(logits_of=logits_of)
    found = compare(model, "x", ["top_k=0", "top_k=1"], samples=6, seed=0, max_new_tokens=1)
    other = next(d for d in found.divergences if d.index == 0).here
    assert other is not None
    assert other.other is not None
    assert (other.other.label, other.other.final_prob) == ("b", 0.0)
    assert other.other.removed is not None
    assert "top_k" in other.other.removed


def test_a_text_that_ends_sooner_parts_where_it_ends() -> None:
    model = fake_model(logits_of=scripted_logits(3, [*b"abcdef"]))
    found = compare(model, "xyz", ["greedy", "short@greedy,max_new_tokens=2"], max_new_tokens=5)
    (parted,) = found.divergences
    assert parted.index == 2
    assert parted.here is not None
    assert parted.here.token is None
    assert parted.here.stop == found.variants[1].texts[0].stop_detail
    assert parted.baseline is not None
    assert parted.baseline.token is not None
    assert parted.baseline.token.label == "c"
    back = part(found.variants[0].texts[0], found.variants[1].texts[0], 0, 0)
    assert back.baseline is not None
    assert back.baseline.token is None


def test_an_end_of_sequence_token_counts_for_perplexity_and_not_for_repetition() -> None:
    model = fake_model(logits_of=scripted_logits(1, [*b"aa", 257]))
    text = compare(model, "x", ["greedy"], max_new_tokens=9).variants[0].texts[0]
    assert text.ids == (97, 97, 257)
    assert text.written == (97, 97)
    assert text.distinct[0] == 0.5
    assert text.loop is not None
    assert text.loop.n_tokens == 2
    assert text.n_tokens == 3
    assert text.stop_reason == "eos"


def test_a_characters_tokens_put_together_are_the_text() -> None:
    model = fake_model(logits_of=scripted_logits(1, [*"é€x".encode(), 257]))
    text = compare(model, "x", ["greedy"], max_new_tokens=9).variants[0].texts[0]
    assert text.text == "é€x"
    assert "".join(token.text for token in text.tokens) == "é€x"
    assert [token.text for token in text.tokens[:2]] == ["", "é"]


def test_one_setting_that_fails_leaves_the_others_alone() -> None:
    def logits_of(history: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return hashed_logits(history)

    def broken(ids: Any, logits: Any) -> Any:
        logits[:] = np.nan
        return logits

    found = compare(
        fake_model(logits_of=logits_of), "abc", {"good": "greedy", "bad": {"processors": [broken]}}, max_new_tokens=3
    )
    good, bad = found.variants
    assert good.texts[0].error is None
    assert bad.texts[0].error
    assert (bad.perplexity, bad.stops, bad.good) == (None, {"error": 1}, ())
    assert found.divergences == ()
    assert found.as_dict()["variants"][1]["texts"][0]["error"] == bad.texts[0].error


def test_an_error_of_all_is_raised() -> None:
    with pytest.raises(ContextOverflow):
        compare(fake_model(n_ctx=5), "abcdefgh", ["greedy", "top_k=3"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be a whole number from 1"),
        ({"samples": True}, "samples must be"),
        ({"max_batch": 0}, "max_batch must be"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"seed": "x"}, "seed must be"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compared(**options)


def test_a_prompt_may_be_ids_or_a_chat_and_nothing_else() -> None:
    assert compare(fake_model(), [97, 98], ["greedy"], max_new_tokens=1).prompt == "ab"
    chat = compare(fake_model(), [{"role": "user", "content": "hi"}], ["greedy"], max_new_tokens=1)
    assert chat.prompt == "user: hi\n"
    with pytest.raises(OptionError, match="the prompt must be"):
        compare(fake_model(), 5, ["greedy"])  # type: ignore[arg-type]


def test_a_comparison_is_plain_data_for_json() -> None:
    found = compared(["greedy", "llama.cpp", 'logit_bias={"5": null},top_k=3'])
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["seed"] == 11
    assert [len(variant["texts"]) for variant in data["variants"]] == [1, 3, 3]
    assert data["variants"][2]["options"]["logit_bias"] == [[5, None]]
    assert data["variants"][0]["texts"][0]["ids"] == list(found.variants[0].texts[0].ids)
    assert len(data["divergences"]) == 6
    assert found.variants[1].texts[2].text in str(found)


def test_time_and_reuse_are_of_the_whole_run() -> None:
    found = compared()
    assert 0 < found.first_token_seconds <= found.seconds  # type: ignore[operator]
    assert found.n_tokens == sum(text.n_tokens for variant in found.variants for text in variant.texts)
    assert found.tokens_per_second == pytest.approx(found.n_tokens / found.seconds)
    assert found.n_reused == sum(text.n_reused for variant in found.variants for text in variant.texts)
