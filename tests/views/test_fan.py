"""The window of likely continuations: every token has a pane, each text stays in its own, families share their parent's angle."""

from __future__ import annotations

from math import cos, hypot, pi, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.tracing.fan import Fan, FanNode
from fanlight.views import axes as ax
from fanlight.views.fan import END, Pane, fan_figure, joined, laid_out
from views import drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WORDS = ["the", "␣of_$", "␣mat", "\\n", "␣internationalisation", "猫", "."]


def fan_of(width: int, depth: int, seed: int = 0, *, sharp: float = 0.4, end: bool = False, **more: Any) -> Fan:
    rng = np.random.default_rng(seed)
    nodes: list[FanNode] = []
    rests: dict[int, float] = {}

    def grow(parent: int, cumulative: float, level: int) -> None:
        probs = np.sort(rng.dirichlet(np.full(width + 3, sharp)))[::-1][:width]
        kept = [float(prob) for prob in probs if prob >= 0.01]
        rests[parent] = 1 - sum(kept)
        for prob in kept:
            token = int(rng.integers(0, 7))
            at = len(nodes)
            is_end = end and level == 1 and at > 0
            nodes.append(
                FanNode(
                    parent=parent,
                    id=token,
                    label=WORDS[token],
                    prob=prob,
                    cumulative=cumulative * prob,
                    depth=level,
                    is_end=is_end,
                )
            )
            if level < depth and not is_end:
                grow(at, cumulative * prob, level + 1)

    grow(-1, 1.0, 1)
    made = [
        FanNode(**{**{f: getattr(n, f) for f in n.__slots__}, "rest": rests.get(i, 1.0)}) for i, n in enumerate(nodes)
    ]
    given = {"prompt": "The future of $5 is", "is_final": False, "labels": ()} | more
    return Fan(
        prompt_ids=(1,), nodes=tuple(made), rest=rests[-1], width=width, max_depth=depth, min_prob=0.01, **given
    )  # fmt: skip


SIZES = [(1, 1), (2, 2), (3, 4), (4, 3), (2, 6)]


@pytest.mark.parametrize(("width", "depth"), SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_families_fill_their_parents_angle_and_the_more_probable_have_more(width: int, depth: int, seed: int) -> None:
    fan = fan_of(width, depth, seed)
    panes, hub, radius = laid_out(fan)
    own = {pane.node: pane for pane in panes if not pane.is_rest}
    assert sorted(own) == list(range(len(fan.nodes)))
    families: dict[int, list[Pane]] = {}
    for pane in panes:
        families.setdefault(pane.node if pane.is_rest else fan.nodes[pane.node].parent, []).append(pane)
    for parent, family in families.items():
        low, high = (0.0, pi) if parent < 0 else (own[parent].low, own[parent].high)
        assert sum(pane.high - pane.low for pane in family) == pytest.approx(high - low)
        assert all(low - 1e-9 <= pane.low < pane.high <= high + 1e-9 for pane in family)
        inner = hub if parent < 0 else own[parent].outer
        assert all(pane.inner == pytest.approx(inner) for pane in family)
        (rest,) = [pane.prob for pane in family if pane.is_rest] or [0.0]
        assert rest == pytest.approx(fan.rest if parent < 0 else fan.nodes[parent].rest, abs=1e-9)
        if depth == 1 or all(fan.nodes[pane.node].depth == depth for pane in family if not pane.is_rest):
            angles = [pane.high - pane.low for pane in family if not pane.is_rest]
            assert angles == sorted(angles, reverse=True)
    assert max(pane.outer for pane in panes) == pytest.approx(radius)


def corners(text: Text, renderer: Any, figure: Figure) -> list[tuple[float, float]]:
    """Of a turned text, in inches of the window."""
    turn = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent(renderer)
    text.set_rotation(turn)
    axes = figure.axes[0]
    x, y = axes.transData.transform(text.get_position())
    points = []
    for px, py in ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)):
        dx, dy, a = px - x, py - y, radians(turn)
        points.append((x + dx * cos(a) - dy * sin(a), y + dx * sin(a) + dy * cos(a)))
    found = axes.transData.inverted().transform(points)
    return [(float(px), float(py)) for px, py in found]


@pytest.mark.parametrize(("width", "depth"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_each_text_stays_in_its_own_pane(width: int, depth: int, dark: bool) -> None:
    fan = fan_of(width, depth, 5)
    figure = fan_figure(fan, dark=dark)
    renderer = drawn.rendered(figure)
    panes, _, _ = laid_out(fan)
    own = {f"{'other' if pane.is_rest else 'word'} {pane.node}": pane for pane in panes}
    seen = set()
    for text in figure.axes[0].texts:
        name = str(text.get_gid())
        if name.startswith(("word", "other")):
            pane = own[name]
            seen.add(name)
            for x, y in corners(text, renderer, figure):
                assert pane.inner <= hypot(x, y) <= pane.outer, (name, text.get_text())
                away = abs(np.arctan2(y, x) - pane.middle) * hypot(x, y)  # inches
                assert away <= (pane.high - pane.low) / 2 * hypot(x, y) + 0.012, (name, text.get_text())
        elif name.startswith("cumulative"):
            assert all(
                hypot(x, y) >= own[name.replace("cumulative", "word")].outer for x, y in corners(text, renderer, figure)
            )
    assert {name for name in own if name.startswith("word")} <= seen
    whole = figure.bbox
    for text in drawn.texts(figure):
        box = text.get_window_extent(renderer)
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()


def test_a_pane_says_its_probability_and_the_rim_that_of_the_whole_text() -> None:
    fan = fan_of(3, 3, 1)
    figure = fan_figure(fan)
    said: dict[str, str] = {}
    for text in figure.axes[0].texts:
        said[str(text.get_gid())] = f"{said.get(str(text.get_gid()), '')} {text.get_text()}"
    parents = {node.parent for node in fan.nodes}
    for i, node in enumerate(fan.nodes):
        assert float(said[f"word {i}"].rpartition(" ")[2].rstrip("%")) == pytest.approx(node.prob * 100, abs=0.51)
        assert (f"cumulative {i}" in said) == (i not in parents)
        if i not in parents:
            assert float(said[f"cumulative {i}"].rstrip("%")) == pytest.approx(node.cumulative * 100, rel=0.06)
    leaves = [node.cumulative for i, node in enumerate(fan.nodes) if i not in parents]
    heading = " ".join(text.get_text() for text in figure.texts)
    assert f"All {len(leaves)} texts together: {ax.percent(sum(leaves))}" in heading
    assert f"({ax.percent(max(leaves))})" in heading


@pytest.mark.parametrize("dark", [False, True])
def test_the_glass_is_coloured_by_the_text_up_to_it_and_the_best_way_is_framed(dark: bool) -> None:
    from matplotlib.colors import to_hex

    fan = fan_of(3, 3, 2)
    figure = fan_figure(fan, dark=dark)
    patches = {str(patch.get_gid()): patch for patch in figure.axes[0].patches}
    colours = ax.sequential(ax.palette_of(dark))
    most = max(node.cumulative for node in fan.nodes)
    for i, node in enumerate(fan.nodes):
        expected = colours((node.cumulative / most) ** 0.5)
        assert to_hex(patches[f"pane {i}"].get_facecolor()) == to_hex(expected)
    parents = {node.parent for node in fan.nodes}
    best = max((i for i in range(len(fan.nodes)) if i not in parents), key=lambda i: fan.nodes[i].cumulative)
    way = []
    while best >= 0:
        way.append(best)
        best = fan.nodes[best].parent
    assert {name for name in patches if name.startswith("best")} == {f"best {i}" for i in way}


def test_where_a_text_ends_is_marked() -> None:
    fan = fan_of(3, 3, 4, end=True)
    assert any(node.is_end for node in fan.nodes)
    figure = fan_figure(fan)
    marked = {str(t.get_gid()) for t in figure.axes[0].texts if t.get_text().endswith(END)}
    assert marked == {f"cumulative {i}" for i, node in enumerate(fan.nodes) if node.is_end}
    assert "the text ends" in " ".join(text.get_text() for text in figure.texts)


def test_processors_are_named_where_they_made_the_probabilities() -> None:
    figure = fan_figure(fan_of(2, 2, is_final=True, labels=("top_p(0.9)", "temperature(0.7)")))
    assert "final probability (after top_p(0.9), temperature(0.7))" in " ".join(t.get_text() for t in figure.texts)


def test_a_character_of_several_tokens_is_said_whole() -> None:
    assert joined(["\\xf0\\x9f\\x98", "\\x80", "\u2423so\\n"]) == "\U0001f600\u2423so\\n"
    assert joined(["a\\xe7", "\\x8c"]) == "a\\xe7\\x8c"  # a part of one


def test_a_fan_of_very_many_texts_leaves_out_what_could_not_be_read() -> None:
    fan = fan_of(5, 4, 1, sharp=9.0)
    assert len(fan.nodes) > 700
    figure = fan_figure(fan)
    sizes = [text.get_fontsize() for text in figure.axes[0].texts]
    assert min(sizes) >= 4.8
    assert figure.get_size_inches()[0] < 26


def test_a_fan_without_a_token_is_refused() -> None:
    with pytest.raises(OptionError, match="min_prob"):
        fan_figure(
            Fan(prompt_ids=(1,), prompt="x", nodes=(), rest=1.0, width=3, max_depth=4, min_prob=0.5, is_final=False)
        )
