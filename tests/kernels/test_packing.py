"""Packing in the background: who needs a matrix waits for it, and a forked child packs what its parent had begun."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

from fanlight.kernels import native
from fanlight.kernels.ops import Part

N_IN, N_OUT = 512, 2000


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_OUT, N_IN)).astype(np.float32)


def test_results_are_right_without_waiting_for_the_end() -> None:
    matrices = [weights(seed) for seed in range(6)]
    packed = [
        native.pack(N_IN, [Part(w.tobytes(), N_OUT, "F32")]) for w in matrices
    ]  # the bytes live in the queue alone
    x = np.random.default_rng(9).standard_normal((1, N_IN)).astype(np.float32)
    for linear, w in zip(reversed(packed), reversed(matrices), strict=True):
        got = native.linear(native.tensor(x.tobytes(), N_IN), linear).numpy()
        np.testing.assert_allclose(got, x @ w.T, atol=1e-3)
    native.finish_packing()


def test_mapped_data_is_still_there_after_its_pages_were_dropped() -> None:
    w = weights(1)
    with tempfile.TemporaryFile() as file:
        file.write(w.tobytes())
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapping)
    linear = native.pack(N_IN, [Part(view, N_OUT, "F32")], mapped=True)
    native.finish_packing()
    assert bytes(view) == w.tobytes()
    np.testing.assert_array_equal(native.embed(linear, [7, N_OUT - 1]).numpy(), w[[7, -1]])


def test_a_forked_child_packs_what_is_left() -> None:
    matrices = [weights(seed) for seed in range(8)]
    packed = [native.pack(N_IN, [Part(w.tobytes(), N_OUT, "F32")]) for w in matrices]
    child = os.fork()
    if child == 0:
        rows = [native.embed(linear, [N_OUT - 1]).numpy()[0] for linear in reversed(packed)]
        good = all(np.array_equal(row, w[-1]) for row, w in zip(rows, reversed(matrices), strict=True))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    native.finish_packing()
