"""Activations, span norms, scaling and soft caps: native equals the NumPy reference, near zero and far from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.errors import KernelError
from fanlight.kernels import native as native_ops
from fanlight.kernels import reference
from fanlight.kernels.ops import Part

WIDE = np.concatenate([np.linspace(-12, 12, 481), np.linspace(-0.01, 0.01, 41), [-1e4, -90, 90, 1e4, 0.0, -0.0]])


def both(native: Any, x: np.ndarray) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    x = np.ascontiguousarray(x, np.float32)
    return (native, native.tensor(x.tobytes(), x.shape[1])), (reference, reference.tensor(x.tobytes(), x.shape[1]))


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu", "tanh"])
def test_activations_equal_reference(native: Any, activation: str) -> None:
    eye, n = np.eye(1, dtype=np.float32), len(WIDE)
    results = []
    for ops, x in both(native, WIDE.reshape(n, 1)):
        results.append(ops.linear(x, ops.pack(1, [Part(eye.tobytes(), 1, "F32")], activation=activation)).numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("n_out", [1, 17, 40, 64])
def test_a_gated_matrix_adds_its_bias_before_the_gate(native: Any, activation: str, n_out: int) -> None:
    rng = np.random.default_rng(n_out)
    gate, up, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((n_out, 7), (n_out, 7), (2, n_out)))
    parts = [Part(gate.tobytes(), n_out, "F32"), Part(up.tobytes(), n_out, "F32")]
    results = []
    for ops, x in both(native, rng.standard_normal((3, 7))):
        w = ops.pack(7, parts, bias=bias.tobytes(), activation=activation, gated=True)
        results.append(ops.linear(x, w).numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("widths", [[5], [1, 1, 1], [16, 16, 3], [33, 7], [64, 64, 64, 2]])
@pytest.mark.parametrize("rest", [0, 1, 31])
def test_span_norm_equals_reference(native: Any, widths: list[int], rest: int) -> None:
    rng = np.random.default_rng(sum(widths))
    x, weight = rng.standard_normal((9, sum(widths) + rest)) + 1, rng.standard_normal((1, sum(widths)))
    results = []
    for (ops, rows), (_, w) in zip(both(native, x), both(native, weight), strict=True):
        results.append(ops.span_norm(rows, w, widths, 1e-5).numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=2e-6)
    assert np.array_equal(results[0][:, sum(widths) :], x[:, sum(widths) :].astype(np.float32))


@pytest.mark.parametrize("cap", [0.5, 30.0, 50.0])
def test_softcap_equals_reference(native: Any, cap: float) -> None:
    results = [ops.softcap(x, cap).numpy() for ops, x in both(native, WIDE.reshape(1, -1) * 10)]
    np.testing.assert_allclose(results[0], results[1], rtol=2e-6, atol=0)
    assert np.abs(results[0]).max() <= cap


@given(st.floats(0.125, 100, width=32), st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_softcap_is_odd_and_keeps_the_order(cap: float, values: list[float]) -> None:
    x = np.array([sorted(values)], np.float32)
    up, down = (native_ops.softcap(native_ops.tensor(v.tobytes(), v.shape[1]), cap).numpy() for v in (x, -x))
    assert np.array_equal(up, -down)
    assert (np.diff(up[0]) >= -3e-7 * cap).all()


def test_scale_equals_reference(native: Any) -> None:
    results = [ops.scale(x, 7.25).numpy() for ops, x in both(native, WIDE.reshape(16, -1))]
    assert np.array_equal(*results)


REFUSED = {
    "spans wider than x": lambda ops, x: ops.span_norm(x, x, [2, 3], 1e-5),
    "a span of nothing": lambda ops, x: ops.span_norm(x, x, [0], 1e-5),
    "a weight of another size": lambda ops, x: ops.span_norm(x, x, [3], 1e-5),
    "a cap of zero": lambda ops, x: ops.softcap(x, 0.0),
    "a negative cap": lambda ops, x: ops.softcap(x, -1.0),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused_by_both(native: Any, call: Any) -> None:
    for ops, x in both(native, np.ones((1, 4))):
        with pytest.raises(KernelError):
            call(ops, x)
