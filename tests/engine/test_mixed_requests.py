"""Promise: a request of any strategy gives the same in any company, any chunks, and a cache too small for all."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import BYTES, Outcome, assert_all_free, config_of, engine_of, generate, nearly, outcomes
from fanlight.engine.loop import Engine
from fanlight.engine.request import Helpers

N_CTX = 22
DRAWN = {"do_sample": True, "top_k": 0}
PROMPTS = st.lists(st.sampled_from([97, 98, 99, 256, 32]), min_size=1, max_size=14)
KINDS: list[dict[str, Any]] = [
    {},
    DRAWN,
    {**DRAWN, "num_return_sequences": 3},
    {**DRAWN, "best_of": 2, "stop_strings": ("a", "e", "\x00")},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "early_stopping": True},
    {"num_beams": 2, "force_words_ids": [[97, 98]], "max_new_tokens": 4},
    {**DRAWN, "num_beams": 3},
    {"penalty_alpha": 0.6, "top_k": 3},
    {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1},
    {**DRAWN, "assistant_early_exit": 1, "assistant_confidence_threshold": 0.0},
    {"assistant": True, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 4},
    {"assistant": None, "num_assistant_tokens": 3},  # the model itself, in the same cache
    {"amateur": True},
    {"guidance_scale": 1.7, "negative_prompt_ids": [98, 97, 32]},
    {**DRAWN, "guidance_scale": 0.5, "num_return_sequences": 2},
    {"dola_layers": "high"},
    {"choice": ["abc", "cab", "b"], "num_beams": 2},
    {"regex": "(ab|cd)+", "prompt_lookup_num_tokens": 3},
    {"token_healing": True},
    {"use_cache": False, "num_beams": 2},
]
REQUESTS = st.lists(
    st.tuples(PROMPTS, st.sampled_from(KINDS), st.sampled_from([0, 1, 4, 15]), st.integers(0, 3)),
    min_size=1,
    max_size=5,
)


def logits_of(history: Any) -> Any:
    logits = hashed_logits(history)
    logits[[97, 98, 99]] += 3
    return logits


def engine(**options: Any) -> Engine:
    page_tokens = options.pop("page_tokens", 4)
    decoder = FakeDecoder(n_ctx=N_CTX, page_tokens=page_tokens, logits_of=logits_of)
    return engine_of(decoder, vocabulary=BYTES, eos_ids=(257, 10, 11, 12), **options)


def submit(
    one: Engine, request: tuple[list[int], dict[str, Any], int, int], others: dict[str, FakeDecoder], priority: int = 0
) -> Any:
    prompt, kind, n_new, seed = request
    options = {"max_new_tokens": n_new, "seed": seed, **kind}
    assistant = others["assistant"] if options.pop("assistant", False) else None
    if "assistant" in kind and kind["assistant"] is None:
        assert isinstance(one.decoder, FakeDecoder)
        assistant = one.decoder
    amateur = others["amateur"] if options.pop("amateur", False) else None
    return one.submit(prompt, config_of(options), Helpers(assistant=assistant, amateur=amateur), priority=priority)


def helpers() -> dict[str, FakeDecoder]:
    """Other models, which all requests of an engine share."""
    return {
        "assistant": FakeDecoder(n_ctx=30, page_tokens=3, logits_of=nearly(logits_of, 258, 0.5)),
        "amateur": FakeDecoder(n_ctx=17, page_tokens=5, logits_of=nearly(logits_of, 258, 1.0)),
    }


def alone(request: tuple[list[int], dict[str, Any], int, int]) -> list[Outcome]:
    one = engine()
    submit(one, request, helpers())
    found = outcomes(one.run())
    assert_all_free(one)
    return found


@settings(max_examples=150, deadline=None)
@given(
    requests=REQUESTS,
    page_tokens=st.sampled_from([1, 3, 8]),
    prefill_chunk=st.sampled_from([1, 2, 7, 512]),
    max_batch=st.sampled_from([1, 2, 5, 64]),
    n_pages=st.sampled_from([None, 0, 1, 5]),
    delays=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    prefix_bytes=st.sampled_from([0, 200, 2000]),
    priorities=st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_every_request_gives_what_it_gives_alone(
    requests: list[tuple[list[int], dict[str, Any], int, int]],
    page_tokens: int,
    prefill_chunk: int,
    max_batch: int,
    n_pages: int | None,
    delays: list[int],
    prefix_bytes: int,
    priorities: list[int],
) -> None:
    limit = None if n_pages is None else (-(-N_CTX // page_tokens) + n_pages) * 100  # a full window, and a little
    one = engine(
        page_tokens=page_tokens,
        prefill_chunk=prefill_chunk,
        max_batch=max_batch,
        max_cache_bytes=limit,
        prefix_bytes=prefix_bytes,
    )
    others, submitted, events = helpers(), [], []
    for request, delay, priority in zip(requests, delays, priorities, strict=False):
        for _ in range(delay):
            events += one.step()
        submitted.append(submit(one, request, others, priority))
    n_steps = 0
    while one.has_work:
        events += one.step()
        n_steps += 1
        assert n_steps < 5000, "the requests wait for each other"
        if limit is not None:
            assert one.cache.pool.n_pages * 100 <= limit
    for handle, request in zip(submitted, requests, strict=True):
        assert outcomes([event for event in events if event.request_id == handle.id]) == alone(request)
    assert_all_free(one)


@settings(max_examples=60, deadline=None)
@given(
    requests=REQUESTS,
    leaving=st.sets(st.integers(0, 4)),
    after=st.integers(0, 6),
    n_pages=st.sampled_from([None, 1]),
    prefix_bytes=st.sampled_from([0, 700]),
)
def test_requests_that_leave_change_nothing_for_the_others(
    requests: list[tuple[list[int], dict[str, Any], int, int]],
    leaving: set[int],
    after: int,
    n_pages: int | None,
    prefix_bytes: int,
) -> None:
    limit = None if n_pages is None else (-(-N_CTX // 4) + n_pages) * 100
    one, others = engine(prefill_chunk=5, max_cache_bytes=limit, prefix_bytes=prefix_bytes), helpers()
    submitted = [submit(one, request, others) for request in requests]
    events = [event for _ in range(after) for event in one.step()]
    for i in leaving & set(range(len(submitted))):
        one.cancel(submitted[i])
    events += one.run()
    for i, handle in enumerate(submitted):
        mine = [event for event in events if event.request_id == handle.id]
        found = outcomes(mine)
        if i not in leaving:
            assert found == alone(requests[i])
    assert_all_free(one)


def test_lines_that_wait_for_company_keep_nobody_out() -> None:
    """Two lines of one request, and room for one sequence at a time."""
    one = engine(max_batch=1)
    one.submit([97, 98], config_of({"guidance_scale": 2.0}))
    events = [event for _ in range(40) for event in one.step()]
    assert outcomes(events) == generate(engine(), [97, 98], {"guidance_scale": 2.0})


def test_a_prompt_that_is_sent_back_half_way_hands_over_each_state_once() -> None:
    """An older request needs the last page while the states of a prompt are being gathered, one a pass."""
    older = ([97, 98, 99, 97], {"ignore_eos": True}, 17, 0)
    younger = ([98, 97, 32] * 4, {"penalty_alpha": 0.6, "top_k": 3, "ignore_eos": True}, 6, 0)
    one, others = engine(prefill_chunk=1, max_cache_bytes=600), helpers()
    requests = [submit(one, request, others) for request in (older, younger)]
    events, was_sent_back, filled = [], False, 0
    while one.has_work:
        events += one.step()
        line = next((s for s in one.scheduler.waiting if s.run.request.id == requests[1].id), None)
        was_sent_back |= line is not None and line.slot.length == 0 and filled > 1
        filled = max([s.slot.length for s in one.scheduler.running if s.run.request.id == requests[1].id], default=0)
    assert was_sent_back
    for handle, request in zip(requests, (older, younger), strict=True):
        assert outcomes([event for event in events if event.request_id == handle.id]) == alone(request)


def test_a_search_without_cache_computes_every_text_again() -> None:
    kinds: list[dict[str, Any]] = [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3}, {}, {"guidance_scale": 2.0}]
    for kind in kinds:
        options = {**kind, "ignore_eos": True, "max_new_tokens": 5}
        kept, again = engine(), engine()
        assert generate(again, [97, 98], {**options, "use_cache": False}) == generate(kept, [97, 98], options)
        lengths = [[len(ids) for ids, _ in one.decoder.passes] for one in (kept, again)]  # type: ignore[attr-defined]
        assert sum(lengths[1]) > 2 * sum(lengths[0])
