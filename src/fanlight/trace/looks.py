"""What was seen inside a model while it wrote: plain arrays. Knows no model.

A step is one new token. Its row is the position before it, which the token was chosen at. Layer l of n_layer + 1 is the residual
stream after l blocks: 0 the embedding, n_layer what the final norm reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lens:
    """What each layer would say: what the final norm and the head make of the residual stream. Source: nostalgebraist 2020."""

    ids: NDArray[np.int32]
    """(n_steps, n_layer + 1, k): the most probable tokens, descending."""
    logprobs: NDArray[np.float32]
    """Theirs, of the same shape."""
    chosen_logprobs: NDArray[np.float32]
    """(n_steps, n_layer + 1): of the token that the step chose."""
    chosen_ranks: NDArray[np.int32]
    """(n_steps, n_layer + 1): tokens before it; 0: the layer's arg max."""
    entropies: NDArray[np.float32]
    """(n_steps, n_layer + 1), in nats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attention:
    """What looked where."""

    layers: tuple[int, ...]
    """Numbers from 0."""
    heads: tuple[int, ...]
    queries: tuple[int, ...]
    """Positions that look; 0 is the first id of the prompt."""
    weights: NDArray[np.float16]
    """(n_layers, n_heads, n_queries, n_positions): each row sums to 1; 0 where a query may not look."""
    windows: tuple[int, ...] = ()
    """Of each layer, how many positions it sees, 0 for all; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contributions:
    """What was added to the chosen token's logit, before a cap on logits if the model has one.

    The sum of all is that logit, but for the rounding of activations. With the final norm's divisor as it was: so each part is
    its own share, and not what would be missing without it. Source: direct logit attribution, Elhage et al. 2021.
    """

    embedding: NDArray[np.float32]
    """(n_steps,)"""
    attention: NDArray[np.float32]
    """(n_steps, n_layer)"""
    feed_forward: NDArray[np.float32]
    """(n_steps, n_layer)"""
    constant: NDArray[np.float32]
    """(n_steps,): what biases after the last block add, whatever the text."""
    logits: NDArray[np.float32]
    """(n_steps,): the logit, as the model gave it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Norms:
    """Lengths (L2) of vectors."""

    residual: NDArray[np.float32]
    """(n_steps, n_layer + 1): of the residual stream."""
    attention: NDArray[np.float32]
    """(n_steps, n_layer): of what attention added."""
    feed_forward: NDArray[np.float32]
    """(n_steps, n_layer)"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timings:
    """Seconds."""

    forward: NDArray[np.float32]
    """(n_steps,): in the model, passes that guessed or waited for the step included; what several texts share counts for each."""
    deciding: NDArray[np.float32]
    """(n_steps,): processors, choice, record, text."""
    layers: NDArray[np.float32]
    """(n_layer, 2): attention and feed-forward network of each block, a token's share of the pass that looked inside."""
    head: float
    """Final norm and head, a token's share of that pass."""
    embedding: float
