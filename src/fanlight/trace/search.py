"""The tree that a search went through: every text it followed, and where each was given up. Plain data; knows no search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """One token that a search put after a text."""

    parent: int
    """The node before it in `SearchRecord.nodes`; -1: the prompt."""
    id: int
    depth: int
    """1 for the first new token."""
    logprob: float
    """Of the token, under the distribution the search ranked by."""
    score: float
    """Of the text up to here, as the search compared it."""
    fate: str
    """"kept": followed further; "pruned": a better one took its place; "finished": the text ended here; "returned"."""
    group: int = 0


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """All nodes in the order they came, parents first."""

    kind: str
    """"beam search", "diverse beam search", "constrained beam search", "beam sampling", "contrastive search"."""
    nodes: tuple[Node, ...]
    returned: tuple[int, ...]
    """The last nodes of the texts that came out, the best first."""

    def path(self, node: int) -> tuple[int, ...]:
        """The ids from the prompt to a node, with it."""
        found: list[int] = []
        while node >= 0:
            found.append(self.nodes[node].id)
            node = self.nodes[node].parent
        return tuple(reversed(found))
