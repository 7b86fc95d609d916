"""Which rows go into a pass, and in which order."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.loop import PRIORITY_PASSES, Engine
from fanlight.engine.scheduler import _shares

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


def test_of_several_prompts_the_first_and_the_shortest_share_the_budget() -> None:
    decoder, engine = engine_of(prefill_chunk=8)
    for length in (13, 9, 3):
        engine.submit([length] * length, CONFIG)
    engine.step()
    engine.step()
    engine.step()
    assert decoder.passes[0] == ([13] * 4 + [9] + [3] * 3, [7])
    assert decoder.passes[1][0][1:] == [13] * 4 + [9] * 4  # beside the one that grows
    assert decoder.passes[2][0][1:] == [13] * 4 + [9] * 4
    assert decoder.passes[2][1] == [0, 8]


@given(pending=st.lists(st.integers(1, 30), max_size=7), budget=st.integers(1, 40))
def test_a_budget_is_spent_whole_and_half_of_it_on_the_first(pending: list[int], budget: int) -> None:
    shares = _shares(pending, budget)
    assert sum(shares) == min(budget, sum(pending))
    assert all(0 <= share <= n for share, n in zip(shares, pending, strict=True))
    if pending:
        assert shares[0] >= min(pending[0], budget // 2)
    unfinished = [n for share, n in zip(shares[1:], pending[1:], strict=True) if share < n]
    assert all(
        share == 0 or n <= min(unfinished) for share, n in zip(shares[1:], pending[1:], strict=True) if unfinished
    )


def test_less_of_a_prompt_goes_into_a_pass_in_which_others_grow() -> None:
    decoder, engine = engine_of(prefill_chunk=8, prefill_beside=3)
    engine.submit([100], CONFIG)
    engine.step()
    engine.submit(range(14), CONFIG)
    while engine.has_work:
        engine.step()
    assert rows(decoder)[:6] == [(1, 1), (4, 1), (4, 1), (4, 1), (5, 1), (1, 1)]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    _, engine = engine_of(prefill_chunk=4)
    engine.submit(range(30), CONFIG)
    engine.submit([1, 2], CONFIG)
    assert [event.request_id for event in engine.step()] == [1]


# -- priorities ----------------------------------------------------------------------------------------------------------


def test_of_those_that_wait_the_highest_priority_goes_first() -> None:
    _, engine = engine_of(max_batch=1)
    for priority in (0, 0, 2, 1):
        engine.submit([1, 2], CONFIG, priority=priority)
    assert [event.request_id for event in engine.run() if event.stop] == [2, 3, 0, 1]


def test_a_higher_priority_takes_the_place_of_one_that_runs_and_changes_no_token() -> None:
    for limits in ({"max_batch": 1}, {"max_cache_bytes": 300}, {"max_batch": 1, "prefix_bytes": 1000}):
        _, engine = engine_of(**limits)
        config = CONFIG.replace(max_new_tokens=7)
        low = engine.submit([1, 2, 3], config)
        events = engine.step() + engine.step()
        high = engine.submit([4, 5, 6], config, priority=1)
        events += engine.run()
        assert [event.request_id for event in events if event.stop] == [high.id, low.id]
        _, other = engine_of()
        alone = [event.id for event in other.stream(other.submit([1, 2, 3], config))]
        assert [event.id for event in events if event.request_id == low.id] == alone


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    priorities=st.lists(st.integers(0, 1), min_size=12, max_size=12),
    limits=st.sampled_from([{"max_batch": 1}, {"max_batch": 2}, {"max_cache_bytes": 900}, {"prefill_chunk": 3}]),
    prefix_bytes=st.sampled_from([0, 500]),
)
def test_nobody_starves_while_more_and_more_come_before(
    lengths: list[int], priorities: list[int], limits: dict[str, Any], prefix_bytes: int
) -> None:
    """A stream of requests of the highest priority that never ends keeps nobody waiting for longer than a bound."""
    _, engine = engine_of(**limits, prefix_bytes=prefix_bytes)
    waiting = {
        engine.submit([i] * length, CONFIG, priority=priority).id
        for i, (length, priority) in enumerate(zip(lengths, priorities, strict=False))
    }
    bound = 3 * PRIORITY_PASSES + 60 * len(lengths)  # of those that go before, each takes four passes
    for n in range(bound):
        if n % 2 == 0:
            engine.submit([200, n % 50], CONFIG, priority=1)
        waiting -= {event.request_id for event in engine.step() if event.ends_request}
        if not waiting:
            return
    raise AssertionError(f"after {bound} passes, {len(waiting)} of {len(lengths)} requests have not ended")


def test_a_request_that_ends_gives_its_memory_back_within_a_step() -> None:
    decoder, engine = engine_of(prefix_bytes=0)
    handles = [engine.submit([n] * 9, CONFIG.replace(max_new_tokens=20)) for n in (1, 2, 3)]
    engine.step()
    before = decoder.pool.n_pages
    engine.cancel(handles[1])
    assert decoder.pool.n_pages == before - 3
    events = engine.step()
    assert [(event.request_id, str(event.stop)) for event in events if event.stop] == [(1, "the request was cancelled")]


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
