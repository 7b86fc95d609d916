"""How the engine's thread ends, and what it survives: closing, passes that raise, its own faults, forks, the process's end."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.gated import GatedDecoder, wait_until
from fakes.runs import assert_all_free, config_of, engine_of, generate, outcomes
from fanlight.decoding.stopping import StopReason
from fanlight.engine.service import Service
from fanlight.errors import FanlightError, NumericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.engine.service import Ticket

OPTIONS: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 30}
WRITE = config_of(OPTIONS)
CLOSED = "the service is closed: it takes no more requests"


def busy(n: int = 4) -> tuple[GatedDecoder, Service, list[Ticket]]:
    """A service in its second pass, with one request that runs, the others waiting or running."""
    decoder = GatedDecoder()
    service = Service(engine_of(decoder, max_batch=2))
    tickets = [service.submit([1 + i, 2], WRITE) for i in range(n)]
    decoder.arrive()
    decoder.let()
    return decoder, service, tickets


def has_thread(service: Service) -> bool:
    thread = service._worker._thread
    return thread is not None and thread.is_alive()


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closing_waits_for_all_to_finish() -> None:
    decoder, service, tickets = busy()
    closing = threading.Thread(target=service.close)
    closing.start()
    wait_until(lambda: not service.is_open, "the service is not closed")
    with pytest.raises(FanlightError, match=CLOSED):
        service.submit([1], WRITE)
    assert has_thread(service)
    decoder.open()
    closing.join(timeout=60)
    assert not has_thread(service)
    for i, ticket in enumerate(tickets):
        assert outcomes(list(ticket)) == generate(engine_of(FakeDecoder()), [1 + i, 2], OPTIONS)
    assert_all_free(service._engine)
    service.close()
    service.close(wait=False)


def test_closing_without_waiting_cancels_all() -> None:
    decoder, service, tickets = busy()
    service.close(wait=False)
    assert not service.is_open
    assert has_thread(service)  # it is in a pass
    decoder.open()
    service.close()
    assert not has_thread(service)
    assert len(decoder.passes) == 2
    for ticket in tickets:
        *_, end = ticket
        assert end.stop is not None
        assert end.stop.reason is StopReason.CANCELLED
    assert_all_free(service._engine)
    with pytest.raises(FanlightError, match=CLOSED):
        service.submit([1])
    assert service.stats()[:3] == (0, 0, 4)


def test_who_waits_for_the_end_can_be_overtaken() -> None:
    decoder, service, tickets = busy()
    closing = threading.Thread(target=service.close)
    closing.start()
    wait_until(lambda: not service.is_open, "the service is not closed")
    service.close(wait=False)
    decoder.open()
    closing.join(timeout=60)
    assert not has_thread(service)
    assert len(decoder.passes) == 2
    assert [list(ticket)[-1].ends_request for ticket in tickets] == [True] * 4


def test_leaving_the_block_waits_and_an_exception_in_it_cancels() -> None:
    decoder = FakeDecoder()
    with Service(engine_of(decoder)) as service:
        ticket = service.submit([1], WRITE)
    assert not has_thread(service)
    assert len(list(ticket)) == 30
    gated, failing, tickets = busy()
    threading.Timer(0.05, gated.open).start()
    with pytest.raises(ZeroDivisionError), failing:
        _ = 1 // 0
    assert not has_thread(failing)
    assert len(gated.passes) == 2
    assert [list(ticket)[-1].stop.reason for ticket in tickets] == [StopReason.CANCELLED] * 4  # type: ignore[union-attr]


def test_what_is_being_checked_when_the_service_closes_is_refused() -> None:
    service = Service(engine_of(FakeDecoder()))
    prepare = service._engine.prepare

    def close_meanwhile(*args: Any, **options: Any) -> Any:
        service.close()
        return prepare(*args, **options)

    service._engine.prepare = close_meanwhile  # type: ignore[method-assign]
    with pytest.raises(FanlightError, match=CLOSED):
        service.submit([1], WRITE)
    assert service.stats()[:3] == (0, 0, 0)


def test_a_service_may_be_closed_from_its_own_thread() -> None:
    service = Service(engine_of(FakeDecoder()))

    def enough(ids: Sequence[int], text: str) -> bool:
        service.close()
        return len(ids) >= 4

    ticket = service.submit([1], config_of({**OPTIONS, "stopping_criteria": [enough]}))
    assert len(list(ticket)) == 3
    service.close()
    assert not has_thread(service)


def test_waiting_in_the_engines_thread_for_the_engine_is_refused() -> None:
    service = Service(engine_of(FakeDecoder()))
    caught: list[FanlightError] = []

    def ask(ids: Sequence[int], text: str) -> bool:
        first, second = service.submit([2], WRITE), service.submit([2], WRITE)
        for wait in (lambda: next(first), lambda: second.request):
            with pytest.raises(FanlightError, match="waits for a request of the same engine") as error:
                wait()
            caught.append(error.value)
        return True

    assert len(list(service.submit([1], config_of({**OPTIONS, "stopping_criteria": [ask]})))) == 1
    service.close()
    assert len(caught) == 2


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_pass_that_raises_ends_those_in_it_and_the_others_go_on() -> None:
    decoder, service, tickets = busy(5)
    decoder.fail_at = 1
    decoder.open()
    for ticket in tickets[:2]:
        with pytest.raises(FanlightError, match=r"ended: its forward pass raised RuntimeError\('the fake") as error:
            list(ticket)
        assert isinstance(error.value.__cause__, RuntimeError)
        assert list(ticket) == []
    for i, ticket in enumerate(tickets[2:], 2):
        assert outcomes(list(ticket)) == generate(engine_of(FakeDecoder()), [1 + i, 2], OPTIONS)
    assert service.is_open
    assert len(list(service.submit([9], WRITE))) == 30
    service.close()
    assert_all_free(service._engine)


def test_everybody_hears_of_passes_that_all_raise_even_while_others_come() -> None:
    class Broken(FakeDecoder):
        def forward(self, *args: Any) -> Any:
            tickets.append(service.submit([3], WRITE))  # there is always one more when the next pass begins
            raise MemoryError("no room")

    tickets: list[Ticket] = []
    service = Service(engine_of(Broken(), max_batch=2))
    first = [service.submit([1, 2], WRITE) for _ in range(5)]
    for ticket in first:
        with pytest.raises(FanlightError, match=r"its forward pass raised MemoryError\('no room'\)"):
            list(ticket)
    assert service.is_open
    service.close(wait=False)
    with pytest.raises(FanlightError, match=CLOSED):
        service.submit([4])
    service.close()
    assert_all_free(service._engine)
    assert tickets
    for ticket in tickets:
        with contextlib.suppress(FanlightError):
            assert [event.stop.reason for event in ticket if event.stop] == [StopReason.CANCELLED]


def test_a_damaged_row_is_raised_by_its_own_ticket() -> None:
    def logits_of(history: Sequence[int]) -> Any:
        logits = hashed_logits(history)
        if history[0] == 7 and len(history) >= 3:
            logits[5] = math.nan
        return logits

    with Service(engine_of(FakeDecoder(logits_of=logits_of))) as service:
        bad, good = service.submit([7, 8], WRITE), service.submit([9, 8], WRITE)
        assert next(bad).index == 0
        with pytest.raises(NumericError, match="request 0, position 3"):
            next(bad)
        assert outcomes(list(good)) == generate(engine_of(FakeDecoder(logits_of=logits_of)), [9, 8], OPTIONS)


def test_an_engine_that_only_raises_is_given_up_and_everybody_is_told() -> None:
    decoder, service, tickets = busy()
    waiting: list[Any] = []

    def step() -> Any:
        raise RuntimeError("out of order")

    service._engine.step = step  # type: ignore[method-assign]

    def wait() -> None:
        with pytest.raises(FanlightError, match="the engine's thread has ended") as caught:
            list(tickets[3])
        waiting.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    decoder.open()
    for ticket in tickets[:3]:
        with pytest.raises(
            FanlightError, match=r"the engine's thread has ended: RuntimeError\('out of order'\)"
        ) as error:
            list(ticket)
        assert isinstance(error.value.__cause__, RuntimeError)
        assert list(ticket) == []
    thread.join(timeout=60)
    assert len(waiting) == 1
    with pytest.raises(FanlightError, match="the engine's thread has ended: RuntimeError"):
        service.submit([1])
    assert not service.is_open
    assert service.stats()[:2] == (0, 0)
    assert decoder.pool.n_pages == 0
    service.close()


def test_a_function_of_a_request_that_ends_its_thread_is_told_to_everybody() -> None:
    def leave(ids: Sequence[int], text: str) -> bool:
        sys.exit("enough")

    service = Service(engine_of(FakeDecoder()))
    with pytest.raises(FanlightError, match="enough"):
        list(service.submit([1], config_of({**OPTIONS, "stopping_criteria": [leave]})))
    service.close()


def test_a_request_that_the_engine_loses_ends_with_an_error() -> None:
    service = Service(engine_of(FakeDecoder()))
    admit = service._engine.admit

    def lose(ready: Any) -> Any:
        request = admit(ready)
        service._engine.drop(request)
        return request

    service._engine.admit = lose  # type: ignore[method-assign]
    ticket = service.submit([1], WRITE)
    with pytest.raises(FanlightError, match="the engine has lost this request"):
        list(ticket)
    service._engine.admit = admit  # type: ignore[method-assign]
    assert len(list(service.submit([1], WRITE))) == 30
    service.close()


def test_a_fault_on_admission_is_told_to_its_request_alone() -> None:
    service = Service(engine_of(FakeDecoder()))
    admit = service._engine.admit

    def fail(ready: Any) -> Any:
        raise KeyError("fault")

    service._engine.admit = fail  # type: ignore[method-assign]
    with pytest.raises(
        FanlightError, match=r"the request could not begin, by a fault of fanlight: KeyError\('fault'\)"
    ):
        list(service.submit([1], WRITE))
    service._engine.admit = admit  # type: ignore[method-assign]
    assert len(list(service.submit([1], WRITE))) == 30
    service.close()


# -- processes --------------------------------------------------------------------------------------------------------

START = """
import atexit, gc, os, sys, threading, time
at_last = []  # called when all that was registered later has been
atexit.register(lambda: [function() for function in at_last])
from fakes.decoder import FakeDecoder
from fakes.runs import config_of, engine_of
from fanlight.engine.service import Service
from fanlight.errors import FanlightError
service = Service(engine_of(FakeDecoder(n_ctx=2000)))
def submit(n=10, **options):
    return service.submit([1, 2], config_of({"ignore_eos": True, "max_new_tokens": n, **options}))
assert len(list(submit())) == 10
"""

ENDINGS = {
    "idle": "",
    "with a request running": "ticket = submit(1900); next(ticket)",
    "with many waiting": "tickets = [submit(1900) for _ in range(200)]",
    "with a daemon thread reading": """
threading.Thread(target=lambda: list(submit(1900)), daemon=True).start()
time.sleep(0.05)
""",
    "with a thread that goes on reading": """
def read():
    assert len(list(submit(100))) == 100
threading.Thread(target=read).start()
""",
    "in the middle of reading": "for _ in submit(1900): sys.exit(0)",
    "while a pass does not end": """
service._engine.decoder.forward = lambda *args: time.sleep(1000)
ticket = submit()
""",
    "with everything in a cycle": "service.me = service; t = submit(1900); t.me = t; del t, service; gc.collect()",
}


def run(source: str, printed: str = "") -> None:
    """It must end well within its time, and print nothing else."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    found = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", path + START + source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr, found.stdout) == (0, "", printed)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_well(ending: str) -> None:
    run(ENDINGS[ending])


def test_the_thread_has_ended_before_the_interpreter_does() -> None:
    run(
        """
ticket = submit(1900)
next(ticket)
thread, = [thread for thread in threading.enumerate() if thread.name == "fanlight-engine"]
at_last.append(lambda: print(thread.is_alive(), next(reversed(list(ticket))).stop))
""",
        "False the request was cancelled\n",
    )


def test_a_forked_child_is_told_to_make_its_own_and_leaves_the_parents_alone() -> None:
    run(
        """
ticket = submit(300)
next(ticket)
child = os.fork()
if child == 0:
    assert not service.is_open
    refused = 0
    for ask in (lambda: submit(), lambda: next(ticket), lambda: ticket.request, lambda: service.stats()):
        try:
            ask()
        except FanlightError as error:
            refused += "its thread did not come along into the forked process" in str(error)
    ticket.cancel(); ticket.close(); service.close()
    del ticket, service
    service = Service(engine_of(FakeDecoder()))
    assert len(list(submit())) == 10
    service.close()
    os._exit(0 if refused == 4 else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(list(ticket)) == 299
print("all")
""",
        "all\n",
    )


def test_children_forked_while_the_engine_works_end_like_others() -> None:
    run(
        """
tickets = [submit(150) for _ in range(5)]
for _ in range(5):
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
assert [len(list(ticket)) for ticket in tickets] == [150] * 5
print("all")
""",
        "all\n",
    )


def test_ctrl_c_in_a_wait_ends_the_request() -> None:
    run(
        """
import signal
engine = service._engine
forward = engine.decoder.forward
def slow(*args):
    time.sleep(0.01)
    return forward(*args)
engine.decoder.forward = slow
ticket = submit(1900)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    list(ticket)
except KeyboardInterrupt:
    print("stopped")
assert list(ticket) == []
service.close()
assert engine.cache.pool.n_pages == 0
""",
        "stopped\n",
    )
