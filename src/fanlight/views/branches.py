"""A run and its branches as a tree over steps. In: Traces, whose headers say which left which, and where. Out: a matplotlib Figure.

What runs share is drawn once, in the line of the one that was left. Each branch has its change and the text from there on.
Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.views import axes as ax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.tracing.trace import Trace

STEPS, TEXT = 7.2, 5.2  # inches: the axis of steps, and what a text has at least
MOST_LINES = 3
LINE = ax.BODY * 1.36 / 72
GAP = 0.36
MARK = 0.06  # inches: steps that are as far apart have marks
LEFT = 0.45
SHORT = 12
"""Signs of a trace's id that are shown."""


class Branch(NamedTuple):
    """A row of the picture."""

    trace: Trace
    parent: int
    """Its row; -1: it left none of those that are shown."""
    start: int
    """Its first step of its own."""
    level: int


def branches_figure(traces: Sequence[Trace], *, dark: bool = False) -> Figure:
    """The tree. A branch whose parent is not among the traces stands alone, which its line says.

    Errors: MissingExtra; OptionError if there is no trace, or a branch begins beyond its parent's end.
    """
    rows = tree(traces)
    longest = max(max(row.trace.n_steps for row in rows), 1)
    scale = STEPS / longest
    blocks = [_block(row, scale) for row in rows]
    heights = [len(lines) * LINE + GAP for lines in blocks]
    below = 0.55
    n = sum(row.parent >= 0 for row in rows)
    title = f"{ax.count(len(rows) - n, 'run')} and {n} branch{'es' if n != 1 else ''}"
    where = sorted({row.start for row in rows if row.parent >= 0})
    title += f", left at step{'s' if len(where) > 1 else ''} {_listed(where)}" if where else ""
    prompt = next((row.trace.header.prompt for row in rows if row.trace.header.prompt), None)
    facts = [
        f"After {ax.context(prompt, 90)}. What runs share is drawn once."
        if prompt
        else "What runs share is drawn once."
    ]
    width = LEFT + STEPS + TEXT + ax.MARGIN
    page = ax.page(width, below + sum(heights) + 0.1, title, facts, dark=dark)
    axes = page.axes(LEFT, below, width - LEFT - ax.MARGIN, sum(heights) + 0.1)
    axes.set_xlim(0, (width - LEFT - ax.MARGIN) / scale)
    axes.set_ylim(0, sum(heights) + 0.1)
    y, lines_at = sum(heights), []
    for height in heights:
        y -= height
        lines_at.append(y + 0.13)
    colours = ax.series(page.palette)
    for i, row in enumerate(rows):
        _draw(
            page,
            axes,
            rows,
            i,
            lines_at,
            colours[0] if row.parent < 0 else colours[1 + (i % (len(colours) - 1))],
            blocks[i],
            scale,
        )
    ax.dress(axes, page.palette, ())
    axes.set_yticks([])
    _axis(page, axes, longest)
    return page.figure


def tree(traces: Sequence[Trace]) -> list[Branch]:
    """Rows from top to bottom: a run, then its branches with theirs, the one that left last first, so that no lines cross.

    Traces with the same id are one. Errors: OptionError.
    """
    known: dict[str, Trace] = {}
    for trace in traces:
        known.setdefault(trace.id, trace)
    if not known:
        raise OptionError("there is nothing to show: no trace was given")
    children: dict[str | None, list[Trace]] = {}
    for trace in known.values():
        parent = trace.header.parent
        above = parent.id if parent is not None and parent.id in known and not _loops(trace, known) else None
        if parent is not None and above is not None and parent.step > known[above].n_steps:
            raise OptionError(
                f"trace {trace.id} leaves {above} at step {parent.step}, which has only {known[above].n_steps}; "
                "one of the two files is of another run"
            )
        children.setdefault(above, []).append(trace)
    rows: list[Branch] = []

    def add(trace: Trace, parent: int, level: int) -> None:
        start = trace.header.parent.step if parent >= 0 and trace.header.parent is not None else 0
        rows.append(Branch(trace, parent, start, level))
        at = len(rows) - 1
        for child in sorted(
            children.get(trace.id, []), key=lambda t: -(t.header.parent.step if t.header.parent else 0)
        ):
            add(child, at, level + 1)

    for root in children.get(None, []):
        add(root, -1, 0)
    return rows


def _loops(trace: Trace, known: dict[str, Trace]) -> bool:
    seen: set[str] = set()
    while trace.header.parent is not None and trace.header.parent.id in known:
        if trace.id in seen:
            return True
        seen.add(trace.id)
        trace = known[trace.header.parent.id]
    return False


def _block(row: Branch, scale: float) -> list[str]:
    """What changed, and the text from the branch on."""
    parent = row.trace.header.parent
    name = ax.drawable(row.trace.id[:SHORT])
    if row.parent >= 0 and parent is not None:
        head = f"step {row.start}: {ax.drawable(parent.change)}"
    elif parent is not None:
        head = f"{name}, a branch of {ax.drawable(parent.id[:SHORT])}, which is not here: {ax.drawable(parent.change)}"
    else:
        head = name
    room = STEPS + TEXT - row.start * scale - 0.2
    (head,) = ax.wrapped(head, room, ax.BODY, bold=True, most=1)
    text = "".join(row.trace.token_label(token) for token in row.trace.ids[row.start :]).replace("␣", " ").strip()
    lines = ax.wrapped(ax.drawable(text), room, ax.BODY, most=MOST_LINES) if text else ["(no token)"]
    return [head, *lines]


def _draw(
    page: ax.Page, axes: Axes, rows: Sequence[Branch], i: int, lines_at: Sequence[float], colour: str,
    block: Sequence[str], scale: float,
) -> None:  # fmt: skip
    row, y, p = rows[i], lines_at[i], page.palette
    n = row.trace.n_steps
    if row.parent >= 0:
        axes.plot(
            [row.start, row.start], [lines_at[row.parent], y], color=colour, lw=1.6, solid_capstyle="round", zorder=2
        )
        axes.plot([row.start], [lines_at[row.parent]], "o", ms=5, color=p.ground, mec=colour, mew=1.6, zorder=5)
    (line,) = axes.plot(
        [row.start, n], [y, y], color=colour, lw=2.4 if row.parent < 0 else 1.8, solid_capstyle="round", zorder=3
    )
    line.set_gid(f"run {row.trace.id}")
    if scale >= MARK:
        axes.plot(range(row.start, n + 1), [y] * (n - row.start + 1), "|", ms=5, color=colour, zorder=3)
    axes.plot([n], [y], "o", ms=4.5, color=colour, zorder=4)
    stop = ax.token(str(row.trace.header.stop), 44)
    state = "" if row.trace.header.complete else ", incomplete"
    axes.annotate(
        f"{ax.count(n, 'token')}{state}; {stop}", (n, y), (7, 0), textcoords="offset points", size=7, color=ax.quiet(p),
        va="center", family=list(ax.fonts()),
    )  # fmt: skip
    for at, said in enumerate(block):
        is_head = at == 0
        axes.text(
            row.start + 0.1 / scale, y + 0.09 + (len(block) - at - 0.5) * LINE, said, size=ax.BODY,
            color=colour if is_head else p.ink, weight="bold" if is_head else "normal", va="center", family=list(ax.fonts()),
        )  # fmt: skip


def _axis(page: ax.Page, axes: Axes, longest: int) -> None:
    from matplotlib.ticker import MaxNLocator

    marks = [int(mark) for mark in MaxNLocator(nbins=8, integer=True).tick_values(0, longest) if 0 <= mark <= longest]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.tick_params(bottom=True)
    axes.plot([0, longest], [0, 0], color=page.palette.faint, lw=0.8, clip_on=False)
    axes.set_xlabel("step", size=ax.BODY, color=page.palette.ink, family=list(ax.fonts()), loc="left")


def _listed(steps: Sequence[int]) -> str:
    said = [str(step) for step in steps[:6]] + ([ax.HIDDEN] if len(steps) > 6 else [])
    return (
        said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}" if len(steps) <= 6 else ", ".join(said)
    )
