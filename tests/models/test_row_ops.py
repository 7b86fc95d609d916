"""Ops on a logits row keep what transformers keeps, and draw the random numbers that PyTorch draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation import logits_process

from fanlight.kernels import load_ops, mersenne

OPS = [load_ops(kind) for kind in ("native", "reference")]
IDS = [ops.name for ops in OPS]
SIZES = (3, 31, 257, 5003)


def random_row(n_vocab: int, seed: int, spread: float) -> np.ndarray:
    x = np.random.default_rng(seed).normal(0, spread, n_vocab).astype(np.float32)
    if seed % 2:
        x[np.argsort(x)[: n_vocab // 3]] = -np.inf
    return x


def survivors(warper: logits_process.LogitsProcessor, x: np.ndarray) -> np.ndarray:
    scores = torch.from_numpy(x)[None]
    return np.asarray(warper(torch.zeros((1, 1), dtype=torch.long), scores)[0].isfinite())


@pytest.mark.parametrize("ops", OPS, ids=IDS)
@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_filters_keep_the_tokens_of_transformers(ops, n_vocab: int, spread: float) -> None:
    for seed in range(6):
        x = random_row(n_vocab, seed, spread)
        row = ops.tensor(x.tobytes(), n_vocab)
        for share in (0.2, 0.5, 0.9):
            for min_keep in (1, 2):
                typical = logits_process.TypicalLogitsWarper(share, min_tokens_to_keep=min_keep)
                nucleus = logits_process.TopPLogitsWarper(share, min_tokens_to_keep=min_keep)
                for op, warper in ((ops.typical_p, typical), (ops.top_p, nucleus)):
                    kept = np.isfinite(op(row, share, min_keep).numpy()[0])
                    np.testing.assert_array_equal(kept, survivors(warper, x) & np.isfinite(x))
            kept = np.isfinite(ops.top_h(row, share).numpy()[0])
            np.testing.assert_array_equal(kept, survivors(logits_process.TopHLogitsWarper(share), x) & np.isfinite(x))


@pytest.mark.parametrize("ops", OPS, ids=IDS)
@pytest.mark.parametrize("n_vocab", [1, 2, 7, 33, 623, 624, 625, 49152, 50257, 128256])
def test_green_lists_are_the_permutations_of_pytorch(ops, n_vocab: int) -> None:
    for seed in (0, 1, 15485863 * 50256, 2**32 - 1, 2**32, 2**63 + 9, 2**64 - 1, -1, -(2**63)):
        permutation = torch.randperm(n_vocab, generator=torch.Generator().manual_seed(seed)).numpy()
        for n_green in (0, n_vocab // 4, n_vocab):
            bits = np.unpackbits(np.frombuffer(ops.green_list(seed, n_vocab, n_green), np.uint8), bitorder="little")
            assert sorted(permutation[:n_green]) == np.flatnonzero(bits).tolist()


@pytest.mark.parametrize("n", [0, 1, 7, 623, 625, 65536])
def test_random_bits_are_those_of_pytorch(n: int) -> None:
    for seed in (0, 1, 2**40 + 3, -1):
        expected = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)).numpy()
        np.testing.assert_array_equal(mersenne.random_bits(seed, n), expected)


@pytest.mark.parametrize("ops", OPS, ids=IDS)
def test_a_million_entries_are_permuted_alike(ops) -> None:
    permutation = torch.randperm(1_000_000, generator=torch.Generator().manual_seed(7)).numpy()
    bits = np.unpackbits(np.frombuffer(ops.green_list(7, 1_000_000, 1000), np.uint8), bitorder="little")
    assert sorted(permutation[:1000]) == np.flatnonzero(bits).tolist()
