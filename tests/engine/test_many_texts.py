"""Several texts of one request: each is what a request of its own would give, the prompt is computed once, pages are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import BOS, assert_all_free, config_of, engine_of, generate, outcomes, run
from fanlight.decoding.stopping import StopReason
from fanlight.engine.request import Helpers
from fanlight.errors import FanlightError, NumericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fanlight.engine.loop import Engine

DRAWN = {"do_sample": True, "top_k": 0, "seed": 7, "ignore_eos": True}
PROMPT = [BOS, *b"the same prompt"]


def engine(n_ctx: int = 64, page_tokens: int = 4, **options: Any) -> Engine:
    return engine_of(FakeDecoder(n_ctx=n_ctx, page_tokens=page_tokens), **options)


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 257), min_size=1, max_size=20),
    seed=st.integers(-3, 2**64),
    n=st.sampled_from([2, 3, 7]),
    name=st.sampled_from(["num_return_sequences", "best_of"]),
    limits=st.sampled_from([{}, {"max_batch": 2}, {"prefill_chunk": 3}, {"max_cache_bytes": 900}, {"max_batch": 1}]),
    stop=st.sampled_from([(), ("a", "e", "0")]),
    beside=st.sampled_from([{}, {"guidance_scale": 1.5}, {"dola_layers": [0, 2]}, {"prompt_lookup_num_tokens": 3}]),
)
def test_each_text_is_what_its_seed_gives_alone(
    prompt: list[int],
    seed: int,
    n: int,
    name: str,
    limits: dict[str, int],
    stop: tuple[str, ...],
    beside: dict[str, Any],
) -> None:
    options = {**DRAWN, **beside, "seed": seed, "stop_strings": stop}
    one = engine(n_ctx=32, **limits)
    request = one.submit(prompt, config_of({**options, name: n}))
    texts = outcomes(one.run())
    assert_all_free(one)
    assert len(texts) == n
    assert request.n_outputs == n
    assert request.seed_of(0) == seed
    for i, text in enumerate(texts):
        (alone,) = generate(engine(n_ctx=32), prompt, {**options, "seed": request.seed_of(i)})
        assert text[:3] == alone[:3]
        assert text.records == alone.records
        assert (text.score is not None) == (name == "best_of")


def test_texts_with_an_amateur_are_those_of_single_requests() -> None:
    def helpers() -> Helpers:
        return Helpers(amateur=FakeDecoder(page_tokens=3))

    one = engine()
    request = one.submit(PROMPT, config_of({**DRAWN, "num_return_sequences": 3}), helpers())
    for i, text in enumerate(outcomes(one.run())):
        assert [text] == generate(engine(), PROMPT, {**DRAWN, "seed": request.seed_of(i)}, helpers())


def test_the_score_of_best_of_is_the_log_probability_of_the_raw_logits() -> None:
    options = {**DRAWN, "best_of": 3, "temperature": 1.7, "top_p": 0.8}
    for text in generate(engine(), PROMPT, options):
        assert text.score == pytest.approx(sum(record.raw_logprob for record in text.records if record), abs=1e-9)


def test_the_prompt_is_computed_once_and_its_pages_are_shared() -> None:
    """A page of the prompt's that is not full is copied by those that write to it; full ones never."""
    n, one = 5, engine()
    assert isinstance(one.decoder, FakeDecoder)
    request = one.submit(PROMPT, config_of({**DRAWN, "num_return_sequences": n, "max_new_tokens": 20}))
    most = 0
    while one.has_work:
        one.step()
        most = max(most, one.cache.pool.n_pages)
    assert one.decoder.passes[0] == (list(request.prompt_ids), [len(PROMPT) - 1])
    assert all(len(ids) == n for ids, _ in one.decoder.passes[1:])
    shared, length = len(PROMPT) // 4, len(PROMPT) + 20 - 1
    assert most == shared + n * (-(-length // 4) - shared)
    assert_all_free(one)


def test_beams_share_what_they_have_in_common() -> None:
    one = engine()
    options = {"num_beams": 6, "max_new_tokens": 24, "ignore_eos": True, "candidates": 0}
    request = one.submit([BOS] * 24, config_of(options))
    most = 0
    while one.has_work:
        one.step()
        most = max(most, one.cache.pool.n_pages)
    assert most <= 24 // 4 + 6 * 24 // 4
    assert request.n_outputs == 1
    assert_all_free(one)


def test_the_request_ends_with_its_last_text() -> None:
    one = engine()
    ends = {"ignore_eos": False, "eos_token_id": list(range(40)), "max_new_tokens": 30}
    events = run(one, PROMPT, {**DRAWN, "num_return_sequences": 3, **ends})
    stops = [event for event in events if event.stop is not None]
    assert sorted(event.output for event in stops) == [0, 1, 2]
    assert [event.is_last for event in stops] == [False, False, True]
    assert len({event.index for event in stops}) > 1  # they ended at different times


def test_no_new_tokens_end_every_text() -> None:
    texts = generate(engine(), PROMPT, {**DRAWN, "num_return_sequences": 3, "max_new_tokens": 0})
    assert [(text.ids, text.stop) for text in texts] == [([None], "cut off by max_new_tokens=0")] * 3


def test_cancelling_ends_the_texts_that_had_not_ended() -> None:
    one = engine()
    request = one.submit(PROMPT, config_of({**DRAWN, "num_return_sequences": 3, "max_new_tokens": 30}))
    events = [event for _ in range(4) for event in one.step()]
    one.cancel(request)
    assert_all_free(one)
    events += one.run()
    texts = outcomes(events)
    assert {text.stop for text in texts} == {"the request was cancelled"}
    assert [len(text.ids) for text in texts] == [5, 5, 5]


@pytest.mark.parametrize(
    "options",
    [
        {**DRAWN, "num_return_sequences": 4},
        {"num_beams": 4},
        {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1},
        {"assistant_early_exit": 1},
        {"guidance_scale": 2.0},
    ],
    ids=str,
)
class TestAllPagesAreFree:
    """Whatever happened: a closed stream, a cancelled request, a damaged row, a pass that raises, memory that runs out."""

    @pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
    def test_after_a_closed_stream(self, options: dict[str, Any], n_steps: int) -> None:
        one = engine()
        stream = one.stream(one.submit(PROMPT, config_of({"ignore_eos": True, "max_new_tokens": 20, **options})))
        for _ in range(n_steps):
            one.step()
        stream.close()
        assert_all_free(one)
        assert not one.has_work

    @pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
    def test_after_cancelling(self, options: dict[str, Any], n_steps: int) -> None:
        one = engine(max_cache_bytes=1700)
        request = one.submit(PROMPT, config_of({"ignore_eos": True, "max_new_tokens": 20, **options}))
        events = [event for _ in range(n_steps) for event in one.step()]
        one.cancel(request)
        assert_all_free(one)
        events += one.run()
        assert events[-1].stop is not None
        assert events[-1].stop.reason is StopReason.CANCELLED
        assert events[-1].ends_request

    def test_after_a_damaged_row(self, options: dict[str, Any]) -> None:
        def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
            logits = hashed_logits(history)
            logits[3] = float("nan") if len(history) > len(PROMPT) + 4 else 0
            return logits

        one = engine_of(FakeDecoder(logits_of=logits_of))
        request = one.submit(PROMPT, config_of({"ignore_eos": True, "max_new_tokens": 20, **options}))
        events = one.run()
        assert isinstance(events[-1].error, NumericError)
        assert str(events[-1].error).startswith(f"request {request.id}, position ")
        assert [event.error is None for event in events] == [True] * (len(events) - 1) + [False]
        assert_all_free(one)

    def test_after_a_pass_that_raised(self, options: dict[str, Any]) -> None:
        one = engine()
        assert isinstance(one.decoder, FakeDecoder)
        one.submit(PROMPT, config_of({"ignore_eos": True, "max_new_tokens": 20, **options}))
        one.decoder.fail_at = 4
        with pytest.raises(RuntimeError, match="as told"):
            one.run()
        assert_all_free(one)
        (failure,) = [event.error for event in one.run() if event.error]
        assert isinstance(failure, FanlightError)
        one.decoder.fail_at = None
        assert generate(one, PROMPT, options) == generate(engine(), PROMPT, options)

    def test_after_memory_ran_out(self, options: dict[str, Any]) -> None:
        for n_pages in range(9):
            one = engine(page_tokens=2)
            assert isinstance(one.decoder, FakeDecoder)
            one.decoder.pool.fail_after = n_pages
            one.submit(PROMPT, config_of({"ignore_eos": True, "max_new_tokens": 20, **options}))
            with pytest.raises(MemoryError):
                one.run()
            assert_all_free(one)
            assert [event.error is not None for event in one.run()][-1]
            assert not one.has_work
