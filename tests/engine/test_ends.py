"""How texts end beyond the end token: by time, by length, in a loop, because the caller's function says so; and in which words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from fakes.decoder import FakeDecoder, scripted_logits
from fakes.runs import BOS, EOS, assert_all_free, config_of, engine_of, generate, outcomes, run
from fanlight.errors import FanlightError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fanlight.engine.loop import Engine

LONG = b"abcdefghijklmnopqrstuvwxyz. "


def writer(script: bytes | list[int] = LONG, n_ctx: int = 64, n_prompt: int = 1) -> Engine:
    return engine_of(FakeDecoder(logits_of=scripted_logits(n_prompt, list(script)), n_ctx=n_ctx))


def written(engine: Engine, options: dict[str, Any], prompt: Sequence[int] = (BOS,)) -> tuple[str, str]:
    """(text, why it ended)."""
    (outcome,) = generate(engine, prompt, {"max_new_tokens": None, **options})
    return outcome.text, outcome.stop


class Clock:
    """time.monotonic, one second later with every pass."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoder = engine.decoder
        monkeypatch.setattr(time, "monotonic", self)

    def __call__(self) -> float:
        assert isinstance(self.decoder, FakeDecoder)
        return 1000.0 + len(self.decoder.passes)


# -- time -----------------------------------------------------------------------------------------------------------------


def test_time_that_is_up_ends_the_text_with_the_token_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    one = writer()
    Clock(one, monkeypatch)
    assert written(one, {"max_time": 3.5}) == ("abcd", "cut off by max_time=3.5 s after 4 tokens in mid-sentence")


def test_time_counts_from_when_the_request_came(monkeypatch: pytest.MonkeyPatch) -> None:
    one = writer()
    Clock(one, monkeypatch)
    first = one.submit([BOS], config_of({"max_new_tokens": 5}))
    list(one.stream(first))
    assert written(one, {"max_time": 2})[0] == "ab"


def test_an_end_token_comes_before_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = writer([*b"ab", EOS])
    Clock(one, monkeypatch)
    assert written(one, {"max_time": 3})[1].startswith("stopped by end-of-sequence token")


@pytest.mark.parametrize("n_texts", [1, 3])
def test_beams_whose_time_is_up_give_what_they_have(n_texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine_of(FakeDecoder())
    Clock(one, monkeypatch)
    options = {"num_beams": 3, "num_return_sequences": n_texts, "max_time": 4, "ignore_eos": True, "max_new_tokens": 30}
    texts = generate(one, [BOS], options)
    assert len(texts) == n_texts
    for text in texts:
        assert len(text.ids) == 4
        assert text.stop.startswith("cut off by max_time=4 s after 4 tokens")


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "num_return_sequences": 3, "seed": 1},
        {"penalty_alpha": 0.6, "top_k": 3},
        {"assistant_early_exit": 1},
    ],
    ids=str,
)
def test_every_strategy_keeps_the_time(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine_of(FakeDecoder())
    Clock(one, monkeypatch)
    for text in generate(one, [BOS], {"max_time": 6, "ignore_eos": True, "max_new_tokens": 40, **options}):
        assert text.stop.startswith("cut off by max_time=6 s after ")
        assert len(text.ids) < 8


# -- lengths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "n_new", "words"),
    [
        ({"max_length": 5}, 4, "cut off by max_length=5 in mid-sentence"),
        ({"max_length": 2}, 1, "cut off by max_length=2 in mid-sentence"),
        ({"max_length": 28}, 27, "cut off by max_length=28 at the end of a sentence"),
        ({"max_length": 5, "max_new_tokens": 7}, 7, "cut off by max_new_tokens=7 in mid-sentence"),
        ({"max_length": 99}, 32, "cut off in mid-sentence: the context window of 32 tokens is full"),
        ({"max_new_tokens": 32}, 32, "cut off by max_new_tokens=32 in mid-sentence"),
        ({"max_new_tokens": 33}, 32, "cut off in mid-sentence: the context window of 32 tokens is full"),
    ],
)
@pytest.mark.parametrize("strategy", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 9}], ids=str)
def test_the_length_that_is_reached_first_ends_the_text(
    options: dict[str, Any], n_new: int, words: str, strategy: dict[str, Any]
) -> None:
    text, stop = written(writer(n_ctx=32), {**options, **strategy})
    assert (text, stop) == ((LONG + LONG)[:n_new].decode(), words)


def test_an_end_before_the_fewest_tokens_is_not_chosen() -> None:
    script = [*b"ab", EOS, *b"cd", EOS]
    for options in ({"min_new_tokens": 4}, {"min_length": 5}):
        (found,) = generate(writer(script), [BOS], options)
        assert EOS not in found.ids[:4]
        assert len(found.ids) > 4
    (found,) = generate(writer(script), [BOS], {"min_new_tokens": 2})
    assert found.ids == [*b"ab", EOS]


# -- loops ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options", "text", "words"),
    [
        (b"xyabcabcabcabc", {"loop_repeats": 3}, "xyabcabcabc", "the last 3 tokens came 3 times in a row"),
        (b"xyabcabcabcabc", {"loop_repeats": 2}, "xyabcabc", "the last 3 tokens came 2 times in a row"),
        (b"abbbc", {"loop_repeats": 3}, "abbb", "the last 1 token came 3 times in a row"),
        (
            b"abbbbbbbbb",
            {"loop_repeats": 3, "loop_min_tokens": 2},
            "abbbbbb",
            "the last 2 tokens came 3 times in a row",
        ),
    ],
)
@pytest.mark.parametrize("strategy", [{}, {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 1}], ids=str)
def test_a_loop_ends_the_text(
    script: bytes, options: dict[str, Any], text: str, words: str, strategy: dict[str, Any]
) -> None:
    found, stop = written(writer(script), {**options, **strategy})
    assert found == text
    assert stop == f"stopped by loop_repeats={options['loop_repeats']}: {words}"


def test_repeats_in_the_prompt_are_no_loop() -> None:
    text, stop = written(writer(b"abcd", n_prompt=6), {"loop_repeats": 2, "max_new_tokens": 4}, [BOS, *b"ababa"])
    assert (text, stop) == ("abcd", "cut off by max_new_tokens=4 in mid-sentence")


# -- stop strings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("strategy", [{}, {"prompt_lookup_num_tokens": 5}, {"assistant_early_exit": 1}], ids=str)
def test_a_stop_string_is_part_of_the_text_if_asked_for(include: bool, strategy: dict[str, Any]) -> None:
    options = {"stop_strings": ["def", "zz"], "include_stop_string": include, **strategy}
    assert written(writer(), options) == (
        "abcdef" if include else "abc",
        "stopped by the stop string 'def' after 6 tokens",
    )


# -- functions ------------------------------------------------------------------------------------------------------------


def test_a_function_may_end_the_text_or_say_why() -> None:
    seen: list[tuple[tuple[int, ...], str]] = []

    def three(ids: tuple[int, ...], text: str) -> bool:
        seen.append((ids, text))
        return len(text) >= 3

    def reason(ids: tuple[int, ...], text: str) -> str | None:
        return "enough of it" if ids[-1] == ord("e") else None

    assert written(writer(), {"stopping_criteria": three}) == ("abc", "stopped by three")
    assert seen == [((BOS, *b"a"), "a"), ((BOS, *b"ab"), "ab"), ((BOS, *b"abc"), "abc")]
    assert written(writer(), {"stopping_criteria": [reason]}) == ("abcde", "enough of it")
    assert written(writer(), {"stopping_criteria": [reason, three]}) == ("abc", "stopped by three")
    assert written(writer(), {"stopping_criteria": [reason, three], "prompt_lookup_num_tokens": 3})[0] == "abc"


def test_a_function_sees_all_of_a_long_text() -> None:
    lengths: list[int] = []

    def note(ids: tuple[int, ...], text: str) -> bool:
        lengths.append(len(text))
        return False

    written(writer(n_ctx=300), {"stopping_criteria": note, "max_new_tokens": 200})
    assert lengths == list(range(1, 200))  # the last one ends the text anyway


@pytest.mark.parametrize("said", [1, 0, [], b"no"], ids=repr)
def test_an_answer_that_is_neither_yes_nor_no_is_an_error(said: Any) -> None:
    with pytest.raises(
        OptionError, match=r"stopping_criteria: <lambda> must return true, false or a reason in words: got "
    ):
        written(writer(), {"stopping_criteria": lambda ids, text: said})


def test_a_function_that_raises_ends_its_own_request() -> None:
    def broken(ids: tuple[int, ...], text: str) -> bool:
        return bool(1 / (4 - len(ids)))

    def damaged(ids: tuple[int, ...], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(ids) > 3:
            raise KeyError("nothing here")
        return logits

    for option, words in (
        ({"stopping_criteria": lambda ids, text: broken(ids, text) and False}, "ZeroDivisionError"),
        ({"processors": [damaged]}, "KeyError"),
    ):
        one = writer()
        bad, good = one.submit([BOS], config_of(option)), one.submit([BOS], config_of({}))
        events = one.run()
        (error,) = [event.error for event in events if event.error]
        assert isinstance(error, FanlightError)
        assert f"raised {words}" in str(error)
        assert error is next(event.error for event in events if event.request_id == bad.id and event.error)
        assert error.__cause__ is not None
        assert outcomes([event for event in events if event.request_id == good.id])[0].text == "abcdefghijkl"
        assert_all_free(one)


def test_a_processor_of_the_wrong_shape_ends_its_own_request() -> None:
    one = writer()
    bad = one.submit([BOS], config_of({"processors": [lambda ids, logits: logits[:5]]}))
    good = one.submit([BOS], config_of({}))
    events = one.run()
    (event,) = [event for event in events if event.error]
    assert event.request_id == bad.id
    assert "expected 258 logits back: got the shape (5,)" in str(event.error)
    assert len([event for event in events if event.request_id == good.id]) == 12


def test_a_reason_stands_in_the_record_of_the_last_step() -> None:
    events = run(writer(), [BOS], {"stopping_criteria": lambda ids, text: "so it is" if len(ids) == 3 else False})
    assert events[-1].decision is not None
    assert events[-1].decision.record is not None
    assert str(events[-1].decision.record.stop) == "so it is"
