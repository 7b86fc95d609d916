"""Every op in NumPy: these *define* what the native ones compute. Slow, short, and read first. Knows no model, no text, no file.

Sums are taken in float64 here, so that the twins can be told apart from rounding. Ops on one logits row are in `reference_rows`.

Quantised weights: each group of 32 activations of a row is rounded to int8, q = rint(x * (127 / max|x|)) with scale max|x| / 127,
and dotted with the stored integers; the group's result is scale_x * scale_w * dot, plus minimum_w * scale_x * sum(q) for types
that have one. That is how llama.cpp's CPU path works too (its Q8_0 and Q8_1 activation types).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fanlight.errors import KernelError
from fanlight.kernels.ops import ACTIVATIONS, GATES, Buffer, Part, Readings
from fanlight.kernels.reference_attention import attention, attention_weights, kv_pool, rope, store_kv
from fanlight.kernels.reference_checks import REMOVED, at_least, largest_of
from fanlight.kernels.reference_parts import packed_parts
from fanlight.kernels.reference_rows import (
    argmax,
    bias,
    bias_mask,
    blend,
    deviation,
    drop_above,
    finite,
    gather,
    green_list,
    gumbel,
    gumbel_argmax,
    gumbel_top,
    keep,
    keep_above,
    log_softmax,
    mask,
    near_target,
    rank,
    repetition_penalty,
    row,
    smooth,
    stats,
    tail_free,
    temperature,
    top,
    top_h,
    top_k,
    top_p,
    typical_p,
)
from fanlight.kernels.reference_tensor import Tensor, check_indices
from fanlight.kernels.reference_weights import BLOCK, BLOCKS

__all__ = [
    "add",
    "argmax",
    "attention",
    "attention_weights",
    "bias",
    "bias_mask",
    "blend",
    "deviation",
    "drop_above",
    "embed",
    "finish_packing",
    "finite",
    "gather",
    "get_threads",
    "green_list",
    "gumbel",
    "gumbel_argmax",
    "gumbel_top",
    "keep",
    "keep_above",
    "kv_pool",
    "layer_norm",
    "linear",
    "log_softmax",
    "mask",
    "name",
    "near_target",
    "pack",
    "rank",
    "readings",
    "repetition_penalty",
    "rms_norm",
    "rope",
    "row",
    "scale",
    "set_threads",
    "smooth",
    "softcap",
    "span_norm",
    "stats",
    "store_kv",
    "tail_free",
    "take_rows",
    "temperature",
    "tensor",
    "top",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
]

name = "reference"


class Linear:
    """Dequantised weights (rows, n_in) of each part, gate before up if gated, with bias and activation."""

    def __init__(
        self,
        parts: Sequence[tuple[str, NDArray[np.float32]]],
        bias: NDArray[np.float32] | None,
        activation: str,
        gated: bool,
    ) -> None:
        self.parts, self.bias, self.activation, self.gated = parts, bias, activation, gated
        self.weights = np.concatenate([weights for _, weights in parts])

    @property
    def n_in(self) -> int:
        return int(self.weights.shape[1])

    @property
    def n_out(self) -> int:
        return int(self.weights.shape[0]) // (2 if self.gated else 1)

    @property
    def nbytes(self) -> int:
        return int(self.weights.nbytes)

    @property
    def dtype(self) -> str:
        return "+".join(dict.fromkeys(self.part_dtypes))

    @property
    def part_dtypes(self) -> list[str]:
        return [packed for packed, _ in self.parts]

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.weights).all())


# -- matrices -----------------------------------------------------------------------------------------------------------


def tensor(data: Buffer, n_columns: int) -> Tensor:
    """See `ops.Ops.tensor`."""
    raw = memoryview(data).cast("B")
    if n_columns < 1:
        raise KernelError(f"tensor: n_columns is {n_columns}")
    if raw.nbytes % (4 * n_columns):
        raise KernelError(f"tensor: {raw.nbytes} bytes are no whole rows of {n_columns} float32")
    return Tensor(np.frombuffer(raw, np.float32).reshape(-1, n_columns).copy())


def pack(
    n_in: int,
    parts: Sequence[Part],
    *,
    quantize: str | None = None,
    bias: Buffer | None = None,
    activation: str = "none",
    gated: bool = False,
    mapped: bool = False,
) -> Linear:
    """See `ops.Ops.pack`. Done at once; mapped pages are left to the system."""
    if activation not in ACTIVATIONS:
        raise KernelError(f"pack: unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    if gated and (len(parts) != 2 or parts[0].n_rows != parts[1].n_rows):
        raise KernelError("pack: a gated matrix takes two parts of equal size")
    if gated and activation not in GATES:
        raise KernelError(f"pack: the activation of a gated matrix can be {' or '.join(GATES)}, not {activation!r}")
    packed = packed_parts(n_in, parts, quantize, gated)
    n_out = sum(part.n_rows for part in parts)
    if bias is None:
        return Linear(packed, None, activation, gated)
    values = np.frombuffer(memoryview(bias).cast("B"), np.float32)
    if len(values) != n_out:
        raise KernelError(f"pack: the bias has {len(values)} values for {n_out} rows")
    return Linear(packed, values.copy(), activation, gated)


def finish_packing() -> None:
    """Nothing is left to do."""


def round_activations(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What int8 leaves of activations (T, n_in): groups of 32, scale max|x| / 127, ties to even."""
    groups = x.reshape(len(x), x.shape[1] // BLOCK, BLOCK)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    q = np.rint(groups * inverse)
    rounded: NDArray[np.float64] = (q.astype(np.float64) * (largest / np.float32(127))).reshape(x.shape)
    return rounded


def _activate(x: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    match activation:
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "gelu":
            return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.flat]).reshape(x.shape)
        case "silu":
            inner = x
        case "gelu_tanh":  # Hendrycks and Gimpel 2016
            inner = 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        case _:
            return x
    with np.errstate(over="ignore"):
        activated: NDArray[np.float64] = x / (1 + np.exp(-inner))
    return activated


def linear(x: Tensor, w: Linear, residual: Tensor | None = None) -> Tensor:
    """See `ops.Ops.linear`."""
    if x.shape[1] != w.n_in:
        raise KernelError(f"linear: x has {x.shape[1]} columns, the matrix takes {w.n_in}")
    inputs = x.array.astype(np.float64)
    rounded = round_activations(x.array) if any(packed in BLOCKS for packed, _ in w.parts) else inputs
    y = np.concatenate(  # (T, n_in) -> (T, n_out or 2 n_out)
        [(rounded if packed in BLOCKS else inputs) @ part.T.astype(np.float64) for packed, part in w.parts], axis=1
    )
    if w.bias is not None:
        y = y + w.bias
    if w.gated:
        gate, up = np.split(y, 2, axis=1)
        y = _activate(gate, w.activation) * up
    else:
        y = _activate(y, w.activation)
    if residual is not None:
        if residual.shape != y.shape:
            raise KernelError(f"linear: the residual is {residual.shape}, the result {y.shape}")
        y = y + residual.array
    return Tensor(y.astype(np.float32))


def embed(w: Linear, ids: Sequence[int]) -> Tensor:
    """See `ops.Ops.embed`."""
    if w.gated:
        raise KernelError("embed: a gated matrix is no table")
    check_indices("embed: id", ids, w.n_out)
    return Tensor(w.weights[np.asarray(ids, np.int64)])


def add(a: Tensor, b: Tensor) -> Tensor:
    """See `ops.Ops.add`."""
    if a.shape != b.shape:
        raise KernelError(f"add: {a.shape} and {b.shape} differ")
    return Tensor(a.array + b.array)


def take_rows(x: Tensor, rows: Sequence[int]) -> Tensor:
    """See `ops.Ops.take_rows`."""
    check_indices("take_rows: row", rows, x.shape[0])
    return Tensor(x.array[np.asarray(rows, np.int64)])


def _check_vector(what: str, vector: Tensor, n: int) -> None:
    if vector.shape != (1, n):
        raise KernelError(f"{what} is {vector.shape}, expected (1, {n})")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.Ops.rms_norm`."""
    _check_vector("rms_norm: the weight", weight, x.shape[1])
    wide = x.array.astype(np.float64)
    return Tensor((wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + eps) * weight.array).astype(np.float32))


def span_norm(x: Tensor, weight: Tensor, widths: Sequence[int], eps: float) -> Tensor:
    """See `ops.Ops.span_norm`."""
    covered = 0
    for width in widths:
        if not 0 < width <= x.shape[1] - covered:
            raise KernelError(f"span_norm: {width} columns after {covered}, x has {x.shape[1]}")
        covered += width
    _check_vector("span_norm: the weight", weight, covered)
    parts, start = [], 0
    for width in widths:
        columns = slice(start, start + width)
        parts.append(rms_norm(Tensor(x.array[:, columns]), Tensor(weight.array[:, columns]), eps).array)
        start += width
    return Tensor(np.concatenate([*parts, x.array[:, start:]], axis=1))


def scale(x: Tensor, by: float) -> Tensor:
    """See `ops.Ops.scale`."""
    return Tensor(x.array * np.float32(by))


def softcap(x: Tensor, cap: float) -> Tensor:
    """See `ops.Ops.softcap`."""
    if not cap > 0:
        raise KernelError(f"softcap: the cap is {cap}, expected a positive number")
    return Tensor((cap * np.tanh(x.array.astype(np.float64) / cap)).astype(np.float32))


_softcap = softcap
"""For `readings`, whose argument has this name."""


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `ops.Ops.layer_norm`."""
    _check_vector("layer_norm: the weight", weight, x.shape[1])
    _check_vector("layer_norm: the bias", bias, x.shape[1])
    wide = x.array.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + eps)
    return Tensor((centred * scale * weight.array + bias.array).astype(np.float32))


def readings(h: Tensor, w: Linear, tokens: Sequence[int], k: int, softcap: float = 0.0) -> Readings:
    """See `ops.Ops.readings`: the ops on one row, row by row."""
    n_rows, n_vocab = h.shape[0], w.n_out
    if len(tokens) != n_rows:
        raise KernelError(f"readings: {len(tokens)} tokens for {n_rows} rows; give one for each")
    check_indices("readings: token", tokens, n_vocab)
    at_least("readings", "k", k, 0)
    if not softcap >= 0:
        raise KernelError(f"readings: the softcap is {softcap}, expected a positive number, or 0 for none")
    logits = linear(h, w)  # (T, V)
    if softcap > 0:
        logits = _softcap(logits, softcap)
    k = min(k, n_vocab)
    result = Readings(
        ids=np.full((n_rows, k), -1, np.int32),
        logits=np.full((n_rows, k), REMOVED, np.float32),
        logsumexp=np.zeros(n_rows),
        entropy=np.zeros(n_rows),
        token_logits=np.zeros(n_rows, np.float32),
        token_ranks=np.zeros(n_rows, np.int32),
    )
    for index, token in enumerate(tokens):
        one = row(logits, index)
        largest_of(f"readings: row {index}", one.array[0])
        sums, (ids, values) = stats(one), top(one, k)
        result.ids[index, : len(ids)], result.logits[index, : len(ids)] = ids, values
        result.logsumexp[index], result.entropy[index] = sums.logsumexp, sums.entropy
        result.token_logits[index], result.token_ranks[index] = gather(one, [token])[0], rank(one, token)
    return result


# -- threads ------------------------------------------------------------------------------------------------------------


def set_threads(n: int) -> None:
    """NumPy's own threads are its own business: accepted and ignored."""
    if n < 1:
        raise KernelError(f"set_threads: {n} is outside 1 to 256")


def get_threads() -> int:
    """1."""
    return 1
