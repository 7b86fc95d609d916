"""Two traces side by side: what was asked, where they part, how far apart the distributions were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.traces import a_branch, a_trace, replace_header, some_records
from fanlight.tracing.diff import diff
from fanlight.tracing.trace import Trace


def moved(trace: Trace, step: int, by: float) -> Trace:
    """The same trace with another raw logit of the second candidate at a step."""
    records = list(trace.steps)
    logits = list(records[step].raw_logits)
    logits[1] += by
    records[step] = replace(records[step], raw_logits=tuple(logits))
    return a_trace(records=records)


def test_a_trace_and_itself() -> None:
    trace = a_trace()
    found = diff(trace, a_trace())
    assert found.same_request
    assert found.same_text
    assert found.bit_equal
    assert (found.parting, found.settings, found.origins) == (None, {}, {})
    assert (found.n_compared, found.largest_difference, found.largest_at) == (7, 0, None)
    assert str(found).splitlines()[2:] == [
        "The same request: prompt, settings and seed.",
        "The same model, kernels and version.",
        "The same tokens to the end.",
        "The model's own distributions are equal bit for bit, over 7 steps with the same text before them.",
    ]


def test_where_two_texts_part() -> None:
    trace = a_trace()
    branch = a_branch(trace, 3)
    found = diff(trace, branch)
    assert found.parting is not None
    assert (found.parting.step, found.n_compared) == (3, 4)
    one, other = found.parting.a, found.parting.b
    assert one is not None
    assert other is not None
    assert (one.id, other.id) == (trace.ids[3], branch.ids[3])
    assert one.prob_in_a == pytest.approx(_prob(trace, 3, one.id))
    assert other.prob_in_b == pytest.approx(_prob(branch, 3, other.id))
    assert f"The first 3 tokens are the same; step 3 differs:\n  a chose {one.label!r}" in str(found)


def _prob(trace: Trace, step: int, token: int) -> float:
    return next(candidate.raw_prob for candidate in trace.steps[step].candidates if candidate.id == token)


def test_a_token_that_was_not_recorded_has_no_probability() -> None:
    a, b = (a_trace(candidates=1, seed=3, n_prompt=5, logits=rows) for rows in (_rising, _falling))
    b = replace_header(b, id="b")
    found = diff(a, b)
    assert found.parting is not None
    assert found.parting.a is not None
    assert (found.parting.step, found.parting.a.prob_in_b) == (0, None)
    assert "not recorded in b" in str(found)
    assert "No token is the same before it; step 0 differs:" in str(found)


def _rising(seed: int, step: int, n_vocab: int):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.arange(n_vocab, dtype=np.float32)[None] * 3


def _falling(seed: int, step: int, n_vocab: int):  # type: ignore[no-untyped-def]
    return -_rising(seed, step, n_vocab)


def test_a_text_that_ends_before_the_other() -> None:
    long = a_trace(n_steps=7)
    found = diff(a_trace(records=list(long.steps)[:1]), long)
    assert found.parting is not None
    assert (found.parting.step, found.parting.a, found.same_text) == (1, None, False)
    assert "The first token is the same; step 1 differs:\n  a had ended\n  b chose" in str(found)
    assert found.n_compared == 1


def test_settings_and_seeds_that_differ() -> None:
    a = a_trace(settings={"do_sample": True, "top_p": 0.9, "top_k": 0})
    b = replace_header(a, settings={"do_sample": True, "temperature": 0.7, "top_k": 0}, seed=9)
    found = diff(a, b)
    assert found.settings == {"top_p": (0.9, 1.0), "temperature": (1.0, 0.7)}
    assert (found.seeds, found.same_request, found.same_text) == ((3, 9), False, True)
    assert "top_p: 0.9 and 1.0" in str(found)
    assert "seed: 3 and 9" in str(found)


def test_models_that_differ() -> None:
    a = a_trace()
    found = diff(a, replace_header(a, origin=replace(a.header.origin, kernels="native avx2", model="other")))
    assert found.origins == {"model": ("tiny-fake", "other"), "kernels": ("reference", "native avx2")}
    assert "kernels: 'reference' and 'native avx2'" in str(found)


def test_the_largest_difference_and_its_step() -> None:
    a = a_trace(n_steps=7)
    found = diff(a, moved(moved(a, 2, 1e-3), 5, -0.25))
    assert found.largest_difference == pytest.approx(0.25)
    assert (found.largest_at, found.bit_equal, found.same_text) == (5, False, True)
    assert "differ by up to 0.25 nats (step 5), over 7 steps" in str(found)


def test_one_bit_is_noticed() -> None:
    a = a_trace(n_steps=3)
    found = diff(a, moved(a, 1, 2.0**-22))
    assert not found.bit_equal
    assert 0 < found.largest_difference < 1e-6


def test_sums_that_differ_are_noticed() -> None:
    records = some_records(3)
    other = [replace(record, raw=record.raw._replace(entropy=record.raw.entropy + 1e-9)) for record in records]
    found = diff(a_trace(records=records), a_trace(records=other))
    assert (found.bit_equal, found.largest_at) == (False, None)
    assert "recorded logprobs are equal, over 3 steps with the same text before them; sums" in str(found)


def test_after_different_prompts_nothing_is_compared() -> None:
    a, b = a_trace(), a_trace(n_prompt=8)
    found = diff(a, b)
    assert found.prompts == (a.header.prompt, b.header.prompt)
    assert (found.n_compared, found.same_request, found.same_text) == (0, False, False)
    assert "Prompts differ: " in str(found)
    assert "nats" not in str(found)
    assert "(ids)" in str(diff(a, replace_header(b, prompt=None)))


def test_an_id_of_another_vocabulary_is_another_token() -> None:
    a = a_trace()
    b = a_trace(vocabulary=[b" other%d" % i for i in range(33)])
    found = diff(a, b)
    assert found.parting is not None
    assert found.parting.step == 0
    assert found.parting.a is not None
    assert found.parting.a.prob_in_b is None


def test_texts_of_no_tokens() -> None:
    found = diff(a_trace(n_steps=0), a_trace(n_steps=0))
    assert found.same_text
    assert "0 tokens: ''" in str(found)


def test_infinite_logits_are_no_distance() -> None:
    records = some_records(2)
    inf = [replace(record, raw_logits=(*record.raw_logits[:-1], -float("inf"))) for record in records]
    assert diff(a_trace(records=inf), a_trace(records=inf)).bit_equal
    found = diff(a_trace(records=inf), a_trace(records=records))
    assert (found.bit_equal, found.largest_difference) == (False, 0.0)
