"""A Comparison as a picture: every text as a strip of tokens, and the measures beside it. In: records. Out: a matplotlib Figure.

A strip's colour is the surprise of each token under the model itself; a diamond marks where the text parts from the baseline's.
Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import OptionError
from fanlight.views.figures import DARK, LIGHT, Palette, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.comparing.records import Comparison, Text, Variant

WIDTH = 14.0  # inches
STRIP, GAP = 0.24, 0.22  # inches: a text, and the room between two settings
TOP, BOTTOM, LEFT, RIGHT = 1.02, 0.86, 2.3, 0.25
MEASURE = 0.92  # inches: a panel of a measure
MOST_SURPRISE = 8.0  # nats: what has the darkest colour
MOST_STRIPS = 200
LABEL, LABEL_LINES = 23, 2  # signs of a setting's name on a line, and lines
SHORT = {
    "max_new_tokens": "cut off",
    "max_length": "cut off",
    "context_window": "window full",
    "stop_string": "stop string",
}
"""How a text ended, in a word or two at the end of its strip."""


class Panel(NamedTuple):
    """One measure: of a setting as a dot, and of its texts as small ones."""

    title: str
    whole: Callable[[Variant], float | None]
    each: Callable[[Text], float | None] | None
    most: float | None
    """Where its axis ends; None: with the largest value."""


PANELS = (
    Panel("perplexity\n(under the model)", lambda v: v.perplexity, lambda t: t.perplexity, None),
    Panel("entropy\n(nats)", lambda v: v.entropy, lambda t: t.entropy, None),
    Panel("distinct-2\n(of all samples)", lambda v: v.across[1], None, 1.0),
    Panel("repeated\n4-grams (share)", lambda v: v.repetition, lambda t: t.repetition, None),
    Panel("Self-BLEU\n(of the samples)", lambda v: v.self_bleu, None, 1.0),
)


def comparison_figure(found: Comparison, *, dark: bool = False) -> Figure:
    """The strips and the measures. Errors: MissingExtra; OptionError if there are more texts than a picture can show."""
    n = sum(len(variant.texts) for variant in found.variants)
    if n > MOST_STRIPS:
        raise OptionError(f"{n} texts are too many for a picture, at most {MOST_STRIPS}; fewer settings or samples")
    palette = DARK if dark else LIGHT
    height = TOP + BOTTOM + n * STRIP + len(found.variants) * GAP
    figure = new_figure(WIDTH, height, palette)
    panels = [panel for panel in PANELS if any(panel.whole(variant) is not None for variant in found.variants)]
    side = len(panels) * (MEASURE + 0.22)
    bottom, tall = BOTTOM / height, 1 - (TOP + BOTTOM) / height
    strips = figure.add_axes((LEFT / WIDTH, bottom, (WIDTH - LEFT - RIGHT - side - 0.5) / WIDTH, tall))
    rows = _rows(found)
    _draw_strips(strips, found, rows, palette)
    _scale_of_colours(figure, palette, height)
    for i, panel in enumerate(panels):
        x = WIDTH - RIGHT - side + i * (MEASURE + 0.22)
        _draw_panel(figure.add_axes((x / WIDTH, bottom, MEASURE / WIDTH, tall)), panel, found, rows, palette)
    title = found.prompt if len(found.prompt) <= 90 else f"{found.prompt[:87]}..."
    figure.text(0.02, 1 - 0.34 / height, _quiet(title), size=13, weight="bold", color=palette.ink, va="center")
    facts = f"{found.model}, {n} texts, seed {found.seed}; baseline: {found.variants[0].label[:60]}"
    figure.text(0.02, 1 - 0.62 / height, _quiet(facts), size=9.5, color=palette.faint, va="center")
    return figure


def _quiet(text: str) -> str:
    """A text that matplotlib takes as it is: without formulas and line breaks."""
    return " ".join(text.split()).replace("$", r"\$")


def _rows(found: Comparison) -> list[list[float]]:
    """The middle of every strip, by setting and sample; from the top, in inches."""
    rows, y = [], GAP / 2
    for variant in found.variants:
        rows.append([y + (i + 0.5) * STRIP for i in range(len(variant.texts))])
        y += len(variant.texts) * STRIP + GAP
    return rows


def _draw_strips(axes: Axes, found: Comparison, rows: Sequence[Sequence[float]], palette: Palette) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    longest = max((text.n_tokens for variant in found.variants for text in variant.texts), default=0)
    _plain(axes, palette, rows)
    axes.set_xlim(0, max(1, longest) * 1.0)
    boxes, surprises = [], []
    for i, (variant, places) in enumerate(zip(found.variants, rows, strict=True)):
        middle = sum(places) / len(places)
        name = "\n".join(
            map(_quiet, wrap(variant.label.replace(",", ", "), LABEL, max_lines=LABEL_LINES, placeholder="..."))
        )
        axes.annotate(
            name, (0, middle), (-10, 0), textcoords="offset points", ha="right", va="center", size=9.5,
            color=palette.ink, weight="bold",
        )  # fmt: skip
        for text, y in zip(variant.texts, places, strict=True):
            for at, token in enumerate(text.tokens):
                boxes.append(Rectangle((at, y - STRIP * 0.4), 1, STRIP * 0.8))
                surprises.append(-token.raw_logprob)
            parted = found.divergence(i, text.sample)
            if parted is not None and parted.index is not None:
                axes.plot(
                    parted.index + 0.5,
                    y,
                    "D",
                    ms=6.5,
                    mfc=palette.feed_forward,
                    mec=palette.ground,
                    mew=1,
                    clip_on=False,
                )
            end = "failed" if text.error is not None else SHORT.get(text.stop_reason, text.stop_reason)
            axes.annotate(
                _quiet(end), (text.n_tokens, y), (4, 0), textcoords="offset points", va="center", size=7.5,
                color=palette.faint, annotation_clip=False,
            )  # fmt: skip
    marks = PatchCollection(boxes, cmap=_colours(palette), linewidth=0.4, edgecolor=palette.ground)
    marks.set_array(surprises)
    marks.set_clim(0, MOST_SURPRISE)
    axes.add_collection(marks)
    axes.set_xlabel("token of the text", color=palette.ink, size=9.5)


def _draw_panel(axes: Axes, panel: Panel, found: Comparison, rows: Sequence[Sequence[float]], palette: Palette) -> None:
    _plain(axes, palette, rows)
    shown = [0.0]
    for variant, places in zip(found.variants, rows, strict=True):
        middle = sum(places) / len(places)
        axes.axhline(middle, color=palette.faint, lw=0.5, alpha=0.4)
        each = [] if panel.each is None else [panel.each(text) for text in variant.good]
        small = [value for value in each if value is not None]
        if len(small) > 1:
            axes.plot(small, [middle] * len(small), "o", ms=3.5, color=palette.attention, alpha=0.45, mew=0)
        value = panel.whole(variant)
        if value is not None:
            axes.plot(value, middle, "o", ms=8, mfc=palette.attention, mec=palette.ground, mew=1, clip_on=False)
            shown.append(value)
        shown += small
    top = panel.most or max(shown) or 1.0
    axes.set_xlim(0, top * 1.06)
    axes.locator_params(axis="x", nbins=3)
    axes.set_title(panel.title, size=8.5, color=palette.ink, pad=7)


def _plain(axes: Axes, palette: Palette, rows: Sequence[Sequence[float]]) -> None:
    """An axis over the strips, with an x axis alone."""
    axes.set_ylim(rows[-1][-1] + STRIP / 2 + GAP / 2, 0)
    axes.set_yticks([])
    axes.set_facecolor(palette.ground)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.faint)
    axes.tick_params(axis="x", colors=palette.ink, labelsize=8, length=3)


def _colours(palette: Palette) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    ends = ("#e8eef3", "#56a3d0", "#0b2b45") if palette is LIGHT else ("#262d34", "#3b82b0", "#d9f0ff")
    return LinearSegmentedColormap.from_list("surprise", ends)


def _scale_of_colours(figure: Figure, palette: Palette, height: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.add_axes((0.02, 0.30 / height, 1.7 / WIDTH, 0.11 / height))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, MOST_SURPRISE), _colours(palette)), cax=axes, orientation="horizontal"
    )
    bar.outline.set_visible(False)
    bar.set_ticks([0, 4, MOST_SURPRISE], labels=["0", "4", f"{MOST_SURPRISE:g}+"])
    axes.tick_params(colors=palette.ink, labelsize=7.5, length=2)
    axes.set_title("surprise of a token, nats", size=8, color=palette.ink, pad=4, loc="left")
    figure.text(
        0.02 + 1.95 / WIDTH, 0.36 / height, "\u25c6", color=palette.feed_forward, size=10, va="center", ha="left"
    )
    figure.text(0.02 + 2.1 / WIDTH, 0.36 / height, "parts from the baseline", size=8, color=palette.ink, va="center")
