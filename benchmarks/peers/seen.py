"""A full trace of one text, in the same form from every engine, and how far two of them agree. Knows no engine.

What each side must yield, for T tokens of prompt and text of which n are new: the account of every new token (log probability,
rank, the most probable others, entropy), the attention weights of all layers, heads and positions, and what every layer would say
at each new token (the logit lens, after the embedding and after every block). Arrays may be of any float type, and are put
together by `attention`, outside of the time that is measured, where an engine leaves them in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

N_CANDIDATES, N_LENS = 20, 5
"""Tokens of an account, and of each layer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Readings:
    """What rows of logits say. Shapes begin with (n,), or with (n, n_layer + 1) where layers were read."""

    ids: NDArray[Any]
    """(..., k): the most probable tokens, descending."""
    logprobs: NDArray[Any]
    """(..., k)"""
    chosen_logprobs: NDArray[Any]
    chosen_ranks: NDArray[Any]
    """Tokens before the chosen one; 0: it was the arg max."""
    entropies: NDArray[Any]
    """In nats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """A full trace."""

    ids: tuple[int, ...]
    """The new tokens."""
    steps: Readings
    lens: Readings
    attention: Callable[[], NDArray[Any]]
    """(n_layer, n_head, T - 1, T - 1): the last token looks at nothing."""


class TracePeer(Protocol):
    """One model in one engine. Greedy; the end-of-text token does not end a text. No text is kept from one call to the next."""

    name: str

    def write(self, prompt: Sequence[int], n_new: int) -> Seen:
        """n_new tokens, and the full trace of how they came about."""

    def read(self, prompt: Sequence[int], new: Sequence[int]) -> Seen:
        """The full trace of a text that is there."""


def check(seen: Seen, *, n_prompt: int, n_new: int, name: str) -> None:
    """That nothing is missing. Errors: RuntimeError."""
    attention = seen.attention()
    n_layer, n_seen = len(attention), n_prompt + n_new - 1
    expected = {
        "new tokens": ((len(seen.ids),), (n_new,)),
        "accounts": (seen.steps.ids.shape, (n_new, N_CANDIDATES)),
        "lens": (seen.lens.ids.shape, (n_new, n_layer + 1, N_LENS)),
        "ranks of the lens": (seen.lens.chosen_ranks.shape, (n_new, n_layer + 1)),
        "attention": (attention.shape, (n_layer, attention.shape[1], n_seen, n_seen)),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise RuntimeError(f"full trace of {name}: {what} have the shape {found}, expected {wanted}")
    furthest = float(np.abs(attention.astype(np.float32).sum(axis=-1) - 1).max())
    if not furthest < 0.05:  # NaN too
        raise RuntimeError(f"full trace of {name}: a row of attention weights sums to 1 but for {furthest:.3g}")


def agreement(ours: Seen, theirs: Seen) -> dict[str, float]:
    """How near two traces of one text are: they are of the same thing, or the times of making them mean nothing."""
    attention = np.abs(ours.attention().astype(np.float32) - theirs.attention().astype(np.float32))
    return {
        "same first tokens of the account": float(np.mean(ours.steps.ids[:, 0] == theirs.steps.ids[:, 0])),
        "same first tokens of the lens": float(np.mean(ours.lens.ids[..., 0] == theirs.lens.ids[..., 0])),
        "entropies of the lens, mean difference in nats": float(
            np.mean(np.abs(ours.lens.entropies - theirs.lens.entropies))
        ),
        "attention weights, mean difference": float(attention.mean()),
    }


def n_same(ids: Sequence[int], others: Sequence[int]) -> int:
    """Tokens before the first one that differs."""
    return next((i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
