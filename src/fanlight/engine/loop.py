"""The loop: schedule, forward, decide, emit. In: requests. Out: StepEvents. Knows decoders by models.base.Decoder.

`generate()` is this loop with one request in it; a server or a batch job is the same loop with many. An engine belongs
to one thread at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.step import StepSettings
from fanlight.decoding.stopping import CANCELLED, StopRules, stop_given, stop_max_new_tokens
from fanlight.decoding.strategies.base import AMATEUR, ASSISTANT, MAIN
from fanlight.decoding.strategies.choose import check_begin, check_given, start, strategy_of
from fanlight.engine.gate import Gate
from fanlight.engine.lane import Lane, Sizes
from fanlight.engine.output import Output
from fanlight.engine.pace import Pace
from fanlight.engine.preparing import Prepared, Preparer
from fanlight.engine.request import DetokenizerFactory, Helpers, Request, StepEvent, checked_ids, seed_of
from fanlight.engine.run import Run
from fanlight.engine.stream import EventStream
from fanlight.errors import ContextOverflow, FanlightError, OptionError

if TYPE_CHECKING:
    from fanlight.decoding.constraints import Vocabulary
    from fanlight.engine.scheduler import Work
    from fanlight.models.base import Decoder


PRIORITY_PASSES = 100
"""Passes that a step of priority is worth in the queue."""


class Ready(NamedTuple):
    """A request that was checked, with its constraint compiled."""

    prepared: Prepared
    config: GenerationConfig
    helpers: Helpers
    priority: int
    given: tuple[int, ...] | None
    begin: tuple[int, ...] = ()


class Engine:
    """Runs requests over one decoder. Same request, same tokens: alone or in a batch, any chunks, looked at or not."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        eos_ids: Iterable[int] = (),
        detokenizer_factory: DetokenizerFactory | None = None,
        token_label: Callable[[int], str] | None = None,
        token_text: Callable[[int], str] | None = None,
        vocabulary: Callable[[], Vocabulary] | None = None,
        prefill_chunk: int = 512,
        prefill_beside: int = 128,
        max_batch: int = 64,
        max_cache_bytes: int | None = None,
        prefix_bytes: int = 0,
        cache_type: str | None = None,
    ) -> None:
        """eos_ids: the model's own. detokenizer_factory: makes each request's ids-to-text stream; None: no text.

        token_label: a token as a word, for messages. token_text: its text, for settings that speak of texts. vocabulary: all
        tokens' bytes, for grammars. prefill_chunk: prompt tokens in one pass, prefill_beside: in one in which other texts grow.
        max_batch: sequences that run at once. max_cache_bytes limits the KV cache of this decoder, not of helpers: sequences
        then wait for each other, and the window may be shorter than the model's. prefix_bytes: what the beginnings of texts
        may keep in it, for requests that begin alike. cache_type: what keys and values are kept as, see CACHE_TYPES.

        Raises OptionError.
        """
        self.decoder = decoder
        self.ops = decoder.ops
        self._sizes = Sizes(
            prefill_chunk=prefill_chunk,
            prefill_beside=prefill_beside,
            max_batch=max_batch,
            max_cache_bytes=max_cache_bytes,
            prefix_bytes=prefix_bytes,
            cache_type=cache_type,
        )
        main = Lane(decoder, self._sizes)
        self._lanes: dict[int, Lane] = {id(decoder): main}
        self.cache, self.scheduler = main.cache, main.scheduler
        self.n_ctx = self.cache.n_ctx
        self.eos_ids = self._check_ids("eos_ids", eos_ids)
        self._preparer = Preparer(decoder, eos_ids=self.eos_ids, token_text=token_text, vocabulary=vocabulary)
        self._detokenizer_factory, self._token_label = detokenizer_factory, token_label
        self._n_requests = self._n_passes = self._n_paced = 0
        self.forward_seconds = self.deciding_seconds = 0.0
        """What all passes have taken: in models, and in choosing tokens."""
        self._is_ready = False  # whether a request has events that came without a pass
        self._gate = Gate(self._forget)
        self._live: dict[int, Run] = {}  # until the last event is handed out
        self._streams: dict[int, deque[StepEvent]] = {}

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt_ids: Iterable[int],
        config: GenerationConfig | None = None,
        helpers: Helpers | None = None,
        *,
        priority: int = 0,
        given: Iterable[int] | None = None,
        begin: Iterable[int] = (),
    ) -> Request:
        """Queue a request. helpers: other models that it wants beside this one. given: a text to take account of, instead of
        one to be written. begin: what its text begins with. priority: a request goes before those that came up to
        PRIORITY_PASSES passes earlier for each step of it, and may take their place; since that is all it does, nobody waits
        forever.

        Raises OptionError for ids that the model does not have and for settings that contradict each other, ContextOverflow
        for too many ids, and what a constraint raises that cannot be compiled.
        """
        return self.admit(self.prepare(prompt_ids, config, helpers, priority=priority, given=given, begin=begin))

    def prepare(
        self,
        prompt_ids: Iterable[int],
        config: GenerationConfig | None = None,
        helpers: Helpers | None = None,
        *,
        priority: int = 0,
        given: Iterable[int] | None = None,
        begin: Iterable[int] = (),
    ) -> Ready:
        """All of `submit` that may take a while or go wrong. May be called in any thread."""
        config, helpers = config or GenerationConfig(), helpers or Helpers()
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise OptionError(f"priority must be a whole number: got {priority!r:.80}")
        ids = self._check_ids("prompt_ids", prompt_ids)
        if not ids:
            raise OptionError(
                "prompt_ids is empty: give at least one id, such as the model's beginning-of-sequence token"
            )
        self._check_length("the prompt", len(ids))
        if config.stop_strings and self._detokenizer_factory is None:
            raise OptionError("stop_strings need text: give the engine a detokenizer_factory, or use eos_token_id")
        if config.negative_prompt_ids is not None:
            self._check_length(
                "the negative prompt", len(self._check_ids("negative_prompt_ids", config.negative_prompt_ids))
            )
        with_helpers = {"has_assistant": helpers.assistant is not None, "has_amateur": helpers.amateur is not None}
        strategy = strategy_of(config, **with_helpers)
        if config.negative_prompt is not None and config.negative_prompt_ids is None:
            raise OptionError(
                "negative_prompt is a text, which an engine cannot cut into tokens: give negative_prompt_ids"
            )
        for name, decoder in ((ASSISTANT, helpers.assistant), (AMATEUR, helpers.amateur)):
            if decoder is not None:
                self._check_vocabulary(name, decoder)
        text = None
        if given is not None:
            text = self._check_ids("given", given)
            check_given(config, strategy, text, len(ids), self.n_ctx, **with_helpers)
        beginning = self._check_ids("begin", begin)
        if beginning:
            check_begin(config, strategy, beginning, len(ids), self.n_ctx)
        return Ready(self._preparer.prepare(config, ids), config, helpers, priority, text, beginning)

    def admit(self, ready: Ready) -> Request:
        """Queue what `prepare` made. Raises OptionError or ContextOverflow where lengths do not fit together."""
        with self._gate:
            return self._admit(ready)

    def _admit(self, ready: Ready) -> Request:
        prepared, config, helpers, priority, given, begin = ready
        ids, eos_ids = prepared.ids, prepared.eos_ids
        request = Request(
            id=self._n_requests,
            prompt_ids=ids,
            config=config,
            seed=seed_of(config),
            helpers=helpers,
            priority=priority,
            given=given,
            begin=begin,
        )
        lanes = {MAIN: self._lanes[id(self.decoder)]}
        for name, decoder in ((ASSISTANT, helpers.assistant), (AMATEUR, helpers.amateur)):
            if decoder is not None:
                lanes[name] = self._lane(decoder)
        n_ctx, n_beside, whose = self._window(config, len(ids), lanes)
        new_tokens = config.new_tokens if given is None else len(given)
        rules = StopRules(
            eos_ids=frozenset() if config.ignore_eos or given is not None else frozenset(eos_ids),
            max_new_tokens=new_tokens,
            max_length=config.max_length if new_tokens is None else None,
            n_ctx=n_ctx,
            n_beside=n_beside,
            whose=whose,
            deadline=None if config.max_time is None else time.monotonic() + config.max_time,
            max_time=config.max_time,
            token_label=self._token_label,
        )
        if new_tokens is None and config.max_length is not None and len(ids) >= config.max_length:
            raise OptionError(
                f"the prompt has {len(ids)} tokens, max_length={config.max_length} leaves room for none; raise it"
            )
        is_limited = rules.max_new_tokens is not None or rules.max_length is not None
        around = self._preparer.surroundings(
            prepared,
            seed=request.seed,
            max_length=rules.longest(len(ids)) if is_limited else None,
            others=frozenset(lanes),
        )
        settings = [StepSettings.of(config, replace(around, seed=request.seed_of(i))) for i in range(request.n_outputs)]
        if begin:
            settings = [replace(each, begin=begin, n_prompt=len(ids)) for each in settings]
        run = Run(
            request,
            lanes=lanes,
            settings=settings,
            rules=rules,
            rank=(self._n_passes - priority * PRIORITY_PASSES, request.id),
            detokenizer_factory=self._detokenizer_factory,
        )
        put = run.events.append
        for i in range(request.n_outputs):
            detokenizer = self._detokenizer_factory(ids) if self._detokenizer_factory else None
            run.outputs.append(Output(request, i, rules=rules, detokenizer=detokenizer, put=put, skip=prepared.skip))
            if config.best_of > 1:
                run.outputs[i].score = 0.0
        self._n_requests += 1
        self._live[request.id] = run
        self._is_ready = True
        if new_tokens == 0:
            run.end(stop_max_new_tokens(0) if given is None else stop_given(0))
        else:
            forced = prepared.constraint.likely if prepared.constraint is not None else None
            guesses = (config.prompt_lookup_num_tokens, config.assistant_early_exit, helpers.assistant, forced)
            if any(each is not None for each in guesses):
                run.pace = Pace()
                self._n_paced += 1
            steps = start(
                run,
                settings,
                given=given,
                forced=forced,
                begin=begin,
                has_assistant=helpers.assistant is not None,
                has_amateur=helpers.amateur is not None,
            )
            run.begin(steps)
        return request

    def cancel(self, request: Request) -> None:
        """End a request now; its last event comes with the next step. Nothing happens if it has ended."""
        with self._gate:
            run = self._live.get(request.id)
            if run is not None and not run.ended:
                run.end(CANCELLED)
                self._is_ready = True

    @property
    def n_waiting(self) -> int:
        """Requests of which nothing is computed yet."""
        return sum(not run.n_computed and not run.ended for run in self._live.values())

    def is_live(self, request: Request) -> bool:
        """Whether its last event has not been handed out."""
        return request.id in self._live

    @property
    def is_idle(self) -> bool:
        """Whether no request is on its way."""
        return not self._live and not self._gate.leaving

    def drop_helpers(self) -> None:
        """Let go of other models, and what was computed by them. Only while no request is on its way."""
        assert self.is_idle, "drop_helpers() while a request is on its way"
        self._lanes = {id(self.decoder): self._lanes[id(self.decoder)]}

    @property
    def has_work(self) -> bool:
        """Whether a step would return or compute anything."""
        return any(run.events for run in self._live.values()) or any(
            lane.scheduler.has_work for lane in self._lanes.values()
        )

    # -- running ----------------------------------------------------------------------------------------------------

    def step(self) -> list[StepEvent]:
        """One forward pass of each model for all sequences that can advance, and the events of what was decided.

        A request whose logits are damaged ends with an event that has `error`. If the pass itself raises, so does this,
        and the requests in it end in the same way: `collect`, or the next step, hands out their events.
        """
        with self._gate:
            return self._step()

    def collect(self) -> list[StepEvent]:
        """The events that are there without another pass."""
        with self._gate:
            events = self._collect()
            self._hand_out(events)
            return events

    def _step(self) -> list[StepEvent]:
        events = self._collect() if self._is_ready else []
        self._n_passes += 1
        paced = [(run, run.n_new) for run in self._live.values() if run.pace is not None] if self._n_paced else []
        started, is_quiet, main = time.perf_counter(), True, self._lanes[id(self.decoder)]
        forward = 0.0
        for lane in tuple(self._lanes.values()):
            work: list[Work] = []
            try:
                work = lane.scheduler.plan()
                is_quiet = is_quiet and not (paced and lane is main and any(item.sequence.is_prompt for item in work))
                begun = time.perf_counter()
                done = lane.compute(work) if work else []
                forward += time.perf_counter() - begun
            except BaseException as error:
                self._fail_pass(
                    [item.sequence.run for item in work] or [s.run for s in lane.scheduler.next_up()], error
                )
                self._requeue(events)
                raise
            for sequence in done:
                if not sequence.closed and sequence.run.arrived(sequence):
                    sequence.run.advance()
        for run, n_before in paced:
            assert run.pace is not None
            run.pace.passed(time.perf_counter() - started, run.n_new - n_before, counts=is_quiet)
        events += self._collect()
        self._hand_out(events)
        self.forward_seconds += forward
        self.deciding_seconds += time.perf_counter() - started - forward
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

    def _collect(self) -> list[StepEvent]:
        events: list[StepEvent] = []
        self._is_ready = False
        for run in self._live.values():
            if not run.events:
                continue
            last = run.events[-1] if run.ended else None
            for event in run.events:
                if event is last:
                    events.append(event._replace(search=run.search, usage=run.usage))
                else:
                    events.append(event._replace(is_last=False) if event.stop is not None else event)
            run.events.clear()
        return events

    def _requeue(self, events: list[StepEvent]) -> None:
        self._is_ready = True
        for event in reversed(events):
            self._live[event.request_id].events.insert(0, event)

    def _fail_pass(self, runs: Iterable[Run], error: BaseException) -> None:
        """Nothing that these requests hold in the cache can be trusted."""
        self._is_ready = True
        for run in dict.fromkeys(runs):
            if not run.ended:
                failure = FanlightError(f"request {run.request.id} ended: its forward pass raised {error!r}")
                failure.__cause__ = error
                run.fail(failure)

    def _hand_out(self, events: list[StepEvent]) -> None:
        for event in events:
            if event.request_id in self._streams:
                self._streams[event.request_id].append(event)
            if event.ends_request:
                self._leave(event.request_id)

    def drop(self, request: Request, then: Callable[[], None] = lambda: None) -> None:
        """End a request that no one listens to any more: no event. Nothing happens if it has ended.

        From any thread, and from destructors, which may run anywhere: what is going on is let finish. then: called after that.
        """
        self._gate.leave(request, then)

    def _forget(self, request: Request) -> None:
        run = self._leave(request.id)
        if run is not None and not run.ended:
            run.finish()

    def _leave(self, request_id: int) -> Run | None:
        self._streams.pop(request_id, None)
        run = self._live.pop(request_id, None)
        if run is not None and run.pace is not None:
            self._n_paced -= 1
        return run

    # -- checks and preparations ------------------------------------------------------------------------------------

    def _lane(self, decoder: Decoder) -> Lane:
        if id(decoder) not in self._lanes:
            self._lanes[id(decoder)] = Lane(decoder, replace(self._sizes, cache_type=None, max_cache_bytes=None))
        return self._lanes[id(decoder)]

    def _check_vocabulary(self, name: str, decoder: Decoder) -> None:
        if decoder.config.n_vocab != self.decoder.config.n_vocab:
            raise OptionError(
                f"{name}: its vocabulary has {decoder.config.n_vocab} tokens, the model's {self.decoder.config.n_vocab}; "
                "it must be the same vocabulary"
            )

    def _check_ids(self, what: str, ids: Iterable[int]) -> tuple[int, ...]:
        return checked_ids(what, ids, self.decoder.config.n_vocab)

    def _check_length(self, what: str, n: int) -> None:
        if n > self.n_ctx:
            raise ContextOverflow(f"{what} has {n} tokens, the context window holds {self.n_ctx}; shorten the prompt")

    def _window(self, config: GenerationConfig, n_prompt: int, lanes: Mapping[str, Lane]) -> tuple[int, int, str]:
        """The window that is full first, as StopRules has it: of the text, or of what goes along with it."""
        windows = [(self.n_ctx, 0, "")]
        if config.guidance_scale != 1 and (config.processors is None or "guidance_scale" in config.processors):
            n_negative = len(config.negative_prompt_ids or (0,))
            windows.append((self.n_ctx, max(0, n_negative - n_prompt), " (the negative prompt's)"))
        if AMATEUR in lanes:
            n_ctx = lanes[AMATEUR].cache.n_ctx
            if n_prompt > n_ctx:
                raise ContextOverflow(f"the prompt has {n_prompt} tokens, the amateur's context window holds {n_ctx}")
            windows.append((n_ctx, 0, " (the amateur's)"))
        return min(windows, key=lambda window: window[0] - window[1])
