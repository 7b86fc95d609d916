"""Which rows go into a pass, and in which order."""

from __future__ import annotations

from typing import Any

from fakes.decoder import FakeDecoder
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.loop import Engine

CONFIG = GenerationConfig(ignore_eos=True, max_new_tokens=4, candidates=0)


def engine_of(**options: Any) -> tuple[FakeDecoder, Engine]:
    decoder = FakeDecoder(n_ctx=32, page_tokens=4)
    return decoder, Engine(decoder, **options)


def rows(decoder: FakeDecoder) -> list[tuple[int, int]]:
    """(rows, rows with logits) of each pass."""
    return [(len(ids), len(logit_rows)) for ids, logit_rows in decoder.passes]


def test_a_prompt_goes_in_chunks_and_asks_for_logits_at_its_end_only() -> None:
    decoder, engine = engine_of(prefill_chunk=4)
    engine.submit(range(10), CONFIG)
    engine.run()
    assert rows(decoder) == [(4, 0), (4, 0), (2, 1), (1, 1), (1, 1), (1, 1)]
    assert [ids for ids, _ in decoder.passes[:3]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_decode_rows_go_first_and_do_not_wait_for_a_prompt() -> None:
    decoder, engine = engine_of(prefill_chunk=4)
    engine.submit([100], CONFIG)
    (first,) = engine.step()
    engine.submit(range(10), CONFIG)
    second = engine.step()
    assert decoder.passes[1] == ([first.id, 0, 1, 2, 3], [0])
    assert [event.request_id for event in second] == [0]


def test_prompts_share_the_budget_in_order_of_arrival() -> None:
    decoder, engine = engine_of(prefill_chunk=6)
    for length in (4, 5, 3):
        engine.submit([length] * length, CONFIG)
    engine.step()
    engine.step()
    assert decoder.passes[0] == ([4, 4, 4, 4, 5, 5], [3])
    assert decoder.passes[1][0][1:] == [5, 5, 5, 3, 3, 3]
    assert decoder.passes[1][1] == [0, 3, 6]


def test_no_more_run_at_once_than_max_batch() -> None:
    decoder, engine = engine_of(max_batch=2)
    for token in (1, 2, 3):
        engine.submit([token], CONFIG)
    events = engine.run()
    assert max(n for n, _ in rows(decoder)) == 2
    assert [event.request_id for event in events if event.stop] == [0, 1, 2]


def test_a_full_cache_makes_the_youngest_wait_and_computes_it_again() -> None:
    decoder, engine = engine_of(max_cache_bytes=400)  # 4 pages of 4 positions
    config = CONFIG.replace(max_new_tokens=9)
    for token in (1, 2):
        engine.submit([token] * 4, config)
    engine.step()
    for _ in range(4):
        engine.step()
    assert decoder.pool.n_pages == 4
    engine.step()  # both need a third page
    assert decoder.pool.n_pages == 3
    assert rows(decoder)[-1] == (1, 1)
    events = engine.run()
    assert [event.request_id for event in events if event.stop] == [0, 1]
    again = next(ids for ids, _ in decoder.passes[6:] if len(ids) > 2)
    assert again[:4] == [2] * 4
    assert len(again) == 9  # the prompt and the five tokens it had
    assert decoder.pool.n_pages == 0


def test_those_sent_back_keep_their_places_in_the_queue() -> None:
    """Five pages: three run, the two younger ones are sent back, and a fourth must not pass them."""
    _, engine = engine_of(max_cache_bytes=500)
    for token in (1, 2, 3, 4):
        engine.submit([token] * 4, CONFIG.replace(max_new_tokens=15))
    ended = []
    order = []
    while engine.has_work:
        ended += [event.request_id for event in engine.step() if event.stop]
        queue = [sequence.run.request.id for sequence in (*engine.scheduler.running, *engine.scheduler.waiting)]
        order.append(queue == sorted(queue))
    assert all(order)
    assert ended == [0, 1, 2, 3]


def test_a_request_that_does_not_fit_yet_does_not_let_others_pass() -> None:
    decoder, engine = engine_of(max_cache_bytes=400)
    lengths = (9, 8, 1)
    for token, length in enumerate(lengths):
        engine.submit([token] * length, CONFIG)
    engine.step()
    assert decoder.passes[0][0] == [0] * 9
    assert [event.request_id for event in engine.run() if event.stop] == [0, 1, 2]


def test_a_cache_smaller_than_the_window_is_the_window() -> None:
    decoder, engine = engine_of(max_cache_bytes=200)
    request = engine.submit([1, 2], CONFIG.replace(max_new_tokens=100))
    events = list(engine.stream(request))
    assert engine.n_ctx == 8
    assert str(events[-1].stop) == "cut off: the context window of 8 tokens is full"
    assert decoder.pool.n_pages == 0
