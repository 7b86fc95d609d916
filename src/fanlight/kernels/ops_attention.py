"""The part of the interface of the kernels that is about attention: keys and values in pages, rotation, and who looks at what.

What `ops` says of all ops holds here, and `ops.Ops` has these too. Knows arrays; knows no model, no text, no file.

Shapes: T rows, H query heads, H_kv heads of keys and values, D head_dim. Query head h reads keys and values of h // (H / H_kv).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Tensor

CACHE_DTYPES = ("F16", "F32", "I8")
"""What a KV pool can hold."""


class Rope(Protocol):
    """Rotary position angles for one head size."""


class KVPool(Protocol):
    """Storage for keys and values, in pages of `page_tokens` positions over all layers."""

    @property
    def page_tokens(self) -> int:
        """Positions a page holds."""

    @property
    def page_bytes(self) -> int:
        """Bytes a page takes."""

    @property
    def n_pages(self) -> int:
        """Pages in use."""

    def allocate(self) -> int:
        """A new page's id. Its content is undefined."""

    def release(self, page: int) -> None:
        """Give a page back; its id may be handed out again."""

    def copy(self, source: int, target: int) -> None:
        """Make one page's content equal to another's (for copy-on-write)."""

    @property
    def dtype(self) -> str:
        """One of CACHE_DTYPES."""

    def read(self, page: int, n: int) -> dict[str, NDArray[Any]]:
        """The first n positions of a page, free of the layout inside.

        "keys" and "values", (n_layer, n_kv_head, n, head_dim) of float16, float32 or int8; with I8 also "key_scales" and
        "value_scales", (n_layer, n_kv_head, n) of float32: a code times its scale is the number.
        """

    def write(self, page: int, arrays: dict[str, NDArray[Any]]) -> None:
        """What `read` gave, bit for bit: as the first n positions of a page, whose others are kept."""

    def batch(self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]) -> KVBatch:
        """Rows laid out sequence by sequence: sequence s brings counts[s] rows at positions starts[s], starts[s] + 1, ...

        tables[s] are its pages in order; they must cover starts[s] + counts[s] positions.
        """


class KVBatch(Protocol):
    """Which sequence and position each of the T rows of one forward pass belongs to."""

    @property
    def n_rows(self) -> int:
        """T."""

    @property
    def positions(self) -> Sequence[int]:
        """Of each row in its sequence, from 0."""

    def take(self, rows: Sequence[int]) -> KVBatch:
        """The rows named, in that order."""


class AttentionOps(Protocol):
    """Errors: `KernelError` where a shape, type or index does not fit."""

    def rope(self, inv_freq: Tensor, scale: float = 1.0) -> Rope:
        """Angles position * inv_freq (rounded to float32), split-half layout. Source: Su et al. 2021 (RoFormer).

        inv_freq is (n_positions, n_rotated / 2): row p for position p, its last row for all from there on; mostly it is one
        row. The first n_rotated dimensions of a head are turned, the rest kept. Cosines and sines are multiplied by scale.
        """

    def kv_pool(self, n_layer: int, n_kv_head: int, head_dim: int, dtype: str) -> KVPool:
        """An empty pool; dtype one of CACHE_DTYPES.

        I8: each key and each value of a head is rounded to int8 by its largest number (see `reference_attention`). Attention then
        rounds queries and weights to 16 bits.
        """

    def store_kv(self, qkv: Tensor, batch: KVBatch, layer: int, rope: Rope | None) -> Tensor:
        """Write k and v into the cache, k rotated; return q rotated. (T, (H + 2 * H_kv) * D) -> (T, H * D)."""

    def attention(
        self,
        q: Tensor,
        batch: KVBatch,
        layer: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
    ) -> Tensor:
        """Attention of each row over its sequence's positions 0..own: softmax(scale * q k) v. (T, H * D) -> same.

        window > 0: only the last `window` positions, the own one included. softcap > 0: scores become
        softcap * tanh(score / softcap). causal false: over all positions that the sequence has with this batch.
        """

    def attention_weights(
        self,
        q: Tensor,
        batch: KVBatch,
        layer: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """The weights with which `attention` sums values: (T * len(heads), n), a row's heads one after another.

        n is the largest number of positions that a row of the batch sees, counted from position 0; 0 where a row may not look.
        heads: numbers of query heads, in any order; None: all. Each row of the result sums to 1, up to rounding. The scores are
        those of `attention`, with I8 of queries rounded to 16 bits; the weights are not rounded as it rounds them for I8.
        """
