"""What all decoders share: the way from ids through the blocks to logits, and the looks that a pass can have on the way.

In: ids and a KV batch. Out: logits. Knows no architecture, no text and no file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fanlight.errors import OptionError
from fanlight.kernels.ops import CACHE_DTYPES, KVBatch, KVPool, Linear, Ops, Readings, Rope, Tensor
from fanlight.models.base import FINAL, DecoderConfig, Watch
from fanlight.models.rope import RopeConfig

if TYPE_CHECKING:
    from fanlight.models.weights import Weights


@contextmanager
def timed(watch: Watch | None, part: str, layer: int = 0) -> Iterator[None]:
    """Adds what passes inside to `watch.seconds`, if the pass is to be measured."""
    if watch is None or not watch.times:
        yield
        return
    started = time.perf_counter()
    yield
    watch.seconds[part, layer] = watch.seconds.get((part, layer), 0.0) + time.perf_counter() - started


class DecoderBase(ABC):
    """What all decoders share: the way from ids through the blocks to logits, and the shape of their KV pool.

    An architecture says what the way is made of: `embedded`, of each block `attended` and `fed`, `normed`, and `before_head`
    where something stands between that norm and the head.
    """

    head: Linear

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        self.config = config
        self.ops: Ops = weights.ops
        self.cache_dtype = weights.cache_dtype
        self._weights = weights.packed
        self.scale = config.attn_scale or config.head_dim**-0.5
        """What scores of attention are multiplied with."""

    def new_pool(self, dtype: str | None = None) -> KVPool:
        """See `models.base.Decoder`. None: half precision for quantised checkpoints, F32 for float ones."""
        if dtype is not None and dtype not in CACHE_DTYPES:
            raise OptionError(
                f"the KV cache's type is {dtype!r}; it can be {', '.join(CACHE_DTYPES)}, or None for what suits the weights"
            )
        c = self.config
        return self.ops.kv_pool(c.n_layer, c.n_kv_head, c.head_dim, dtype or self.cache_dtype)

    def forward(
        self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int], watch: Watch | None = None
    ) -> Tensor:
        """See `models.base.Decoder`."""
        n_layer, rows = self.config.n_layer, logit_rows  # rows: what the last block has to make
        take, kept = self.ops.take_rows, logit_rows
        if watch is not None:
            n_layer, kept = watch.depth(n_layer), watch.kept_rows(logit_rows)
            watch.clear()
            watch.kept = kept
            if watch.final or watch.middles or n_layer in watch.layers:
                rows = list(dict.fromkeys((*logit_rows, *kept)))
        with timed(watch, "embedding"):
            x = self.embedded(ids, batch)  # (T, E)
        for layer in range(n_layer):
            if watch is None:
                x = self.through(layer, x, batch, rows if layer == n_layer - 1 else None)
                continue
            if layer in watch.layers:
                watch.states[layer] = take(x, kept)
            x = self.watched(layer, x, batch, rows if layer == n_layer - 1 else None, watch)
        with timed(watch, "head"):
            h = self.normed(x)  # (len(rows), E)
            if watch is not None and rows is not logit_rows:
                place = {row: i for i, row in enumerate(rows)}
                if n_layer in watch.layers:
                    watch.states[n_layer] = take(x, [place[row] for row in kept])
                if watch.final:
                    watch.states[FINAL] = take(h, [place[row] for row in kept])
                h = take(h, [place[row] for row in logit_rows])
            return self.logits(h)  # (len(logit_rows), V)

    def through(self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None = None) -> Tensor:
        """One block: (T, E) -> (T, E). Keys and values of all rows are stored; rows: only these are read from there on."""
        return self.fed(layer, *self.attended(layer, x, batch, rows, None))

    def watched(
        self,
        layer: int,
        x: Tensor,
        batch: KVBatch,
        rows: Sequence[int] | None,
        watch: Watch,
    ) -> Tensor:
        """`through`, with an eye on the block's inside."""
        with timed(watch, "attention", layer):
            x, given = self.attended(layer, x, batch, rows, watch)
        if watch.middles:
            place = None if rows is None else {row: i for i, row in enumerate(rows)}
            places = watch.kept if place is None else [place[row] for row in watch.kept]
            watch.inner[layer] = self.ops.take_rows(x, places)
        with timed(watch, "feed_forward", layer):
            return self.fed(layer, x, given)

    def attend(
        self,
        layer: int,
        x: Tensor,
        qkv: Tensor,
        batch: KVBatch,
        rope: Rope | None,
        rows: Sequence[int] | None,
        watch: Watch | None,
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values, and attend: x, and what the heads read, (T, H * D). rows: of these rows alone, both."""
        ops, c, window = self.ops, self.config, self.config.window(layer)
        q = ops.store_kv(qkv, batch, layer, rope)  # (T, (H + 2 H_kv) * D) -> (T, H * D)
        if watch is not None and layer in watch.attention:
            seen = (ops.take_rows(q, watch.kept), batch.take(watch.kept))
            watch.weights[layer] = ops.attention_weights(
                *seen, layer, self.scale, window, c.attn_softcap, heads=watch.attention[layer]
            )
        if rows is not None:  # from here on only these are read
            x, q, batch = ops.take_rows(x, rows), ops.take_rows(q, rows), batch.take(rows)
        return x, ops.attention(q, batch, layer, self.scale, window, c.attn_softcap)

    def read_out(self, x: Tensor, *, norm: bool = True) -> Tensor:
        """See `models.base.Decoder`."""
        return self.logits(self.normed(x) if norm else x)

    def readings(self, x: Tensor, tokens: Sequence[int], k: int) -> Readings:
        """See `models.base.Decoder`."""
        return self.ops.readings(self.final(x), self.head, tokens, k, self.config.logit_softcap)

    def final(self, x: Tensor) -> Tensor:
        """See `models.base.Decoder`."""
        return self.before_head(self.normed(x))

    def head_rows(self, tokens: Sequence[int]) -> Tensor:
        """See `models.base.Decoder`."""
        return self.ops.embed(self.head, tokens)

    @abstractmethod
    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """What the first block reads: (T, E)."""

    @abstractmethod
    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """A block's first half: x with what attention adds, and what the feed-forward network reads. (T, E) -> (T, E) twice."""

    @abstractmethod
    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """A block's second half: x with what the feed-forward network makes of `given`. (T, E) -> (T, E)."""

    @abstractmethod
    def normed(self, x: Tensor) -> Tensor:
        """The final norm: (T, E) -> (T, E)."""

    def before_head(self, h: Tensor) -> Tensor:
        """What the head reads of normed states: they themselves, where nothing stands between."""
        return h

    def logits(self, h: Tensor) -> Tensor:
        """What the head makes of normed states, capped where the architecture has it so: (T, E) -> (T, V)."""
        logits, cap = self.ops.linear(self.before_head(h), self.head), self.config.logit_softcap
        return self.ops.softcap(logits, cap) if cap else logits

    def linears(self) -> Sequence[Linear]:
        """Every matrix that a decode step reads."""
        return tuple(self._weights)


def make_rope(ops: Ops, config: RopeConfig, n_ctx: int) -> Rope:
    """The angles of a window of this length."""
    rows, scale = config.inv_freq(n_ctx)
    return ops.rope(ops.tensor(array("f", [x for row in rows for x in row]), len(rows[0])), scale)
