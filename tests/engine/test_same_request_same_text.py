"""Promise: prompt + settings + seed give the same tokens, whatever happens around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.loop import Engine
from fanlight.text.stream import Detokenizer

if TYPE_CHECKING:
    from fanlight.engine.request import Request, StepEvent

N_CTX = 24
PROMPTS = st.lists(st.integers(0, 257), min_size=1, max_size=N_CTX)
CONFIGS = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(0, 20), "seed": st.integers(0, 3)},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0, 0.5, 2.0]),
        "top_p": st.sampled_from([0.5, 0.95]),
        "top_k": st.sampled_from([0, 3]),
        "min_p": st.sampled_from([0.01]),
        "repetition_penalty": st.sampled_from([1.3]),
        "stop_strings": st.sampled_from(["e", ("ab", "0", "\ufffd\ufffd\ufffd")]),
        "ignore_eos": st.booleans(),
    },
)
REQUESTS = st.lists(st.tuples(PROMPTS, CONFIGS), min_size=1, max_size=6)

Outcome = tuple[list[int | None], str, str]


def engine_of(*, page_tokens: int = 4, **options: Any) -> tuple[FakeDecoder, Engine]:
    decoder = FakeDecoder(n_ctx=N_CTX, page_tokens=page_tokens)
    return decoder, Engine(
        decoder,
        eos_ids=(257, 10, 11),
        detokenizer_factory=lambda _: Detokenizer(lambda token: bytes([token]), skip=(256, 257)),
        **options,
    )


def outcome(events: list[StepEvent]) -> Outcome:
    assert [event.index for event in events] == list(range(len(events)))
    return [event.id for event in events], "".join(event.text for event in events), str(events[-1].stop)


def alone(prompt_ids: list[int], options: dict[str, Any]) -> Outcome:
    decoder, engine = engine_of()
    request = engine.submit(prompt_ids, GenerationConfig.from_options({**options, "candidates": 0}))
    result = outcome(list(engine.stream(request)))
    assert decoder.pool.n_pages == 0
    return result


def together(
    requests: list[tuple[list[int], dict[str, Any]]], engine: Engine, candidates: int, delays: list[int]
) -> list[Outcome]:
    """Submit each request after some steps; collect the events of each."""
    submitted: list[Request] = []
    events: list[StepEvent] = []
    for (prompt_ids, options), delay in zip(requests, [*delays, *[0] * len(requests)], strict=False):
        for _ in range(delay):
            events += engine.step()
        config = GenerationConfig.from_options({**options, "candidates": candidates})
        submitted.append(engine.submit(prompt_ids, config))
    events += engine.run()
    return [outcome([event for event in events if event.request_id == request.id]) for request in submitted]


@settings(max_examples=60, deadline=None)
@given(
    requests=REQUESTS,
    page_tokens=st.sampled_from([1, 3, 8]),
    prefill_chunk=st.sampled_from([1, 2, 7, 512]),
    max_batch=st.sampled_from([1, 2, 64]),
    n_pages=st.sampled_from([None, 0, 2]),
    candidates=st.sampled_from([0, 4]),
    delays=st.lists(st.integers(0, 3), max_size=6),
)
def test_same_request_same_text(
    requests: list[tuple[list[int], dict[str, Any]]],
    page_tokens: int,
    prefill_chunk: int,
    max_batch: int,
    n_pages: int | None,
    candidates: int,
    delays: list[int],
) -> None:
    """Alone or in a batch, in any chunks, on pages of any size, with a cache too small for all, looked at or not."""
    limit = None if n_pages is None else (-(-N_CTX // page_tokens) + n_pages) * 100  # a full window, and a little
    decoder, engine = engine_of(
        page_tokens=page_tokens, prefill_chunk=prefill_chunk, max_batch=max_batch, max_cache_bytes=limit
    )
    assert together(requests, engine, candidates, delays) == [alone(*request) for request in requests]
    assert decoder.pool.n_pages == 0
    assert not engine.has_work


@settings(max_examples=30, deadline=None)
@given(requests=REQUESTS, leaving=st.sets(st.integers(0, 5)), after=st.integers(0, 6))
def test_others_leaving_changes_nothing(
    requests: list[tuple[list[int], dict[str, Any]]], leaving: set[int], after: int
) -> None:
    decoder, engine = engine_of(prefill_chunk=5, max_cache_bytes=800)
    submitted = [engine.submit(ids, GenerationConfig.from_options(options)) for ids, options in requests]
    events = [event for _ in range(after) for event in engine.step()]
    for i in leaving:
        if i < len(submitted):
            engine.cancel(submitted[i])
    events += engine.run()
    for i, request in enumerate(submitted):
        mine = [event for event in events if event.request_id == request.id]
        if i not in leaving:
            assert outcome(mine) == alone(*requests[i])
        assert [event.stop is not None for event in mine] == [False] * (len(mine) - 1) + [True]
    assert decoder.pool.n_pages == 0
