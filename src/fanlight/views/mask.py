"""Masks of attention as pictures: which token may look at which, and what that makes of scores. In: positions, or scores.

mask_figure: the causal mask beside the bidirectional one and a sliding window, as the numbers that are added; below them what the
causal one does: scores, scores + mask, softmax. Out: a matplotlib Figure. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError
from fanlight.trace.masks import BLOCKED, KINDS, mask, masked, may_see, softmax, square
from fanlight.views import axes as ax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PANEL, GAP, ABOVE = 3.3, 0.62, 0.62  # inches: a square, the room between two, and that for its title
MOST_NUMBERS = 12
"""Positions up to which cells hold numbers."""
MOST_POSITIONS = 512
SMALLEST_TYPE, LARGEST_TYPE = 5.2, 8.5
MEANING = {
    "causal": "sees itself and what came before (GPT, Llama)",
    "bidirectional": "sees all, also what follows (BERT, MiniLM)",
    "sliding window": "sees {}, itself counted (Mistral)",
}
WHY = (
    f"{BLOCKED:.0e}".replace("e+0", "e")
    + " stands for -∞: exp of it is exactly 0, so softmax gives a blocked token weight 0; the others of its row share 100%."
)


def mask_figure(
    n: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    window: int = 3,
    scores: Any = None,
    dark: bool = False,
) -> Figure:
    """Three masks, and below them the effect of the causal one on scores (n, n).

    n: positions; None: as many as there are labels, or 8. labels: one for each position. window: of the sliding window, in
    positions. scores: None: an example. Errors: MissingExtra; OptionError.
    """
    n, labels = _sized(n, labels, scores)
    given = scores is not None
    scores = square(scores) if given else example_scores(n)
    left, below = _margins(labels)
    height = below + 2 * (PANEL + ABOVE) + below + 0.5
    seen = [int(may_see(n, kind, window).sum()) for kind in KINDS]
    facts = [
        f"The mask is added to the scores of attention: 0 lets a score through, {_word(BLOCKED)} takes it away. "
        f"Rows look (queries), columns are looked at (keys).",
        WHY,
    ]
    pairs = ax.count(n * n, "pair")
    title = (
        f"Who may look at whom: of {pairs} a causal mask lets {seen[0]:,} pass, a window of {window} lets {seen[2]:,}"
    )
    page = ax.page(left + 3 * PANEL + 2 * GAP + ax.MARGIN, height, title, facts, dark=dark)
    bottom = height - ABOVE - PANEL
    for i, kind in enumerate(KINDS):
        x = left + i * (PANEL + GAP)
        axes = page.axes(x, bottom, PANEL, PANEL)
        said = MEANING[kind].format(f"the last {window}" if window > 1 else "1 token")
        _matrix(page, axes, mask(n, kind, window), labels, may_see(n, kind, window), "mask", is_first=i == 0)
        _head(page, axes, kind, said)
    name = "scores" if given else "scores (an example)"
    _effect(page, left, below + 0.12, scores, labels, "causal", 0, name)
    return page.figure


def mask_effect_figure(
    scores: Any,
    labels: Sequence[str] | None = None,
    *,
    kind: str = "causal",
    window: int = 3,
    name: str = "scores",
    dark: bool = False,
) -> Figure:
    """Scores (n, n), the same with a mask added, and the weights that softmax makes of them; name: what the scores are of.

    Errors: MissingExtra; OptionError.
    """
    scores = square(scores)
    n, labels = _sized(None, labels, scores)
    hidden = int(n * n - may_see(n, kind, window).sum())
    left, below = _margins(labels)
    which = f"{kind} of {window}" if kind == "sliding window" else kind
    title = f"What the {which} mask does: {hidden:,} of {n * n:,} weights become 0, each row still sums to 1"
    page = ax.page(
        left + 3 * PANEL + 2 * GAP + ax.MARGIN, below + PANEL + ABOVE + 0.15, title,
        ["" if kind == "bidirectional" else WHY], dark=dark,
    )  # fmt: skip
    _effect(page, left, below + 0.12, scores, labels, kind, window, name)
    return page.figure


def example_scores(n: int) -> NDArray[np.float64]:
    """(n, n): scores to show a mask with where there are none of a model: normal, to one digit, the same every time."""
    return np.asarray(np.round(np.random.default_rng(4).normal(0, 1.2, (n, n)), 1) + 0.0)


# -- parts -----------------------------------------------------------------------------------------------------------------


def _sized(n: int | None, labels: Sequence[str] | None, scores: Any) -> tuple[int, list[str]]:
    known = len(square(scores)) if scores is not None else n if n is not None else len(labels) if labels else 8
    if isinstance(known, bool) or not isinstance(known, int) or not 1 <= known <= MOST_POSITIONS:
        raise OptionError(f"a picture of a mask has 1 to {MOST_POSITIONS} positions: got {known!r:.80}")
    if n is not None and n != known:
        raise OptionError(f"there are scores of {known} positions, but n={n}")
    if labels is not None and len(labels) != known:
        raise OptionError(f"there must be a label for each of the {known} positions: got {len(labels)}")
    return known, list(labels) if labels is not None else [str(i) for i in range(known)]


def _margins(labels: Sequence[str]) -> tuple[float, float]:
    """Inches left of the first square and below each: for the labels and what the axes show."""
    widest = max(ax.width_of(ax.token(label, 12), ax.SMALL, mono=True) for label in labels)
    stand = widest + 0.06 > PANEL / len(labels)
    return widest + 0.55, (widest if stand else 0.1) + 0.45


def _effect(
    page: ax.Page, left: float, bottom: float, scores: NDArray[np.float64], labels: Sequence[str], kind: str, window: int,
    name: str,
) -> None:  # fmt: skip
    seen = may_see(len(scores), kind, window)
    after = masked(scores, kind, window)
    stages = (
        (name, "how well a query fits a key: q·k / √head_dim", scores, np.ones_like(seen), "score"),
        (f"+ {kind} mask", f"{_word(BLOCKED)} added where a query may not look", after, seen, "score"),
        ("softmax of each row", "weights: exp(score) / sum of its row", softmax(after), seen, "weight"),
    )
    for i, (title, said, values, visible, what) in enumerate(stages):
        axes = page.axes(left + i * (PANEL + GAP), bottom, PANEL, PANEL)
        _matrix(page, axes, values, labels, visible, what, is_first=i == 0)
        _head(page, axes, title, said)
        if i:
            page.text(
                left + i * (PANEL + GAP) - GAP / 2,
                bottom + PANEL / 2,
                "→",
                17,
                ha="center",
                color=ax.quiet(page.palette),
            )


def _head(page: ax.Page, axes: Axes, title: str, said: str) -> None:
    where: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "family": list(ax.fonts())}
    lines = ax.wrapped(ax.drawable(said), PANEL, ax.SMALL, most=2)
    over = len(lines) * ax.SMALL * ax.LINE / 72 / PANEL
    axes.text(
        0, 1 + 0.06 / PANEL, "\n".join(lines), size=ax.SMALL, color=ax.quiet(page.palette), linespacing=1.15, **where
    )
    axes.text(
        0, 1 + 0.07 / PANEL + over, ax.drawable(title), size=ax.BODY + 1, weight="bold", color=page.palette.ink, **where
    )


def _matrix(
    page: ax.Page, axes: Axes, values: NDArray[np.float64], labels: Sequence[str], visible: NDArray[np.bool_], what: str,
    *, is_first: bool,
) -> None:  # fmt: skip
    """A square of cells: blocked ones in grey, the others by value; with numbers where there is room."""
    from matplotlib.colors import Normalize

    p, n = page.palette, len(values)
    shown = values[visible]
    high = float(np.abs(shown).max()) or 1.0
    colours: Any = ax.diverging(p) if what == "score" else ax.sequential(p)
    norm = Normalize(-high, high) if what == "score" else Normalize(0, max(high, 0.01) if n > MOST_NUMBERS else 1)
    rgb = colours(norm(np.where(visible, values, 0.0)))[..., :3]
    if what == "mask":
        rgb[visible] = ax.mixed(p.attention, p.ground, 0.34)
    rgb[~visible] = ax.mixed(p.faint, p.ground, 0.5)
    axes.imshow(rgb, interpolation="nearest")
    ax.dress(axes, p, ())
    if n <= MOST_NUMBERS:
        for at in range(n + 1):
            axes.axhline(at - 0.5, color=p.ground, lw=1.2)
            axes.axvline(at - 0.5, color=p.ground, lw=1.2)
        size = min(LARGEST_TYPE, PANEL / n * 72 / 3.1)
        if size >= SMALLEST_TYPE:
            for i in range(n):
                for j in range(n):
                    axes.text(
                        j, i, _word(values[i, j], what), ha="center", va="center", size=size, family=list(ax.fonts()),
                        color=ax.ink_on(rgb[i, j]),
                    )  # fmt: skip
    ax.token_ticks(axes, "x", labels, most=12)
    if is_first:
        ax.token_ticks(axes, "y", labels, most=12)
        ax.name(axes, p, "y", "query: looks", ax.SMALL)
    else:
        axes.set_yticks([])
    axes.set_xlabel("key: is looked at", size=ax.SMALL, color=p.ink, family=list(ax.fonts()))


def _word(value: float, what: str = "mask") -> str:
    if value <= BLOCKED / 2:
        return f"{BLOCKED:.0e}".replace("e+0", "e")
    if what == "weight":
        return (
            "0"
            if value == 0
            else f"{value:.2f}".lstrip("0")
            if value < 0.995
            else f"{value:.2f}".rstrip("0").rstrip(".")
        )
    return "0" if what == "mask" else f"{value:.1f}"
