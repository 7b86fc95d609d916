"""Tickets in coroutines: many tasks of many loops read at once, nobody polls, and a task that is cancelled ends its request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from fakes.decoder import FakeDecoder
from fakes.gated import GatedDecoder, wait_until
from fakes.runs import Outcome, assert_all_free, config_of, engine_of, generate, outcomes
from fanlight.engine.service import Service
from fanlight.errors import FanlightError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanlight.engine.request import StepEvent
    from fanlight.engine.service import Ticket

OPTIONS: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 30}
WRITE = config_of(OPTIONS)


def alone(prompt: list[int]) -> list[Outcome]:
    return generate(engine_of(FakeDecoder()), prompt, OPTIONS)


async def events_of(ticket: Ticket) -> list[StepEvent]:
    return [event async for event in ticket]


def test_many_tasks_of_two_loops_each_get_what_they_get_alone() -> None:
    engine = engine_of(FakeDecoder(), max_batch=7)
    prompts = [[1 + i % 5] * (1 + i % 3) for i in range(60)]

    async def ask_all() -> list[list[Outcome]]:
        async def ask(prompt: list[int]) -> list[Outcome]:
            return outcomes(await events_of(service.submit(prompt, WRITE)))

        return await asyncio.gather(*map(ask, prompts))

    with Service(engine) as service, ThreadPoolExecutor(2) as pool:
        found = [loop.result() for loop in [pool.submit(asyncio.run, ask_all()) for _ in range(2)]]
    expected = {tuple(prompt): alone(prompt) for prompt in prompts}
    assert found == [[expected[tuple(prompt)] for prompt in prompts]] * 2
    assert_all_free(engine)


def test_a_submission_in_a_thread_apart_is_cancelled_with_its_task() -> None:
    """What compiles a grammar must not hold up the loop; if the task is gone when it is done, nobody holds the ticket."""
    decoder = FakeDecoder()
    with Service(engine_of(decoder)) as service:
        compiling, compiled = threading.Event(), threading.Event()
        prepare = service._engine.prepare

        def slowly(*args: Any, **options: Any) -> Any:
            compiling.set()
            assert compiled.wait(30)
            return prepare(*args, **options)

        service._engine.prepare = slowly  # type: ignore[method-assign]

        async def main() -> None:
            task = asyncio.create_task(asyncio.to_thread(service.submit, [1], WRITE))
            while not compiling.is_set():
                await asyncio.sleep(0.001)
            assert service.stats().n_waiting == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            compiled.set()

        asyncio.run(main())
        gc.collect()
    assert service.stats().n_tokens < 30
    assert service.stats()[:2] == (0, 0)


async def wait_for(ticket: Ticket) -> None:
    await asyncio.wait_for(events_of(ticket), timeout=0.05)


async def cancel_task(ticket: Ticket) -> None:
    task = asyncio.create_task(events_of(ticket))
    await asyncio.sleep(0.02)
    task.cancel()
    await task


async def leave(ticket: Ticket) -> None:
    async with ticket:
        raise TimeoutError


async def fail_beside(ticket: Ticket) -> None:
    async def other() -> None:
        await asyncio.sleep(0.02)
        raise TimeoutError

    await asyncio.gather(events_of(ticket), other())


@pytest.mark.parametrize("abandon", [wait_for, cancel_task, leave, fail_beside])
def test_an_iteration_that_is_abandoned_ends_its_request(abandon: Callable[[Ticket], Any]) -> None:
    decoder = GatedDecoder()
    service = Service(engine_of(decoder))
    ticket = service.submit([1, 2, 3], WRITE)
    decoder.arrive()
    decoder.let()
    with pytest.raises((TimeoutError, asyncio.CancelledError)):
        asyncio.run(abandon(ticket))
    decoder.open()
    wait_until(lambda: service.stats().n_done == 1, "the request does not end")
    assert decoder.pool.n_pages == 0
    assert len(decoder.passes) == 2
    assert list(ticket) == []
    service.close()


@pytest.mark.parametrize("n_taken", [0, 2])
def test_a_coroutine_that_is_dropped_ends_its_request(n_taken: int) -> None:
    decoder = GatedDecoder()
    service = Service(engine_of(decoder))

    async def main() -> None:
        taken = 0
        decoder.is_open = n_taken > 0
        ticket = service.submit([1], config_of({"ignore_eos": True, "max_new_tokens": 60}))
        if not n_taken:
            decoder.arrive()
            return
        async for _ in ticket:
            taken += 1
            if taken == n_taken:
                break

    asyncio.run(main())
    decoder.open()
    wait_until(lambda: service.stats().n_done == 1, "the request does not end")
    assert decoder.pool.n_pages == 0
    service.close()


def test_a_loop_that_was_closed_around_its_task_ends_the_request_and_disturbs_nobody() -> None:
    decoder = GatedDecoder()
    service = Service(engine_of(decoder))
    left, stays = service.submit([1, 2], WRITE), service.submit([3], WRITE)
    decoder.arrive()
    loop = asyncio.new_event_loop()
    task = loop.create_task(events_of(left))
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(asyncio.shield(task), 0.02))
    loop.close()
    decoder.open()
    assert outcomes(list(stays)) == alone([3])
    service.close()
    assert service.stats()[:3] == (0, 0, 2)
    assert service.stats().n_tokens < 60
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert list(left) == []


def test_a_coroutine_that_waits_is_not_woken_in_vain() -> None:
    decoder = GatedDecoder()
    with Service(engine_of(decoder)) as service:

        async def main() -> float:
            ticket = service.submit([1], WRITE)
            reader = asyncio.create_task(events_of(ticket))
            await asyncio.sleep(0.01)
            before = time.thread_time()
            await asyncio.sleep(0.3)
            spent = time.thread_time() - before
            decoder.open()
            assert len(await reader) == 30
            return spent

        assert asyncio.run(main()) < 0.01


def test_threads_and_coroutines_read_side_by_side_and_one_ticket_goes_from_one_to_the_other() -> None:
    with Service(engine_of(FakeDecoder())) as service:
        ticket = service.submit([1, 2], WRITE)
        begin = [next(ticket) for _ in range(3)]

        async def next_five() -> list[StepEvent]:
            return [await anext(ticket) for _ in range(5)]

        middle = asyncio.run(next_five())
        end = [*asyncio.run(next_five()), *ticket]
    assert outcomes(begin + middle + end) == alone([1, 2])
    assert asyncio.run(events_of(ticket)) == []


def test_errors_arrive_in_coroutines() -> None:
    decoder = GatedDecoder()
    decoder.fail_at = 0
    service = Service(engine_of(decoder), max_waiting=1)

    async def main() -> None:
        ticket = service.submit([1], WRITE)
        with pytest.raises(QueueFull):
            service.submit([1], WRITE)
        decoder.open()
        with pytest.raises(FanlightError, match="request 0 ended: its forward pass raised"):
            await anext(ticket)
        with pytest.raises(StopAsyncIteration):
            await anext(ticket)

    asyncio.run(main())
    service.close()


def test_closing_a_ticket_wakes_the_task_that_reads_it() -> None:
    decoder = GatedDecoder()
    service = Service(engine_of(decoder))

    async def main() -> None:
        ticket = service.submit([1], WRITE)
        reader = asyncio.create_task(events_of(ticket))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(ticket.close)
        assert await asyncio.wait_for(reader, 10) == []

    asyncio.run(main())
    decoder.open()
    service.close()
