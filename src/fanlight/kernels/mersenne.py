"""PyTorch's random numbers on the CPU, in NumPy: seed -> the same permutation, the same bits. Knows no model and no text.

Watermarks that others made are defined by them. The generator is MT19937 (Matsumoto and Nishimura 1998), seeded with the
low 32 bits of the seed by its first routine, `init_genrand`. `green_list` defines what the native one computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanlight.errors import KernelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VOCAB = 1 << 24
"""Above some 200 million entries, PyTorch takes 64-bit numbers; no vocabulary comes near."""


def random_words(seed: int, n: int) -> NDArray[np.uint64]:
    """The first n numbers of 32 bits after `torch.Generator().manual_seed(seed)`."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed & 0xFFFFFFFF)
    words: NDArray[np.uint64] = generator.random_raw(n)
    return words


def random_bits(seed: int, n: int) -> NDArray[np.uint8]:
    """What `torch.randint(0, 2, (n,), generator=...)` gives with this seed."""
    if n < 0:
        raise KernelError(f"random_bits: n must be at least 0: got {n}")
    return (random_words(seed, n) & np.uint64(1)).astype(np.uint8)


def green_list(seed: int, n_vocab: int, n_green: int) -> bytes:
    """The first n_green entries of `torch.randperm(n_vocab)` with this seed, as bits: see `ops.Ops.green_list`.

    Step i of the shuffle (Fisher and Yates, forwards) swaps entry i with entry i + word[i] % (n - i), after which it is
    final.
    """
    if not 1 <= n_vocab <= MAX_VOCAB:
        raise KernelError(f"green_list: n_vocab must be from 1 to {MAX_VOCAB}: got {n_vocab}")
    if not 0 <= n_green <= n_vocab:
        raise KernelError(f"green_list: n_green must be from 0 to {n_vocab}: got {n_green}")
    steps = np.arange(n_green, dtype=np.uint64)
    others = (steps + random_words(seed, n_green) % (np.uint64(n_vocab) - steps)).tolist()
    entries = list(range(n_vocab))
    for i, other in enumerate(others):
        entries[i], entries[other] = entries[other], entries[i]
    flags = np.zeros((n_vocab + 31) // 32 * 32, np.bool_)
    flags[entries[:n_green]] = True
    return np.packbits(flags, bitorder="little").tobytes()
