"""Every op in NumPy: these *define* what the native ones compute. Slow, short, and read first. Knows no model, no text, no file.

Sums are taken in float64 here, so that the twins can be told apart from rounding. Ops on one logits row are in `reference_rows`.

Quantised weights: each group of 32 activations of a row is rounded to int8, q = rint(x * (127 / max|x|)) with scale max|x| / 127,
and dotted with the stored integers; the group's result is scale_x * scale_w * dot, plus minimum_w * scale_x * sum(q) for types
that have one. That is how llama.cpp's CPU path works too (its Q8_0 and Q8_1 activation types).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from fanlight.errors import KernelError
from fanlight.kernels.ops import ACTIVATIONS, Buffer, Part
from fanlight.kernels.reference_parts import packed_parts
from fanlight.kernels.reference_rows import (
    argmax,
    gather,
    gumbel,
    gumbel_argmax,
    min_p,
    rank,
    repetition_penalty,
    row,
    stats,
    temperature,
    top,
    top_k,
    top_p,
)
from fanlight.kernels.reference_tensor import Tensor
from fanlight.kernels.reference_weights import BLOCK, BLOCKS

__all__ = [
    "add",
    "argmax",
    "attention",
    "embed",
    "finish_packing",
    "gather",
    "get_threads",
    "gumbel",
    "gumbel_argmax",
    "kv_batch",
    "kv_pool",
    "layer_norm",
    "linear",
    "min_p",
    "name",
    "pack",
    "rank",
    "repetition_penalty",
    "rms_norm",
    "rope",
    "row",
    "set_threads",
    "stats",
    "store_kv",
    "take_rows",
    "temperature",
    "tensor",
    "top",
    "top_k",
    "top_p",
]

name = "reference"
PAGE_TOKENS = 64


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


class Rope:
    """inv_freq, (head_dim / 2,)."""

    def __init__(self, inv_freq: Sequence[float]) -> None:
        if not len(inv_freq):
            raise KernelError("rope: inv_freq is empty")
        self.inv_freq = np.asarray(inv_freq, np.float32)

    def rotate(self, x: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(T, H, D) at (T,) positions: halves (a, b) -> (a cos - b sin, b cos + a sin)."""
        angles = positions.astype(np.float32)[:, None] * self.inv_freq  # (T, D / 2), float32 as in transformers
        cos, sin = np.cos(angles.astype(np.float64))[:, None], np.sin(angles.astype(np.float64))[:, None]
        a, b = np.split(x.astype(np.float64), 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(np.float32)


class KVPool:
    """Pages as arrays (n_layer, 2, n_kv_head, page_tokens, head_dim)."""

    page_tokens = PAGE_TOKENS

    def __init__(self, n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> None:
        if min(n_layer, n_kv_head, head_dim) < 1:
            raise KernelError(f"kv_pool: sizes are {n_layer}, {n_kv_head}, {head_dim}; all must be positive")
        if dtype not in ("F16", "F32"):
            raise KernelError(f"kv_pool: dtype is {dtype!r}; it can be F16 or F32")
        self.n_layer, self.n_kv_head, self.head_dim = n_layer, n_kv_head, head_dim
        self.dtype = np.dtype("<f2" if dtype == "F16" else "<f4")
        self.pages: dict[int, NDArray[np.floating]] = {}
        self._free: list[int] = []

    @property
    def page_bytes(self) -> int:
        return self.n_layer * 2 * self.n_kv_head * PAGE_TOKENS * self.head_dim * self.dtype.itemsize

    @property
    def n_pages(self) -> int:
        return len(self.pages)

    def allocate(self) -> int:
        page = self._free.pop() if self._free else len(self.pages)
        self.pages[page] = np.zeros((self.n_layer, 2, self.n_kv_head, PAGE_TOKENS, self.head_dim), self.dtype)
        return page

    def release(self, page: int) -> None:
        self.page(page)
        del self.pages[page]
        self._free.append(page)

    def copy(self, source: int, target: int) -> None:
        self.page(target)[...] = self.page(source)

    def page(self, page: int) -> NDArray[np.floating]:
        """The array of a page in use."""
        if page not in self.pages:
            raise KernelError(f"kv_pool: page {page} is not in use")
        return self.pages[page]


class KVBatch:
    """Row t belongs to `sequence[t]` at `position[t]`."""

    def __init__(
        self, pool: KVPool, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]
    ) -> None:
        if not len(tables) == len(starts) == len(counts):
            raise KernelError(
                f"kv_batch: {len(tables)} tables, {len(starts)} starts and {len(counts)} counts; they must be as many"
            )
        self.pool = pool
        self.tables = [[pool.page(page) for page in table] for table in tables]
        for s, (table, start, count) in enumerate(zip(tables, starts, counts, strict=True)):
            if start < 0 or count < 0:
                raise KernelError(f"kv_batch: sequence {s} starts at {start} with {count} rows")
            if len(table) * PAGE_TOKENS < start + count:
                raise KernelError(
                    f"kv_batch: the {len(table)} pages of sequence {s} hold {len(table) * PAGE_TOKENS} positions, "
                    f"{start + count} are needed"
                )
        self.sequence = np.repeat(np.arange(len(counts)), counts)
        self.position = np.concatenate(
            [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)] or [np.arange(0)]
        )

    @property
    def n_rows(self) -> int:
        return len(self.sequence)

    @property
    def positions(self) -> list[int]:
        return [int(p) for p in self.position]

    def take(self, rows: Sequence[int]) -> KVBatch:
        """See `ops.KVBatch.take`."""
        _check_indices("kv_batch: row", rows, self.n_rows)
        taken, chosen = copy(self), np.asarray(rows, np.int64)
        taken.sequence, taken.position = self.sequence[chosen], self.position[chosen]
        return taken


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
    if gated and activation == "none":
        raise KernelError("pack: a gated matrix needs an activation")
    packed = packed_parts(n_in, parts, quantize, gated)
    n_out = sum(part.n_rows for part in parts)
    if bias is None:
        return Linear(packed, None, activation, gated)
    if gated:
        raise KernelError("pack: a gated matrix takes no bias")
    values = np.frombuffer(memoryview(bias).cast("B"), np.float32)
    if len(values) != n_out:
        raise KernelError(f"pack: the bias has {len(values)} values for {n_out} rows")
    return Linear(packed, values.copy(), activation, gated)


def finish_packing() -> None:
    """Nothing is left to do."""


def round_activations(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What int8 leaves of activations (T, n_in): groups of 32, scale max|x| / 127, ties to even."""
    groups = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    q = np.rint(groups * inverse)
    rounded: NDArray[np.float64] = (q.astype(np.float64) * (largest / np.float32(127))).reshape(x.shape)
    return rounded


def _activate(x: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    if activation == "none":
        return x
    inner = x if activation == "silu" else 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)  # Hendrycks and Gimpel 2016
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
    _check_indices("embed: id", ids, w.n_out)
    return Tensor(w.weights[np.asarray(ids, np.int64)])


def _check_indices(what: str, indices: Sequence[int], n: int) -> None:
    for index in indices:
        if not 0 <= index < n:
            raise KernelError(f"{what} {index} is outside 0 to {n - 1}")


def add(a: Tensor, b: Tensor) -> Tensor:
    """See `ops.Ops.add`."""
    if a.shape != b.shape:
        raise KernelError(f"add: {a.shape} and {b.shape} differ")
    return Tensor(a.array + b.array)


def take_rows(x: Tensor, rows: Sequence[int]) -> Tensor:
    """See `ops.Ops.take_rows`."""
    _check_indices("take_rows: row", rows, x.shape[0])
    return Tensor(x.array[np.asarray(rows, np.int64)])


def _check_vector(what: str, vector: Tensor, n: int) -> None:
    if vector.shape != (1, n):
        raise KernelError(f"{what} is {vector.shape}, expected (1, {n})")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.Ops.rms_norm`."""
    _check_vector("rms_norm: the weight", weight, x.shape[1])
    wide = x.array.astype(np.float64)
    return Tensor((wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + eps) * weight.array).astype(np.float32))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `ops.Ops.layer_norm`."""
    _check_vector("layer_norm: the weight", weight, x.shape[1])
    _check_vector("layer_norm: the bias", bias, x.shape[1])
    wide = x.array.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + eps)
    return Tensor((centred * scale * weight.array + bias.array).astype(np.float32))


# -- attention ----------------------------------------------------------------------------------------------------------


def rope(inv_freq: Sequence[float]) -> Rope:
    """See `ops.Ops.rope`."""
    return Rope(inv_freq)


def kv_pool(n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> KVPool:
    """See `ops.Ops.kv_pool`."""
    return KVPool(n_layer, n_kv_head, head_dim, dtype)


def kv_batch(pool: KVPool, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]) -> KVBatch:
    """See `ops.Ops.kv_batch`."""
    return KVBatch(pool, tables, starts, counts)


def _check_rows(op: str, x: Tensor, batch: KVBatch, layer: int) -> None:
    if not 0 <= layer < batch.pool.n_layer:
        raise KernelError(f"{op}: layer {layer} is outside 0 to {batch.pool.n_layer - 1}")
    if x.shape[0] != batch.n_rows:
        raise KernelError(f"{op}: {x.shape[0]} rows, the batch has {batch.n_rows}")


def store_kv(qkv: Tensor, batch: KVBatch, layer: int, rope: Rope | None) -> Tensor:
    """See `ops.Ops.store_kv`."""
    _check_rows("store_kv", qkv, batch, layer)
    n_kv, head_dim = batch.pool.n_kv_head, batch.pool.head_dim
    q_columns = qkv.shape[1] - 2 * n_kv * head_dim
    if q_columns < 1 or q_columns % (n_kv * head_dim):
        raise KernelError(
            f"store_kv: qkv has {qkv.shape[1]} columns; keys and values take {2 * n_kv * head_dim}, "
            f"and the rest must be a multiple of {n_kv * head_dim}"
        )
    if rope is not None and 2 * len(rope.inv_freq) != head_dim:
        raise KernelError(f"store_kv: the angles are for head_dim {2 * len(rope.inv_freq)}, the cache has {head_dim}")
    heads = qkv.array.reshape(batch.n_rows, qkv.shape[1] // head_dim, head_dim)  # (T, H + 2 H_kv, D)
    q, k, v = np.split(heads, [heads.shape[1] - 2 * n_kv, heads.shape[1] - n_kv], axis=1)
    if rope is not None:
        q, k = rope.rotate(q, batch.position), rope.rotate(k, batch.position)
    if batch.pool.dtype.itemsize == 2:  # saturate: no infinities in the cache
        k, v = np.clip(k, -65504, 65504), np.clip(v, -65504, 65504)
    for t, (sequence, position) in enumerate(zip(batch.sequence, batch.position, strict=True)):
        page = batch.tables[sequence][position // PAGE_TOKENS]
        page[layer, 0, :, position % PAGE_TOKENS] = k[t]
        page[layer, 1, :, position % PAGE_TOKENS] = v[t]
    return Tensor(np.ascontiguousarray(q.reshape(batch.n_rows, q_columns)))


def attention(q: Tensor, batch: KVBatch, layer: int, scale: float) -> Tensor:
    """See `ops.Ops.attention`."""
    _check_rows("attention", q, batch, layer)
    n_kv, head_dim = batch.pool.n_kv_head, batch.pool.head_dim
    if q.shape[1] < 1 or q.shape[1] % (n_kv * head_dim):
        raise KernelError(f"attention: q has {q.shape[1]} columns, expected a multiple of {n_kv * head_dim}")
    share = q.shape[1] // (n_kv * head_dim)
    queries = q.array.astype(np.float64).reshape(batch.n_rows, n_kv, share, head_dim)  # (T, H_kv, H / H_kv, D)
    out = np.zeros_like(queries)
    for t, (sequence, position) in enumerate(zip(batch.sequence, batch.position, strict=True)):
        pages = batch.tables[sequence][: position // PAGE_TOKENS + 1]
        kv = np.concatenate([page[layer] for page in pages], axis=2)[:, :, : position + 1].astype(np.float64)
        keys, values = kv  # (H_kv, position + 1, D) each
        scores = scale * queries[t] @ keys.transpose(0, 2, 1)  # (H_kv, H / H_kv, position + 1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[t] = weights / weights.sum(axis=-1, keepdims=True) @ values
    return Tensor(out.reshape(q.shape).astype(np.float32))


# -- threads ------------------------------------------------------------------------------------------------------------


def set_threads(n: int) -> None:
    """NumPy's own threads are its own business: accepted and ignored."""
    if n < 1:
        raise KernelError(f"set_threads: {n} is outside 1 to 256")


def get_threads() -> int:
    """1."""
    return 1
