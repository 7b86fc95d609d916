"""The loop: schedule, forward, decide, emit. In: requests. Out: StepEvents. Knows decoders by models.base.Decoder.

`generate()` is this loop with one request in it; a server or a batch job is the same loop with many. An engine belongs
to one thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fanlight.cache.paged import PagedCache
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.step import StepSettings, decide
from fanlight.decoding.stopping import CANCELLED, Stop, StopRules, stop_max_new_tokens
from fanlight.engine.request import DetokenizerFactory, Request, Sequence, StepEvent, checked_ids, seed_of
from fanlight.engine.scheduler import Scheduler, Work
from fanlight.errors import ContextOverflow, FanlightError, NumericError, OptionError

if TYPE_CHECKING:
    from types import TracebackType

    from fanlight.kernels.ops import Tensor
    from fanlight.models.base import Decoder


class Engine:
    """Runs requests over one decoder. Same request, same tokens: alone or in a batch, any chunks, looked at or not."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        eos_ids: Iterable[int] = (),
        detokenizer_factory: DetokenizerFactory | None = None,
        prefill_chunk: int = 512,
        max_batch: int = 64,
        max_cache_bytes: int | None = None,
    ) -> None:
        """eos_ids: the model's own. detokenizer_factory: makes each request's ids-to-text stream; None: no text.

        prefill_chunk: prompt tokens in one pass. max_batch: sequences that run at once. max_cache_bytes limits the KV
        cache: sequences then wait for each other, and the window may be shorter than the model's. Raises OptionError.
        """
        self.decoder = decoder
        self.ops = decoder.ops
        self.cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx, max_cache_bytes)
        self.n_ctx = self.cache.n_ctx
        self.eos_ids = self._check_ids("eos_ids", eos_ids)
        self.scheduler = Scheduler(self.cache, prefill_chunk=prefill_chunk, max_batch=max_batch)
        self._detokenizer_factory = detokenizer_factory
        self._n_requests = 0
        self._live: dict[int, Sequence] = {}  # until the last event is handed out
        self._ready: list[StepEvent] = []  # events that need no forward pass
        self._streams: dict[int, deque[StepEvent]] = {}

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, prompt_ids: Iterable[int], config: GenerationConfig | None = None) -> Request:
        """Queue a request. Raises OptionError for ids that the model does not have, ContextOverflow for too many."""
        config = config or GenerationConfig()
        ids = self._check_ids("prompt_ids", prompt_ids)
        if not ids:
            raise OptionError(
                "prompt_ids is empty: give at least one id, such as the model's beginning-of-sequence token"
            )
        if len(ids) > self.n_ctx:
            raise ContextOverflow(
                f"the prompt has {len(ids)} tokens, the context window holds {self.n_ctx}; shorten the prompt"
            )
        if config.stop_strings and self._detokenizer_factory is None:
            raise OptionError("stop_strings need text: give the engine a detokenizer_factory, or use eos_token_id")
        eos_ids = self.eos_ids if config.eos_token_id is None else self._check_ids("eos_token_id", config.eos_token_id)
        seed = seed_of(config)
        request = Request(id=self._n_requests, prompt_ids=ids, config=config, seed=seed)
        sequence = Sequence(
            request,
            settings=StepSettings.of(config, seed=seed, eos_ids=eos_ids, ops=self.ops),
            rules=StopRules(
                eos_ids=frozenset() if config.ignore_eos else frozenset(eos_ids),
                max_new_tokens=config.max_new_tokens,
                n_ctx=self.n_ctx,
            ),
            slot=self.cache.open(),
            detokenizer=self._detokenizer_factory(ids) if self._detokenizer_factory else None,
        )
        self._n_requests += 1
        self._live[request.id] = sequence
        if config.max_new_tokens == 0:
            self._end_without_token(sequence, stop_max_new_tokens(0))
        else:
            self.scheduler.add(sequence)
        return request

    def cancel(self, request: Request) -> None:
        """End a request now; its last event comes with the next step. Nothing happens if it has ended."""
        sequence = self._live.get(request.id)
        if sequence is not None and not sequence.ended:
            self._end_without_token(sequence, CANCELLED)

    @property
    def has_work(self) -> bool:
        """Whether a step would return or compute anything."""
        return bool(self._ready) or self.scheduler.has_work

    # -- running ----------------------------------------------------------------------------------------------------

    def step(self) -> list[StepEvent]:
        """One forward pass for all sequences that can advance, and one event for each that chose a token.

        A request whose logits are damaged ends with an event that has `error`. If the pass itself raises, so does this,
        and the requests in it end in the same way: the next step hands out their events.
        """
        events, self._ready = self._ready, []
        work: list[Work] = []
        try:
            work = self.scheduler.plan()
            if work:
                self._advance(work, events)
        except BaseException as error:
            self._ready = events + self._fail_pass(work, error)
            raise
        self._hand_out(events)
        return events

    def run(self) -> list[StepEvent]:
        """Steps until no work is left; all events in order."""
        events = []
        while self.has_work:
            events += self.step()
        return events

    def stream(self, request: Request) -> EventStream:
        """This request's events as they come. Stepping for it advances all others too; their streams keep their events.

        Closing the stream ends the request. An event with an error is raised.
        """
        if request.id not in self._live:
            raise FanlightError(f"request {request.id} has ended; its events were returned by step()")
        if request.id in self._streams:
            raise FanlightError(f"request {request.id} has a stream already; use that one")
        events = self._streams[request.id] = deque()
        return EventStream(self, request, events)

    # -- inside a step ----------------------------------------------------------------------------------------------

    def _advance(self, work: list[Work], events: list[StepEvent]) -> None:
        ids: list[int] = []
        logit_rows: list[int] = []
        choosing: list[Sequence] = []
        for sequence, n_new in work:
            start = sequence.slot.length
            end = start + n_new
            ids += sequence.ids[start:end]
            if end == len(sequence.ids):
                logit_rows.append(len(ids) - 1)
                choosing.append(sequence)
        batch = self.cache.batch([(sequence.slot, n_new) for sequence, n_new in work])
        logits = self.decoder.forward(ids, batch, logit_rows)  # (len(logit_rows), n_vocab)
        for row, sequence in enumerate(choosing):
            events.append(self._choose(sequence, self.ops.row(logits, row)))

    def _choose(self, sequence: Sequence, logits: Tensor) -> StepEvent:
        try:
            decision = decide(sequence.ids, logits, sequence.settings)
        except NumericError as error:  # this row is damaged; the others are not
            where = f"request {sequence.request.id}, position {len(sequence.ids)}"
            return self._fail(sequence, NumericError(f"{where}: {error}"))
        token = decision.choice.id
        text, stop = sequence.append(token)
        if stop is not None:
            if decision.record is not None:
                decision = decision._replace(record=replace(decision.record, stop=stop))
            self._end(sequence)
        return StepEvent(sequence.request.id, sequence.n_new - 1, token, decision, text, stop)

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end(self, sequence: Sequence) -> None:
        sequence.ended = True
        self.scheduler.remove(sequence)

    def _fail(self, sequence: Sequence, error: FanlightError) -> StepEvent:
        self._end(sequence)
        return StepEvent(sequence.request.id, sequence.n_new, None, None, "", None, error)

    def _fail_pass(self, work: list[Work], error: BaseException) -> list[StepEvent]:
        """Nothing that these sequences hold in the cache can be trusted. No work: it was the plan that raised."""
        events = []
        for sequence in [item.sequence for item in work] or self.scheduler.next_up():
            if not sequence.ended:
                failure = FanlightError(f"request {sequence.request.id} ended: its forward pass raised {error!r}")
                failure.__cause__ = error
                events.append(self._fail(sequence, failure))
        return events

    def _end_without_token(self, sequence: Sequence, stop: Stop) -> None:
        self._end(sequence)
        self._ready.append(StepEvent(sequence.request.id, sequence.n_new, None, None, sequence.rest(), stop))

    def _hand_out(self, events: list[StepEvent]) -> None:
        for event in events:
            if event.request_id in self._streams:
                self._streams[event.request_id].append(event)
            if event.stop is not None or event.error is not None:
                self._live.pop(event.request_id, None)
                self._streams.pop(event.request_id, None)

    def _forget(self, request: Request) -> None:
        """End a request that no one listens to any more: no event."""
        self._streams.pop(request.id, None)
        sequence = self._live.pop(request.id, None)
        if sequence is not None:
            self._end(sequence)
            self._ready = [event for event in self._ready if event.request_id != request.id]

    def _check_ids(self, what: str, ids: Iterable[int]) -> tuple[int, ...]:
        return checked_ids(what, ids, self.decoder.config.n_vocab)


class EventStream(Iterator[StepEvent]):
    """One request's events. Closing it, leaving its `with` block or dropping it ends the request."""

    def __init__(self, engine: Engine, request: Request, events: deque[StepEvent]) -> None:
        self.request = request
        self._engine = engine
        self._events = events
        self._open = True

    def __next__(self) -> StepEvent:
        if not self._open:
            raise StopIteration
        try:
            while not self._events:
                assert self._engine.has_work, "a request that has not ended is neither waiting nor running"
                self._engine.step()
        except BaseException:
            self.close()
            raise
        event = self._events.popleft()
        if event.stop is not None or event.error is not None:
            self.close()
        if event.error is not None:
            raise event.error
        return event

    def close(self) -> None:
        """End the request if it has not ended. May be called again."""
        if self._open:
            self._open = False
            self._engine._forget(self.request)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
