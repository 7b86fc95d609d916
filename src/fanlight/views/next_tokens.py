"""What could come next: the most probable tokens as bars, their sum, and where filters would cut. In: a Distribution.

Out: a matplotlib Figure. Knows no model: a distribution is a whole row, or what a step recorded of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError
from fanlight.tracing.reshaping import reshaped
from fanlight.views import axes as shared
from fanlight.views.axes import BODY, MARGIN, SMALL, count, page, percent, series, token, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.trace.distribution import Distribution
    from fanlight.views.axes import Page

FILTERS: Mapping[str, Any] = {"top_k": 10, "top_p": 0.9, "min_p": 0.05, "top_n_sigma": 1.0}
"""Whose cuts are shown, if nothing else is said."""
ROW = 0.235  # inches of a token
BARS, SUMS, GAP = 4.3, 2.1, 0.25  # inches: the panels
LEAST = 0.85
"""How far apart the words of two cuts stand, in tokens."""
SHARE = 0.8
"""The title says how few tokens hold this much of the probability."""


class Cut(NamedTuple):
    """What one filter would do by itself."""

    label: str
    """"top_p=0.9"."""
    n_kept: int
    mass: float
    """Raw probability of the tokens kept."""
    is_first: bool
    """It keeps the first tokens in the order, as a line can show."""


class Row(NamedTuple):
    """One bar."""

    label: str
    prob: float
    place: int | None
    """Its place among the distribution's tokens; None: the others together."""


def next_figure(
    distribution: Distribution,
    *,
    n: int = 20,
    filters: Mapping[str, Any] | None = None,
    chosen: int | None = None,
    n_top: int | None = None,
    dark: bool = False,
) -> Figure:
    """The n most probable tokens with their cumulative probability, and the cut of each filter by itself.

    filters: an option -> its value; None: FILTERS; {}: none. chosen: an id that is marked, and shown wherever it stands.
    n_top: for a recorded step, see `reshaped`. Errors: MissingExtra; OptionError for what is no filter of a row.
    """
    rows = _rows(distribution, _at_least_one(n), chosen)
    cuts, unknown = cuts_of(
        distribution, FILTERS if filters is None else filters, n_top=n_top, strict=filters is not None
    )
    facts = [_legend(cuts, unknown)]
    left = MARGIN + max(width_of(token(row.label, 18), BODY, mono=True) for row in rows) + 0.12
    said = [_words(cut) for cut in cuts]
    right = max((width_of(words, SMALL) for words in said), default=0.0) + 0.45
    tall = max(len(rows), ceil(LEAST * len(cuts))) * ROW  # the words need room where there are few tokens
    made = page(left + BARS + GAP + SUMS + right, tall + 0.72, title_of(distribution), facts, dark=dark)
    bars = made.axes(left, 0.58, BARS, tall)
    sums = made.axes(left + BARS + GAP, 0.58, SUMS, tall, sharey=bars)
    _draw_bars(bars, made, rows, distribution, chosen)
    _draw_sums(sums, made, rows)
    _draw_cuts(made, bars, sums, cuts, said, rows)
    return made.figure


def _at_least_one(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 200:
        raise OptionError(f"n is how many tokens to show, from 1 to 200: got {n!r:.80}")
    return n


# -- numbers ---------------------------------------------------------------------------------------------------------------


def possible(distribution: Distribution) -> int:
    """How many of the tokens it holds could come: those before the first with a logit of -inf."""
    import numpy as np

    return max(1, int((distribution.logits > -np.inf).sum()))


def n_possible(distribution: Distribution) -> int:
    """How many tokens could come, those that it does not hold counted."""
    return possible(distribution) if distribution.is_whole else distribution.n_vocab


def n_for(distribution: Distribution, share: float) -> int | None:
    """How few tokens hold this much of the probability; None: more than it holds."""
    import numpy as np

    sums = np.cumsum(distribution.probs)
    at = int(np.searchsorted(sums, share - 1e-12))
    return at + 1 if at < len(sums) else None


def title_of(distribution: Distribution) -> str:
    """ "after 'The cat sat on the': entropy 2.31 nats; 5 tokens hold 80%"."""
    after = f"after {shared.context(distribution.context)}: " if distribution.context else ""
    n = n_for(distribution, SHARE)
    held = (
        f"more than {count(len(distribution.ids), 'token')} hold"
        if n is None
        else f"{count(n, 'token')} {'holds' if n == 1 else 'hold'}"
    )
    share = f"{percent(float(distribution.probs[0]))}" if n == 1 else f"{SHARE:.0%}"
    return f"{after}entropy {abs(distribution.entropy):.2f} nats; {held} {share}"


def cuts_of(
    distribution: Distribution, filters: Mapping[str, Any], *, n_top: int | None = None, strict: bool = True
) -> tuple[list[Cut], list[str]]:
    """What each filter by itself keeps; and the filters that need more of the row than was recorded, unless that is an error."""
    import numpy as np

    found, unknown = [], []
    for name, value in filters.items():
        try:
            after = reshaped(distribution, {name: value}, n_top=n_top)
        except OptionError:
            if strict or distribution.is_whole:
                raise
            unknown.append(f"{name}={value:g}")
            continue
        first = bool(np.all(after.kept[: after.n_kept])) and after.n_kept <= len(after.kept)
        found.append(Cut(f"{name}={value:g}", after.n_kept, max(0.0, 1 - after.removed_prob), first))
    return found, unknown


def _rows(distribution: Distribution, n: int, chosen: int | None) -> list[Row]:
    import numpy as np

    probs = distribution.probs
    shown = list(range(min(n, possible(distribution))))
    if chosen is not None:
        at = np.flatnonzero(distribution.ids == chosen)
        if not len(at):
            raise OptionError(f"token {chosen} is not among the {len(distribution.ids):,} tokens of this distribution")
        if int(at[0]) not in shown:
            shown.append(int(at[0]))
    rows = [Row(distribution.label(int(distribution.ids[i])), float(probs[i]), i) for i in shown]
    others = n_possible(distribution) - len(shown)
    if others > 0:
        rest = float(np.delete(probs, shown).sum()) + distribution.rest_prob
        rows.append(Row(count(others, "other"), rest, None))
    return rows


def _words(cut: Cut) -> str:
    return f"{cut.label}: {count(cut.n_kept, 'token')}, {percent(cut.mass)}{'' if cut.is_first else ', not the first'}"


def _legend(cuts: Sequence[Cut], unknown: Sequence[str]) -> str:
    said = "bars: raw probability of each token; line: of all down to it"
    if cuts:
        said += "; dashed: where a filter by itself would cut"
    if unknown:
        said += f"; not recorded enough for {', '.join(unknown)}"
    return said


# -- drawing ---------------------------------------------------------------------------------------------------------------


def _draw_bars(axes: Axes, made: Page, rows: Sequence[Row], distribution: Distribution, chosen: int | None) -> None:
    palette = made.palette
    mark = palette.feed_forward
    is_chosen = [row.place is not None and int(distribution.ids[row.place]) == chosen for row in rows]
    colours = [
        palette.faint if row.place is None else mark if marked else palette.attention
        for row, marked in zip(rows, is_chosen, strict=True)
    ]
    axes.barh(range(len(rows)), [row.prob for row in rows], height=0.72, color=colours)
    most = max((row.prob for row in rows if row.place is not None), default=1.0) or 1.0  # the others may be longer
    axes.set_xlim(0, most * 1.2)
    axes.set_ylim(axes.get_position().height * made.figure.get_size_inches()[1] / ROW - 0.5, -0.5)
    inks = [mark if marked else palette.ink for marked in is_chosen]
    shared.token_ticks(axes, "y", [row.label for row in rows], most=18, size=BODY, colours=inks)
    for i, (row, marked) in enumerate(zip(rows, is_chosen, strict=True)):
        said = percent(row.prob)
        if marked:
            place = row.place if distribution.is_whole else None
            said += "  chosen" if place is None or place == i else f"  chosen, no. {place + 1:,}"
        beyond = row.prob > most * 1.2
        axes.annotate(
            f"{said}, longer than the axis" if beyond else said, (most * 1.2 if beyond else row.prob, i),
            (-6 if beyond else 4, 0), textcoords="offset points", va="center", ha="right" if beyond else "left", size=SMALL,
            color=palette.ground if beyond else mark if marked else palette.ink, family=list(shared.fonts()),
        )  # fmt: skip
    shared.percent_axis(axes, "x")
    shared.grid(axes, palette, "x")
    shared.name(axes, palette, "x", "probability")
    axes.tick_params(axis="y", length=0)


def _draw_sums(axes: Axes, made: Page, rows: Sequence[Row]) -> None:
    palette, total = made.palette, 0.0
    xs, ys = [0.0], [-0.5]
    for i, row in enumerate(rows):
        if row.place is not None and i and row.place != i:
            continue  # a token further down: it is counted among the others
        total = min(1.0, total + row.prob) if row.place is not None else 1.0
        xs.append(total)
        ys.append(i + 0.5)
    axes.fill_betweenx(ys, xs, color=palette.attention, alpha=0.12, lw=0)
    axes.plot(xs, ys, color=palette.attention, lw=1.8, solid_joinstyle="round")
    axes.set_xlim(0, 1.0)
    axes.tick_params(axis="y", labelleft=False, length=0)
    axes.set_xticks([0, 0.5, 0.8, 1.0], ["0%", "50%", "80%", "100%"])
    for text in axes.get_xticklabels():
        text.set_color(palette.ink)
    shared.grid(axes, palette, "x")
    shared.name(axes, palette, "x", "cumulative")


def _draw_cuts(
    made: Page, bars: Axes, sums: Axes, cuts: Sequence[Cut], said: Sequence[str], rows: Sequence[Row]
) -> None:
    """Dashed lines between bars, their words in the margin beside them, moved apart where they would touch."""
    order = sorted(range(len(cuts)), key=lambda i: (cuts[i].n_kept, i))
    wanted = [_line_at(cuts[i], rows) for i in order]
    places = shared.apart(wanted, LEAST, 0.42 - 0.5, bars.get_ylim()[0] - 0.42)
    beside = sums.get_yaxis_transform()
    colours = [series(made.palette)[i] for i in (1, 2, 3, 4, 6, 5, 7)]
    for at, i, y, place in zip(range(len(order)), order, wanted, places, strict=True):
        cut, colour = cuts[i], colours[i % len(colours)]
        if cut.is_first:  # lines at one place take turns
            n, turn = wanted.count(y), wanted[:at].count(y)
            dashes = (-4 * turn, (4, 4 * (n - 1) if n > 1 else 2.5))
            for axes in (bars, sums) if cut.n_kept <= _n_in_order(rows) else (sums,):
                axes.axhline(y, color=colour, lw=1.2, ls=dashes, zorder=3)
        if cut.is_first:
            sums.plot([1.0, 1.0 + 0.2 / SUMS], [y, place], transform=beside, color=colour, lw=0.9, clip_on=False)
        sums.text(
            1.0 + 0.24 / SUMS, place, said[i], transform=beside, color=colour, va="center", size=SMALL,
            family=list(shared.fonts()),
        )  # fmt: skip


def _n_in_order(rows: Sequence[Row]) -> int:
    """Bars before the first that stands elsewhere in the distribution."""
    return next((i for i, row in enumerate(rows) if row.place != i), len(rows))


def _line_at(cut: Cut, rows: Sequence[Row]) -> float:
    """Between two bars; among the tokens that are not shown, where the line of sums has what the filter keeps."""
    n = _n_in_order(rows)
    if cut.n_kept <= n:
        return cut.n_kept - 0.5
    before = sum(row.prob for row in rows[:n])
    share = (cut.mass - before) / max(1e-300, 1 - before)
    return len(rows) - 1.5 + min(1.0, max(0.0, share))
