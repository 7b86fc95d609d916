"""A run and its branches: each line begins where its branch left, with its change and its text; no line crosses another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.header import Parent
from fanlight.views.branches import branches_figure, tree
from views.structures import check, trace_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fanlight.tracing.trace import Trace

VOCABULARY = {0: b" the", 1: b" cat", 2: b"\n", 3: b" costs_$5", 4: "猫".encode()}


def run(name: str, n: int, parent: tuple[Trace, int, str] | None = None, seed: int = 0) -> Trace:
    own = [int(i) for i in np.random.default_rng([seed, n]).integers(0, 5, n)]
    if parent is None:
        return trace_of(own, VOCABULARY, name=name)
    above, step, change = parent
    ids = (*above.ids[:step], *own[step:])
    return trace_of(ids, VOCABULARY, name=name, parent=Parent(id=above.id, step=step, change=change))


def family() -> list[Trace]:
    root = run("root0000", 40)
    early = run("early", 33, (root, 4, "token ' not'"), 1)
    late = run("late", 61, (root, 31, "top_p=0.8"), 2)
    same = run("same", 12, (root, 4, "seed_$"), 3)
    deep = run("deep", 20, (early, 9, "temperature=1.2"), 4)
    return [deep, late, root, same, early]


def line(figure: Figure, name: str) -> Any:
    (found,) = [one for one in figure.axes[0].lines if one.get_gid() == f"run {name}"]
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_each_line_begins_where_its_branch_left(dark: bool) -> None:
    traces = family()
    figure = branches_figure(traces, dark=dark)
    said = check(figure)
    for trace in traces:
        start = trace.header.parent.step if trace.header.parent else 0
        assert list(line(figure, trace.id).get_xdata()) == [start, trace.n_steps]
        if trace.header.parent:
            assert f"step {start}: {trace.header.parent.change}" in said
    assert "1 run and 4 branches, left at steps 4, 9 and 31" in said
    assert said.count("root0000") == 1


def test_no_line_crosses_another() -> None:
    rows = tree(family())
    assert [row.trace.id for row in rows] == ["root0000", "late", "same", "early", "deep"]
    for i, row in enumerate(rows):
        if row.parent >= 0:
            for between in rows[row.parent + 1 : i]:
                assert between.start >= row.start


def test_a_branch_shows_only_what_is_its_own() -> None:
    root = trace_of((0, 0, 1), VOCABULARY, name="root")
    other = trace_of((0, 4, 4), VOCABULARY, name="b", parent=Parent(id="root", step=1, change="token"))
    said = check(branches_figure([root, other]))
    assert "the the cat" in said
    escape = "猫猫" if "猫猫" in said else "\\u732b\\u732b"
    assert said.count(escape) == 1
    assert "the" + escape not in said


def test_a_branch_whose_parent_is_not_there_stands_alone_and_says_so() -> None:
    root, early = run("root0000", 9), run("early", 9, (run("root0000", 9), 4, "top_k=3"), 1)
    assert [row.parent for row in tree([early])] == [-1]
    figure = branches_figure([early])
    assert "a branch of root0000, which is not here: top_k=3" in check(figure)
    assert list(line(figure, "early").get_xdata()) == [0, 9]
    assert len(tree([root, early, root])) == 2


def test_traces_that_name_each_other_as_parents_are_shown_apart() -> None:
    one = trace_of((0, 1), VOCABULARY, name="a", parent=Parent(id="b", step=1, change="x"))
    other = trace_of((0, 2), VOCABULARY, name="b", parent=Parent(id="a", step=1, change="y"))
    assert [row.parent for row in tree([one, other])] == [-1, -1]
    check(branches_figure([one, other]))


@pytest.mark.parametrize("lengths", [(1,), (0,), (500, 3), (2, 2, 2)])
def test_short_and_long_runs_fit(lengths: Sequence[int]) -> None:
    check(branches_figure([run(f"run{i}", n, seed=i) for i, n in enumerate(lengths)]))


def test_many_branches_of_a_long_run_fit() -> None:
    root = run("root", 300)
    check(
        branches_figure(
            [root, *(run(f"b{i}", 300, (root, 297 - 31 * i, f"token {i}"), i) for i in range(9))], dark=True
        )
    )


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(OptionError, match="no trace was given"):
        branches_figure([])
    root = run("root", 3)
    beyond = trace_of((0,), VOCABULARY, name="b", parent=Parent(id="root", step=4, change="x"))
    with pytest.raises(OptionError, match="trace b leaves root at step 4, which has only 3"):
        branches_figure([root, beyond])
