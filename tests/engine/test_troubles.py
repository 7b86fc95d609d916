"""What goes wrong for one request, or comes from another thread or a destructor, is nobody else's trouble."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fakes.decoder import FakeDecoder
from fakes.runs import assert_all_free, config_of, engine_of, outcomes
from fanlight.engine.request import Helpers
from fanlight.errors import FanlightError

if TYPE_CHECKING:
    from fanlight.engine.loop import Engine
    from fanlight.engine.request import Request

LONG = {"max_new_tokens": 12, "ignore_eos": True}


def engine(**options: Any) -> Engine:
    return engine_of(FakeDecoder(n_ctx=60, page_tokens=4), **options)


def alone(prompt: list[int]) -> Any:
    one = engine()
    one.submit(prompt, config_of(LONG))
    return outcomes(one.run())


# -- memory ---------------------------------------------------------------------------------------------------------------


def short_of_memory(one: Engine, n_pages: int) -> None:
    """The machine holds so many pages."""
    pool = one.cache.pool
    allocate = pool.allocate

    def maybe() -> int:
        if pool.n_pages >= n_pages:
            raise MemoryError("the machine is full")
        return allocate()

    pool.allocate = maybe  # type: ignore[method-assign]


def test_a_newcomer_that_memory_has_no_room_for_waits_for_the_others() -> None:
    one = engine()
    short_of_memory(one, 12)  # the larger one needs 11, the smaller one 4
    small = one.submit([1, 2], config_of(LONG))
    events = one.step()
    large = one.submit(list(range(30)), config_of(LONG))
    events += one.run()
    assert [event.request_id for event in events if event.stop] == [small.id, large.id]
    for request, prompt in ((small, [1, 2]), (large, list(range(30)))):
        assert outcomes([event for event in events if event.request_id == request.id]) == alone(prompt)


def test_beginnings_that_are_kept_are_given_up_before_memory_is_short_for_anyone() -> None:
    one = engine(prefix_bytes=10_000)
    short_of_memory(one, 14)
    one.submit(list(range(40)), config_of(LONG))
    one.run()
    assert one.cache.n_kept == 13
    request = one.submit([7] * 9, config_of(LONG))
    found = outcomes([event for event in one.run() if event.request_id == request.id])
    assert found == alone([7] * 9)


def test_memory_that_is_short_for_the_only_request_ends_it_and_the_next_one_works() -> None:
    one = engine()
    decoder = one.decoder
    assert isinstance(decoder, FakeDecoder)
    decoder.pool.fail_after = 1
    one.submit(list(range(30)), config_of(LONG))
    with pytest.raises(MemoryError):
        one.step()
    (event,) = one.collect()
    assert isinstance(event.error, FanlightError)
    decoder.pool.fail_after = None
    assert_all_free(one)
    one.submit([1, 2, 3], config_of(LONG))
    assert outcomes(one.run()) == alone([1, 2, 3])


# -- who else is in the pass ------------------------------------------------------------------------------------------------


def failing(one: Engine, marker: int) -> None:
    """Passes with this token in them raise."""
    forward = one.decoder.forward

    def maybe(ids: Any, *others: Any) -> Any:
        if marker in ids:
            raise RuntimeError("boom")
        return forward(ids, *others)

    one.decoder.forward = maybe  # type: ignore[method-assign]


def test_a_stream_outlives_a_pass_of_others_that_fails() -> None:
    one = engine(max_batch=1)
    failing(one, 99)
    bad = one.submit([99, 1], config_of(LONG))
    good = one.submit([1, 2, 3], config_of(LONG))
    assert outcomes(list(one.stream(good))) == alone([1, 2, 3])
    assert not one.is_live(bad)


def test_jobs_outlive_pass_after_pass_that_fails() -> None:
    from fanlight.jobs import Job, run_jobs

    one = engine(max_batch=1)
    failing(one, 99)
    jobs = [Job(i, [99, i] if i % 3 else [1, 2, i], config_of(LONG)) for i in range(12)]

    class Tokens:
        def token_text(self, token: int) -> str:
            return str(token)

    found = {
        outcome.key: outcome
        for outcome in run_jobs(one, jobs, lambda job: one.submit(job.prompt, job.config), Tokens(), n_begun=5)  # type: ignore[arg-type]
    }
    assert len(found) == 12
    for i, outcome in found.items():
        assert (outcome.error is not None) == bool(i % 3)  # type: ignore[operator]


def test_a_request_that_waits_for_a_beginning_takes_nobodys_place() -> None:
    one = engine(max_batch=2, prefill_chunk=2, prefix_bytes=10_000)
    common = list(range(100, 130))
    one.submit(common, config_of(LONG), priority=1)
    one.submit([5] * 20, config_of(LONG))
    one.step()
    evicted: list[int] = []
    evict = one.scheduler._evict
    one.scheduler._evict = lambda sequence: (evicted.append(sequence.run.request.id), evict(sequence))[1]  # type: ignore[method-assign]
    one.submit([*common, 1], config_of(LONG), priority=1)
    one.run()
    assert len(evicted) <= 1


# -- threads and destructors --------------------------------------------------------------------------------------------------


class Slow:
    """Lets a test act while a pass is going on."""

    def __init__(self, one: Engine) -> None:
        self.is_in, self.may_go = threading.Event(), threading.Event()
        forward = one.decoder.forward

        def slow(*arguments: Any) -> Any:
            self.is_in.set()
            assert self.may_go.wait(10)
            return forward(*arguments)

        one.decoder.forward = slow  # type: ignore[method-assign]


def test_closing_in_another_thread_waits_for_the_pass_and_then_frees() -> None:
    one = engine()
    slow, called = Slow(one), []
    stream = one.stream(one.submit([1, 2, 3], config_of(LONG)))
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    assert slow.is_in.wait(10)
    stream.close(lambda: called.append(one.is_idle))
    assert not called, "the pass is not over"
    assert one.cache.pool.n_pages > 0
    slow.may_go.set()
    thread.join(10)
    assert not thread.is_alive()
    assert called == [True]
    assert_all_free(one)


def test_a_stream_that_is_collected_in_the_middle_of_a_step_does_no_harm() -> None:
    """Its destructor runs inside a pass, in the same thread."""
    one = engine()
    kept = one.submit([1, 2, 3], config_of(LONG))
    lost = [one.stream(one.submit([4, 5, n], config_of(LONG))) for n in range(3)]
    stream = one.stream(kept)
    events = [next(stream)]
    forward = one.decoder.forward

    def collects(*arguments: Any) -> Any:
        if lost:
            del lost[0]
            gc.collect()
        return forward(*arguments)

    one.decoder.forward = collects  # type: ignore[method-assign]
    events += list(stream)
    assert outcomes(events) == alone([1, 2, 3])
    assert_all_free(one)


# -- numbers -----------------------------------------------------------------------------------------------------------------


def test_what_a_request_computed_itself_is_not_called_reused() -> None:
    one = engine(max_cache_bytes=1600, prefix_bytes=10_000)
    requests: list[Request] = [one.submit([n] * 21, config_of({**LONG, "num_beams": 3})) for n in (1, 2, 3)]
    usage = {event.request_id: event.usage for event in one.run() if event.ends_request}
    assert [usage[request.id].n_reused for request in requests] == [0, 0, 0]  # type: ignore[union-attr]


def test_an_assistants_prompt_is_not_the_price_of_a_plain_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks by rows: what is saved is what the rows say."""
    now = [0.0]
    monkeypatch.setattr("fanlight.engine.loop.time.perf_counter", lambda: now[0])
    assistant, one = FakeDecoder(n_ctx=60, page_tokens=4), engine()
    for decoder, cost in ((assistant, 1.0), (one.decoder, 10.0)):
        forward = decoder.forward

        def ticking(ids: Any, *others: Any, forward: Any = forward, cost: float = cost) -> Any:
            now[0] += cost * len(ids)
            return forward(ids, *others)

        decoder.forward = ticking  # type: ignore[method-assign]
    one.submit(
        list(range(30)), config_of({**LONG, "assistant_confidence_threshold": 0.0}), Helpers(assistant=assistant)
    )
    usage = next(event.usage for event in one.run() if event.ends_request)
    assert usage is not None
    assert usage.seconds_saved is None or usage.seconds_saved < 0  # ten times the price for each wrong guess
