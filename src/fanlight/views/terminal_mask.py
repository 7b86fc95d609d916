"""Masks of attention in a terminal: three of them side by side, and what the causal one makes of scores. In: positions, a Canvas.

Out: text. Positions that have no room are left out, which the heading says. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError
from fanlight.trace.masks import BLOCKED, KINDS, masked, may_see, softmax, square
from fanlight.views.mask import MOST_NUMBERS, MOST_POSITIONS, example_scores
from fanlight.views.terminal import Canvas, columns, left, right
from fanlight.views.terminal_sheet import Brush, beside, count, name_of, ruler, sheet, width_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME, GAP = 14, 3  # columns of a label at most, and between two squares
CELL, NARROW = 5, 2  # columns of a number, and of a sign
MOST_SHOWN = 24
"""Positions of the masks; of the effect as many as have room for numbers."""
MEANING = {
    "causal": "sees up to itself",
    "bidirectional": "sees all",
    "sliding window": "sees the last {}",
}


def mask_text(
    n: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    window: int = 3,
    scores: Any = None,
    canvas: Canvas,
) -> str:
    """Lines of text; the options are those of `mask_figure`. Errors: OptionError."""
    n, labels = _sized(n, labels, scores)
    given = scores is not None
    scores = square(scores) if given else example_scores(n)
    names = _names(labels, canvas)
    seen = [may_see(n, kind, window) for kind in KINDS]
    allowed = [int(one.sum()) for one in seen]
    title = (
        f"Who may look at whom: of {count(n * n, 'pair')} a causal mask lets {allowed[0]:,} pass, "
        f"a sliding window of {window} lets {allowed[2]:,}"
    )
    facts = [
        f"The mask is added to the scores: 0 lets a score through; {_dot(canvas)} stands for {_blocked()}, of which softmax makes "
        "exactly 0. Rows look (queries), columns are looked at (keys)."
    ]
    brush = Brush(canvas)
    n_shown = min(n, MOST_SHOWN)
    cell = NARROW if _room(names, canvas) >= NARROW * n_shown else 1
    n_shown = max(1, min(n_shown, _room(names, canvas) // cell))
    if n_shown < n:
        facts.append(f"Shown: the first {n_shown} of {n} positions.")
    squares = [
        _square(
            n_shown, cell, canvas, (kind, MEANING[kind].format(window if window > 1 else "one")),
            lambda i, j, own=own: _mask_cell(bool(own[i, j]), cell, brush),  # type: ignore[misc]
        )
        for kind, own in zip(KINDS, seen, strict=True)
    ]  # fmt: skip
    lines = _arranged(squares, names[:n_shown], canvas)
    lines += ["", *_effect(scores, names, canvas, brush, "scores" if given else "scores (an example)")]
    return sheet(canvas, title, facts, lines)


def _sized(n: int | None, labels: Sequence[str] | None, scores: Any) -> tuple[int, list[str]]:
    known = len(square(scores)) if scores is not None else n if n is not None else len(labels) if labels else 8
    if isinstance(known, bool) or not isinstance(known, int) or not 1 <= known <= MOST_POSITIONS:
        raise OptionError(f"a picture of a mask has 1 to {MOST_POSITIONS} positions: got {known!r:.80}")
    if n is not None and n != known:
        raise OptionError(f"there are scores of {known} positions, but n={n}")
    if labels is not None and len(labels) != known:
        raise OptionError(f"there must be a label for each of the {known} positions: got {len(labels)}")
    return known, list(labels) if labels is not None else [""] * known


def _names(labels: Sequence[str], canvas: Canvas) -> list[str]:
    """The number of each position and its token, all of one width."""
    number = len(str(len(labels) - 1))
    names = [name_of(label, min(NAME, max(4, canvas.width // 5)), canvas) for label in labels]
    widest = max(map(columns, names))
    return [f"{right(str(i), number)} {left(name, widest)}".rstrip(" ") for i, name in enumerate(names)]


def _room(names: Sequence[str], canvas: Canvas) -> int:
    """Columns beside the labels."""
    return canvas.width - max(map(columns, names)) - 1


def _square(n: int, cell: int, canvas: Canvas, heads: Sequence[str], draw: Callable[[int, int], str]) -> list[str]:
    """Its heading, the keys' numbers, a line for each query; without the queries' labels."""
    lines = [canvas.paint(heads[0], "bold"), *(canvas.paint(head, "dim") for head in heads[1:])]
    lines.append(canvas.paint(ruler(range(n), cell), "dim"))
    return lines + ["".join(draw(i, j) for j in range(n)) for i in range(n)]


def _arranged(squares: Sequence[list[str]], names: Sequence[str], canvas: Canvas) -> list[str]:
    """Beside each other, as many as there is room for, with the queries' labels at the left."""
    n_heads = len(squares[0]) - len(names)
    labels = [*[""] * n_heads, *names]
    found: list[str] = []
    for n in range(len(squares), 0, -1):
        rows = [
            beside([beside([labels, squares[i]], 1), *squares[i + 1 : i + n]], GAP) for i in range(0, len(squares), n)
        ]
        found = [line for i, row in enumerate(rows) for line in ([""] if i else []) + row]
        if max(map(width_of, found)) <= canvas.width:
            break
    return found


def _dot(canvas: Canvas) -> str:
    return "·" if canvas.unicode else "."


def _blocked() -> str:
    return f"{BLOCKED:.0e}".replace("e+0", "e")


def _mask_cell(allowed: bool, cell: int, brush: Brush) -> str:
    if allowed:
        return brush.much(right("0", cell), 0.55)
    return brush.canvas.paint(right(_dot(brush.canvas), cell), "dim")


# -- what it does ----------------------------------------------------------------------------------------------------------


def _effect(scores: NDArray[np.float64], names: Sequence[str], canvas: Canvas, brush: Brush, name: str) -> list[str]:
    """scores -> scores + mask -> softmax, each a square of numbers."""
    n = max(1, min(len(scores), MOST_NUMBERS, _room(names, canvas) // CELL))
    seen = may_see(len(scores))
    after, weights = masked(scores), softmax(masked(scores))
    high = float(np.abs(scores).max()) or 1.0

    def score(i: int, j: int) -> str:
        return brush.signed(right(_number(scores[i, j]), CELL), float(scores[i, j]) / high)

    def with_mask(i: int, j: int) -> str:
        said = right(_blocked() if after[i, j] <= BLOCKED / 2 else _number(after[i, j]), CELL)
        return brush.signed(said, float(after[i, j]) / high) if seen[i, j] else canvas.paint(said, "dim")

    def weight(i: int, j: int) -> str:
        said = right("0" if weights[i, j] == 0 else f"{weights[i, j]:.2f}", CELL)
        return brush.much(said, float(weights[i, j])) if seen[i, j] else canvas.paint(said, "dim")

    stages = (
        (f"1. {name}", "how well a query fits a key", score),
        ("2. + causal mask", f"{_blocked()} added where it may not look", with_mask),
        ("3. softmax of each row", "weights: each row sums to 1", weight),
    )
    squares = [_square(n, CELL, canvas, (title, said), draw) for title, said, draw in stages]
    cut_off = [canvas.paint(f"The first {n} of {len(scores)} positions.", "dim")] if n < len(scores) else []
    return cut_off + _arranged(squares, names[:n], canvas)


def _number(value: float) -> str:
    """A score in at most four columns."""
    said = f"{value:.1f}"
    return said if len(said) <= CELL - 1 else f"{value:.0f}" if abs(value) < 999 else f"{value:.0e}".replace("e+0", "e")
