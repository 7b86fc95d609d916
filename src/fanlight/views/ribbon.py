"""A text as it was written, every token on a ground that says how sure the step was. In: a Trace. Out: a matplotlib Figure.

Tokens flow over lines as in a book; spaces and line ends are visible. With alternatives, the tokens that were most probable stand
small under each. Knows no model; the colours are those of the terminal and the page (`ribbon_colors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.views import axes as ax
from fanlight.views.figures import DARK
from fanlight.views.ribbon_colors import Measure, color, hexed, ink_on, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

WIDTH = 12.0  # inches: a line of text
SIZE, SMALL = 10.0, 6.6
LINE, SMALL_LINE = 0.27, 0.125  # inches: a line, and one of alternatives
LEAD = 0.07  # inches between lines
MOST_LINES = 120
MOST_ALTERNATIVES = 5
MOST_SIGNS, PROMPT_SIGNS = 28, 160
GAP = 0.02


class _Cell(NamedTuple):
    text: str
    width: float
    step: int
    """-1: the prompt."""
    below: tuple[tuple[str, bool], ...]
    """Alternatives, and whether each is the chosen token."""
    breaks: bool
    """The text goes on in a new line after it."""


def ribbon_figure(trace: Trace, *, by: str = "surprise", alternatives: int = 0, dark: bool = False) -> Figure:
    """The whole text; of a very long one, its beginning, which the heading says.

    by: "surprise", "rank", "entropy", "margin". alternatives: how many of the most probable tokens stand under each, up to 5.
    Errors: MissingExtra; OptionError.
    """
    found = measure(by)
    if (
        isinstance(alternatives, bool)
        or not isinstance(alternatives, int)
        or not 0 <= alternatives <= MOST_ALTERNATIVES
    ):
        raise OptionError(f"alternatives must be 0 to {MOST_ALTERNATIVES}: got {alternatives!r:.80}")
    records = trace.steps
    if not len(records):
        raise OptionError("there is nothing to show: the trace has no step")
    cells = [_prompt(trace)] if trace.header.prompt else []
    values = [found.value(record) for record in records]
    cells += [_cell(trace, i, record, alternatives) for i, record in enumerate(records)]
    lines = _flowed([cell for cell in cells if cell.text])
    kept = lines[:MOST_LINES]
    n_shown = sum(cell.step >= 0 for line in kept for cell in line)
    tall = LINE + alternatives * SMALL_LINE + LEAD
    title = _title(trace, found, values)
    facts = [f"{found.meaning[0].upper()}{found.meaning[1:]}. The colour of each token says its {found.name}."]
    facts += [f"Shown: the first {n_shown:,} of {len(records):,} tokens."] if len(lines) > MOST_LINES else []
    facts += [f"Under each token: the {alternatives} most probable, the first on top."] if alternatives > 1 else []
    facts += ["Under each token: the most probable one."] if alternatives == 1 else []
    legend = 0.75
    page = ax.page(WIDTH + 2 * ax.MARGIN, legend + len(kept) * tall + 0.3, title, facts, dark=dark)
    axes = page.axes(0, 0, WIDTH + 2 * ax.MARGIN, page.height)
    axes.set_xlim(0, WIDTH + 2 * ax.MARGIN)
    axes.set_ylim(0, page.height)
    axes.set_axis_off()
    y = page.height - 0.2
    for line in kept:
        x = ax.MARGIN
        for cell in line:
            _draw(page, axes, cell, x, y, found, values)
            x += cell.width + GAP
        y -= tall
    _legend(page, found)
    return page.figure


def _title(trace: Trace, found: Measure, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    n = ax.count(len(values), "token")
    if not known:
        return f"{n}, none with another choice"
    mean = sum(known) / len(known)
    highest = max(range(len(values)), key=lambda i: found.share(values[i]))
    where = f"at step {highest}: '{ax.token(trace.token_label(trace.ids[highest]), 20)}'"
    middle = f"mean rank {mean:,.1f}" if found.name == "rank" else f"mean {found.name} {found.words(mean)}"
    most = "smallest" if found.strong < found.calm else "largest"
    return f"{n}, {middle}; {most} {found.words(values[highest])} {where}"


def _prompt(trace: Trace) -> _Cell:
    text = ax.context(trace.header.prompt or "", PROMPT_SIGNS)[1:-1]
    while ax.width_of(text, SIZE, mono=True) > WIDTH:
        text = ax.HIDDEN + text[2:].lstrip("\\")
    return _Cell(text, ax.width_of(text, SIZE, mono=True) + 0.08, -1, (), breaks=False)


def _cell(trace: Trace, step: int, record: StepRecord, alternatives: int) -> _Cell:
    piece = trace.token_text(record.id)
    text = ax.token(trace.token_label(record.id), MOST_SIGNS) or "∅"
    below = tuple(
        (ax.token(trace.token_label(token), 12), token == record.id)
        for token in record.candidate_ids[: min(alternatives, record.n_top or alternatives)]
    )
    width = max(
        [ax.width_of(text, SIZE, mono=True) + 0.03]
        + [ax.width_of(label, SMALL, mono=True, bold=is_chosen) + 0.06 for label, is_chosen in below]
    )
    return _Cell(text, width, step, below, breaks=piece.endswith("\n"))


def _flowed(cells: Sequence[_Cell]) -> list[list[_Cell]]:
    lines: list[list[_Cell]] = [[]]
    used = 0.0
    for cell in cells:
        if lines[-1] and used + cell.width > WIDTH:
            lines.append([])
            used = 0.0
        lines[-1].append(cell)
        used += cell.width + GAP
        if cell.breaks:
            lines.append([])
            used = 0.0
    return lines if lines[-1] else lines[:-1]


def _draw(
    page: ax.Page, axes: Axes, cell: _Cell, x: float, y: float, found: Measure, values: Sequence[float | None]
) -> None:
    from matplotlib.patches import Rectangle

    family = list(ax.fonts(mono=True))
    middle = y - LINE / 2
    if cell.step < 0:
        axes.text(x, middle, cell.text, size=SIZE, color=ax.quiet(page.palette), va="center_baseline", family=family)
        return
    ground = color(found.share(values[cell.step]), dark=page.palette is DARK)
    edge = ax.mixed(page.palette.faint, page.palette.ground, 0.3)
    box = Rectangle((x, y - LINE), cell.width, LINE, fc=hexed(ground), ec=edge, lw=0.4)
    box.set_gid(f"step {cell.step}")
    axes.add_patch(box)
    axes.text(
        x + 0.015, middle, cell.text, size=SIZE, color=hexed(ink_on(ground)), va="center_baseline", family=family,
        gid=f"token {cell.step}",
    )  # fmt: skip
    for i, (label, is_chosen) in enumerate(cell.below):
        ink = page.palette.ink if is_chosen else ax.quiet(page.palette)
        axes.text(
            x + 0.015, y - LINE - (i + 0.55) * SMALL_LINE, label, size=SMALL, color=ink, va="center_baseline",
            family=family, weight="bold" if is_chosen else "normal",
        )  # fmt: skip


def _legend(page: ax.Page, found: Measure) -> None:
    """The scale of colours with its unit."""
    import numpy as np

    width, n = 3.6, 256
    axes = page.axes(ax.MARGIN + 0.1, 0.46, width, 0.14)
    row = np.array([[color(i / (n - 1), dark=page.palette is DARK) for i in range(n)]], np.uint8)
    axes.imshow(row, aspect="auto", extent=(0, 1, 0, 1), interpolation="nearest")
    ax.dress(axes, page.palette, ("left", "right", "top", "bottom"))
    axes.tick_params(left=False, right=False, top=False)
    axes.set_yticks([])
    words = [f"{tick:,g}" for tick in found.ticks]
    words[-1] += " or less" if found.strong < found.calm else " or more"
    axes.set_xticks([found.share(tick) for tick in found.ticks], words)
    unit = "tokens that were more probable" if found.name == "rank" else found.unit
    ax.name(axes, page.palette, "x", f"{found.name}, {unit}", ax.SMALL)
