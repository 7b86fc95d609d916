"""llama.cpp through the low-level API of llama-cpp-python: flash attention on, greedy sampler in C."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


class LlamaCpp:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, *, name: str, threads: int, n_ctx: int = 1024) -> None:
        """Load the model. ValueError if llama.cpp does not take the file."""
        self.name = name
        self._model = load(path)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._greedy = llama_cpp.llama_sampler_init_greedy()
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._position = 0
        self._next = -1

    def prefill(self, ids: Sequence[int]) -> int:
        """As `Peer.prefill`."""
        self._forget()
        for start in range(0, len(ids), 512):
            chunk = ids[start : start + 512]
            self._forward(chunk, [start + len(chunk) == len(ids) and i == len(chunk) - 1 for i in range(len(chunk))])
        self._next = int(llama_cpp.llama_sampler_sample(self._greedy, self._context, -1))
        return self._next

    def decode(self, n: int) -> list[int]:
        """As `Peer.decode`."""
        ids = []
        for _ in range(n):
            self._forward([self._next], [True])
            self._next = int(llama_cpp.llama_sampler_sample(self._greedy, self._context, -1))
            ids.append(self._next)
        return ids

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of a text: (T, n_vocab)."""
        self._forget()
        rows = []
        for start in range(0, len(ids), 512):
            chunk = ids[start : start + 512]
            self._forward(chunk, [True] * len(chunk))
            found = llama_cpp.llama_get_logits(self._context)
            rows.append(np.ctypeslib.as_array(found, shape=(len(chunk), self._n_vocab)).copy())
        return np.concatenate(rows)

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)
        self._position = 0

    def _forward(self, ids: Sequence[int], wanted: Sequence[bool]) -> None:
        batch: Any = self._batch
        batch.n_tokens = len(ids)
        for i, (token, want) in enumerate(zip(ids, wanted, strict=True)):
            batch.token[i] = token
            batch.pos[i] = self._position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = want
        code = llama_cpp.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(
                f"{self.name}: llama_decode returned {code} for {len(ids)} tokens at position {self._position}"
            )
        self._position += len(ids)


FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "IQ4_NL": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL,
}
"""What llama.cpp can make of a file, by the name of most of its matrices' type."""


def load(path: Path) -> Any:
    """A model of llama.cpp. ValueError if llama.cpp does not take the file."""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    if not model:
        raise ValueError(f"{path}: llama.cpp does not load this file")
    return model


def requantise(source: Path, folder: Path, kind: str) -> Path:
    """The same model as llama.cpp itself makes it in another type (of FILE_TYPES); kept in `folder`."""
    target = folder / f"{source.stem}.as-{kind.lower()}.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[kind]
        params.allow_requantize = True
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            half_written = Path(scratch) / target.name
            if (
                llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(half_written), ctypes.byref(params))
                != 0
            ):
                raise RuntimeError(f"{source}: llama.cpp could not requantise this file to {kind}")
            half_written.replace(target)
    return target
