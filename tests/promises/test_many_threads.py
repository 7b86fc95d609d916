"""Promise: a request gives the same from a service that many threads and coroutines ask at once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from fanlight.engine.service import Service
from fanlight.generation import Assembly

if TYPE_CHECKING:
    from fanlight import Generation, Model
    from fanlight.engine.service import Ticket

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("The lighthouse at the end of the harbour", {"seed": 3}),
    ("The lighthouse at the end of the harbour", {"do_sample": True, "seed": 7, "temperature": 0.9}),
    ("Once", {"do_sample": True, "seed": 1, "temperature": 1.3, "num_return_sequences": 3}),
    ("def quicksort(items):\n", {"seed": 4, "repetition_penalty": 1.2, "prompt_lookup_num_tokens": 4}),
    ("€ 20 für", {"do_sample": True, "seed": 2, "top_p": 0.8, "stop_strings": ("\n",)}),
    ("To be, or not to be", {"seed": 5, "num_beams": 3}),
]


def account(out: Generation) -> list[Any]:
    """All that must not differ by a bit."""
    return [
        (each.ids, each.text, each.stop, each.score, [step.record for step in each.steps], each.seed, each.prompt_ids)
        for each in out.all
    ]


def ask(service: Service, model: Model, i: int) -> Ticket:
    prompt, options = REQUESTS[i]
    return service.submit(model.prompt_ids(prompt), model.settings(max_new_tokens=14, **options))


def test_six_threads_at_once_each_get_what_they_get_alone(smollm: Model) -> None:
    alone = [account(smollm.generate(prompt, max_new_tokens=14, **options)) for prompt, options in REQUESTS]
    together = threading.Barrier(len(REQUESTS))
    found: list[Any] = [None] * len(REQUESTS)

    def run(i: int) -> None:
        together.wait()
        ticket = ask(service, smollm, i)
        assembly = Assembly(ticket.request, smollm.tokenizer)
        for event in ticket:
            assembly.add(event)
        found[i] = account(assembly.result())

    with Service(smollm.engine()) as service:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(REQUESTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == alone


def test_coroutines_get_the_same_while_others_are_cancelled(smollm: Model) -> None:
    alone = [account(smollm.generate(prompt, max_new_tokens=14, **options)) for prompt, options in REQUESTS[:3]]

    async def read(i: int) -> Any:
        ticket = ask(service, smollm, i)
        events = [event async for event in ticket]
        assembly = Assembly(ticket.request, smollm.tokenizer)
        for event in events:
            assembly.add(event)
        return account(assembly.result())

    async def main() -> list[Any]:
        others = [asyncio.create_task(read(i)) for i in (3, 4, 5)]
        readers = [asyncio.create_task(read(i)) for i in (0, 1, 2)]
        await asyncio.sleep(0.1)
        for other in others:
            other.cancel()
        return await asyncio.gather(*readers)

    with Service(smollm.engine()) as service:
        assert asyncio.run(main()) == alone
    assert service.stats()[:2] == (0, 0)
