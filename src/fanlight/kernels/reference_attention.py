"""Keys and values in pages, rotation and attention in NumPy: the definitions. Knows arrays; knows no model and no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanlight.errors import KernelError
from fanlight.kernels.reference_tensor import Tensor, check_indices

PAGE_TOKENS = 64


class Rope:
    """inv_freq, (n_positions, n_rotated / 2): row p for position p, the last row for all from there on."""

    def __init__(self, inv_freq: Tensor, scale: float) -> None:
        if not inv_freq.shape[0]:
            raise KernelError("rope: inv_freq is empty")
        self.inv_freq, self.scale = inv_freq.array, np.float32(scale)

    @property
    def n_rotated(self) -> int:
        return 2 * int(self.inv_freq.shape[1])

    def rotate(self, x: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(T, H, D) at (T,) positions: halves (a, b) of the first n_rotated -> (a cos - b sin, b cos + a sin)."""
        rows = self.inv_freq[np.minimum(positions, len(self.inv_freq) - 1)]
        angles = (positions.astype(np.float32)[:, None] * rows).astype(np.float64)[:, None]  # float32, as transformers
        cos, sin = np.cos(angles) * self.scale, np.sin(angles) * self.scale  # (T, 1, n_rotated / 2)
        turned, rest = x[..., : self.n_rotated].astype(np.float64), x[..., self.n_rotated :]
        a, b = np.split(turned, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1).astype(np.float32)


DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I8": np.dtype("i1")}
"""What pools hold, and as what."""


class Page:
    """Keys and values of up to PAGE_TOKENS positions, with int8 also what a code of each position and head stands for."""

    def __init__(self, n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> None:
        shape = (n_layer, n_kv_head, PAGE_TOKENS)
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.zeros((*shape, head_dim), DTYPES[dtype]) for name in ("keys", "values")
        }
        if dtype == "I8":
            self.arrays |= {name: np.zeros(shape, np.float32) for name in ("key_scales", "value_scales")}

    def put(self, what: str, layer: int, slot: int, x: NDArray[np.float32]) -> None:
        """Store (n_kv_head, head_dim) as "key" or "value" of a position."""
        numbers = self.arrays[what + "s"]
        if numbers.dtype == np.int8:
            numbers[layer, :, slot], self.arrays[what + "_scales"][layer, :, slot] = rounded(x)
            return
        if numbers.dtype == np.float16:  # saturate: no infinities in the cache
            x = np.clip(x, -65504, 65504)
        numbers[layer, :, slot] = x

    def get(self, what: str, layer: int) -> NDArray[np.float64]:
        """All keys or values of a layer as numbers: (n_kv_head, PAGE_TOKENS, head_dim)."""
        numbers: NDArray[np.float64] = self.arrays[what + "s"][layer].astype(np.float64)
        scales = self.arrays.get(what + "_scales")
        return numbers if scales is None else numbers * scales[layer, :, :, None].astype(np.float64)


def rounded(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows (H, D) as int8 codes, and their scales (H,): max |x| / 127, to the nearest code, ties to even.

    Infinities saturate at 3e38; rows whose largest number is 1e-36 or less are zeros.
    """
    largest = np.minimum(np.abs(x), np.float32(3e38)).max(axis=-1)
    is_some = largest > np.float32(1e-36)
    divisor = np.where(is_some, largest, np.float32(1))
    factor = np.where(is_some, np.float32(127) / divisor, np.float32(0))
    codes = np.clip(np.rint(x * factor[:, None]), -127, 127).astype(np.int8)
    return codes, np.where(is_some, largest / np.float32(127), np.float32(0))


class KVPool:
    """Pages as arrays."""

    page_tokens = PAGE_TOKENS

    def __init__(self, n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> None:
        if min(n_layer, n_kv_head, head_dim) < 1:
            raise KernelError(f"kv_pool: sizes are {n_layer}, {n_kv_head}, {head_dim}; all must be positive")
        if dtype not in DTYPES:
            raise KernelError(f"kv_pool: dtype is {dtype!r}; it can be F16, F32 or I8")
        self.n_layer, self.n_kv_head, self.head_dim, self.dtype = n_layer, n_kv_head, head_dim, dtype
        self.pages: dict[int, Page] = {}
        self._free: list[int] = []

    @property
    def page_bytes(self) -> int:
        return sum(array.nbytes for array in self._new_page().arrays.values())

    @property
    def n_pages(self) -> int:
        return len(self.pages)

    def allocate(self) -> int:
        page = self._free.pop() if self._free else len(self.pages)
        self.pages[page] = self._new_page()
        return page

    def release(self, page: int) -> None:
        self.page(page)
        del self.pages[page]
        self._free.append(page)

    def copy(self, source: int, target: int) -> None:
        to, arrays = self.page(target), self.page(source).arrays
        for name, array in arrays.items():
            to.arrays[name][...] = array

    def read(self, page: int, n: int) -> dict[str, NDArray[Any]]:
        """See `ops.KVPool.read`, here and below."""
        arrays = self.page(page).arrays
        if not 0 <= n <= PAGE_TOKENS:
            raise KernelError(f"kv_pool: {n} positions of page {page}, expected 0 to {PAGE_TOKENS}")
        return {name: array[:, :, :n].copy() for name, array in arrays.items()}

    def write(self, page: int, arrays: dict[str, NDArray[Any]]) -> None:
        stored = self.page(page).arrays
        for name in stored:
            if name not in arrays:
                raise KernelError(f"kv_pool: {name} of page {page} are missing; a page of {self.dtype} has them")
        if len(arrays) != len(stored):
            raise KernelError(f"kv_pool: {len(arrays)} arrays for page {page}, expected {len(stored)} for {self.dtype}")
        found = {name: np.asarray(arrays[name]) for name in stored}
        n = found["keys"].shape[2] if found["keys"].ndim > 2 else 0
        for name, array in found.items():
            wanted = (*stored[name].shape[:2], n, *stored[name].shape[3:])
            if array.dtype != stored[name].dtype or array.shape != wanted or n > PAGE_TOKENS:
                raise KernelError(
                    f"kv_pool: {name} of page {page} have the shape {array.shape} and the type {array.dtype}, expected "
                    f"{wanted} of {stored[name].dtype}, of at most {PAGE_TOKENS} positions"
                )
            if name.endswith("scales") and not (np.isfinite(array) & (array >= 0)).all():
                raise KernelError(f"kv_pool: {name} of page {page} are not all finite numbers from 0")
        for name, array in found.items():
            stored[name][:, :, :n] = array

    def page(self, page: int) -> Page:
        """A page in use."""
        if page not in self.pages:
            raise KernelError(f"kv_pool: page {page} is not in use")
        return self.pages[page]

    def _new_page(self) -> Page:
        return Page(self.n_layer, self.n_kv_head, self.head_dim, self.dtype)

    def batch(self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]) -> KVBatch:
        """See `ops.KVPool.batch`."""
        return KVBatch(self, tables, starts, counts)


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
        self.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
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
        check_indices("kv_batch: row", rows, self.n_rows)
        taken, chosen = copy(self), np.asarray(rows, np.int64)
        taken.sequence, taken.position = self.sequence[chosen], self.position[chosen]
        return taken


def rope(inv_freq: Tensor, scale: float = 1.0) -> Rope:
    """See `ops.Ops.rope`."""
    return Rope(inv_freq, scale)


def kv_pool(n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> KVPool:
    """See `ops.Ops.kv_pool`."""
    return KVPool(n_layer, n_kv_head, head_dim, dtype)


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
    if rope is not None and rope.n_rotated > head_dim:
        raise KernelError(f"store_kv: the angles are for {rope.n_rotated} dimensions, head_dim is {head_dim}")
    heads = qkv.array.reshape(batch.n_rows, qkv.shape[1] // head_dim, head_dim)  # (T, H + 2 H_kv, D)
    q, k, v = np.split(heads, [heads.shape[1] - 2 * n_kv, heads.shape[1] - n_kv], axis=1)
    if rope is not None:
        q, k = rope.rotate(q, batch.position), rope.rotate(k, batch.position)
    for t, (sequence, position) in enumerate(zip(batch.sequence, batch.position, strict=True)):
        page = batch.tables[sequence][position // PAGE_TOKENS]
        page.put("key", layer, position % PAGE_TOKENS, k[t])
        page.put("value", layer, position % PAGE_TOKENS, v[t])
    return Tensor(np.ascontiguousarray(q.reshape(batch.n_rows, q_columns)))


class Seen(NamedTuple):
    """What one row sees of its sequence, and how much of each."""

    weights: NDArray[np.float64]
    """(H_kv, H / H_kv, n): a softmax over the positions."""
    values: NDArray[np.float64]
    """(H_kv, n, D)."""
    positions: slice


def _seen(
    op: str, q: Tensor, batch: KVBatch, layer: int, scale: float, window: int, softcap: float, causal: bool
) -> Iterator[Seen]:
    """Of each row; the arguments are checked before the first."""
    _check_rows(op, q, batch, layer)
    n_kv, head_dim = batch.pool.n_kv_head, batch.pool.head_dim
    if q.shape[1] < 1 or q.shape[1] % (n_kv * head_dim):
        raise KernelError(f"{op}: q has {q.shape[1]} columns, expected a multiple of {n_kv * head_dim}")
    if window < 0:
        raise KernelError(f"{op}: window is {window}, expected 0 (none) or more")
    share = q.shape[1] // (n_kv * head_dim)
    queries = q.array.astype(np.float64).reshape(batch.n_rows, n_kv, share, head_dim)  # (T, H_kv, H / H_kv, D)

    def row(t: int) -> Seen:
        sequence, position = batch.sequence[t], batch.position[t]
        first = max(0, position + 1 - window) if window else 0
        end = position + 1 if causal else batch.lengths[sequence]
        pages = batch.tables[sequence][: (end - 1) // PAGE_TOKENS + 1]
        keys, values = (  # (H_kv, end - first, D) each
            np.concatenate([page.get(what, layer) for page in pages], axis=1)[:, first:end] for what in ("key", "value")
        )
        scores = scale * queries[t] @ keys.transpose(0, 2, 1)  # (H_kv, H / H_kv, end - first)
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return Seen(weights / weights.sum(axis=-1, keepdims=True), values, slice(first, end))

    return map(row, range(batch.n_rows))


def attention(
    q: Tensor, batch: KVBatch, layer: int, scale: float, window: int = 0, softcap: float = 0.0, causal: bool = True
) -> Tensor:
    """See `ops.Ops.attention`."""
    out = np.zeros(q.shape, np.float32)
    for t, seen in enumerate(_seen("attention", q, batch, layer, scale, window, softcap, causal)):
        out[t] = (seen.weights @ seen.values).reshape(-1)
    return Tensor(out)


def attention_weights(
    q: Tensor,
    batch: KVBatch,
    layer: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    causal: bool = True,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """See `ops.Ops.attention_weights`."""
    rows = list(_seen("attention_weights", q, batch, layer, scale, window, softcap, causal))
    n_head = q.shape[1] // batch.pool.head_dim
    wanted = range(n_head) if heads is None else heads
    check_indices("attention_weights: head", wanted, n_head)
    n = max((int(seen.positions.stop) for seen in rows), default=0)
    out = np.zeros((batch.n_rows, len(wanted), n), np.float32)
    for t, seen in enumerate(rows):
        out[t, :, seen.positions] = seen.weights.reshape(n_head, -1)[np.asarray(wanted, np.int64)]
    return Tensor(out.reshape(batch.n_rows * len(wanted), n))
