"""A decoder without weights, and a KV pool that remembers ids. In: ids. Out: logits and states that depend on every earlier id.

The pool stores token ids where a real one stores keys and values. `forward` writes its ids there and reads the whole
history back through the pages, so a wrong page, position or length changes the logits, or is caught here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fanlight.kernels import reference, reference_rows
from fanlight.kernels.reference_tensor import Tensor
from fanlight.models.base import FINAL, DecoderConfig, Watch

if TYPE_CHECKING:
    from fanlight.kernels.ops import KVBatch, KVPool, Ops

N_VOCAB = 258  # the bytes and two special tokens, to fit ByteTokenizer
UNWRITTEN = -1
LEFT_EARLY = -2  # minus the id: what a pass wrote that did not go through all layers
N_LAYER, N_EMBD = 3, 4

LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


def hashed_logits(history: Sequence[int], n_vocab: int = N_VOCAB, spread: float = 2.0) -> NDArray[np.float32]:
    """Pseudo-random logits (n_vocab,), different for every history."""
    state = 0
    for token in history:
        state = (state * 0x100000001B3 + token + 1) & reference_rows.MASK_64
    uniform = reference_rows.uniform(state, len(history), np.arange(n_vocab))
    logits: NDArray[np.float32] = (spread * np.log(uniform / (1 - uniform))).astype(np.float32)
    return logits


def hashed_state(history: Sequence[int], layer: int | str, n_embd: int = N_EMBD) -> NDArray[np.float32]:
    """A pseudo-random state (n_embd,), another one for every history and layer."""
    return hashed_logits([*history, N_LAYER + 1 if layer == FINAL else int(layer)], n_embd, 1.0)


def scripted_logits(prompt_length: int, script: Sequence[int], n_vocab: int = N_VOCAB) -> LogitsOf:
    """Logits under which greedy decoding writes `script` after a prompt of that length, whatever the prompt."""

    def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
        logits = hashed_logits(history, n_vocab)
        logits[script[(len(history) - prompt_length) % len(script)]] = 50
        return logits

    return logits_of


class FakePool:
    """Pages of ids. Released pages are handed out again first, with their old content.

    Read and written as arrays, a page of whatever dtype shows its ids as keys and as values.
    """

    def __init__(self, page_tokens: int = 4, page_bytes: int = 100, dtype: str = "F32") -> None:
        self.page_tokens = page_tokens
        self.dtype = dtype
        self.page_bytes = page_bytes
        self.pages: list[list[int]] = []
        self.in_use: set[int] = set()
        self.free: list[int] = []
        self.fail_after: int | None = None  # allocations until memory runs out

    @property
    def n_pages(self) -> int:
        return len(self.in_use)

    def allocate(self) -> int:
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise MemoryError("the fake pool is out of memory")
            self.fail_after -= 1
        if self.free:
            page = self.free.pop()
        else:
            page = len(self.pages)
            self.pages.append([UNWRITTEN] * self.page_tokens)
        self.in_use.add(page)
        return page

    def release(self, page: int) -> None:
        assert page in self.in_use, f"page {page} is released and was not in use"
        self.in_use.remove(page)
        self.free.append(page)

    def copy(self, source: int, target: int) -> None:
        assert {source, target} <= self.in_use
        self.pages[target] = list(self.pages[source])

    def read(self, page: int, n: int) -> dict[str, NDArray[Any]]:
        assert page in self.in_use
        assert 0 <= n <= self.page_tokens
        ids = np.array(self.pages[page][:n], np.float32).reshape(1, 1, n, 1)
        return {"keys": ids, "values": ids.copy()}

    def write(self, page: int, arrays: dict[str, NDArray[Any]]) -> None:
        assert page in self.in_use
        assert set(arrays) == {"keys", "values"}
        assert np.array_equal(arrays["keys"], arrays["values"])
        ids = [int(token) for token in arrays["keys"].ravel()]
        assert arrays["keys"].shape == (1, 1, len(ids), 1)
        assert len(ids) <= self.page_tokens
        self.pages[page][: len(ids)] = ids

    def batch(self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]) -> FakeBatch:
        """The rows, after checks that the pages are this sequence's alone."""
        assert len(tables) == len(starts) == len(counts) > 0
        every_page = [page for table in tables for page in table]
        assert set(every_page) <= self.in_use, "a page is used after its release"
        written = [
            table[at]
            for table, start, count in zip(tables, starts, counts, strict=True)
            for at in range(start // self.page_tokens, (start + count - 1) // self.page_tokens + 1)
        ]
        assert all(every_page.count(page) == 1 for page in written), "a page is written that two sequences share"
        places = []
        for table, start, count in zip(tables, starts, counts, strict=True):
            assert count > 0
            assert start + count <= len(table) * self.page_tokens
            places += [(list(table), start + row) for row in range(count)]
        return FakeBatch(self, places)


class FakeBatch(NamedTuple):
    """Where each row of a pass lives: its table and its position."""

    pool: FakePool
    places: list[tuple[list[int], int]]

    @property
    def n_rows(self) -> int:
        return len(self.places)


class FakeOps:
    """The reference ops."""

    name = "fake"

    def __getattr__(self, op: str) -> Any:
        return getattr(reference, op)


class FakeDecoder:
    """Logits as `logits_of` gives them for the ids that the cache holds; near them, if the pass leaves early.

    States are those of `hashed_state`, and no relatives of the logits. Of positions that a pass left early, the cache knows
    it: a deeper pass that reads one was not made to compute it again, and fails.
    """

    def __init__(
        self,
        *,
        n_ctx: int = 64,
        page_tokens: int = 4,
        n_vocab: int = N_VOCAB,
        logits_of: LogitsOf | None = None,
        early_spread: float = 0.5,
    ) -> None:
        self.config = DecoderConfig(
            model_type="fake",
            n_layer=N_LAYER,
            n_head=1,
            n_kv_head=1,
            n_embd=N_EMBD,
            head_dim=1,
            n_ffn=1,
            n_vocab=n_vocab,
            n_ctx=n_ctx,
            norm_eps=1e-5,
        )
        self.ops = cast("Ops", FakeOps())
        self.pool = FakePool(page_tokens)  # of the engine made last
        self.logits_of: LogitsOf = logits_of or (lambda history: hashed_logits(history, n_vocab))
        self.early_spread = early_spread  # how far the logits of an early exit are from the others
        self.passes: list[tuple[list[int], list[int]]] = []  # (ids, logit_rows) of every forward
        self.fail_at: int | None = None  # the pass that raises, counted from 0

    def new_pool(self, dtype: str | None = None) -> KVPool:
        self.pool = FakePool(self.pool.page_tokens, dtype=dtype or "F32")
        return self.pool

    def forward(
        self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int], watch: Watch | None = None
    ) -> Tensor:
        fake = cast("FakeBatch", batch)
        self.passes.append((list(ids), list(logit_rows)))
        if self.fail_at == len(self.passes) - 1:
            raise RuntimeError("the fake decoder fails as told")
        assert len(ids) == fake.n_rows
        depth = N_LAYER if watch is None else watch.depth(N_LAYER)
        for token, (table, position) in zip(ids, fake.places, strict=True):
            entry = token if depth == N_LAYER else LEFT_EARLY - token
            self._page(fake, table, position)[position % fake.pool.page_tokens] = entry
        rows = np.zeros((len(logit_rows), self.config.n_vocab), np.float32)
        for i, row in enumerate(logit_rows):
            history = self._history(fake, row, depth)
            rows[i] = self.logits_of(history)
            if depth < N_LAYER:
                rows[i] += hashed_logits([*history, depth], self.config.n_vocab, self.early_spread)
        if watch is not None:
            kept = watch.kept_rows(logit_rows)
            histories = [self._history(fake, row, depth) for row in kept]
            names: list[int | str] = [*watch.layers, *([FINAL] if watch.final else [])]
            watch.states = {
                name: Tensor(np.array([hashed_state(h, name) for h in histories], np.float32).reshape(-1, N_EMBD))
                for name in names
            }
        return Tensor(rows)

    def read_out(self, x: Tensor, *, norm: bool = True) -> Tensor:
        """A fixed projection; the norm subtracts the mean."""
        states = x.numpy()
        states = states - states.mean(axis=1, keepdims=True) if norm else states
        columns = [hashed_logits([i], N_EMBD, 1.0) for i in range(self.config.n_vocab)]
        return Tensor(np.ascontiguousarray(states @ np.stack(columns, axis=1)))

    def _history(self, fake: FakeBatch, row: int, depth: int) -> list[int]:
        """The ids of a row's sequence up to it."""
        table, last = fake.places[row]
        size = fake.pool.page_tokens
        entries = [self._page(fake, table, position)[position % size] for position in range(last + 1)]
        assert depth < N_LAYER or min(entries) > LEFT_EARLY, "a pass through all layers reads what one left early wrote"
        return [LEFT_EARLY - entry if entry <= LEFT_EARLY else entry for entry in entries]

    def _page(self, batch: FakeBatch, table: list[int], position: int) -> list[int]:
        return batch.pool.pages[table[position // batch.pool.page_tokens]]
