"""Packing in the background: who needs a matrix waits for it, and a forked child packs what its parent had begun."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fakes.blocks import stored_weights
from fanlight.kernels import native
from fanlight.kernels.ops import Part

N_IN, N_OUT = 512, 2000
SMAPS = Path("/proc/self/smaps")


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


def test_mapped_blocks_are_dropped_when_all_parts_are_packed() -> None:
    """Of the file next to nothing stays in memory, whatever each part became; where the system tells."""
    sizes = {"Q4_K": 1024, "Q6_K": 2048, "F16": 999}
    stored = {dtype: stored_weights(dtype, n, N_IN) for dtype, n in sizes.items()}
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(stored.values()))
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view, parts = memoryview(mapping), []
    for dtype, data in stored.items():
        parts.append(Part(view[: len(data)], sizes[dtype], dtype))
        view = view[len(data) :]
    linear = native.pack(N_IN, parts, mapped=True)
    native.finish_packing()
    assert linear.dtype == "Q4_1+Q8_0+F16"
    if SMAPS.exists():
        assert resident_bytes(mapping) <= 6 * mmap.PAGESIZE  # those that two parts share
    for (dtype, data), first in zip(stored.items(), (0, 1024, 3072), strict=True):
        alone = native.pack(N_IN, [Part(data, sizes[dtype], dtype)])
        np.testing.assert_array_equal(native.embed(linear, [first]).numpy(), native.embed(alone, [0]).numpy())


def resident_bytes(mapping: mmap.mmap) -> int:
    """Of this mapping, in memory."""
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    lines = iter(SMAPS.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"{address:x}-") for line in lines)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


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


@pytest.mark.parametrize("quantize", [None, "Q8_0"])
def test_a_forked_child_packs_what_is_left(quantize: str | None) -> None:
    matrices = [
        np.sign(weights(seed)) for seed in range(8)
    ]  # quantised to the same numbers, but for the scale's rounding
    packed = [native.pack(N_IN, [Part(w.tobytes(), N_OUT, "F32")], quantize=quantize) for w in matrices]
    child = os.fork()
    if child == 0:
        rows = [native.embed(linear, [N_OUT - 1]).numpy()[0] for linear in reversed(packed)]
        good = all(
            np.allclose(row, w[-1], rtol=2**-11, atol=0) for row, w in zip(rows, reversed(matrices), strict=True)
        )
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    native.finish_packing()
