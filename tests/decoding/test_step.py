"""One decoding step: the choice is the same with and without a record, and the record's numbers are right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.step import Decision, StepSettings, decide
from fanlight.errors import NumericError
from fanlight.kernels import reference_rows
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops
    from fanlight.trace.records import StepRecord

OPS = cast("Ops", reference_rows)
INF = math.inf

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0, 0.3, 1, 1.7]),
        "top_k": st.sampled_from([None, 1, 5, 500]),
        "top_p": st.sampled_from([0.1, 0.8, 1.0]),
        "min_p": st.sampled_from([None, 0.05, 1.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.4]),
    },
)


def random_logits(seed: int, n_vocab: int = 33) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (1, n_vocab)).astype(np.float32)


def decided(
    logits: NDArray[np.float32], ids: list[int] | None = None, *, eos_ids: tuple[int, ...] = (), **options: Any
) -> Decision:
    settings = settings_of(GenerationConfig.from_options(options), logits.shape[1], eos_ids)
    return decide([1, 2, 3] if ids is None else ids, Tensor(logits), settings)


def settings_of(config: GenerationConfig, n_vocab: int = 33, eos_ids: tuple[int, ...] = ()) -> StepSettings:
    return StepSettings.of(config, Surroundings(ops=OPS, n_vocab=n_vocab, seed=config.seed or 0, eos_ids=eos_ids))


def record_of(logits: NDArray[np.float32], **options: Any) -> StepRecord:
    record = decided(logits, **options).record
    assert record is not None
    return record


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits[0].astype(np.float64) - logits.max())
    return weights / weights.sum()


@given(OPTIONS, st.integers(0, 1000), st.sampled_from([1, 2, 7, 33]), st.integers(1, 40))
def test_looking_changes_nothing(options: dict[str, Any], seed: int, n_vocab: int, candidates: int) -> None:
    logits = random_logits(seed, n_vocab)
    ids = [0, n_vocab - 1]
    bare = decided(logits, ids, seed=seed, candidates=0, **options)
    looked = decided(logits, ids, seed=seed, candidates=candidates, **options)
    assert bare.record is None
    assert bare.choice.id == looked.choice.id
    assert looked.record is not None
    assert looked.record.id == looked.choice.id
    assert looked.record.position == 2


@given(OPTIONS, st.integers(0, 1000), st.integers(1, 40))
def test_the_record_agrees_with_the_rows(options: dict[str, Any], seed: int, n: int) -> None:
    logits = random_logits(seed)
    config = GenerationConfig.from_options({**options, "seed": seed, "candidates": n})
    settings = settings_of(config, eos_ids=(4, 9, 4))
    choice, record, *_ = decide([5, 6], Tensor(logits), settings)
    assert record is not None

    rows = [Tensor(logits)]
    for processor in settings.processors:
        rows.append(cast("Tensor", processor([5, 6], rows[-1])))
    probs = [softmax(row.numpy()) for row in rows]
    raw, final = probs[0], probs[-1]

    assert record.eos_prob == pytest.approx(raw[4] + raw[9])
    assert record.raw_logprob == pytest.approx(math.log(raw[choice.id]))
    assert record.final_logprob == pytest.approx(math.log(final[choice.id]))
    assert record.final_logprob == pytest.approx(choice.logprob)
    assert record.raw_rank == (raw > raw[choice.id]).sum()
    assert record.final_rank == choice.rank == (final > final[choice.id]).sum()
    assert record.n_kept == (final > 0).sum()
    others = np.delete(rows[-1].numpy()[0], choice.id)
    if record.n_kept == 1:
        assert record.margin is choice.margin is None
    else:
        assert record.margin == choice.margin == pytest.approx(rows[-1].numpy()[0, choice.id] - others.max())
    for entropy, p in ((record.raw_entropy, raw), (record.final_entropy, final)):
        assert entropy == pytest.approx(-sum(x * math.log(x) for x in p if x), abs=1e-9)

    top = np.argsort(-logits[0], kind="stable")[:n].tolist()
    ids = [candidate.id for candidate in record.candidates]
    last = rows[-1].numpy()[0]
    final_top = [token for token in np.argsort(-last, kind="stable")[:n].tolist() if last[token] > -INF]
    assert ids == list(dict.fromkeys([*top, *final_top, choice.id]))
    assert record.n_top == len(top)
    for candidate in record.candidates:
        assert candidate.raw_logit == logits[0, candidate.id]
        assert candidate.raw_prob == pytest.approx(raw[candidate.id])
        assert candidate.final_prob == pytest.approx(final[candidate.id])

    assert [effect.label for effect in record.effects] == [processor.label for processor in settings.processors]
    for i, effect in enumerate(record.effects):
        removed = (probs[i] > 0) & (probs[i + 1] == 0)
        assert effect.n_before == (probs[i] > 0).sum()
        assert effect.n_kept == (probs[i + 1] > 0).sum()
        assert effect.removed_prob == pytest.approx(probs[i][removed].sum(), abs=1e-9)
        assert effect.entropy_after == pytest.approx(-sum(x * math.log(x) for x in probs[i + 1] if x), abs=1e-9)
        assert effect.logits == tuple(rows[i + 1].numpy()[0, ids].tolist())


def test_a_record_in_numbers() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.0625, 0.0625]])).astype(np.float32)
    record = record_of(logits, do_sample=True, top_k=0, top_p=0.7, candidates=3, eos_ids=(3,), seed=0)
    assert [(c.id, round(c.raw_prob, 6), round(c.final_prob, 6)) for c in record.candidates] == [
        (0, 0.5, 0.666667),
        (1, 0.25, 0.333333),
        (2, 0.125, 0.0),
    ]
    (effect,) = record.effects
    assert (effect.label, effect.n_before, effect.n_kept) == ("top_p(0.7)", 5, 2)
    assert effect.removed_prob == pytest.approx(0.25)
    assert effect.logits[2] == -INF
    assert record.eos_prob == pytest.approx(0.0625)
    assert record.final_entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_a_chosen_token_outside_the_top_is_appended() -> None:
    record = record_of(np.array([[1.0, 1.1, 1.2, 0.9]], np.float32), do_sample=True, candidates=1, seed=4)
    assert record.id != 2
    assert [candidate.id for candidate in record.candidates] == [2, record.id]
    assert record.raw_rank > 0


def test_the_position_and_the_seed_decide_the_draw() -> None:
    flat = np.zeros((1, 33), np.float32)
    draw = {"do_sample": True, "top_k": 0, "candidates": 0}
    by_position = [decided(flat, [0] * n, seed=1, **draw).choice.id for n in range(1, 30)]
    by_seed = [decided(flat, [0], seed=seed, **draw).choice.id for seed in range(30)]
    assert len(set(by_position)) > 10
    assert len(set(by_seed)) > 10
    assert by_position == [OPS.gumbel_argmax(Tensor(flat), 1, n)[0] for n in range(1, 30)]


def test_the_penalty_counts_the_prompt() -> None:
    logits = np.array([[3.0, 2.9, 1.0]], np.float32)
    assert decided(logits, [0], repetition_penalty=1.2).choice.id == 1
    assert decided(logits, [2], repetition_penalty=1.2).choice.id == 0


@pytest.mark.parametrize("candidates", [0, 5])
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.5, "top_p": 0.5, "min_p": 0.1}])
def test_damaged_logits_are_the_same_error_looked_at_or_not(candidates: int, options: dict[str, Any]) -> None:
    logits = random_logits(0)
    logits[0, 7] = math.nan
    with pytest.raises(NumericError, match="1 of 33 logits are NaN"):
        decided(logits, candidates=candidates, **options)


@pytest.mark.parametrize(("seed", "reduced"), [(-1, 2**64 - 1), (2**64 + 5, 5), (2**63, 2**63)])
def test_any_integer_is_a_seed_modulo_two_to_the_64(seed: int, reduced: int) -> None:
    assert settings_of(GenerationConfig(seed=seed)).seed == reduced
