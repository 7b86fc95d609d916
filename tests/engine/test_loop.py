"""The loop: what a request gets, how it ends, and that everything is freed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from fakes.decoder import FakeDecoder, hashed_logits, scripted_logits
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.sampler import Choice
from fanlight.decoding.step import Decision
from fanlight.decoding.stopping import StopReason
from fanlight.engine.loop import Engine
from fanlight.errors import ContextOverflow, FanlightError, NumericError, OptionError
from fanlight.text.stream import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fanlight.engine.request import Request, StepEvent

BOS, EOS = 256, 257


def detokenizer(_: tuple[int, ...]) -> Detokenizer:
    return Detokenizer(lambda token: bytes([token]), skip=(BOS, EOS))


def engine_of(decoder: FakeDecoder, **options: Any) -> Engine:
    return Engine(decoder, eos_ids=(EOS,), detokenizer_factory=detokenizer, **options)


def writer(script: Iterable[int], prompt_length: int = 1, **sizes: int) -> tuple[FakeDecoder, Engine]:
    """A decoder that greedily writes these ids, and an engine on it."""
    decoder = FakeDecoder(logits_of=scripted_logits(prompt_length, list(script)), **sizes)
    return decoder, engine_of(decoder)


def generate(engine: Engine, prompt_ids: Sequence[int] = (BOS,), **options: Any) -> list[StepEvent]:
    return list(engine.stream(engine.submit(prompt_ids, GenerationConfig.from_options(options))))


def ids_of(events: list[StepEvent]) -> list[int | None]:
    return [event.id for event in events]


def text_of(events: list[StepEvent]) -> str:
    return "".join(event.text for event in events)


def text_of_each(events: list[StepEvent]) -> dict[int, str]:
    return {n: text_of([event for event in events if event.request_id == n]) for n in {e.request_id for e in events}}


def end_of(events: list[StepEvent]) -> tuple[StopReason, str]:
    assert all(event.stop is None for event in events[:-1])
    stop = events[-1].stop
    assert stop is not None
    return stop.reason, str(stop)


# -- ends -----------------------------------------------------------------------------------------------------------


def test_an_end_of_sequence_token_is_an_id_but_no_text() -> None:
    decoder, engine = writer([*b"hi", EOS])
    events = generate(engine)
    assert ids_of(events) == [*b"hi", EOS]
    assert text_of(events) == "hi"
    assert end_of(events) == (StopReason.EOS, "stopped by end-of-sequence token <id 257> after 3 tokens")
    assert [event.index for event in events] == [0, 1, 2]
    assert len(decoder.passes) == 3


def test_the_last_token_is_not_computed_again() -> None:
    decoder, engine = writer(b"abcdef")
    events = generate(engine, [BOS], max_new_tokens=3)
    assert text_of(events) == "abc"
    assert end_of(events) == (StopReason.MAX_NEW_TOKENS, "cut off by max_new_tokens=3 in mid-sentence")
    assert [ids for ids, _ in decoder.passes] == [[BOS], [ord("a")], [ord("b")]]


def test_no_new_tokens_means_no_forward_pass() -> None:
    decoder, engine = writer(b"abc")
    events = generate(engine, max_new_tokens=0)
    assert [(event.id, event.text, event.decision) for event in events] == [(None, "", None)]
    assert end_of(events) == (StopReason.MAX_NEW_TOKENS, "cut off by max_new_tokens=0")
    assert decoder.passes == []
    assert not engine.has_work


def test_the_text_ends_before_a_stop_string() -> None:
    _, engine = writer(b"one. two. three")
    events = generate(engine, stop_strings=["two.", ". three"])
    assert text_of(events) == "one. "
    assert end_of(events) == (StopReason.STOP_STRING, "stopped by the stop string 'two.' after 9 tokens")
    assert ids_of(events) == list(b"one. two.")


def test_what_was_held_back_is_shown_when_the_text_ends_otherwise() -> None:
    _, engine = writer([*b"ab", EOS])
    events = generate(engine, stop_strings=["bc"])
    assert [event.text for event in events] == ["a", "", "b"]


def test_a_stop_string_in_the_last_token_goes_before_max_new_tokens() -> None:
    _, engine = writer(b"abc")
    assert end_of(generate(engine, stop_strings="c", max_new_tokens=3))[0] is StopReason.STOP_STRING


def test_the_window_fills_up() -> None:
    decoder, engine = writer(b"abcdefghij", prompt_length=3, n_ctx=8)
    events = generate(engine, [1, 2, 3])
    assert text_of(events) == "abcdef"  # 3 + 5 fill the window; the sixth needs no place in it
    assert end_of(events) == (
        StopReason.CONTEXT_WINDOW,
        "cut off in mid-sentence: the context window of 8 tokens is full",
    )
    assert sum(len(ids) for ids, _ in decoder.passes) == 8


def test_a_prompt_as_long_as_the_window_gets_one_token() -> None:
    _, engine = writer(b"a", prompt_length=8, n_ctx=8)
    events = generate(engine, range(8))
    assert text_of(events) == "a"
    assert end_of(events)[0] is StopReason.CONTEXT_WINDOW


def test_ignore_eos_goes_on_and_the_callers_own_eos_replaces_the_models() -> None:
    script = [*b"a", EOS, *b"bc"]
    assert text_of(generate(writer(script)[1], ignore_eos=True, max_new_tokens=4)) == "abc"
    events = generate(writer(script)[1], eos_token_id=ord("b"))
    assert ids_of(events) == [ord("a"), EOS, ord("b")]
    assert text_of(events) == "a"


def test_a_character_is_never_split() -> None:
    _, engine = writer([*"é🙂".encode(), 0xE2, EOS])
    events = generate(engine)
    assert [event.text for event in events] == ["", "é", "", "", "", "🙂", "", "\ufffd"]


def test_the_record_of_the_last_step_says_why_it_was_the_last() -> None:
    _, engine = writer([*b"a", EOS])
    events = generate(engine, candidates=3)
    records = [event.decision.record for event in events if event.decision]
    assert [record.stop if record else None for record in records] == [None, events[-1].stop]
    assert [record.position for record in records if record] == [1, 2]
    assert records[0] is not None
    assert len(records[0].candidates) == 3
    assert generate(engine, candidates=0)[0].decision == Decision(Choice(ord("a")), None)


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt_ids", "options", "error", "message"),
    [
        ([], {}, OptionError, "prompt_ids is empty: give at least one id"),
        ([0] * 9, {}, ContextOverflow, "the prompt has 9 tokens, the context window holds 8"),
        ([0, 258], {}, OptionError, "prompt_ids: id 258 is not in the model's vocabulary, 0 to 257"),
        ([-1], {}, OptionError, "prompt_ids: id -1"),
        ("text", {}, OptionError, "prompt_ids must be token ids"),
        ([0.5], {}, OptionError, "prompt_ids must be token ids"),
        ([0], {"eos_token_id": 300}, OptionError, "eos_token_id: id 300"),
    ],
)
def test_a_request_that_cannot_work_is_refused(prompt_ids: Any, options: Any, error: Any, message: str) -> None:
    engine = engine_of(FakeDecoder(n_ctx=8))
    with pytest.raises(error, match=message):
        engine.submit(prompt_ids, GenerationConfig.from_options(options))
    assert not engine.has_work


def test_an_engine_that_cannot_work_is_refused() -> None:
    for options, message in (
        ({"prefill_chunk": 0}, "prefill_chunk must be at least 1: got 0"),
        ({"max_batch": 0}, "max_batch must be at least 1: got 0"),
        ({"max_cache_bytes": 99}, "must hold a page"),
        ({"eos_ids": [258]}, "eos_ids: id 258"),
    ):
        with pytest.raises(OptionError, match=message):
            Engine(FakeDecoder(), **options)  # type: ignore[arg-type]


def test_stop_strings_need_text() -> None:
    engine = Engine(FakeDecoder(), eos_ids=[EOS])
    with pytest.raises(OptionError, match="stop_strings need text"):
        engine.submit([BOS], GenerationConfig(stop_strings=("x",)))
    request = engine.submit([BOS], GenerationConfig(max_new_tokens=2, ignore_eos=True))
    assert [(event.request_id, event.text) for event in engine.run()] == [(request.id, "")] * 2


def test_a_fresh_seed_is_drawn_and_told() -> None:
    engine = engine_of(FakeDecoder())
    drawn = {"do_sample": True, "top_k": 0, "ignore_eos": True, "max_new_tokens": 20}
    config = GenerationConfig.from_options(drawn)
    first, second = engine.submit([BOS], config), engine.submit([BOS], config)
    assert first.seed != second.seed
    assert engine.submit([BOS], config.replace(seed=5, max_new_tokens=0)).seed == 5
    texts = text_of_each(engine.run())
    assert texts[0] != texts[1]
    assert text_of(generate(engine, seed=first.seed, **drawn)) == texts[0]


# -- leaving early --------------------------------------------------------------------------------------------------


def running(n_ctx: int = 64) -> tuple[FakeDecoder, Engine, Request]:
    """A request that has written 'a' and holds back 'b'."""
    decoder, engine = writer(b"abababab", n_ctx=n_ctx)
    request = engine.submit([BOS], GenerationConfig(stop_strings=("bb",)))
    assert [text_of(engine.step()) for _ in range(2)] == ["a", ""]
    assert decoder.pool.n_pages > 0
    return decoder, engine, request


def test_cancelling_frees_at_once_and_ends_with_an_event() -> None:
    decoder, engine, request = running()
    engine.cancel(request)
    assert decoder.pool.n_pages == 0
    assert engine.has_work
    (event,) = engine.step()
    assert (event.request_id, event.index, event.id, event.text) == (request.id, 2, None, "b")
    assert end_of([event]) == (StopReason.CANCELLED, "the request was cancelled")
    assert not engine.has_work
    engine.cancel(request)
    assert not engine.has_work


def test_a_waiting_request_can_be_cancelled() -> None:
    decoder, engine = writer(b"abc")
    request = engine.submit([BOS])
    engine.cancel(request)
    engine.cancel(request)
    assert end_of(list(engine.stream(request)))[0] is StopReason.CANCELLED
    assert decoder.passes == []


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
@pytest.mark.parametrize("n_taken", [0, 1])
def test_leaving_a_stream_frees_its_request(leave: str, n_taken: int) -> None:
    decoder, engine = writer(b"abcdef")
    stream = engine.stream(engine.submit([BOS]))
    for _ in range(n_taken):
        next(stream)
    assert engine.has_work
    if leave == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif leave == "with":
        with stream:
            next(stream)
    del stream
    assert not engine.has_work
    assert decoder.pool.n_pages == 0


def test_closing_a_stream_that_had_only_its_end_to_come() -> None:
    _, engine = writer(b"a")
    engine.stream(engine.submit([BOS], GenerationConfig(max_new_tokens=0))).close()
    assert not engine.has_work


def test_streams_side_by_side_keep_each_others_events() -> None:
    decoder = FakeDecoder()
    engine = engine_of(decoder)
    config = GenerationConfig(max_new_tokens=5, ignore_eos=True)
    first, second = engine.submit([1, 2], config), engine.submit([3], config)
    streams = engine.stream(first), engine.stream(second)
    taken = list(streams[0]), list(streams[1])
    assert [len(events) for events in taken] == [5, 5]
    assert len(decoder.passes) == 5
    assert {event.request_id for event in taken[1]} == {second.id}
    assert ids_of(taken[1]) == ids_of(generate(engine_of(FakeDecoder()), [3], max_new_tokens=5, ignore_eos=True))


def test_a_request_has_one_stream_while_it_lives() -> None:
    _, engine = writer(b"abc")
    request = engine.submit([BOS], GenerationConfig(max_new_tokens=1))
    stream = engine.stream(request)
    with pytest.raises(FanlightError, match="request 0 has a stream already"):
        engine.stream(request)
    assert len(list(stream)) == 1
    with pytest.raises(FanlightError, match="request 0 has ended"):
        engine.stream(request)


# -- failures -------------------------------------------------------------------------------------------------------


def nan_after(token: int) -> Any:
    """Logits that are NaN in sequences that begin with `token`, from their third id on."""

    def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
        logits = hashed_logits(history)
        if history[0] == token and len(history) >= 3:
            logits[5] = math.nan
        return logits

    return logits_of


def test_a_damaged_row_ends_its_own_request_only() -> None:
    decoder = FakeDecoder(logits_of=nan_after(7))
    engine = engine_of(decoder)
    config = GenerationConfig(max_new_tokens=6, ignore_eos=True)
    bad, good = engine.submit([7, 8], config), engine.submit([9, 8], config)
    events = engine.run()
    (failure,) = [event for event in events if event.error]
    assert failure.request_id == bad.id
    assert failure.stop is None
    assert isinstance(failure.error, NumericError)
    assert str(failure.error).startswith("request 0, position 3: argmax: 1 of 258 logits are NaN")
    alone = generate(engine_of(FakeDecoder(logits_of=nan_after(7))), [9, 8], max_new_tokens=6, ignore_eos=True)
    assert ids_of([event for event in events if event.request_id == good.id]) == ids_of(alone)
    assert decoder.pool.n_pages == 0


def test_a_stream_raises_its_requests_error() -> None:
    engine = engine_of(FakeDecoder(logits_of=nan_after(7)))
    stream = engine.stream(engine.submit([7, 8], GenerationConfig(ignore_eos=True)))
    next(stream)
    with pytest.raises(NumericError, match="request 0, position 3"):
        next(stream)
    assert list(stream) == []


def test_a_pass_that_raises_frees_what_was_in_it() -> None:
    decoder = FakeDecoder()
    engine = engine_of(decoder)
    config = GenerationConfig(max_new_tokens=6, ignore_eos=True)
    streams = [engine.stream(engine.submit([token], config)) for token in (1, 2)]
    next(streams[0])
    decoder.fail_at = 1
    with pytest.raises(RuntimeError, match="fails as told"):
        next(streams[0])
    assert decoder.pool.n_pages == 0
    assert next(streams[1]).index == 0  # came before the failure
    with pytest.raises(
        FanlightError, match=r"request 1 ended: its forward pass raised RuntimeError\('the fake"
    ) as caught:
        next(streams[1])
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not engine.has_work
    decoder.fail_at = None
    assert len(generate(engine, [1], max_new_tokens=6, ignore_eos=True)) == 6


def test_step_hands_out_the_failures_of_the_pass_before() -> None:
    decoder = FakeDecoder()
    engine = engine_of(decoder)
    done = engine.submit([1], GenerationConfig(max_new_tokens=0))
    failing = engine.submit([1])
    decoder.fail_at = 0
    with pytest.raises(RuntimeError):
        engine.step()
    events = engine.step()
    assert [(event.request_id, event.error is None) for event in events] == [(done.id, True), (failing.id, False)]
    assert not engine.has_work


def test_running_out_of_memory_ends_the_request_and_not_the_engine() -> None:
    decoder = FakeDecoder(page_tokens=2)
    engine = engine_of(decoder)
    decoder.pool.fail_after = 2
    stream = engine.stream(engine.submit([1, 2, 3], GenerationConfig(ignore_eos=True, max_new_tokens=9)))
    with pytest.raises(MemoryError):
        list(stream)
    assert decoder.pool.n_pages == 0
    decoder.pool.fail_after = 1
    waiting = engine.submit([1, 2, 3])
    with pytest.raises(MemoryError):
        engine.step()
    assert [event.request_id for event in engine.step()] == [waiting.id]
    assert not engine.has_work
    assert decoder.pool.n_pages == 0
