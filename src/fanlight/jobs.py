"""Many texts through one engine. In: jobs. Out: outcomes, in the order in which they end. Knows no checkpoint and no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import FanlightError, NumericError
from fanlight.generation import Assembly, Generation

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.engine.loop import Engine
    from fanlight.engine.request import Request
    from fanlight.text.tokenizer import AnyTokenizer
    from fanlight.tracing.recording import Recorder


class Job(NamedTuple):
    """One of many texts to write."""

    key: Hashable
    """What its Outcome is known by."""
    prompt: str | Sequence[int] | Sequence[Mapping[str, Any]]
    """A text, ids, or the messages of a chat."""
    config: GenerationConfig
    given: Sequence[int] | None = None
    """A text that is not chosen but given: the result is the account of it."""
    priority: int = 0
    """Of several that wait, the highest goes first."""
    assistant: Any = None
    amateur: Any = None
    """Other models, as for `Model.generate`."""
    trace: Any = None
    """As for `Model.generate`."""


class Outcome(NamedTuple):
    """What became of a Job: a text or an error."""

    key: Hashable
    generation: Generation | None
    error: FanlightError | None


def run_jobs(
    engine: Engine,
    jobs: Iterable[Job],
    submit: Callable[[Job], Request],
    tokenizer: AnyTokenizer,
    *,
    n_begun: int,
    notes: Callable[[Job], Sequence[str]] = lambda job: (),
    recorder_of: Callable[[Request], Recorder | None] = lambda request: None,
    explain: Callable[[NumericError], NumericError] = lambda error: error,
) -> Iterator[Outcome]:
    """Many jobs through one engine, at most n_begun at a time; outcomes in the order in which they end.

    recorder_of: what makes the trace of a request, if one is wanted. Jobs are taken as there is room for them. Errors of a
    job are its outcome; dropping the iterator ends all that are begun.
    """
    queue, more = iter(jobs), True
    begun: dict[int, tuple[Job, Assembly, Recorder | None, float]] = {}
    try:
        while more or begun:
            while more and len(begun) < n_begun:
                job = next(queue, None)
                if job is None:
                    more = False
                    break
                try:
                    request = submit(job)
                except FanlightError as error:
                    yield Outcome(job.key, None, error)
                    continue
                assembly, recorder = Assembly(request, tokenizer, notes(job)), recorder_of(request)
                if recorder is not None:
                    recorder.begin(engine)
                begun[request.id] = (job, assembly, recorder, time.perf_counter())
            try:
                events = engine.step() if begun else []
                assert events or engine.has_work or not begun, "requests that have not ended neither wait nor run"
            except Exception:  # of the model: the requests in the pass have ended, and their events say so
                events = engine.collect()
                if not events:
                    raise
            for event in events:
                job, assembly, recorder, started = begun[event.request_id]
                step = assembly.add(event) if event.error is None else None
                assembly.take_time(started)
                if step is not None and recorder is not None:
                    recorder.step(step, engine, assembly.result)
                if event.ends_request:
                    del begun[event.request_id]
                    fault = explain(event.error) if isinstance(event.error, NumericError) else event.error
                    yield _outcome(job, assembly, recorder, fault)
    finally:
        for _, assembly, _, _ in begun.values():
            engine.drop(assembly.request)


def _outcome(job: Job, assembly: Assembly, recorder: Recorder | None, fault: FanlightError | None) -> Outcome:
    found = assembly.result()
    if recorder is None:
        return Outcome(job.key, None if fault else found, fault)
    if fault is not None:
        recorder.fail(found, fault)
        return Outcome(job.key, None, fault)
    try:
        return Outcome(job.key, recorder.finish(found), None)
    except FanlightError as error:  # such as positions to look at that the text has not
        return Outcome(job.key, None, error)
