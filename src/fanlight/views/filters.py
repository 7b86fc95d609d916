"""Which tokens survive which filter, on a certain and on an uncertain step. In: two Distributions. Out: a matplotlib Figure.

Each filter works by itself, on the raw row, through the processors of decoding. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError
from fanlight.tracing.reshaping import Reshaped, reshaped
from fanlight.views import axes as shared
from fanlight.views.axes import BODY, FACTS, MARGIN, SMALL, count, page, percent, quiet, token, width_of
from fanlight.views.next_tokens import n_possible, possible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from fanlight.trace.distribution import Distribution
    from fanlight.views.axes import Page

FILTERS: Mapping[str, Any] = {"top_k": 10, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9, "top_n_sigma": 1.0}
"""Those that are shown, if nothing else is said."""
MOST_FILTERS = 10
ROW, BARS, GAP = 0.235, 1.25, 0.55  # inches: a token, its bar, between the two steps
HEAD, FOOT = 1.06, 0.66  # inches above and below the tokens
DOT = 6.6  # points


class Column(NamedTuple):
    """One filter on one step."""

    name: str
    value: str
    after: Reshaped


def filters_figure(
    certain: Distribution,
    uncertain: Distribution,
    *,
    filters: Mapping[str, Any] | None = None,
    n: int = 25,
    dark: bool = False,
) -> Figure:
    """Tokens down, filters across: filled where a token is kept, hollow where it is removed; how many and what mass stays.

    filters: an option -> its value; None: FILTERS. Errors: MissingExtra; OptionError for what is no filter of a row, and for a
    filter that needs more of a row than was recorded.
    """
    chosen = FILTERS if filters is None else filters
    if not 1 <= len(chosen) <= MOST_FILTERS:
        raise OptionError(f"filters must be 1 to {MOST_FILTERS} options with their values: got {len(chosen)}")
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 100:
        raise OptionError(f"n is how many tokens to show, from 1 to 100: got {n!r:.80}")
    steps = (certain, uncertain)
    columns = [[Column(k, f"{v:g}", reshaped(step, {k: v})) for k, v in chosen.items()] for step in steps]
    n_shown = [min(n, possible(step)) for step in steps]
    names = [_names(step, shown) for step, shown in zip(steps, n_shown, strict=True)]
    lefts = [max(width_of(token(name, 16), BODY, mono=True) for name in given) + 0.12 for given in names]
    cell = max(0.62, *(width_of(name, SMALL) + 0.14 for name in chosen))
    widths = [left + BARS + cell * len(chosen) for left in lefts]
    tall = ROW * max(map(len, names))
    made = page(sum(widths) + GAP + 2 * MARGIN, HEAD + tall + FOOT, _title(columns), [_facts()], dark=dark)
    x = MARGIN
    for i, title in enumerate(("certain", "uncertain")):
        step, shown, bottom = steps[i], n_shown[i], FOOT + tall - ROW * len(names[i])
        dots = x + lefts[i] + BARS
        _head(made, title, step, columns[i], (x, dots, cell, FOOT + tall), widths[i])
        _bars(made, step, names[i], shown, (x + lefts[i], bottom, BARS * 0.62))
        _dots(made, names[i], shown, columns[i], (dots, bottom, cell))
        x += widths[i] + GAP
    return made.figure


def _title(columns: Sequence[Sequence[Column]]) -> str:
    """What the filters keep on the one and on the other: "a fixed number, or as many as the step is open"."""
    few = [column.after.n_kept for column in columns[0]]
    many = [column.after.n_kept for column in columns[1]]
    return f"{_range(few)} survive a filter on the certain step, {_range(many)} on the uncertain one"


def _range(kept: Sequence[int]) -> str:
    low, high = min(kept), max(kept)
    return count(low, "token") if low == high else f"{low:,} to {high:,} tokens"


def _facts() -> str:
    return "each filter by itself on the raw row; filled: kept, hollow: removed; bars: raw probability"


def _names(step: Distribution, shown: int) -> list[str]:
    names = [step.label(int(token_id)) for token_id in step.ids[:shown]]
    others = n_possible(step) - shown
    return [*names, count(others, "other")] if others > 0 else names


def _head(
    made: Page,
    title: str,
    step: Distribution,
    columns: Sequence[Column],
    place: tuple[float, float, float, float],
    width: float,
) -> None:
    x, dots, cell, top = place
    palette = made.palette
    made.text(x, top + 0.86, f"{title}: entropy {abs(step.entropy):.2f} nats", FACTS, weight="bold")
    after = f"after {shared.context(step.context, _signs_in(width))}" if step.context else ""
    if after:
        made.text(x, top + 0.67, after, SMALL, color=quiet(palette))
    for i, column in enumerate(columns):
        middle = dots + (i + 0.5) * cell
        made.text(middle, top + 0.34, column.name, SMALL, ha="center")
        made.text(middle, top + 0.17, column.value, SMALL, ha="center", weight="bold")


def _signs_in(width: float) -> int:
    """How many signs of the context fit beside each other."""
    return max(12, int(width / 0.075) - 8)


def _bars(made: Page, step: Distribution, names: Sequence[str], shown: int, place: tuple[float, float, float]) -> None:
    import numpy as np

    left, bottom, width = place
    palette = made.palette
    axes = made.axes(left, bottom, width, ROW * len(names))
    probs = step.probs
    values = list(map(float, probs[:shown]))
    if len(names) > shown:
        values.append(float(probs[shown:].sum()) + step.rest_prob)
    most = max(values[:shown]) or 1.0
    colours = [palette.attention] * shown + [palette.faint] * (len(names) - shown)
    axes.barh(range(len(names)), np.minimum(values, most), height=0.7, color=colours)
    axes.set_xlim(0, most)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    shared.token_ticks(axes, "y", names, size=BODY)
    shared.dress(axes, palette, ("left",))
    axes.tick_params(axis="y", length=0)
    for i, value in enumerate(values):
        beyond = value > most
        axes.annotate(
            percent(value), (min(value, most), i), (-3 if beyond else 3, 0), textcoords="offset points", va="center",
            ha="right" if beyond else "left", size=SMALL - 0.5, color=palette.ground if beyond else palette.ink,
            annotation_clip=False, family=list(shared.fonts()),
        )  # fmt: skip


def _dots(
    made: Page, names: Sequence[str], shown: int, columns: Sequence[Column], place: tuple[float, float, float]
) -> None:
    left, bottom, cell = place
    palette = made.palette
    axes = made.axes(left, bottom, cell * len(columns), ROW * len(names))
    shared.dress(axes, palette, ())
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for y in range(len(names)):
        axes.axhline(y, color=palette.faint, lw=0.5, alpha=0.25, zorder=0)
    for x, column in enumerate(columns):
        kept = column.after.kept[:shown]
        rows = [[y for y in range(shown) if bool(kept[y]) == is_kept] for is_kept in (True, False)]
        axes.plot([x] * len(rows[0]), rows[0], "o", ms=DOT, mfc=palette.attention, mec=palette.attention, mew=1.1)
        axes.plot([x] * len(rows[1]), rows[1], "o", ms=DOT, mfc=palette.ground, mec=palette.faint, mew=1.1)
        if len(names) > shown:
            n = column.after.n_kept - len(rows[0])
            axes.text(
                x, shown, f"+{n:,}" if n else "0", ha="center", va="center", size=SMALL, family=list(shared.fonts()),
                color=palette.ink if n else quiet(palette),
                bbox={"facecolor": palette.ground, "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
        middle = left + (x + 0.5) * cell
        made.text(middle, bottom - 0.2, f"{column.after.n_kept:,}", SMALL, ha="center", weight="bold")
        made.text(middle, bottom - 0.37, percent(1 - column.after.removed_prob), SMALL, ha="center")
    for down, said in ((0.2, "tokens kept"), (0.37, "their probability")):
        made.text(left - 0.08, bottom - down, said, SMALL, ha="right", color=quiet(palette))
