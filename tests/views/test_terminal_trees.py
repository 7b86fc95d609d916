"""Trees in a terminal: nothing is lost, nothing is wider than the terminal, whatever the tree."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.traces import a_branch, a_search, a_trace
from fanlight.errors import OptionError
from fanlight.trace.search import Node, SearchRecord
from fanlight.tracing.fan import Fan, FanNode
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_trees import beams_text, branches_text, fan_text
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, said, unbroken


def a_fan(parents: list[int], labels: list[str] | None = None) -> Fan:
    """Each node has a third of what its parent has."""
    nodes: list[FanNode] = []
    for i, parent in enumerate(parents):
        depth = nodes[parent].depth + 1 if parent >= 0 else 1
        name = labels[i % len(labels)] if labels else f"t{i}"
        nodes.append(
            FanNode(parent=parent, id=i, label=name, prob=0.33, cumulative=0.33**depth, depth=depth, rest=0.34)
        )
    return Fan(
        prompt_ids=(1,),
        prompt="The cat",
        nodes=tuple(nodes),
        rest=0.34,
        width=3,
        max_depth=9,
        min_prob=0.01,
        is_final=False,
    )


def a_search_of(parents: list[int], fates: list[str]) -> SearchRecord:
    nodes: list[Node] = []
    for i, (parent, fate) in enumerate(zip(parents, fates, strict=True)):
        depth = nodes[parent].depth + 1 if parent >= 0 else 1
        nodes.append(Node(parent, i, depth, -0.5, -0.5 * depth - i / 100, fate))
    ends = tuple(i for i, fate in enumerate(fates) if fate == "returned")
    return SearchRecord("beam search", tuple(nodes), ends)


PARENTS = st.lists(st.integers(-1, 10_000), min_size=1, max_size=60).map(
    lambda found: [max(-1, min(parent, i - 1)) if parent < 90 else i - 1 for i, parent in enumerate(found)]
)
FATES = ("kept", "pruned", "finished", "returned")


@anything
@given(PARENTS, st.lists(LABELS, min_size=1, max_size=5), SIZES)
def test_any_fan_fits(parents: list[int], labels: list[str], canvas: Canvas) -> None:
    check(fan_text(a_fan(parents, labels), canvas), canvas)


@anything
@given(PARENTS, st.data(), LABELS, SIZES)
def test_any_search_fits(parents: list[int], data: st.DataObject, label: str, canvas: Canvas) -> None:
    fates = data.draw(st.lists(st.sampled_from(FATES), min_size=len(parents), max_size=len(parents)))
    check(beams_text(a_search_of(parents, fates), lambda token: label, canvas), canvas)


@pytest.mark.parametrize("canvas", CANVASES)
def test_runs_and_branches_fit(canvas: Canvas) -> None:
    root = a_trace(n_steps=40, attention=False, lens=False)
    rows = [root]
    for step in (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25):
        rows.append(a_branch(rows[-1], min(step, rows[-1].n_steps), seed=step))
    check(branches_text(rows, canvas), canvas)
    check(branches_text(rows[1:], canvas), canvas)


def test_a_fan_holds_every_token_with_its_probabilities_below_its_parent() -> None:
    fan = a_fan([-1, 0, 0, 1, -1])
    text = [line for line in lines(fan_text(fan, Canvas(width=80))) if "t" in line and "%" in line and "\u2500" in line]
    shown = [re.sub(r"[\u2588-\u258f]", "", line).rstrip() for line in text]
    assert [re.sub(r"[ \u25b8]+", " ", line) for line in shown] == [
        "\u251c\u2500 t0 33.0% 33.0%",
        "\u2502 \u251c\u2500 t1 33.0% 10.9%",
        "\u2502 \u2502 \u251c\u2500 t3 33.0% 3.6%",
        "\u2502 \u2502 \u2514\u2500 others 34.0% 3.7%",
        "\u2502 \u251c\u2500 t2 33.0% 10.9%",
        "\u2502 \u2514\u2500 others 34.0% 11.2%",
        "\u251c\u2500 t4 33.0% 33.0%",
        "\u2514\u2500 others 34.0% 34.0%",
    ]
    assert "the likeliest of 3 texts goes on 't4' (33.0%)" in unbroken(fan_text(fan, Canvas()))
    with pytest.raises(OptionError, match="no token is as probable as min_prob"):
        fan_text(replace(fan, nodes=()), Canvas())


@anything
@given(PARENTS, st.data())
def test_no_node_of_a_search_is_lost_where_there_is_room(parents: list[int], data: st.DataObject) -> None:
    fates = data.draw(st.lists(st.sampled_from(FATES), min_size=len(parents), max_size=len(parents)))
    search = a_search_of(parents, fates)
    text = said(beams_text(search, lambda token: f"<{token}>", Canvas(width=2000)))
    drawn = text.split("\nwhat came out\n")[0]
    assert sorted(map(int, re.findall(r"<(\d+)>", drawn))) == list(range(len(parents)))


def test_a_search_goes_straight_down_on_its_best_text() -> None:
    search = a_search(range(5, 12))
    text = lines(beams_text(search, lambda token: f"t{token}", Canvas(width=80)))
    best = [line for line in text if line.startswith("\u25cf")]
    assert re.findall(r"t\d+", " ".join(best)) == [f"t{token}" for token in range(5, 12)]
    assert best[-1].endswith(f"{search.nodes[search.returned[0]].score:.3f}")
    assert sum("\u00d7" in line for line in text if re.match(r"[\u251c\u2514\u00d7]", line)) == 4
    assert text[-1] == f"1.  {search.nodes[search.returned[0]].score:.3f}  7 tokens: t5t6t7t8t9t10t11"


def test_the_depth_of_a_search_can_be_limited() -> None:
    search = a_search(range(5, 12))
    text = said(beams_text(search, lambda token: f"t{token}.", Canvas(width=80), max_depth=3))
    drawn = text.split("what came out")[0]
    assert "t7." in drawn
    assert "t8." not in drawn
    assert "the first 3 of 7 tokens" in unbroken(drawn)
    for wrong in (0, True, -1):
        with pytest.raises(OptionError, match="max_depth must be 1 or more"):
            beams_text(search, str, Canvas(), max_depth=wrong)
    with pytest.raises(OptionError, match="the search has no node"):
        beams_text(SearchRecord("beam search", (), ()), str, Canvas())


def test_a_branch_has_its_change_and_its_own_text_alone() -> None:
    root = a_trace(n_steps=12, attention=False, lens=False)
    branch = a_branch(root, 4)
    text = unbroken(branches_text([root, branch], Canvas(width=120)))
    assert text.startswith("1 run and 1 branch, left at step 4")
    assert "\u2514\u2500 step 4: token ' not'" in text
    own = "".join(branch.token_label(token) for token in branch.ids[4:]).replace("\u2423", " ").split()
    assert " ".join(own) in text
    alone = unbroken(branches_text([branch], Canvas(width=120)))
    assert f"a branch of {root.id[:12]}, which is not here: token ' not'" in alone
