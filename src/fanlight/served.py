"""A model that many threads and coroutines ask at once: their texts grow in one loop. In: prompts. Out: steps and texts.

    with model.service(max_batch=16) as service:
        for step in service.stream("The capital of France is", max_new_tokens=5): ...     # in any thread
        out = await service.stream("Once upon a time", max_new_tokens=50)                   # in any coroutine

Knows no checkpoint and no terminal.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fanlight.errors import NumericError
from fanlight.generation import Assembly, Generation, Step

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.engine.request import Helpers, StepEvent
    from fanlight.engine.service import Service, Stats
    from fanlight.engine.ticket import Ticket
    from fanlight.text.tokenizer import AnyTokenizer

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
Prepare = Callable[[Any, Any, Mapping[str, Any]], "tuple[tuple[int, ...], GenerationConfig, Helpers, Sequence[str]]"]
"""Prompt, config, options -> ids, settings, other models, notes."""


class ModelService:
    """The thread-safe front of a model. What a request gives is what it gives alone."""

    def __init__(
        self,
        service: Service,
        prepare: Prepare,
        tokenizer: AnyTokenizer,
        explain: Callable[[NumericError], NumericError] = lambda error: error,
    ) -> None:
        """Made by `Model.service`. explain: says more of an error."""
        self._service, self._prepare, self._tokenizer, self._explain = service, prepare, tokenizer, explain

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, *, priority: int = 0, **options: Any
    ) -> ServedStream:
        """Queue a text; from any thread. The prompt is a text, ids, or the messages of a chat; the rest as for `Model.generate`.

        priority: see Engine.submit. Raises what `Model.generate` raises before it computes, and QueueFull. A grammar is compiled
        here: a coroutine that asks for one calls `await asyncio.to_thread(service.stream, ...)`.
        """
        ids, settings, helpers, notes = self._prepare(prompt, config, options)
        ticket = self._service.submit(ids, settings, helpers, priority=priority)
        return ServedStream(ticket, self._tokenizer, notes, self._explain)

    def generate(self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any) -> Generation:
        """The finished text of `stream`."""
        with self.stream(prompt, config, **options) as stream:
            return stream.result()

    def stats(self) -> Stats:
        """Numbers of the moment."""
        return self._service.stats()

    def close(self, *, wait: bool = True) -> None:
        """Take no more requests. wait: let those that are on their way finish; otherwise they are cancelled."""
        self._service.close(wait=wait)

    def __enter__(self) -> ModelService:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.close(wait=False)
        self.close()


class ServedStream(Iterator[Step], AsyncIterator[Step]):
    """One text's steps, for `for` and `async for`; `result()` and `await` give the finished text.

    Closing it, leaving its `with` block, dropping it, or cancelling the task that waits for it ends the request.
    """

    def __init__(
        self,
        ticket: Ticket,
        tokenizer: AnyTokenizer,
        notes: Sequence[str],
        explain: Callable[[NumericError], NumericError],
    ) -> None:
        self._ticket, self._tokenizer, self._notes, self._explain = ticket, tokenizer, tuple(notes), explain
        self._assembly: Assembly | None = None
        self._started = time.perf_counter()

    def _take(self, event: StepEvent) -> Step | None:
        if self._assembly is None:
            self._assembly = Assembly(self._ticket.request, self._tokenizer, self._notes)
        self._assembly.take_time(self._started)
        return self._assembly.add(event)

    def __next__(self) -> Step:
        while True:
            try:
                event = next(self._ticket)
            except NumericError as error:
                raise self._explain(error) from error
            step = self._take(event)
            if step is not None:
                return step

    def __aiter__(self) -> ServedStream:
        return self

    async def __anext__(self) -> Step:
        while True:
            try:
                event = await anext(self._ticket)
            except NumericError as error:
                raise self._explain(error) from error
            step = self._take(event)
            if step is not None:
                return step

    def result(self) -> Generation:
        """The finished text; what has not come yet is waited for, unless the stream was closed."""
        for _ in self:
            pass
        return self._result()

    def __await__(self) -> Generator[Any, None, Generation]:
        return self._finished().__await__()

    async def _finished(self) -> Generation:
        async for _ in self:
            pass
        return self._result()

    def _result(self) -> Generation:
        if self._assembly is None:
            self._assembly = Assembly(self._ticket.request, self._tokenizer, self._notes)
        return self._assembly.result()

    def cancel(self) -> None:
        """End the text; from any thread. What was decided before still comes, and the result says why it ended."""
        self._ticket.cancel()

    def close(self) -> None:
        """End the request and hear no more of it. May be called again."""
        self._ticket.close()

    def __enter__(self) -> ServedStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
