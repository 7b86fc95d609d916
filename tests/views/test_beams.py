"""The tree of a search: every node, its fate, its parent; no line crosses another; texts as they came out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.search import Node, SearchRecord
from fanlight.views.beams import beams_figure, fates_of, ordered
from views.structures import check

WORDS = ["the", "␣of_$", "␣mat", "\\n", "␣internationalisation", "猫", "."]


def label(token: int) -> str:
    return WORDS[token % len(WORDS)]


def search_of(n_beams: int, depth: int, seed: int = 0) -> SearchRecord:
    """A beam search over random log-probabilities."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    running: list[tuple[int, float]] = [(-1, 0.0)]
    done: list[int] = []
    for level in range(1, depth + 1):
        made = [
            (parent, total + logprob, logprob, int(rng.integers(0, 99)))
            for parent, total in running
            for logprob in -rng.exponential(1.0, n_beams)
        ]
        made.sort(key=lambda one: -one[1])
        running = []
        for i, (parent, total, logprob, token) in enumerate(made[: 2 * n_beams]):
            ends = i < n_beams and level > 2 and rng.random() < 0.1
            fate = "finished" if ends else "kept" if len(running) < n_beams else "pruned"
            nodes.append(Node(parent, token, level, logprob, total / level, fate))
            if ends:
                done.append(len(nodes) - 1)
            elif fate == "kept":
                running.append((len(nodes) - 1, total))
    done += [at for at, _ in running]
    done.sort(key=lambda at: -nodes[at].score)
    return SearchRecord("beam search", tuple(nodes), tuple(done[:2]))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("n_beams", "depth"), [(1, 1), (3, 5), (4, 12), (2, 25)])
def test_every_node_is_there_with_its_token_score_and_fate(n_beams: int, depth: int, dark: bool) -> None:
    search = search_of(n_beams, depth)
    figure = beams_figure(search, label, dark=dark)
    said = check(figure)
    axes = figure.axes[0]
    fates = fates_of(search)
    boxes = sorted(str(p.get_gid()) for p in axes.patches if str(p.get_gid()).startswith("node"))
    assert boxes == sorted(f"node {i} {fate}" for i, fate in enumerate(fates))
    edges = [str(p.get_gid()) for p in axes.patches if str(p.get_gid()).startswith("edge")]
    assert sorted(edges) == sorted(
        f"edge {fate}" for node, fate in zip(search.nodes, fates, strict=True) if node.parent >= 0
    )
    scores = [t.get_text() for t in axes.texts]
    for node in search.nodes:
        assert f"{node.score:.2f}" in scores
    assert f"best score {search.nodes[search.returned[0]].score:.3f}" in said
    for node in search.returned:
        assert f"{search.nodes[node].score:.3f}  {search.nodes[node].depth} token" in said


@pytest.mark.parametrize("seed", range(7))
def test_no_line_crosses_another(seed: int) -> None:
    search = search_of(4, 9, seed)
    rows = ordered(search, 9)
    assert sorted(at for row in rows for at in row) == list(range(len(search.nodes)))
    for above, below in pairwise(rows):
        place = {at: i for i, at in enumerate(above)}
        parents = [place[search.nodes[at].parent] for at in below]
        assert parents == sorted(parents)


def test_the_best_text_is_on_top_of_its_family() -> None:
    search = search_of(3, 6, 2)
    way = search.returned[0]
    while way >= 0:
        parent = search.nodes[way].parent
        family = [at for at in ordered(search, 6)[search.nodes[way].depth - 1] if search.nodes[at].parent == parent]
        assert family[0] == way
        way = parent


def test_what_leads_to_a_text_that_came_out_is_returned_whatever_it_was_called() -> None:
    nodes = (
        Node(-1, 0, 1, -0.1, -0.1, "kept"),
        Node(-1, 1, 1, -0.2, -0.2, "pruned"),
        Node(0, 2, 2, -0.1, -0.1, "returned"),
        Node(0, 3, 2, -0.3, -0.2, "finished"),
    )
    assert fates_of(SearchRecord("beam search", nodes, (2,))) == ["returned", "pruned", "returned", "finished"]


def test_a_very_long_search_is_lines() -> None:
    search = search_of(5, 130, 1)
    figure = beams_figure(search, label)
    said = check(figure)
    edges = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith("edge")]
    assert len(edges) == len(search.nodes)
    assert "tokens written" in said
    assert figure.get_size_inches()[0] < 20
    wide = beams_figure(search_of(20, 40, 1), label)
    assert wide.get_size_inches()[1] < 30


def test_max_depth_draws_the_beginning_and_says_so() -> None:
    search = search_of(3, 20)
    figure = beams_figure(search, label, max_depth=4)
    said = check(figure)
    deepest = max(node.depth for node in search.nodes)
    assert f"Drawn: the first 4 of {deepest} tokens" in said
    shown = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith("node")]
    assert len(shown) == sum(node.depth <= 4 for node in search.nodes)
    assert "Drawn" not in check(beams_figure(search, label, max_depth=99))


def test_a_search_without_a_text_and_one_without_a_node() -> None:
    only = SearchRecord("beam search", (Node(-1, 0, 1, -0.1, -0.1, "kept"),), ())
    assert "came out, best" not in check(beams_figure(only, label))
    with pytest.raises(OptionError, match="no node"):
        beams_figure(SearchRecord("beam search", (), ()), label)
    with pytest.raises(OptionError, match="max_depth must be 1 or more, or None: got 0"):
        beams_figure(only, label, max_depth=0)
