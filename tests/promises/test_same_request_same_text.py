"""Promise: prompt + settings + seed give the same tokens, and every recorded number to the last bit, on the real model.

With 1 thread or 2, alone or in a batch of 64 unequal prompts with settings of their own, prefilled at once or in chunks, with a
cache for all or too small for that, after others that begin alike or not, before others or sent back by them, with guesses or
without, looked at or not. (The engine alone, on a fake decoder: tests/engine.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.decoding.config import GenerationConfig
from fanlight.engine.loop import Engine
from fanlight.engine.request import Helpers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanlight import Model
    from fanlight.engine.request import StepEvent

LIGHTHOUSE = "The lighthouse at the end of the harbour was built when the town lived from herring and from wool. " * 5
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("The future of artificial intelligence is", {}),
    ("€", {"do_sample": True, "temperature": 1.5, "seed": 1, "ignore_eos": True}),
    (LIGHTHOUSE, {"do_sample": True, "top_p": 0.9, "top_k": 0, "seed": 2, "repetition_penalty": 1.1}),
    ("def quicksort(items):\n    if len(items) < 2:\n", {"repetition_penalty": 1.3}),
    ("Once upon a time", {"do_sample": True, "top_k": 7, "min_p": 0.02, "temperature": 0.7, "seed": 3}),
    ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24", {"max_new_tokens": 5}),
    ("Roses are red,", {"do_sample": True, "seed": 4, "stop_strings": ("\n", "the")}),
    (LIGHTHOUSE + "It is", {"do_sample": True, "seed": 5, "temperature": 0.3, "max_new_tokens": 14}),
    (LIGHTHOUSE[:300] + " quiet.", {"typical_p": 0.8, "do_sample": True, "seed": 6}),
]
GUESSES: list[dict[str, Any]] = [
    {},
    {"prompt_lookup_num_tokens": 8},
    {"assistant": True, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 2},
    {"assistant_early_exit": 20, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 3},
]
EXAMPLES = settings(max_examples=15, deadline=None)


class Outcome(NamedTuple):
    """All that a request gives."""

    ids: list[int | None]
    texts: list[str]
    stop: str
    records: list[Any]


def outcome(events: list[StepEvent]) -> Outcome:
    return Outcome(
        [event.id for event in events],
        [event.text for event in events],
        str(events[-1].stop),
        [event.decision and event.decision.record and replace(event.decision.record, guess=None) for event in events],
    )


def config_of(options: dict[str, Any], candidates: int = 20) -> GenerationConfig:
    return GenerationConfig.from_options({"max_new_tokens": 10, "candidates": candidates, **options})


CACHES = (None, "f32", "int8")


@pytest.fixture(scope="module")
def alone_with(smollm: Model) -> Iterator[dict[str | None, list[Outcome]]]:
    """By type of the cache, each request by itself, with one thread, recorded. The number of threads is put back at the end."""
    ops = smollm.decoder.ops
    before = ops.get_threads()
    ops.set_threads(1)
    found: dict[str | None, list[Outcome]] = {}
    for cache_type in CACHES:
        outcomes = found[cache_type] = []
        for prompt, options in REQUESTS:
            engine = smollm.engine(max_batch=1, prefix_bytes=0, cache_type=cache_type)
            engine.submit(smollm.prompt_ids(prompt), config_of(options))
            outcomes.append(outcome(engine.run()))
        assert len({tuple(each.ids) for each in outcomes}) == len(REQUESTS)
    assert found[None][0].records != found["f32"][0].records != found["int8"][0].records
    assert len(smollm.prompt_ids(LIGHTHOUSE)) > 100
    yield found
    ops.set_threads(before)


@pytest.fixture(scope="module")
def alone(alone_with: dict[str | None, list[Outcome]]) -> list[Outcome]:
    """With the model's own type of cache."""
    return alone_with[None]


@EXAMPLES
@given(
    order=st.permutations(range(len(REQUESTS))),
    n_requests=st.integers(1, len(REQUESTS)),
    threads=st.sampled_from([1, 2]),
    chunk=st.sampled_from([1, 7, 64, 100, 512]),
    max_batch=st.sampled_from([1, 3, 64]),
    n_pages=st.sampled_from([None, 4]),
    recorded=st.booleans(),
    delays=st.lists(st.integers(0, 3), max_size=len(REQUESTS)),
    prefix_bytes=st.sampled_from([0, 8 << 20, 256 << 20]),
    n_before=st.integers(0, 3),
    guesses=st.lists(st.sampled_from(GUESSES), min_size=len(REQUESTS), max_size=len(REQUESTS)),
    priorities=st.lists(st.integers(0, 1), min_size=len(REQUESTS), max_size=len(REQUESTS)),
    cache_type=st.sampled_from(CACHES),
)
def test_company_chunks_threads_cache_and_looking_change_nothing(
    smollm: Model,
    alone_with: dict[str | None, list[Outcome]],
    order: list[int],
    n_requests: int,
    threads: int,
    chunk: int,
    max_batch: int,
    n_pages: int | None,
    recorded: bool,
    delays: list[int],
    prefix_bytes: int,
    n_before: int,
    guesses: list[dict[str, Any]],
    priorities: list[int],
    cache_type: str | None,
) -> None:
    smollm.decoder.ops.set_threads(threads)
    tokenizer, page_bytes = smollm.tokenizer, smollm.engine(cache_type=cache_type).cache.pool.page_bytes
    engine = Engine(
        smollm.decoder,
        eos_ids=tokenizer.eos_ids,
        detokenizer_factory=tokenizer.detokenizer,
        prefill_chunk=chunk,
        max_batch=max_batch,
        max_cache_bytes=n_pages and n_pages * page_bytes,  # too few for all: some start again
        prefix_bytes=prefix_bytes,
        cache_type=cache_type,
    )
    for i in order[-n_before:] if n_before else ():  # what they leave behind is gone on from
        prompt, options = REQUESTS[i]
        engine.submit(smollm.prompt_ids(prompt), config_of(options, 0))
    engine.run()
    submitted, events = {}, []
    for n, i in enumerate(order[:n_requests]):
        prompt, options = REQUESTS[i]
        for _ in range(delays[n] if n < len(delays) else 0):  # others are on their way when it comes
            events += engine.step()
        guess = dict(guesses[n])
        helpers = Helpers(assistant=smollm.decoder) if guess.pop("assistant", None) else Helpers()
        config = config_of({**options, **guess}, 20 if recorded else 0)
        submitted[engine.submit(smollm.prompt_ids(prompt), config, helpers, priority=priorities[n]).id] = i
    events += engine.run()
    for request, i in submitted.items():
        mine, expected = [event for event in events if event.request_id == request], alone_with[cache_type][i]
        found = outcome(mine)
        assert found[:3] == expected[:3]
        if recorded:
            assert found.records == expected.records  # floats compared with ==
        else:
            assert set(found.records) == {None}
    assert engine.cache.pool.n_pages == engine.cache.n_kept


@pytest.mark.parametrize(("n", "threads"), [(64, 2), (29, 1)])
def test_a_crowd_changes_nothing(smollm: Model, alone: list[Outcome], n: int, threads: int) -> None:
    smollm.decoder.ops.set_threads(threads)
    engine = smollm.engine(max_batch=64)
    submitted = [
        engine.submit(smollm.prompt_ids(REQUESTS[i % len(REQUESTS)][0]), config_of(REQUESTS[i % len(REQUESTS)][1])).id
        for i in range(n)
    ]
    events = engine.run()
    for i, request in enumerate(submitted):
        assert outcome([event for event in events if event.request_id == request]) == alone[i % len(REQUESTS)]


@EXAMPLES
@given(
    i=st.integers(0, len(REQUESTS) - 1),
    candidates=st.sampled_from([0, 1, 20, 100_000]),
    threads=st.sampled_from([1, 2]),
)
def test_generate_gives_the_same_as_the_engine(
    smollm: Model, alone: list[Outcome], i: int, candidates: int, threads: int
) -> None:
    smollm.decoder.ops.set_threads(threads)
    prompt, options = REQUESTS[i]
    out = smollm.generate(prompt, config_of(options, candidates))
    assert list(out.ids) == alone[i].ids
    assert [step.text for step in out.steps] == alone[i].texts
    if candidates == 20:
        assert [step.record for step in out.steps] == alone[i].records
    elif candidates:
        for step, record in zip(out.steps, alone[i].records, strict=True):
            assert (step.record.raw, step.record.final) == (record.raw, record.final)
            assert (step.record.raw_rank, step.record.margin) == (record.raw_rank, record.margin)


def test_logits_are_those_that_generation_saw(smollm: Model, alone: list[Outcome]) -> None:
    """One pass over prompt and answer together gives, to the last bit, what each step had."""
    for (prompt, _), found in zip(REQUESTS[:4], alone, strict=False):
        prompt_ids = smollm.prompt_ids(prompt)
        logits = smollm.logits([*prompt_ids, *found.ids[:-1]])[len(prompt_ids) - 1 :]
        for row, record in zip(logits, found.records, strict=True):
            assert row[list(record.candidate_ids)].tolist() == list(record.raw_logits)
