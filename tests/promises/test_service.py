"""A model that many ask at once, through its thread: steps, texts, and the same as alone. On the real model."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.errors import ContextOverflow, FanlightError, OptionError
from fanlight.jobs import Job

if TYPE_CHECKING:
    from fanlight import Generation, Model

PROMPTS: list[tuple[Any, dict[str, Any]]] = [
    ("The capital of France is", {"max_new_tokens": 6}),
    ("Once upon a time", {"max_new_tokens": 9, "do_sample": True, "seed": 4, "top_p": 0.9}),
    ([{"role": "user", "content": "Say hello."}], {"max_new_tokens": 7}),
    ("Roses are red,", {"max_new_tokens": 8, "num_beams": 2}),
    ("1 2 3 1 2 3 1 2", {"max_new_tokens": 12, "prompt_lookup_num_tokens": 6}),
]


def alone(model: Model, prompt: Any, options: dict[str, Any]) -> Generation:
    return model.chat(prompt, **options) if isinstance(prompt, list) else model.generate(prompt, **options)


def facts(out: Generation) -> Any:
    return out.text, out.ids, str(out.stop), [step.text for step in out.steps], out.seed if out.config.samples else 0


def test_many_threads_get_what_they_get_alone(smollm: Model) -> None:
    expected = [facts(alone(smollm, *request)) for request in PROMPTS]
    found: list[Any] = [None] * len(PROMPTS)
    with smollm.service(max_batch=3) as service:

        def ask(i: int) -> None:
            prompt, options = PROMPTS[i]
            found[i] = facts(service.generate(prompt, **options))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected


def test_coroutines_get_steps_and_texts(smollm: Model) -> None:
    expected = [facts(alone(smollm, *request)) for request in PROMPTS]

    async def ask() -> list[Any]:
        with smollm.service() as service:
            streams = [service.stream(prompt, **options) for prompt, options in PROMPTS]
            first = [step.text async for step in streams[0]]
            others = await asyncio.gather(*streams[1:])
        assert "".join(first) == "".join(expected[0][3])
        return [facts(streams[0].result()), *map(facts, others)]

    assert asyncio.run(ask()) == expected


def test_a_text_that_is_cancelled_keeps_what_it_had_and_says_so(smollm: Model) -> None:
    with smollm.service() as service:
        stream = service.stream("Once upon a time", max_new_tokens=400, ignore_eos=True)
        begun = [next(stream), next(stream)]
        stream.cancel()
        out = stream.result()
    assert str(out.stop) == "the request was cancelled"
    assert out.steps[:2] == tuple(begun)
    assert len(out.steps) < 400


def test_mistakes_show_at_once_and_a_closed_service_says_that_it_is(smollm: Model) -> None:
    with smollm.service() as service:
        with pytest.raises(OptionError, match="temprature"):
            service.stream("Hello", temprature=1)
        with pytest.raises(ContextOverflow):
            service.stream([1] * 10_000)
    with pytest.raises(FanlightError, match="closed"):
        service.stream("Hello")


def test_many_jobs_in_one_loop_are_what_each_is_alone(smollm: Model) -> None:
    jobs = [Job(i, prompt, smollm.settings(**options)) for i, (prompt, options) in enumerate(PROMPTS)]
    jobs.insert(2, Job("long", [1] * 10_000, smollm.settings()))
    found = {outcome.key: outcome for outcome in smollm.generate_each(iter(jobs), max_batch=2)}
    assert isinstance(found["long"].error, ContextOverflow)
    for i, request in enumerate(PROMPTS):
        generation = found[i].generation
        assert generation is not None
        assert facts(generation) == facts(alone(smollm, *request))


def test_jobs_are_taken_as_there_is_room_for_them(smollm: Model) -> None:
    taken = []

    def jobs() -> Any:
        for i in range(12):
            taken.append(i)
            yield Job(i, "The", smollm.settings(max_new_tokens=2))

    outcomes = smollm.generate_each(jobs(), max_batch=2)
    next(outcomes)
    assert len(taken) <= 5
    outcomes.close()  # type: ignore[attr-defined]
    assert len(taken) <= 5
    assert smollm.generate("The", max_new_tokens=2).ids  # the engine is in order


def test_many_prompts_come_back_in_order(smollm: Model) -> None:
    prompts = ["The capital of France is", [1, 2, 3], "Hello"]
    found = smollm.generate_many(prompts, max_new_tokens=3, max_batch=2)
    assert [out.ids for out in found] == [smollm.generate(prompt, max_new_tokens=3).ids for prompt in prompts]
    with pytest.raises(ContextOverflow):
        smollm.generate_many(["Hello", [1] * 10_000], max_new_tokens=3)


def test_a_given_text_is_accounted_for_as_if_it_had_been_written(smollm: Model) -> None:
    out = smollm.generate("The capital of France is", max_new_tokens=6, candidates=5)
    job = Job(0, "The capital of France is", smollm.settings(candidates=5), given=out.ids)
    (outcome,) = smollm.generate_each([job])
    scored = outcome.generation
    assert scored is not None
    assert scored.ids == out.ids
    assert str(scored.stop) == "the given text ends after 6 tokens"
    assert [step.record.raw_logits for step in scored.steps] == [step.record.raw_logits for step in out.steps]
    with pytest.raises(OptionError, match="stop_strings cannot be combined with a given text"):
        raise (
            next(smollm.generate_each([Job(0, "a", smollm.settings(stop_strings="x"), given=[1])])).error
            or OptionError()
        )
