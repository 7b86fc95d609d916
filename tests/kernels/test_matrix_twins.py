"""Native matrix ops equal the NumPy reference, at awkward sizes, for every type and every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanlight.checkpoints.gguf_quants import quantize
from fanlight.errors import KernelError
from fanlight.kernels import reference
from fanlight.kernels.ops import Part

FLOATS = ("F32", "F16", "BF16")
BLOCKS = ("Q4_0", "Q4_1", "Q8_0")


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stored(dtype: str, matrix: np.ndarray) -> bytes:
    return quantize(matrix, dtype)


def pair(native: Any, x: np.ndarray) -> tuple[Any, Any]:
    return native.tensor(x.tobytes(), x.shape[1]), reference.tensor(x.tobytes(), x.shape[1])


def packed(ops: Any, dtype: str, matrix: np.ndarray, **options: Any) -> Any:
    return ops.pack(matrix.shape[1], [Part(stored(dtype, matrix), matrix.shape[0], dtype)], **options)


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float = 2e-6) -> None:
    """Within `tolerance` of the largest value: sums run in another order, in float32."""
    assert got.shape == want.shape
    scale = max(1e-6, float(np.abs(want).max(initial=0)))
    assert float(np.abs(got - want).max(initial=0)) <= tolerance * scale


@pytest.mark.parametrize("dtype", FLOATS + BLOCKS)
@pytest.mark.parametrize(
    ("n_rows", "n_in", "n_out"), [(1, 32, 1), (2, 64, 33), (7, 96, 31), (9, 160, 100), (17, 32, 15), (33, 64, 7)]
)
def test_linear_equals_reference(native: Any, dtype: str, n_rows: int, n_in: int, n_out: int) -> None:
    w, (x, xr) = numbers((n_out, n_in)), pair(native, numbers((n_rows, n_in), 1))
    assert_close(
        native.linear(x, packed(native, dtype, w)).numpy(), reference.linear(xr, packed(reference, dtype, w)).numpy()
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_in", [1, 7, 31, 33])
def test_float_linear_takes_any_width(native: Any, dtype: str, n_in: int) -> None:
    w, (x, xr) = numbers((5, n_in)), pair(native, numbers((3, n_in), 1))
    assert_close(
        native.linear(x, packed(native, dtype, w)).numpy(), reference.linear(xr, packed(reference, dtype, w)).numpy()
    )


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("n_out", [1, 17, 40, 64])
def test_gated_equals_reference(native: Any, dtype: str, activation: str, n_out: int) -> None:
    gate, up, (x, xr) = numbers((n_out, 64)), numbers((n_out, 64), 1), pair(native, numbers((5, 64), 2))
    parts = [Part(stored(dtype, gate), n_out, dtype), Part(stored(dtype, up), n_out, dtype)]
    results = [
        ops.linear(rows, ops.pack(64, parts, activation=activation, gated=True)).numpy()
        for ops, rows in ((native, x), (reference, xr))
    ]
    assert_close(*results)


@pytest.mark.parametrize("dtype", ["F32", "Q4_1"])
@pytest.mark.parametrize("activation", ["none", "silu", "gelu_tanh"])
def test_bias_activation_and_residual(native: Any, dtype: str, activation: str) -> None:
    w, bias = numbers((45, 32)), numbers((45,), 1)
    (x, xr), (r, rr) = pair(native, numbers((3, 32), 2)), pair(native, numbers((3, 45), 3))
    got = native.linear(x, packed(native, dtype, w, bias=bias.tobytes(), activation=activation), r)
    want = reference.linear(xr, packed(reference, dtype, w, bias=bias.tobytes(), activation=activation), rr)
    assert_close(got.numpy(), want.numpy())


@pytest.mark.parametrize("dtype", FLOATS + BLOCKS)
def test_stacked_parts_in_another_row_order(native: Any, dtype: str) -> None:
    a, b = numbers((20, 64)), numbers((13, 64), 1)
    order = [int(i) for i in np.random.default_rng(0).permutation(20)]
    parts = [Part(stored(dtype, a), 20, dtype, order), Part(stored(dtype, b), 13, dtype)]
    x, xr = pair(native, numbers((2, 64), 2))
    assert_close(
        native.linear(x, native.pack(64, parts)).numpy(),
        reference.linear(xr, reference.pack(64, parts)).numpy(),
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_transposed_weights(native: Any, dtype: str) -> None:
    w = numbers((19, 37))
    parts = [Part(quantize(np.ascontiguousarray(w.T), dtype), 19, dtype, None, True)]
    x, xr = pair(native, numbers((4, 37), 1))
    got = native.linear(x, native.pack(37, parts)).numpy()
    assert_close(got, reference.linear(xr, reference.pack(37, parts)).numpy())
    assert_close(got, native.linear(x, packed(native, dtype, w)).numpy(), 0)


@pytest.mark.parametrize("dtype", FLOATS + BLOCKS)
def test_embed_is_the_stored_row(native: Any, dtype: str) -> None:
    w = numbers((37, 64))
    ids = [36, 0, 17, 17]
    got, want = (
        native.embed(packed(native, dtype, w), ids).numpy(),
        reference.embed(packed(reference, dtype, w), ids).numpy(),
    )
    assert_close(got, want, 0)


def test_q4_0_with_subnormal_scales(native: Any) -> None:
    """The minimum -8 * scale is derived in bits: it must be right below 2^-14 too."""
    blocks = np.zeros(16, np.dtype([("d", "<f2"), ("q", "u1", (16,))]))
    blocks["d"] = np.array(
        [0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x1FF, 0x3FF, 0x400, 0x8001, 0x83FF, 0x3C00, 0xBC00, 0x6BFF], "<u2"
    ).view("<f2")
    blocks["q"] = np.arange(16, dtype=np.uint8) * 17
    parts = [Part(blocks.tobytes(), 16, "Q4_0")]
    got, want = (ops.embed(ops.pack(32, parts), range(16)).numpy() for ops in (native, reference))
    np.testing.assert_array_equal(got, want)


def test_extreme_bytes_do_not_saturate(native: Any) -> None:
    """Weights of -128 and 127 under activations of one sign: sixteen-bit sums would overflow."""
    blocks = np.zeros(4, np.dtype([("d", "<f2"), ("q", "i1", (32,))]))
    blocks["d"], blocks["q"] = 1, [[-128] * 32, [127] * 32, [-128, 127] * 16, [0, -128] * 16]
    parts = [Part(blocks.tobytes(), 4, "Q8_0")]
    for sign in (1, -1):
        x, xr = pair(native, np.full((1, 32), sign, np.float32))
        got, want = (
            native.linear(x, native.pack(32, parts)).numpy(),
            reference.linear(xr, reference.pack(32, parts)).numpy(),
        )
        assert_close(got, want)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9])
def test_largest_nibbles_do_not_saturate(native: Any, n_rows: int) -> None:
    """A group of weights of 15 under activations of one sign: the largest sum that sixteen bits must hold."""
    blocks = np.zeros(7, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", (16,))]))
    blocks["d"], blocks["m"], blocks["q"] = (
        1,
        np.arange(7),
        [[0xFF] * 16, [0xF0] * 16, [0x0F] * 16, [0] * 16] + [[0xFF, 0] * 8] * 3,
    )
    signs = np.where(np.arange(n_rows) % 2, -1, 1).astype(np.float32)
    x, xr = pair(native, np.repeat(signs[:, None], 32, axis=1))
    parts = [Part(blocks.tobytes(), 7, "Q4_1")]
    got = native.linear(x, native.pack(32, parts)).numpy()
    assert_close(got, reference.linear(xr, reference.pack(32, parts)).numpy())
    np.testing.assert_allclose(got[:, 0], 15 * 32 * signs, rtol=1e-6)


def test_zero_activations_give_zero(native: Any) -> None:
    x = native.tensor(bytes(4 * 64), 64)
    assert not native.linear(x, packed(native, "Q8_0", numbers((5, 64)))).numpy().any()


@pytest.mark.parametrize("n", [1, 7, 31, 32, 33, 576])
@pytest.mark.parametrize("n_rows", [0, 1, 9])
def test_norms_equal_reference(native: Any, n: int, n_rows: int) -> None:
    (x, xr), (w, wr), (b, br) = (
        pair(native, numbers((n_rows, n)) + 3),
        pair(native, numbers((1, n), 1)),
        pair(native, numbers((1, n), 2)),
    )
    assert_close(native.rms_norm(x, w, 1e-5).numpy(), reference.rms_norm(xr, wr, 1e-5).numpy())
    assert_close(native.layer_norm(x, w, b, 1e-5).numpy(), reference.layer_norm(xr, wr, br, 1e-5).numpy(), 1e-5)


def test_add_and_take_rows(native: Any) -> None:
    (a, ar), (b, br) = pair(native, numbers((5, 33))), pair(native, numbers((5, 33), 1))
    assert_close(native.add(a, b).numpy(), reference.add(ar, br).numpy(), 0)
    assert_close(native.take_rows(a, [4, 0, 4]).numpy(), reference.take_rows(ar, [4, 0, 4]).numpy(), 0)
    assert native.take_rows(a, []).shape == (0, 33)


@pytest.mark.parametrize("dtype", FLOATS + BLOCKS)
def test_a_rows_bits_do_not_depend_on_other_rows_or_threads(native: Any, dtype: str, two_threads: None) -> None:
    w, rows = packed(native, dtype, numbers((200, 96))), numbers((23, 96), 1)
    together = native.linear(native.tensor(rows.tobytes(), 96), w).numpy()
    native.set_threads(1)
    for i, row in enumerate(rows):
        alone = native.linear(native.tensor(row.tobytes(), 96), w).numpy()
        np.testing.assert_array_equal(alone[0], together[i])
    np.testing.assert_array_equal(native.linear(native.tensor(rows.tobytes(), 96), w).numpy(), together)


def test_a_row_view_is_for_row_ops_only(native: Any) -> None:
    w, rows = packed(native, "Q4_1", numbers((40, 64))), numbers((3, 64), 1)
    x = native.tensor(rows.tobytes(), 64)
    with pytest.raises(KernelError, match="take_rows"):
        native.linear(native.row(x, 2), w)
    np.testing.assert_array_equal(native.linear(native.take_rows(x, [2]), w).numpy(), native.linear(x, w).numpy()[2:])


# -- what is refused: alike on both sides


def refusals() -> list[tuple[str, Any]]:
    w = numbers((4, 32))
    good = stored("Q8_0", w)
    return [
        ("unknown type", lambda ops: ops.pack(32, [Part(good, 4, "Q9_9")])),
        ("unknown type to quantise to", lambda ops: ops.pack(32, [Part(bytes(512), 4, "F32")], quantize="Q4_0")),
        ("nothing to quantise to", lambda ops: ops.pack(32, [Part(bytes(512), 4, "F32")], quantize="")),
        ("far too many rows", lambda ops: ops.pack(2**30, [Part(b"", 2**31 - 1, "F64")])),
        ("n_in of half a large block", lambda ops: ops.pack(128, [Part(bytes(144 * 2), 4, "Q4_K")])),
        ("unknown activation", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")], activation="swish")),
        ("n_in not a multiple", lambda ops: ops.pack(33, [Part(good, 4, "Q8_0")])),
        ("n_in zero", lambda ops: ops.pack(0, [Part(b"", 4, "F32")])),
        ("no parts", lambda ops: ops.pack(32, [])),
        ("too few bytes", lambda ops: ops.pack(32, [Part(good[:-1], 4, "Q8_0")])),
        ("too many rows", lambda ops: ops.pack(32, [Part(good, 5, "Q8_0")])),
        ("no rows", lambda ops: ops.pack(32, [Part(b"", 0, "Q8_0")])),
        ("negative rows", lambda ops: ops.pack(32, [Part(good, -4, "Q8_0")])),
        ("short row order", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0", [0, 1])])),
        ("row order outside", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0", [0, 1, 2, 4])])),
        ("quantised and transposed", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0", None, True)])),
        ("gated with one part", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")], gated=True, activation="silu")),
        (
            "gated with a bias for one side",
            lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")] * 2, gated=True, activation="silu", bias=bytes(16)),
        ),
        (
            "gated by what is no gate",
            lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")] * 2, gated=True, activation="relu"),
        ),
        ("gated without activation", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")] * 2, gated=True)),
        ("short bias", lambda ops: ops.pack(32, [Part(good, 4, "Q8_0")], bias=bytes(12))),
        ("x too wide", lambda ops: ops.linear(ops.tensor(bytes(4 * 33), 33), packed(ops, "Q8_0", w))),
        (
            "residual of another shape",
            lambda ops: ops.linear(ops.tensor(bytes(128), 32), packed(ops, "Q8_0", w), ops.tensor(bytes(20), 5)),
        ),
        ("id outside", lambda ops: ops.embed(packed(ops, "Q8_0", w), [4])),
        ("id negative", lambda ops: ops.embed(packed(ops, "Q8_0", w), [-1])),
        ("add of another shape", lambda ops: ops.add(ops.tensor(bytes(8), 2), ops.tensor(bytes(8), 1))),
        ("row outside", lambda ops: ops.take_rows(ops.tensor(bytes(8), 2), [1])),
        (
            "norm weight of another size",
            lambda ops: ops.rms_norm(ops.tensor(bytes(8), 2), ops.tensor(bytes(12), 3), 1e-5),
        ),
        (
            "norm bias of another size",
            lambda ops: ops.layer_norm(
                ops.tensor(bytes(8), 2), ops.tensor(bytes(8), 2), ops.tensor(bytes(12), 3), 1e-5
            ),
        ),
        ("tensor bytes not whole rows", lambda ops: ops.tensor(bytes(10), 2)),
        ("tensor without columns", lambda ops: ops.tensor(bytes(8), 0)),
        ("no threads", lambda ops: ops.set_threads(0)),
    ]


@pytest.mark.parametrize(("what", "call"), refusals(), ids=[name for name, _ in refusals()])
def test_wrong_arguments_are_refused_by_both(native: Any, what: str, call: Any) -> None:
    for ops in (native, reference):
        with pytest.raises(KernelError):
            call(ops)
