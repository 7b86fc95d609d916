"""Fanlight with many sequences in one engine, as a program with many requests uses it: decisions, texts and all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import fanlight
from fanlight.engine.loop import Engine
from fanlight.engine.request import Request


class FanlightSlots:
    """A loaded model, `n_slots` sequences at once: both a BatchPeer and a SlotsPeer."""

    def __init__(
        self,
        model: fanlight.Model,
        *,
        name: str,
        n_slots: int,
        settings: Mapping[str, Any] | None = None,
        **sizes: Any,
    ) -> None:
        """settings: generation options on top of greedy without accounting. sizes: options of its engines, such as cache_type.

        Nothing stays in the cache from one request to another unless `sizes` has prefix_bytes.
        """
        self.name = name
        self._model, self._n_slots = model, n_slots
        self._sizes = {"prefix_bytes": 0, **sizes}
        plain = {"do_sample": False, "candidates": 0, "ignore_eos": True}
        self._config = model.settings(**{**plain, **(settings or {})})
        self._live: dict[int, tuple[Hashable, Request]] = {}
        self.engine = self._new_engine()

    # -- as a BatchPeer -----------------------------------------------------------------------------------------------

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """As `BatchPeer.begin`."""
        self.clear()
        room = self.engine.n_ctx - max(map(len, prompts))
        for number, ids in enumerate(prompts):
            self.submit(number, ids, room)
        begun: set[Hashable] = set()
        while len(begun) < len(prompts):
            begun.update(key for key, _ in self.step())

    def advance(self, n: int) -> list[list[int]]:
        """As `BatchPeer.advance`."""
        passes = [dict(self.step()) for _ in range(n)]
        return [[chosen[number] for chosen in passes] for number in sorted(passes[0])]  # type: ignore[type-var]

    # -- as a SlotsPeer -----------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """As `SlotsPeer.clear`. With prefix_bytes, the engine stays, with the beginnings that it keeps."""
        if self._sizes["prefix_bytes"]:
            for _, request in self._live.values():
                self.engine.cancel(request)
            while self.engine.has_work:
                self.engine.step()
        else:
            self.engine = self._new_engine()
        self._live.clear()

    def submit(self, key: Hashable, ids: Sequence[int], n_new: int) -> None:
        """As `SlotsPeer.submit`."""
        request = self.engine.submit(ids, self._config.replace(max_new_tokens=n_new))
        self._live[request.id] = (key, request)

    @property
    def has_work(self) -> bool:
        """As `SlotsPeer.has_work`."""
        return self.engine.has_work

    def step(self) -> list[tuple[Hashable, int]]:
        """As `SlotsPeer.step`."""
        chosen: list[tuple[Hashable, int]] = []
        for event in self.engine.step():
            if event.error is not None:
                raise event.error
            if event.id is not None:
                chosen.append((self._live[event.request_id][0], event.id))
            if event.ends_request:
                del self._live[event.request_id]
        return chosen

    def _new_engine(self) -> Engine:
        return self._model.engine(max_batch=self._n_slots, **self._sizes)
