"""Writes down the tree that a search goes through. In: candidates and their fates. Out: a SearchRecord. Knows no search."""

from __future__ import annotations

from dataclasses import replace

from fanlight.trace.search import Node, SearchRecord

KEPT, PRUNED, FINISHED, RETURNED = "kept", "pruned", "finished", "returned"


class Tree:
    """The nodes so far; one that is off costs nothing and gives every node the number -1."""

    __slots__ = ("_nodes", "kind", "on")

    def __init__(self, kind: str, on: bool) -> None:
        self.kind, self.on = kind, on
        self._nodes: list[Node] = []

    def add(self, parent: int, token: int, depth: int, logprob: float, score: float, fate: str, group: int = 0) -> int:
        """A candidate; its number."""
        if not self.on:
            return -1
        self._nodes.append(Node(parent, token, depth, logprob, score, fate, group))
        return len(self._nodes) - 1

    def record(self, returned: list[int]) -> SearchRecord | None:
        """All of it. returned: the last nodes of what came out, the best first."""
        if not self.on:
            return None
        for node in returned:
            if node >= 0:
                self._nodes[node] = replace(self._nodes[node], fate=RETURNED)
        return SearchRecord(self.kind, tuple(self._nodes), tuple(returned))
