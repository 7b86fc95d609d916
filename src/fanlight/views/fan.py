"""The tree of likely continuations as a fanlight: half a disc of panes, a ring for each token. In: a Fan. Out: a matplotlib Figure.

The hub is the prompt, a pane is a token, what lies outside of it goes on from there. A pane holds the token's probability after
the text so far, the rim that of the whole text; its colour is that of the text up to it. Frosted panes stand for all other tokens.
Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import cos, degrees, pi, sin
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError
from fanlight.views import axes as ax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.tracing.fan import Fan

HUB, RIM = 1.5, 0.62  # inches: the hub's radius, and the room for the numbers at the rim
NARROWEST_RING, WIDEST_RING, RINGS = 0.92, 1.5, 5.2  # inches: a ring at least, at most, and all of them at first
LARGEST = 10.5  # inches: the radius at most
SIZE, SMALL = 8.2, 7.0
LEAD = 1.5  # points: the bars between the panes
NEED = 0.155
"""Inches that a line of text needs across."""
END = " ■"
LEGIBLE = 4.8
"""Points: type that would have to be smaller is left out."""
REST_NEED, MOST_REST = 0.05, 0.3
"""Inches of a frosted pane at least; its share of a family at most."""
GROWTH = 1.06


class Pane(NamedTuple):
    """Where a token stands: angles in radians, from the right end of the window (0) to its left (pi), radii in inches."""

    node: int
    """Its number in the fan; of a frosted pane: of the one whose other tokens it stands for, -1: the prompt."""
    is_rest: bool
    prob: float
    low: float
    high: float
    inner: float
    outer: float

    @property
    def middle(self) -> float:
        """Its angle."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> float:
        """Of its middle."""
        return (self.inner + self.outer) / 2

    @property
    def across(self) -> float:
        """Inches from side to side, where its text begins."""
        return (self.high - self.low) * (self.inner + 0.2 * (self.outer - self.inner))


def fan_figure(fan: Fan, *, dark: bool = False) -> Figure:
    """The window. Errors: MissingExtra; OptionError for a fan without a token."""
    if not fan.nodes:
        raise OptionError("there is nothing to show: no token is as probable as min_prob; give a smaller one")
    panes, hub, radius = laid_out(fan)
    leaves = _leaves(fan)
    best = max(leaves, key=lambda at: (fan.nodes[at].cumulative, -at))
    said = joined(fan.nodes[at].label for at in _way(fan, best)).replace("␣", " ")
    shown = sum(fan.nodes[at].cumulative for at in leaves)
    texts = ax.count(len(leaves), "text")
    likeliest = f"the likeliest of {texts} goes on" if len(leaves) > 1 else "it goes on"
    title = f"After {ax.context(fan.prompt, 40)} {likeliest} '{ax.token(said, 44)}' ({ax.percent(fan.nodes[best].cumulative)})"
    together = f"All {texts} together: {ax.percent(shown)}. " if len(leaves) > 1 else ""
    ends = f"{END}: the text ends." if any(node.is_end for node in fan.nodes) else ""
    what = f"a token's {'final ' if fan.is_final else ''}probability{_after(fan)}"
    facts = [
        f"In a pane: {what} after the text so far; at the rim: that of the whole text. "
        f"{together}Frosted: other tokens.{ends}",
        "Colour: probability of the text up to there (square root). Wider panes are more probable, but each holds its text.",
    ]
    width = 2 * (radius + RIM) + 0.1
    page = ax.page(width, radius + RIM + 0.62, title, facts, dark=dark)
    axes = page.axes(0, 0, width, page.height)
    axes.set_xlim(-width / 2, width / 2)
    axes.set_ylim(-0.52, page.height - 0.52)
    axes.set_axis_off()
    _Window(page, axes, fan, panes, hub, radius, set(leaves), set(_way(fan, best))).draw()
    return page.figure


def joined(labels: Iterable[str]) -> str:
    """Labels one after the other; a character of several tokens, each of which is a part of it, as what it is."""

    def whole(part: re.Match[str]) -> str:
        return bytes.fromhex(part[0].replace("\\x", "")).decode("utf-8", "backslashreplace")

    return re.sub(r"(?:\\x[89a-f][0-9a-f])+", whole, "".join(labels))


def _after(fan: Fan) -> str:
    return f" (after {ax.drawable(', '.join(fan.labels))})" if fan.labels else ""


# -- where the panes stand -------------------------------------------------------------------------------------------------


def laid_out(fan: Fan) -> tuple[list[Pane], float, float]:
    """The panes, the hub's radius and the window's: as large as the texts need."""
    depth = max(node.depth for node in fan.nodes)
    hub, ring = HUB, min(WIDEST_RING, max(NARROWEST_RING, RINGS / depth))
    children = _children(fan)
    while True:
        needs = _needs(fan, children, hub, ring)
        if needs[-1] <= pi or hub + depth * ring > LARGEST:
            break
        hub, ring = hub * GROWTH, ring * (GROWTH if ring < WIDEST_RING else 1.0)
    panes: list[Pane] = []
    _divide(fan, children, needs, -1, pi, 0.0, hub, ring, panes)
    return panes, hub, hub + depth * ring


def _children(fan: Fan) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, node in enumerate(fan.nodes):
        found.setdefault(node.parent, []).append(at)
    return {at: sorted(nodes, key=lambda n: (-fan.nodes[n].prob, n)) for at, nodes in found.items()}


def _rest(fan: Fan, at: int) -> float:
    return fan.rest if at < 0 else fan.nodes[at].rest


def _needs(fan: Fan, children: dict[int, list[int]], hub: float, ring: float) -> dict[int, float]:
    """Radians that each node needs for its text and those beyond it; -1: all."""
    needs: dict[int, float] = {}
    for at in [*sorted(range(len(fan.nodes)), key=lambda n: -fan.nodes[n].depth), -1]:
        depth = fan.nodes[at].depth if at >= 0 else 0
        start = hub + depth * ring + 0.2 * ring
        inside = sum(needs[child] for child in children.get(at, []))
        if at in children and _rest(fan, at) > 0:
            inside += REST_NEED / start
        needs[at] = max(inside, NEED / (start - ring) if at >= 0 else 0.0)
    return needs


def _divide(
    fan: Fan, children: dict[int, list[int]], needs: dict[int, float], at: int, high: float, low: float, hub: float,
    ring: float, panes: list[Pane],
) -> None:  # fmt: skip
    """A family shares an angle: each pane has what it needs, and of what is left its share by probability."""
    family = children.get(at, [])
    if not family:
        return
    depth = (fan.nodes[at].depth if at >= 0 else 0) + 1
    inner = hub + (depth - 1) * ring
    rest = _rest(fan, at)
    whole = high - low
    wants = [needs[child] for child in family]
    probs = [fan.nodes[child].prob for child in family]
    if rest > 0:
        wants.append(REST_NEED / (inner + 0.2 * ring))
        most = sum(probs) * MOST_REST / (1 - MOST_REST)
        probs.append(min(rest, most))
    scale = min(1.0, whole / sum(wants))
    left = whole - sum(wants) * scale
    for i, (want, prob) in enumerate(zip(wants, probs, strict=True)):
        share = want * scale + left * prob / sum(probs)
        end = high - share if i + 1 < len(wants) else low
        is_rest = i == len(family)
        node = at if is_rest else family[i]
        panes.append(Pane(node, is_rest, rest if is_rest else fan.nodes[node].prob, end, high, inner, inner + ring))
        if not is_rest:
            _divide(fan, children, needs, node, high, end, hub, ring, panes)
        high = end


def _leaves(fan: Fan) -> list[int]:
    parents = {node.parent for node in fan.nodes}
    return [at for at in range(len(fan.nodes)) if at not in parents]


def _way(fan: Fan, at: int) -> list[int]:
    found: list[int] = []
    while at >= 0:
        found.append(at)
        at = fan.nodes[at].parent
    return found[::-1]


# -- drawing ---------------------------------------------------------------------------------------------------------------


class _Window:
    def __init__(
        self,
        page: ax.Page,
        axes: Axes,
        fan: Fan,
        panes: list[Pane],
        hub: float,
        radius: float,
        leaves: set[int],
        best: set[int],
    ) -> None:
        from matplotlib.colors import PowerNorm

        self.page, self.axes, self.fan, self.panes = page, axes, fan, panes
        self.hub, self.radius, self.leaves, self.best = hub, radius, leaves, best
        self.norm = PowerNorm(0.5, 0, max(node.cumulative for node in fan.nodes))
        self.colours = ax.sequential(page.palette)

    def draw(self) -> None:
        for pane in self.panes:
            self._pane(pane)
        for pane in self.panes:
            self._words(pane)
        self._frame()
        self._prompt()
        self._legend()

    def _pane(self, pane: Pane) -> None:
        from matplotlib.patches import Wedge

        p = self.page.palette
        place: dict[str, Any] = {"width": pane.outer - pane.inner, "lw": LEAD}
        angles = degrees(pane.low), degrees(pane.high)
        if pane.is_rest:
            wedge = Wedge(
                (0, 0), pane.outer, *angles, fc=ax.mixed(p.faint, p.ground, 0.16), ec=p.ground, hatch="....", **place
            )
            wedge.set_hatch_linewidth(0.4)
            wedge.set_gid(f"rest {pane.node}")
            self.axes.add_patch(wedge)
            return
        is_best = pane.node in self.best
        wedge = Wedge((0, 0), pane.outer, *angles, fc=self._ground(pane), ec=p.ground, zorder=2, **place)
        wedge.set_gid(f"pane {pane.node}")
        self.axes.add_patch(wedge)
        if is_best:
            inset = 0.022
            turn = degrees(inset / pane.radius)
            edge = Wedge(
                (0, 0), pane.outer - inset, angles[0] + turn, angles[1] - turn, width=pane.outer - pane.inner - 2 * inset,
                fill=False, ec=p.feed_forward, lw=1.7, zorder=4,
            )  # fmt: skip
            edge.set_gid(f"best {pane.node}")
            self.axes.add_patch(edge)

    def _ground(self, pane: Pane) -> Any:
        return self.colours(self.norm(self.fan.nodes[pane.node].cumulative))[:3]

    def _words(self, pane: Pane) -> None:
        ring = pane.outer - pane.inner
        percent = ax.short_percent(round(pane.prob, 3 if pane.prob < 0.1 else 2))
        if pane.is_rest:
            self._along(pane, f"other {percent}", SMALL, ax.quiet(self.page.palette))
            return
        node = self.fan.nodes[pane.node]
        ink: Any = ax.ink_on(self._ground(pane))
        room = pane.radius * (pane.high - pane.low) - 0.14
        whole = ax.token(node.label, 18)
        flat = max(ax.width_of(whole, SIZE + 1, mono=True), ax.width_of(percent, SIZE, mono=True))
        # a wide pane has its text across; its corners must stay inside the ring
        if flat <= room and room > 0.7 and ring > 0.5 + flat * flat / 8 / pane.radius:
            self._across(pane, whole, percent, ink)
        else:
            letter = ax.width_of("m", SIZE, mono=True)
            most = max(2, int((ring - 0.14) / letter) - len(percent) - 1)
            self._along(pane, f"{ax.token(node.label, most)} {percent}", SIZE, ink)
        if pane.node in self.leaves:
            self._cumulative(pane, node.cumulative)

    def _across(self, pane: Pane, word: str, percent: str, ink: Any) -> None:
        turn = degrees(pane.middle) - 90
        for said, size, shift in ((word, SIZE + 1, 0.1), (percent, SIZE, -0.11)):
            self._text(pane.radius + shift, pane.middle, said, size, turn, ink, "center", f"word {pane.node}")

    def _along(self, pane: Pane, said: str, size: float, ink: Any) -> None:
        is_left = pane.middle > pi / 2
        fits = min(size, pane.across * 72 / 1.3)
        name = f"other {pane.node}" if pane.is_rest else f"word {pane.node}"
        if fits >= LEGIBLE:
            turn = degrees(pane.middle) - (180 if is_left else 0)
            self._text(pane.radius, pane.middle, said, fits, turn, ink, "center", name)

    def _cumulative(self, pane: Pane, prob: float) -> None:
        is_left = pane.middle > pi / 2
        fits = min(SMALL + 0.3, pane.outer * (pane.high - pane.low) * 72 / 1.1)
        if fits < LEGIBLE:
            return
        ink = self.page.palette.feed_forward if pane.node in self.best else self.page.palette.ink
        said = ax.short_percent(float(f"{prob:.2g}")) + (END if self.fan.nodes[pane.node].is_end else "")
        turn, side = degrees(pane.middle) - (180 if is_left else 0), "right" if is_left else "left"
        self._text(pane.outer + 0.07, pane.middle, said, fits, turn, ink, side, f"cumulative {pane.node}")

    def _text(
        self, radius: float, angle: float, said: str, size: float, turn: float, ink: Any, side: str, name: str
    ) -> None:
        self.axes.text(
            radius * cos(angle), radius * sin(angle), said, size=size, color=ink, rotation=turn, rotation_mode="anchor",
            ha=side, va="center_baseline", family=list(ax.fonts(mono=True)), zorder=5, gid=name,
        )  # fmt: skip

    def _frame(self) -> None:
        """The sill and the hub's arc."""
        from matplotlib.patches import Arc

        p = self.page.palette
        self.axes.plot([-self.radius, self.radius], [0, 0], color=p.ink, lw=2.2, solid_capstyle="round", zorder=6)
        self.axes.add_patch(
            Arc((0, 0), 2 * self.hub, 2 * self.hub, theta1=0, theta2=180, color=p.ink, lw=1.6, zorder=6)
        )
        size = 2 * self.radius
        self.axes.add_patch(Arc((0, 0), size, size, theta1=0, theta2=180, color=p.faint, lw=0.8, zorder=1))

    def _prompt(self) -> None:
        size = min(15.0, 9.5 * self.hub / HUB)
        lines = ax.wrapped(ax.context(self.fan.prompt, 54)[1:-1], 1.4 * self.hub, size, bold=True, most=4)
        for i, line in enumerate(lines):
            y = self.hub * 0.42 + ((len(lines) - 1) / 2 - i) * size * 1.3 / 72
            self.axes.text(
                0, y, line, size=size, weight="bold", color=self.page.palette.ink, ha="center", va="center_baseline",
                family=list(ax.fonts()), zorder=6,
            )  # fmt: skip

    def _legend(self) -> None:
        from matplotlib.cm import ScalarMappable

        width, whole = 2.6, self.page.width
        bar = ax.colour_bar(
            self.page, (whole - width - 0.45, 0.3, width, 0.1), ScalarMappable(self.norm, self.colours), ""
        )
        high = self.norm.vmax or 1.0
        marks = [0.0, high / 16, high / 4, high]
        bar.set_xticks(marks, [ax.short_percent(float(f"{mark:.2g}")) for mark in marks])
        self.page.text(
            whole - width - 0.6, 0.35, "probability of the text up to there", ax.SMALL, ha="right",
            color=ax.quiet(self.page.palette),
        )  # fmt: skip
