"""Requests that begin alike pay for it once: how much is computed, and that no text is another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder
from fakes.runs import assert_all_free, config_of, engine_of, outcomes
from fanlight.engine.request import Helpers, Usage

if TYPE_CHECKING:
    from fanlight.engine.loop import Engine
    from fanlight.engine.request import StepEvent

PAGE_TOKENS = 4
COMMON = list(range(100, 121))  # 21 ids: five pages and one


def engine(**options: Any) -> Engine:
    sizes = {"n_ctx": options.pop("n_ctx", 60), "page_tokens": PAGE_TOKENS}
    return engine_of(FakeDecoder(**sizes), **{"prefix_bytes": 10_000, **options})


def ask(one: Engine, prompt: list[int], n_new: int = 3, **options: Any) -> int:
    return one.submit(prompt, config_of({"max_new_tokens": n_new, "ignore_eos": True, **options})).id


def usage(events: list[StepEvent], request: int) -> Usage:
    found = next(event.usage for event in events if event.request_id == request and event.ends_request)
    assert found is not None
    return found


def texts(events: list[StepEvent]) -> dict[int, list[int | None]]:
    return {r: [e.id for e in events if e.request_id == r] for r in {event.request_id for event in events}}


def test_the_second_request_computes_what_is_new_of_it() -> None:
    one = engine()
    first = ask(one, [*COMMON, 1, 2])
    events = one.run()
    second = ask(one, [*COMMON, 3, 4, 5])
    events += one.run()
    assert usage(events, first) == Usage(0, 25)
    assert usage(events, second) == Usage(21, 5)


def test_requests_that_come_together_wait_for_the_one_that_computes_what_they_share() -> None:
    one = engine(prefill_chunk=11)
    requests = [ask(one, [*COMMON, n]) for n in range(5)]
    events = one.run()
    assert [usage(events, request) for request in requests] == [Usage(0, 24)] + [Usage(21, 3)] * 4


def test_eight_settings_on_one_prompt_compute_it_once() -> None:
    one = engine()
    requests = [ask(one, COMMON, do_sample=True, temperature=0.5 + n / 10, seed=n) for n in range(8)]
    events = one.run()
    assert [usage(events, request) for request in requests] == [Usage(0, 23)] + [Usage(20, 3)] * 7
    assert len(one.decoder.passes) == 2 + 2  # type: ignore[attr-defined]


def test_a_chat_goes_on_from_its_last_turn() -> None:
    one = engine()
    first = ask(one, COMMON, n_new=6)
    events = one.run()
    turn = [*COMMON, *(token for token in texts(events)[first] if token is not None)]
    second = ask(one, [*turn, 7, 8])
    events += one.run()
    assert usage(events, second) == Usage(26, 5)  # all but the last token, which nothing was computed of


def test_a_branch_from_the_middle_of_a_text_computes_from_there() -> None:
    one = engine()
    first = ask(one, COMMON, n_new=9)
    events = one.run()
    text = [token for token in texts(events)[first] if token is not None]
    second = ask(one, [*COMMON, *text[:4], 3])
    events += one.run()
    assert usage(events, second) == Usage(25, 3)


def test_several_texts_of_one_request_compute_the_prompt_once() -> None:
    one = engine()
    request = ask(one, COMMON, do_sample=True, num_return_sequences=5, seed=1)
    assert usage(one.run(), request) == Usage(0, 21 + 5 * 2)


def test_a_request_that_wants_every_state_computes_everything() -> None:
    one = engine()
    ask(one, COMMON)
    one.run()
    request = ask(one, COMMON, penalty_alpha=0.6, top_k=3)
    assert usage(one.run(), request).n_reused == 0


def test_what_only_the_first_layers_computed_is_no_ones_beginning() -> None:
    """The fake decoder notices when a deeper pass reads such a position."""
    one, plain = engine(), engine(prefix_bytes=0)
    for prompt in (COMMON, [*COMMON, 3], [*COMMON, 3, 3]):
        options = {"n_new": 7, "assistant_early_exit": 1}
        ask(one, prompt, **options)
        ask(plain, prompt, **options)
        assert list(texts(one.run()).values()) == list(texts(plain.run()).values())


def test_a_request_that_was_sent_back_finds_what_it_had() -> None:
    one = engine(max_batch=1)
    low = one.submit(COMMON, config_of({"max_new_tokens": 9, "ignore_eos": True}))
    events = one.step() + one.step() + one.step()
    one.submit([5, 6], config_of({"max_new_tokens": 2}), priority=1)
    events += one.run()
    assert usage(events, low.id) == Usage(0, 29 + 2)  # of 23, the prompt is found again


def test_an_assistant_shares_beginnings_too() -> None:
    assistant = FakeDecoder(n_ctx=60, page_tokens=3)
    one = engine()
    found = []
    for _ in range(2):
        request = one.submit(COMMON, config_of({"max_new_tokens": 5, "ignore_eos": True}), Helpers(assistant=assistant))
        found.append(usage(one.run(), request.id))
    assert found[0].n_reused == 0
    assert found[1].n_reused == 20 + 22  # the assistant is asked when two tokens are chosen
    assert found[1].n_computed < found[0].n_computed - 30


def test_helpers_are_forgotten_between_calls() -> None:
    one = engine()
    one.submit(COMMON, config_of({}), Helpers(assistant=FakeDecoder(n_ctx=60)))
    one.run()
    assert len(one._lanes) == 2
    one.drop_helpers()
    assert len(one._lanes) == 1


def test_a_pass_that_fails_leaves_nothing_that_others_would_go_on_from() -> None:
    one = engine()
    decoder = one.decoder
    forward = decoder.forward

    def failing(*arguments: Any) -> Any:
        forward(*arguments)
        raise MemoryError("the machine is full")

    decoder.forward = failing  # type: ignore[method-assign]
    request = ask(one, COMMON)
    with pytest.raises(MemoryError):
        one.step()
    decoder.forward = forward  # type: ignore[method-assign]
    (event,) = one.step()
    assert event.request_id == request
    assert event.error is not None
    again = ask(one, COMMON)
    assert usage(one.run(), again).n_reused == 0
    assert_all_free(one)


# -- any texts, any order ------------------------------------------------------------------------------------------------

ALIKE = st.lists(st.integers(0, 1), min_size=1, max_size=24).map(lambda ids: [97 + i for i in ids])
KINDS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "num_return_sequences": 3},
    {"num_beams": 3},
    {"penalty_alpha": 0.6, "top_k": 3},
    {"prompt_lookup_num_tokens": 4},
    {"assistant_early_exit": 2},
    {"guidance_scale": 2.0},
    {"dola_layers": "high"},
    {"output_hidden_states": True},
]


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(ALIKE, st.sampled_from(KINDS), st.integers(0, 4)), min_size=1, max_size=7),
    prefix_bytes=st.sampled_from([100, 500, 10_000]),
    n_pages=st.sampled_from([None, 0, 4]),
    prefill_chunk=st.sampled_from([1, 5, 512]),
    max_batch=st.sampled_from([1, 3, 64]),
)
def test_beginnings_that_are_shared_change_no_text(
    requests: list[tuple[list[int], dict[str, Any], int]],
    prefix_bytes: int,
    n_pages: int | None,
    prefill_chunk: int,
    max_batch: int,
) -> None:
    limit = None if n_pages is None else (60 // PAGE_TOKENS + n_pages) * 100
    sizes = {"prefill_chunk": prefill_chunk, "max_batch": max_batch, "max_cache_bytes": limit}
    one = engine(prefix_bytes=prefix_bytes, **sizes)
    submitted, events = [], []
    for prompt, kind, delay in requests:
        submitted.append(one.submit(prompt, config_of({"max_new_tokens": 6, "seed": 3, **kind})).id)
        events += [event for _ in range(delay) for event in one.step()]
    n_steps = 0
    while one.has_work:
        events += one.step()
        n_steps += 1
        assert n_steps < 5000, "the requests wait for each other"
        assert limit is None or one.cache.pool.n_pages * 100 <= limit
    for request, (prompt, kind, _) in zip(submitted, requests, strict=True):
        mine = [event for event in events if event.request_id == request]
        alone = engine(prefix_bytes=0)
        alone.submit(prompt, config_of({"max_new_tokens": 6, "seed": 3, **kind}))
        assert outcomes(mine) == outcomes(alone.run())
    assert_all_free(one)
