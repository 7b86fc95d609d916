"""The engine's thread: any thread asks and reads; the queue has a limit, and a request that nobody wants is gone."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder
from fakes.gated import GatedDecoder, wait_until
from fakes.runs import BYTES, Outcome, assert_all_free, config_of, engine_of, generate, outcomes
from fanlight.decoding.stopping import StopReason
from fanlight.engine.service import Service, Stats
from fanlight.errors import ContextOverflow, OptionError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanlight.engine.service import Ticket

DRAWN = {"do_sample": True, "top_k": 0, "ignore_eos": True}
KINDS: list[dict[str, Any]] = [
    {"ignore_eos": True},
    DRAWN,
    {**DRAWN, "num_return_sequences": 3},
    {**DRAWN, "stop_strings": ("a", "e", "\x00")},
    {"num_beams": 3, "num_return_sequences": 2},
    {"prompt_lookup_num_tokens": 3},
    {"regex": "(ab|cd)+"},
    {"max_new_tokens": 0},
]
WRITE = config_of({"ignore_eos": True, "max_new_tokens": 40})


REQUESTS: list[tuple[list[int], dict[str, Any]]] = [
    ([97 + i % 3] * (1 + i % 11), {**KINDS[i % len(KINDS)], "seed": i % 7}) for i in range(24)
]
"""Prompts of unequal lengths, of which some begin alike."""


def alone(prompt: list[int], options: dict[str, Any]) -> list[Outcome]:
    return generate(engine_of(FakeDecoder()), prompt, options)


@cache
def expected() -> list[list[Outcome]]:
    """What each of REQUESTS gives alone."""
    return [alone(*request) for request in REQUESTS]


def served(**options: Any) -> tuple[GatedDecoder, Service]:
    decoder = GatedDecoder()
    return decoder, Service(engine_of(decoder, vocabulary=BYTES), **options)


# -- same as alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch", [5, 64])
def test_hundreds_of_threads_each_get_what_they_get_alone(max_batch: int) -> None:
    engine = engine_of(FakeDecoder(), max_batch=max_batch, prefill_chunk=7)
    asked = REQUESTS * 10
    together = threading.Barrier(len(asked))
    found: list[list[Outcome]] = [[] for _ in asked]

    def ask(i: int) -> None:
        together.wait()
        found[i] = outcomes(list(service.submit(asked[i][0], config_of(asked[i][1]))))

    with Service(engine) as service:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected() * 10
    assert_all_free(engine)


@settings(max_examples=40, deadline=None)
@given(
    plans=st.lists(
        st.tuples(
            st.integers(0, len(REQUESTS) - 1),
            st.sampled_from(["read", "read", "cancel", "close", "drop", "leave it"]),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=12,
    ),
    n_threads=st.sampled_from([1, 3]),
    max_batch=st.sampled_from([1, 3, 64]),
    n_pages=st.sampled_from([None, 1, 6]),
    wait=st.booleans(),
)
def test_whatever_others_do_a_request_that_is_read_gives_what_it_gives_alone(
    plans: list[tuple[int, str, int]],
    n_threads: int,
    max_batch: int,
    n_pages: int | None,
    wait: bool,
) -> None:
    decoder = FakeDecoder()
    limit = None if n_pages is None else (64 // 4 + n_pages) * 100  # a full window, and a little
    engine = engine_of(decoder, max_batch=max_batch, prefill_chunk=5, max_cache_bytes=limit)
    left: list[Ticket] = []

    def follow(plan: tuple[int, str, int]) -> None:
        number, ending, after = plan
        prompt, options = REQUESTS[number]
        ticket = service.submit(prompt, config_of(options))
        if ending == "leave it":
            left.append(ticket)
            return
        events = list(islice(ticket, after)) if ending != "read" else []
        if ending == "drop":
            return
        if ending != "read":
            getattr(ticket, ending)()
        events += ticket
        if ending == "close":
            assert len(events) <= after
        elif ending == "read":
            assert outcomes(events) == expected()[number]
        else:
            assert [event.ends_request for event in events] == [False] * (len(events) - 1) + [True]

    with ThreadPoolExecutor(n_threads) as pool, Service(engine) as service:
        list(pool.map(follow, plans))
        service.close(wait=wait)
    for ticket in left:
        events = list(ticket)
        assert events[-1].ends_request
    assert service.stats()[:2] == (0, 0)
    assert_all_free(engine)


def test_a_text_that_is_given_is_scored() -> None:
    with Service(engine_of(FakeDecoder())) as service:
        events = list(service.submit([97, 98], config_of({}), given=[99, 100, 101]))
    engine = engine_of(FakeDecoder())
    assert events == list(engine.stream(engine.submit([97, 98], config_of({}), given=[99, 100, 101])))
    assert [event.id for event in events if event.id is not None] == [99, 100, 101]


def test_priority_goes_before() -> None:
    decoder = GatedDecoder()
    service = Service(engine_of(decoder, max_batch=1))
    first = service.submit([1], config_of({"max_new_tokens": 1}))
    decoder.arrive()
    tickets = [service.submit([priority] * 3, WRITE, priority=priority) for priority in (0, 3, 2)]
    decoder.open()
    assert [len(list(ticket)) for ticket in (first, *tickets)] == [1, 40, 40, 40]
    assert [ids[0] for ids, _ in decoder.passes if len(ids) == 3] == [3, 2, 0]
    assert [ticket.request.priority for ticket in tickets] == [0, 3, 2]
    service.close()


# -- the queue --------------------------------------------------------------------------------------------------------


def test_the_queue_has_a_limit_and_a_place_is_free_when_a_request_begins() -> None:
    decoder, service = served(max_waiting=3)
    with service:
        tickets = [service.submit([1], WRITE)]
        decoder.arrive()
        tickets += [service.submit([2, 3], WRITE), service.submit([4], WRITE)]
        with pytest.raises(QueueFull, match=r"the queue is full: 3 requests wait, at most 3 may; ask again later"):
            service.submit([5], WRITE)
        assert service.stats()[:3] == (0, 3, 0)
        decoder.let()
        assert service.stats()[:3] == (1, 2, 0)
        tickets.append(service.submit([5], WRITE))
        with pytest.raises(QueueFull):
            service.submit([6], WRITE)
        decoder.let()
        assert service.stats()[:3] == (3, 1, 0)
        decoder.open()
        assert [len(list(ticket)) for ticket in tickets] == [40] * 4
        assert service.stats()[:4] == (0, 0, 4, 160)


def test_of_many_submitters_at_once_no_more_get_in_than_may() -> None:
    decoder, service = served(max_waiting=7)
    tickets = [service.submit([1], WRITE)]
    decoder.arrive()
    together = threading.Barrier(40)

    def ask(i: int) -> bool:
        together.wait()
        try:
            tickets.append(service.submit([i], WRITE))
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        assert sum(pool.map(ask, range(40))) == 6
    decoder.open()
    assert [len(list(ticket)) for ticket in tickets] == [40] * 7
    service.close()


def test_a_request_that_cannot_work_is_refused_where_it_is_made_and_takes_no_place() -> None:
    decoder, service = served(max_waiting=1)
    for _ in range(3):
        with pytest.raises(ContextOverflow, match="the prompt has 65 tokens"):
            service.submit([1] * 65)
        with pytest.raises(OptionError, match="prompt_ids is empty"):
            service.submit([])
    assert service.stats().n_waiting == 0
    decoder.open()
    assert len(list(service.submit([1], WRITE))) == 40
    service.close()


def test_what_turns_out_on_admission_is_raised_by_the_ticket_alone() -> None:
    decoder, service = served()
    decoder.open()
    with service:
        good = service.submit([1], WRITE)
        bad = service.submit([1, 2, 3], config_of({"max_new_tokens": None, "max_length": 2}))
        for _ in range(2):
            with pytest.raises(OptionError, match="the prompt has 3 tokens, max_length=2 leaves room for none"):
                _ = bad.request
        with pytest.raises(OptionError, match="the prompt has 3 tokens"):
            next(bad)
        assert list(bad) == []
        assert len(list(good)) == 40
        assert service.stats().n_waiting == 0


@pytest.mark.parametrize("max_waiting", [0, -1])
def test_a_queue_without_a_place_is_refused(max_waiting: int) -> None:
    with pytest.raises(OptionError, match=f"max_waiting must be at least 1, or None for no limit: got {max_waiting}"):
        Service(engine_of(FakeDecoder()), max_waiting=max_waiting)


def test_a_consumer_that_does_not_read_keeps_nobody_waiting() -> None:
    engine = engine_of(FakeDecoder())
    with Service(engine) as service:
        slow = service.submit([1, 2], WRITE)
        fast = [service.submit([3], WRITE) for _ in range(5)]
        assert [len(list(ticket)) for ticket in fast] == [40] * 5
        wait_until(lambda: service.stats().n_done == 6, "the request that nobody reads does not end")
        assert engine.cache.pool.n_pages == 0
        assert len(slow._box.events) == 40  # no more than the request's own length
    assert outcomes(list(slow)) == alone([1, 2], {"ignore_eos": True, "max_new_tokens": 40})


# -- leaving ----------------------------------------------------------------------------------------------------------


def cancel(tickets: list[Ticket]) -> None:
    tickets[0].cancel()


def close(tickets: list[Ticket]) -> None:
    tickets[0].close()
    tickets[0].close()
    assert list(tickets[0]) == []


def leave(tickets: list[Ticket]) -> None:
    with tickets[0]:
        pass


def drop(tickets: list[Ticket]) -> None:
    tickets.clear()


@pytest.mark.parametrize("how", [cancel, close, leave, drop])
@pytest.mark.parametrize("n_passes", [0, 3])
def test_a_request_that_ends_is_free_after_the_pass_that_runs(
    how: Callable[[list[Ticket]], None], n_passes: int
) -> None:
    decoder, service = served()
    pool = decoder.pool
    tickets = [service.submit([1, 2, 3, 4, 5], WRITE)]
    decoder.arrive()
    for _ in range(n_passes):
        decoder.let()
    assert pool.n_pages > 0
    how(tickets)
    decoder.open()
    wait_until(lambda: service.stats().n_done == 1, "the request does not end")
    assert pool.n_pages == 0
    assert len(decoder.passes) == n_passes + 1
    stats = service.stats()
    assert stats == Stats(0, 0, 1, n_passes + 1, stats.tokens_per_second, 0)
    service.close()


def test_a_cancelled_request_hands_over_what_was_decided_and_then_its_end() -> None:
    decoder, service = served()
    with service:
        ticket = service.submit([1], WRITE)
        decoder.arrive()
        decoder.let()
        decoder.let()
        ticket.cancel()
        ticket.cancel()
        decoder.open()
        *events, end = ticket
        assert [event.id for event in events] == alone([1], {"ignore_eos": True})[0].ids[: len(events)]
        assert len(events) == 3  # with the one of the pass that ran
        assert end.stop is not None
        assert (end.id, end.stop.reason) == (None, StopReason.CANCELLED)
        ticket.cancel()


@pytest.mark.parametrize("how", [cancel, close, drop])
def test_a_request_that_leaves_the_queue_is_never_computed(how: Callable[[list[Ticket]], None]) -> None:
    decoder, service = served()
    first = service.submit([1], config_of({"ignore_eos": True, "max_new_tokens": 2}))
    decoder.arrive()
    waiting = [service.submit([2, 3], WRITE)]
    how(waiting)
    decoder.open()
    assert len(list(first)) == 2
    service.close()
    assert [ids[0] for ids, _ in decoder.passes if len(ids) > 1] == []
    assert service.stats()[:2] == (0, 0)


def test_two_threads_may_read_one_ticket() -> None:
    decoder, service = served()
    ticket = service.submit([1], WRITE)
    with ThreadPoolExecutor(3) as pool:
        parts = [pool.submit(list, ticket) for _ in range(3)]
        decoder.open()
        events = sorted((event for part in parts for event in part.result()), key=lambda event: event.index)
    assert outcomes(events) == alone([1], {"ignore_eos": True, "max_new_tokens": 40})
    service.close()


def test_closing_a_ticket_wakes_the_thread_that_reads_it() -> None:
    decoder, service = served()
    ticket = service.submit([1], WRITE)
    decoder.arrive()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(list, ticket)
        time.sleep(0.02)
        ticket.close()
        assert reader.result(timeout=10) == []
    decoder.open()
    service.close()
    assert not ticket._box.events  # nor is kept what the pass gave that was running


# -- the thread -------------------------------------------------------------------------------------------------------


def thread_of(service: Service) -> threading.Thread:
    thread = service._worker._thread
    assert thread is not None
    return thread


def test_the_thread_sleeps_without_work_and_wakes_at_once() -> None:
    service = Service(engine_of(FakeDecoder()))
    n_looks, look = [0], service._worker._read_mail

    def counted() -> None:
        n_looks[0] += 1
        look()

    service._worker._read_mail = counted  # type: ignore[method-assign]
    list(service.submit([1], WRITE))
    time.sleep(0.05)
    before = n_looks[0]
    assert before >= 40
    time.sleep(0.2)
    assert n_looks[0] == before
    seconds = []
    for _ in range(51):
        started = time.perf_counter()
        list(service.submit([1], config_of({"max_new_tokens": 0})))
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[5] < 0.005  # a few at least, whatever else the machine is doing
    service.close()


def test_a_service_without_a_request_has_no_thread() -> None:
    n = threading.active_count()
    service = Service(engine_of(FakeDecoder()))
    assert threading.active_count() == n
    service.close()
    assert not service.is_open


def test_a_service_that_is_dropped_ends_when_its_last_ticket_is() -> None:
    decoder, service = served()
    ticket = service.submit([1], WRITE)
    thread, known = thread_of(service), weakref.ref(service)
    decoder.open()
    del service
    gc.collect()
    assert len(list(ticket)) == 40
    assert thread.is_alive()
    del ticket
    assert known() is None
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_stats_count_tokens_and_pages() -> None:
    decoder, service = served()
    assert service.stats() == Stats(0, 0, 0, 0, 0.0, 0)
    tickets = [service.submit([1, 2, 3, 4, 5], WRITE), service.submit([6], WRITE)]
    decoder.arrive()
    for _ in range(5):
        decoder.let()
    stats = service.stats()
    assert (stats.n_running, stats.n_waiting, stats.n_done) == (2, 0, 0)
    assert stats.n_tokens in (9, 10)  # the second request may have come a pass later
    assert 0 < stats.n_pages <= decoder.pool.n_pages  # those of the pass that runs come after it
    assert stats.tokens_per_second > 0
    decoder.open()
    for ticket in tickets:
        list(ticket)
    stats = service.stats()
    assert stats[:4] == (0, 0, 2, 80)
    service.close()
