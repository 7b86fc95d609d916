"""The ops on one logits row, against definitions in plain Python, and the quality of the noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import KernelError, NumericError
from fanlight.kernels import reference_rows as ops
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

INF = math.inf
CHI_SQUARE_255 = 375.0  # exceeded by chance about once in a million, at 255 degrees of freedom
SIZES = (1, 2, 7, 31, 33, 258)

# few distinct values, so that ties are common; some tokens removed already
LOGITS = st.lists(st.sampled_from([-INF, -3.5, -1.0, -0.0, 0.0, 0.25, 1.0, 2.5, 6.0]), min_size=1, max_size=33).filter(
    lambda row: max(row) > -INF
)


def tensor(logits: list[float] | NDArray[np.float32]) -> Tensor:
    return Tensor(np.array([logits], np.float32))


def values(row: Tensor) -> list[float]:
    listed: list[float] = row.numpy()[0].tolist()
    return listed


def order(logits: list[float]) -> list[int]:
    return sorted(range(len(logits)), key=lambda token: (-logits[token], token))


def random_row(n_vocab: int, seed: int) -> list[float]:
    row: list[float] = np.random.default_rng(seed).normal(0, 3, n_vocab).astype(np.float32).tolist()
    return row


# -- the tensor -----------------------------------------------------------------------------------------------------


def test_a_tensor_is_frozen_and_copies_out() -> None:
    array = np.zeros((2, 3), np.float32)
    x = Tensor(array)
    assert x.shape == (2, 3)
    x.numpy()[0, 0] = 5
    assert x.numpy()[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        x.array[0, 0] = 5
    with pytest.raises(AttributeError, match="frozen"):
        x.array = array  # type: ignore[misc]
    array[0, 0] = 7  # the maker's own array stays writeable
    with pytest.raises(KernelError, match="float32 matrix"):
        Tensor(np.zeros(3, np.float32))
    with pytest.raises(KernelError, match="float64"):
        Tensor(np.zeros((1, 3)))  # type: ignore[arg-type]


def test_row_takes_one_row() -> None:
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert ops.row(x, 1).numpy().tolist() == [[3, 4, 5]]
    for index in (-1, 2):
        with pytest.raises(KernelError, match=r"outside 0\.\.1"):
            ops.row(x, index)
    with pytest.raises(KernelError, match=r"one logits row.*\(2, 3\)"):
        ops.argmax(x)


# -- processors -----------------------------------------------------------------------------------------------------


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_the_k_largest_and_their_ties(logits: list[float], k: int) -> None:
    kth = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    assert values(ops.top_k(tensor(logits), k)) == [x if x >= kth else -INF for x in logits]


@given(LOGITS, st.floats(0.001, 1))
def test_top_p_keeps_the_fewest_that_reach_p(logits: list[float], p: float) -> None:
    weights = [math.exp(x - max(logits)) for x in logits]
    kept: list[int] = []
    for token in order(logits):
        if math.fsum(weights[i] for i in kept) >= p * math.fsum(weights) * (1 - 1e-12) and kept:
            break
        kept.append(token)
    result = values(ops.top_p(tensor(logits), p))
    reached = math.fsum(weights[i] for i in kept) / math.fsum(weights)
    if abs(reached - p) > 1e-9:  # otherwise the last bit of a sum decides
        assert result == [x if token in kept else -INF for token, x in enumerate(logits)]
    assert result[order(logits)[0]] == max(logits)


def test_top_p_breaks_ties_by_lowest_id() -> None:
    assert values(ops.top_p(tensor([1, 1, 1, 1]), 0.5)) == [1, 1, -INF, -INF]
    assert values(ops.top_p(tensor([0, 2, 2, 0]), 0.01)) == [-INF, 2, -INF, -INF]


def test_temperature_divides() -> None:
    assert values(ops.temperature(tensor([2, -3, -INF]), 0.5)) == [4, -6, -INF]
    row = random_row(33, seed=1)
    assert values(ops.temperature(tensor(row), 0.7)) == [float(np.float32(x) / np.float32(0.7)) for x in row]


def test_repetition_penalty_counts_an_id_once() -> None:
    row = tensor([3.0, -3.0, 3.0, 0.0, -INF])
    assert values(ops.repetition_penalty(row, [0, 1, 0, 3, 4], 1.5)) == [2.0, -4.5, 3.0, 0.0, -INF]
    assert values(ops.repetition_penalty(row, [], 1.5)) == [3.0, -3.0, 3.0, 0.0, -INF]


@pytest.mark.parametrize(
    "op",
    [
        lambda row: ops.temperature(row, 0.3),
        lambda row: ops.repetition_penalty(row, [0, 2], 2.0),
        lambda row: ops.top_k(row, 1),
        lambda row: ops.top_p(row, 0.1),
    ],
)
def test_processors_do_not_write_to_their_input(op: Callable[[Tensor], Tensor]) -> None:
    row = tensor([1.0, 5.0, 2.0])
    result = op(row)
    assert values(result) != [1, 5, 2]
    assert values(row) == [1, 5, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda row: ops.temperature(row, 0.0), "positive float32: got 0.0"),
        (lambda row: ops.temperature(row, -1.0), "positive"),
        (lambda row: ops.temperature(row, INF), "positive"),
        (lambda row: ops.temperature(row, 1e-60), "positive"),
        (lambda row: ops.temperature(row, math.nan), "positive"),
        (lambda row: ops.repetition_penalty(row, [0], 0.0), "positive"),
        (lambda row: ops.repetition_penalty(row, [0, 3], 1.1), r"id 3 is outside 0\.\.2"),
        (lambda row: ops.repetition_penalty(row, [-1], 1.1), "id -1"),
        (lambda row: ops.repetition_penalty(row, [0.5], 1.1), "integers"),
        (lambda row: ops.top_k(row, 0), "at least 1"),
        (lambda row: ops.top_p(row, 0.0), "above 0"),
        (lambda row: ops.top_p(row, 1.1), "at most 1"),
        (lambda row: ops.top_p(row, math.nan), "nan"),
        (lambda row: ops.top(row, -1), "at least 0"),
        (lambda row: ops.gather(row, [3]), "id 3"),
        (lambda row: ops.gather(row, [[0]]), "shape"),
        (lambda row: ops.rank(row, 3), "id 3"),
        (lambda row: ops.gumbel(1, -1, [0]), "position"),
        (lambda row: ops.gumbel(1, 0, [-1]), "id -1"),
        (lambda row: ops.gumbel_argmax(row, 1, -1), "position"),
    ],
)
def test_wrong_arguments_are_kernel_errors(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        call(tensor([1.0, 2.0, 3.0]))


# -- reading --------------------------------------------------------------------------------------------------------


@given(LOGITS, st.integers(0, 40))
def test_top_argmax_and_rank_agree_on_one_order(logits: list[float], n: int) -> None:
    row = tensor(logits)
    expected = [token for token in order(logits) if logits[token] > -INF]
    assert ops.top(row, n) == (expected[:n], [logits[token] for token in expected[:n]])
    assert ops.argmax(row) == expected[0]
    assert [ops.rank(row, token) for token in order(logits)] == list(range(len(logits)))


@given(LOGITS)
def test_stats_are_those_of_the_softmax(logits: list[float]) -> None:
    kept = [x for x in logits if x > -INF]
    total = math.fsum(math.exp(x) for x in kept)
    probs = [math.exp(x) / total for x in kept]
    stats = ops.stats(tensor(logits))
    assert stats.n_kept == len(kept)
    assert stats.max == max(logits)
    assert stats.logsumexp == pytest.approx(math.log(total), abs=1e-12)
    assert stats.entropy == pytest.approx(-math.fsum(p * math.log(p) for p in probs), abs=1e-12)
    assert stats.entropy >= 0


def test_stats_of_huge_logits_do_not_overflow() -> None:
    stats = ops.stats(tensor([3e38, 3e38, -3e38]))
    assert stats.entropy == pytest.approx(math.log(2))
    assert stats.logsumexp == pytest.approx(float(np.float32(3e38)))


def test_gather_keeps_order_and_repeats() -> None:
    assert ops.gather(tensor([1.0, 2.0, -INF]), [2, 0, 2, 1]) == [-INF, 1, -INF, 2]
    assert ops.gather(tensor([1.0]), []) == []


# -- damaged rows ---------------------------------------------------------------------------------------------------

CHOOSING = [ops.argmax, ops.stats, lambda row: ops.gumbel_argmax(row, 3, 4)]
PROCESSING = [
    lambda row: row,
    lambda row: ops.temperature(row, 0.5),
    lambda row: ops.repetition_penalty(row, [0, 1, 2], 1.2),
    lambda row: ops.top_k(row, 1),
    lambda row: ops.top_p(row, 0.5),
]


@pytest.mark.parametrize("choose", CHOOSING)
@pytest.mark.parametrize("process", PROCESSING)
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([1.0, math.nan, 2.0], "1 of 3 logits are NaN"),
        ([1.0, INF, 2.0], r"token 1 has the logit \+inf"),
        ([-INF, -INF, -INF], "no token is left: all 3"),
    ],
)
def test_a_damaged_row_is_an_error_whatever_processor_saw_it(
    choose: Callable[[Tensor], object], process: Callable[[Tensor], Tensor], logits: list[float], message: str
) -> None:
    with pytest.raises(NumericError, match=message):
        choose(process(tensor(logits)))


def test_a_row_without_tokens_has_no_choice() -> None:
    empty = Tensor(np.zeros((1, 0), np.float32))
    with pytest.raises(NumericError, match="no token is left: all 0"):
        ops.argmax(empty)
    assert ops.top(empty, 3) == ([], [])
    for process in (lambda row: ops.top_k(row, 2), lambda row: ops.top_p(row, 0.5)):
        assert process(empty).shape == (1, 0)


# -- noise ----------------------------------------------------------------------------------------------------------


def noise_in_plain_integers(seed: int, position: int, token: int) -> float:
    """The definition again, on Python's integers."""
    m32, m64 = 2**32 - 1, 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & m32
        x = ((x ^ (x >> 15)) * 0x846CA68B) & m32
        return x ^ (x >> 16)

    z = (seed + 0x9E3779B97F4A7C15 * (position + 1)) & m64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & m64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & m64
    z ^= z >> 31
    k0, k1 = z & m32, z >> 32
    hi = mix((mix(token ^ k0) + k1) & m32)
    lo = mix(hi ^ mix((token + k1) & m32) ^ k0)
    v = min((hi + (lo + 0.5) / 2**32) / 2**32, 1 - 2**-53)
    return -math.log(-math.log1p(-v))


@given(st.integers(), st.integers(0, 2**70), st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_noise_is_what_the_definition_says(seed: int, position: int, ids: list[int]) -> None:
    expected = [noise_in_plain_integers(seed, position, token) for token in ids]
    assert ops.gumbel(seed, position, ids) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert ops.gumbel(seed + 2**64, position, ids) == ops.gumbel(seed, position, ids)


def test_noise_never_changes() -> None:
    """A change here would change every sampled text ever recorded."""
    first = [-1.3495457346606876, 1.8958109248246342, 0.7400522193761936]
    second = [0.5296158724438635, 0.29675532088360324, 0.48072715551585704]
    assert ops.gumbel(0, 0, [0, 1, 49151]) == pytest.approx(first, abs=1e-12)
    assert ops.gumbel(-1, 2047, [0, 1, 49151]) == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_a_draw_is_the_arg_max_of_logit_plus_noise(n_vocab: int) -> None:
    row = random_row(n_vocab, seed=n_vocab)
    row[0] = -INF if n_vocab > 1 else row[0]
    noise = ops.gumbel(9, 5, range(n_vocab))
    scores = [x + g for x, g in zip(row, noise, strict=True)]
    best = max(range(n_vocab), key=scores.__getitem__)
    assert ops.gumbel_argmax(tensor(row), 9, 5) == (best, scores[best])


def test_a_removed_token_never_wins() -> None:
    row = tensor([-INF, -50.0, -INF])
    assert {ops.gumbel_argmax(row, seed, 0)[0] for seed in range(300)} == {1}


def test_draws_follow_the_softmax() -> None:
    logits = [2.0, 0.5, -1.0, 1.0, -INF, 0.0, -2.5]
    row = tensor(logits)
    probs = np.exp(logits) / np.exp(logits).sum()
    for draw in (lambda i: ops.gumbel_argmax(row, 1234, i)[0], lambda i: ops.gumbel_argmax(row, i, 17)[0]):
        n = 8000
        counts = np.bincount([draw(i) for i in range(n)], minlength=len(logits))
        assert counts[4] == 0
        chi_square = sum((c - n * p) ** 2 / (n * p) for c, p in zip(counts, probs, strict=True) if p)
        assert chi_square < 35.9  # 5 degrees of freedom: exceeded by chance once in a million


def kolmogorov_smirnov(sample: NDArray[np.float64]) -> float:
    """sqrt(n) times the largest distance to the uniform distribution; above 2.7 by chance once in a million."""
    n = sample.size
    ordered = np.sort(sample, axis=None)
    return float(np.sqrt(n) * max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max()))


def grid(which: str, n: int = 200) -> NDArray[np.float64]:
    """v as (keys, tokens): the keys are runs of positions or of seeds."""
    ids = np.arange(1000)
    if which == "positions":
        return np.stack([ops.uniform(42, i, ids) for i in range(n)])
    if which == "seeds":
        return np.stack([ops.uniform(i, 7, ids) for i in range(n)])
    return np.stack([ops.uniform(1 << (i % 64), i // 64, ids) for i in range(n)])  # seeds that differ by one bit


@pytest.mark.parametrize("which", ["positions", "seeds", "bits"])
def test_noise_is_uniform_over_tokens_and_over_keys(which: str) -> None:
    v = grid(which)
    assert v.min() > 0
    assert v.max() < 1
    assert kolmogorov_smirnov(v) < 2.7
    assert max(map(kolmogorov_smirnov, v)) < 2.7  # each key, over tokens
    assert max(map(kolmogorov_smirnov, v.T)) < 2.7  # each token, over keys
    fine = np.bincount((v * 2**40 % 256).astype(int).ravel(), minlength=256)  # bits 33 to 40: they come from `lo`
    assert ((fine - v.size / 256) ** 2 / (v.size / 256)).sum() < CHI_SQUARE_255


@pytest.mark.parametrize("which", ["positions", "seeds", "bits"])
@pytest.mark.parametrize(("key_step", "token_step"), [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (64, 0), (0, 256)])
def test_neighbours_are_independent(which: str, key_step: int, token_step: int) -> None:
    v = grid(which)
    a = v[: len(v) - key_step, : v.shape[1] - token_step]
    b = v[key_step:, token_step:]
    cells = np.bincount(((a * 16).astype(int) * 16 + (b * 16).astype(int)).ravel(), minlength=256)
    expected = a.size / 256
    assert ((cells - expected) ** 2 / expected).sum() < CHI_SQUARE_255
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size)


def test_the_largest_noise_of_a_vocabulary_has_the_right_tail() -> None:
    n_vocab = 49152
    largest = np.array([np.min(ops.uniform(5, position, np.arange(n_vocab))) for position in range(200)])
    assert kolmogorov_smirnov(1 - (1 - largest) ** n_vocab) < 2.7
