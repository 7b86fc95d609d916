"""llama.cpp with many sequences in one context, through the low-level API of llama-cpp-python: flash attention on.

Every choice that is the benchmark's is made in llama.cpp's favour: rows of a batch are written as arrays, and the arg max is
NumPy's over the logits where they lie, which costs less than llama.cpp's own greedy sampler (it copies the vocabulary first).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.llama_cpp import load

N_BATCH = 512
"""Tokens of one pass, as the prompt chunks of all engines here."""


@dataclass(slots=True)
class _Slot:
    """A sequence of the context, and the request in it."""

    number: int
    key: Hashable = None
    waiting: deque[int] = field(default_factory=deque)
    """Tokens that are to be computed: what is left of the prompt, or the last one chosen."""
    position: int = 0
    n_left: int = 0


class LlamaSlots:
    """A GGUF file in llama.cpp, `n_slots` sequences at once: both a BatchPeer and a SlotsPeer."""

    def __init__(
        self, path: Path, *, name: str, threads: int, n_slots: int, n_ctx: int = 512, unified: bool = False
    ) -> None:
        """n_ctx: positions of each sequence. unified: one buffer for all of them, where each masks the others' positions."""
        self.name = name
        self._model = load(path)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_slots * n_ctx
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_seq_max = n_slots
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = unified
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"{name}: llama.cpp made no context of {n_slots} sequences of {n_ctx} positions")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        batch: Any = llama_cpp.llama_batch_init(N_BATCH, 0, 1)
        self._batch = batch
        view = np.ctypeslib.as_array
        self._token, self._pos = view(batch.token, (N_BATCH,)), view(batch.pos, (N_BATCH,))
        self._wanted = view(batch.logits, (N_BATCH,))
        view(batch.n_seq_id, (N_BATCH,))[:] = 1
        self._seq = [view(batch.seq_id[i], (1,)) for i in range(N_BATCH)]
        self._slots = [_Slot(number) for number in range(n_slots)]
        self._queue: deque[tuple[Hashable, Sequence[int], int]] = deque()

    def close(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    # -- as a BatchPeer -----------------------------------------------------------------------------------------------

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """As `BatchPeer.begin`."""
        self.clear()
        for number, ids in enumerate(prompts):
            self.submit(number, ids, 1 << 30)
        begun: set[Hashable] = set()
        while len(begun) < len(prompts):
            begun.update(key for key, _ in self.step(prompts_first=True))

    def advance(self, n: int) -> list[list[int]]:
        """As `BatchPeer.advance`."""
        passes = [dict(self.step()) for _ in range(n)]
        return [[chosen[slot.key] for chosen in passes] for slot in self._slots if slot.key is not None]

    # -- as a SlotsPeer -----------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """As `SlotsPeer.clear`."""
        llama_cpp.llama_memory_clear(self._memory, False)
        self._queue.clear()
        self._slots = [_Slot(slot.number) for slot in self._slots]

    def submit(self, key: Hashable, ids: Sequence[int], n_new: int) -> None:
        """As `SlotsPeer.submit`."""
        self._queue.append((key, ids, n_new))

    @property
    def has_work(self) -> bool:
        """As `SlotsPeer.has_work`."""
        return bool(self._queue) or any(slot.key is not None for slot in self._slots)

    def step(self, *, prompts_first: bool = False) -> list[tuple[Hashable, int]]:
        """As `SlotsPeer.step`, in the order of llama.cpp's server: what decodes, then prompts as far as the batch has room.

        prompts_first: what decodes waits while a prompt is read.
        """
        for slot in self._slots:
            if slot.key is None and self._queue:
                slot.key, ids, slot.n_left = self._queue.popleft()
                slot.waiting, slot.position = deque(ids), 0
        busy = [slot for slot in self._slots if slot.waiting]
        reading = [slot for slot in busy if len(slot.waiting) > 1 or slot.position == 0]
        decoding = [slot for slot in busy if slot not in reading]
        rows, ends = 0, list[tuple[_Slot, int]]()
        for slot in reading if prompts_first and reading else decoding + reading:
            n = min(len(slot.waiting), N_BATCH - rows)
            for i in range(rows, rows + n):
                self._token[i] = slot.waiting.popleft()
                self._seq[i][0] = slot.number
            self._pos[rows : rows + n] = range(slot.position, slot.position + n)
            self._wanted[rows : rows + n] = 0
            slot.position += n
            rows += n
            if n and not slot.waiting:
                self._wanted[rows - 1] = 1
                ends.append((slot, rows - 1))
        chosen = self._forward(rows, len(ends))
        return [(self._choose(slot, int(token))) for (slot, _), token in zip(ends, chosen, strict=True)]

    def _choose(self, slot: _Slot, token: int) -> tuple[Hashable, int]:
        key = slot.key
        slot.n_left -= 1
        if slot.n_left:
            slot.waiting.append(token)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, slot.number, -1, -1)
            slot.key = None
        return key, token

    def _forward(self, rows: int, n_wanted: int) -> NDArray[np.intp]:
        """Compute the first `rows` rows of the batch; the arg max of those whose logits are wanted."""
        self._batch.n_tokens = rows
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise RuntimeError(f"{self.name}: llama_decode returned {code} for {rows} tokens")
        if not n_wanted:
            llama_cpp.llama_synchronize(self._context)
            return np.empty(0, dtype=np.intp)
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (n_wanted, self._n_vocab))
        chosen: NDArray[np.intp] = logits.argmax(axis=1)
        return chosen
