"""Fanlight through its public API: the whole product, with engine, decision step and text, as a caller streams it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fanlight


class Fanlight:
    """A GGUF file or a folder in Fanlight. `settings` are generation options on top of greedy without accounting."""

    def __init__(
        self, path: Path | None, *, name: str, threads: int, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Load the model; None is the default one. It keeps no text between calls, which would make a second run a free one."""
        self.name = name
        self.model = fanlight.load(path, threads=threads, prefix_bytes=0)
        self.settings = dict(settings or {})
        self._steps: Iterator[Any] = iter(())

    def with_settings(self, name: str, **settings: object) -> Fanlight:
        """The same loaded model under other generation options."""
        other = object.__new__(Fanlight)
        other.name, other.model, other.settings, other._steps = name, self.model, settings, iter(())
        return other

    def prefill(self, ids: Sequence[int]) -> int:
        """As `Peer.prefill`."""
        plain = {"do_sample": False, "candidates": 0, "ignore_eos": True}
        room = self.model.decoder.config.n_ctx - len(ids)
        self._steps = iter(self.model.stream(list(ids), max_new_tokens=room, **{**plain, **self.settings}))
        return int(next(self._steps).id)

    def decode(self, n: int) -> list[int]:
        """As `Peer.decode`."""
        return [int(next(self._steps).id) for _ in range(n)]

    def logits(self, ids: Sequence[int], rows: int = 256) -> NDArray[np.float32]:
        """Logits after every token of a text: (T, n_vocab)."""
        decoder = self.model.decoder
        pool = decoder.new_pool()
        pages = [pool.allocate() for _ in range(-(-len(ids) // pool.page_tokens))]
        found = []
        for start in range(0, len(ids), rows):
            chunk = ids[start : start + rows]
            batch = pool.batch([pages], [start], [len(chunk)])
            found.append(decoder.forward(chunk, batch, range(len(chunk))).numpy())
        return np.concatenate(found)

    def read_weights(self, times: int) -> None:
        """Read every packed byte that a decode step reads, and do nothing with it: the floor of a decode step."""
        from fanlight.kernels import _native

        decoder: Any = self.model.decoder  # the protocol does not ask for linears(); both native architectures have it
        linears = list(decoder.linears())
        for _ in range(times):
            _native.read_all(linears)
