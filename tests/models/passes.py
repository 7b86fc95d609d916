"""Logits of a decoder on all the ways that ids can reach it. In: a Decoder, ids. Knows no architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanlight.cache.paged import PagedCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fanlight.models.base import Decoder

WHOLE = 1 << 20


def forward(decoder: Decoder, prompts: Sequence[Sequence[int]], n_at_once: int = WHOLE) -> list[NDArray[np.float32]]:
    """(n_ids, n_vocab) for each prompt: all of them in one batch, so many ids of each in every pass."""
    cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)
    slots = [cache.open() for _ in prompts]
    rows: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
    while True:
        pending = [(i, list(ids[slots[i].length :][:n_at_once])) for i, ids in enumerate(prompts)]
        work = [(i, ids) for i, ids in pending if ids]
        if not work:
            return [np.concatenate(parts) for parts in rows]
        for i, ids in work:
            cache.reserve(slots[i], len(ids))
        batch = cache.batch([(slots[i], len(ids)) for i, ids in work])
        together = [token for _, ids in work for token in ids]
        logits = decoder.forward(together, batch, range(len(together))).numpy()
        for i, ids in work:
            rows[i].append(logits[: len(ids)])
            logits = logits[len(ids) :]


def every_way(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> dict[str, list[NDArray[np.float32]]]:
    """The same logits by every way."""
    return {
        "prefilled": [forward(decoder, [ids])[0] for ids in prompts],
        "token by token": [forward(decoder, [ids], 1)[0] for ids in prompts],
        "in chunks": [forward(decoder, [ids], 7)[0] for ids in prompts],
        "in a batch": forward(decoder, prompts),
        "in a batch, in chunks": forward(decoder, prompts, 5),
    }
