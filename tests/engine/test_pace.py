"""What guessing ahead saved, from the seconds of passes."""

from __future__ import annotations

import pytest

from fakes.decoder import FakeDecoder
from fakes.runs import config_of, engine_of, repeating, small_vocabulary
from fanlight.engine.pace import Pace


def test_what_is_saved_is_the_time_of_as_many_plain_passes_without_the_time_that_was_taken() -> None:
    pace = Pace()
    for n_rows, guesses, seconds, n_tokens in (
        (1, False, 2.0, 1),
        (4, False, 3.0, 4),
        (1, True, 1.0, 0),
        (3, False, 2.5, 1),
    ):
        pace.computes(n_rows, guesses=guesses)
        pace.passed(seconds, n_tokens)
    assert pace.seconds_saved == pytest.approx(6 * 2.0 - 8.5)


def test_passes_of_others_do_not_count() -> None:
    pace = Pace()
    pace.passed(100.0, 0)
    assert pace.seconds_saved is None
    pace.computes(1, guesses=False)
    pace.passed(2.0, 1)
    pace.passed(100.0, 0)
    assert pace.seconds_saved == 0


def test_a_request_that_guesses_says_what_it_saved_and_others_do_not() -> None:
    decoder = FakeDecoder(logits_of=repeating(1, 9, 3), n_vocab=9, n_ctx=60)
    one = engine_of(decoder, vocabulary=small_vocabulary(9, 8))
    guessing = one.submit(
        [1, 2, 1, 2, 1], config_of({"prompt_lookup_num_tokens": 5, "max_new_tokens": 30, "ignore_eos": True})
    )
    plain = one.submit([1, 2, 1, 2, 1], config_of({"max_new_tokens": 5, "ignore_eos": True}))
    usage = {event.request_id: event.usage for event in one.run() if event.ends_request}
    assert usage[guessing.id] is not None
    assert isinstance(usage[guessing.id].seconds_saved, float)  # type: ignore[union-attr]
    assert usage[plain.id].seconds_saved is None  # type: ignore[union-attr]
