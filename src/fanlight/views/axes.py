"""What matplotlib pictures share: pages with a heading, quiet axes, tokens as labels, percents, colours. Knows no record.

A picture is a `page`: a heading in words, and a body below it in which axes are placed in inches, so that type keeps its size
whatever the picture shows. Texts go through `drawable` or `token`: nothing is taken for a formula, no glyph is a box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fanlight.errors import MissingExtra
from fanlight.views.figures import DARK, LIGHT, Palette, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Which = Literal["x", "y"]
Colour = str | tuple[float, float, float]
MONO, SANS = "DejaVu Sans Mono", "DejaVu Sans"
OTHER_FONTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Noto Sans SC",
        "Noto Sans JP",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
    ),
    *("PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Emoji", "Symbola"),
)
"""Fonts with outlines that have what DejaVu lacks; those that are installed are used."""
TITLE, FACTS, BODY, SMALL = 13.0, 9.5, 9.0, 8.0
"""Sizes of type, in points."""
MARGIN = 0.28  # inches
LINE = 1.32
"""Height of a line of type, in sizes."""
HIDDEN = "…"


# -- texts -----------------------------------------------------------------------------------------------------------------


@cache
def fonts(mono: bool = False) -> tuple[str, ...]:
    """The families that texts are set in, each for what those before it lack. Errors: MissingExtra."""
    try:
        from matplotlib.font_manager import fontManager
    except ImportError as error:
        raise MissingExtra(f"pictures need matplotlib ({error}): pip install 'fanlight[plot]'") from None
    installed = {font.name for font in fontManager.ttflist}
    first = (MONO, SANS) if mono else (SANS, MONO)
    return (*first, *(name for name in OTHER_FONTS if name in installed))


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=name)) for name in fonts()]
    return frozenset(code for file in files for code in get_font(file).get_charmap())


def _signs(text: str) -> list[str]:
    """A text, sign by sign, each as it can be drawn."""
    known = _glyphs()
    return [c if ord(c) in known and c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text]


def drawable(text: str) -> str:
    """A text that matplotlib draws as it is: no formulas, no line breaks, and an escape (\\u732b) where no font has the sign."""
    return "".join(_signs(text)).replace("$", r"\$")


def token(label: str, most: int = 16) -> str:
    """A token's label for a picture: drawable, and of at most so many signs, "…" for those that are left out."""
    signs = _signs(label)
    if sum(map(_columns, signs)) > most:
        room, kept = most - 1, []
        for sign in signs:
            room -= _columns(sign)
            if room < 0:
                break
            kept.append(sign)
        signs = [*kept, HIDDEN]
    return "".join(signs).replace("$", r"\$")


def _columns(sign: str) -> int:
    from fanlight.views.terminal import columns

    return columns(sign)


def context(text: str, most: int = 48) -> str:
    """The end of a text on one line, in quotes, for a heading; drawable. Blanks and line ends that it ends in can be seen."""
    signs = [*_signs(" ".join(text.split())), *map(blank, text[len(text.rstrip()) :])]
    cut = len(signs) > most
    said = "".join(signs[-(most - 1) :] if cut else signs).replace("$", r"\$")
    return f"'{HIDDEN}{said}'" if cut else f"'{said}'"


def blank(sign: str) -> str:
    """A blank or a line end as a sign: what comes next depends on it."""
    return "␣" if sign == " " else sign.encode("unicode_escape").decode("ascii")


@cache
def _font(mono: bool, bold: bool) -> Any:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    weight = "bold" if bold else "normal"
    return get_font([findfont(FontProperties(family=[name], weight=weight)) for name in fonts(mono)])


@lru_cache(maxsize=8192)
def width_of(text: str, size: float = BODY, *, mono: bool = False, bold: bool = False) -> float:
    """How wide a drawable text is, in inches."""
    font = _font(mono, bold)
    font.set_size(size, 72)
    font.set_text(text.replace(r"\$", "$"))
    found: float = font.get_width_height()[0] / 64 / 72
    return found


def wrapped(text: str, inches: float, size: float = BODY, *, bold: bool = False, most: int = 3) -> list[str]:
    """A drawable text as lines that fit; of more than `most` lines the rest is left out, which "…" shows."""
    lines: list[str] = []
    for word in _words(text, inches, size, bold):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size, bold=bold) <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = lines[:most]
        while lines[-1] and width_of(lines[-1] + " " + HIDDEN, size, bold=bold) > inches:
            lines[-1] = lines[-1].rpartition(" ")[0]
        lines[-1] = f"{lines[-1]} {HIDDEN}".strip()
    return lines


def _words(text: str, inches: float, size: float, bold: bool) -> Iterator[str]:
    """Words, those that are wider than a line in pieces."""
    for word in text.split(" "):
        piece = ""
        for c in word:
            if piece and (piece[-1], c) != ("\\", "$") and width_of(piece + c, size, bold=bold) > inches:
                yield piece
                piece = ""
            piece += c
        yield piece


def percent(prob: float) -> str:
    """A probability in a picture: "28.6%", "0.43%", "0.0082%", "3.1e-06%"; 0 if there is none."""
    if prob <= 0:
        return "0"
    if prob < 0.0001:
        return f"{prob * 100:.2g}%"
    if prob >= 1 - 1e-12:
        return "100%"
    if prob > 0.9995:
        return ">99.9%"
    return f"{prob:.2%}" if prob < 0.00995 else f"{prob:.1%}"


def short_percent(prob: float) -> str:
    """The same with as few signs as its size needs: "29%", "2.5%", "100%"."""
    if 0 < prob < 0.0001:
        return f"{prob * 100:.2g}%"
    return f"{prob * 100:.3g}%"


def count(n: int, what: str) -> str:
    """ "1 token", "49,152 tokens"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


# -- colours ---------------------------------------------------------------------------------------------------------------


def palette_of(dark: bool) -> Palette:
    """The colours for this ground."""
    return DARK if dark else LIGHT


def series(palette: Palette) -> tuple[str, ...]:
    """Colours for things side by side, in the order to use them. Source: Okabe and Ito 2008, lighter on a dark ground."""
    if palette is DARK:
        return ("#56b4e9", "#e69f00", "#2fc59b", "#e08fc0", "#f0e442", "#7d9bff", "#f2764b", "#a8b1ba")
    return ("#0072b2", "#d55e00", "#009e73", "#b1528f", "#b88a00", "#3f4fa8", "#8f3b00", "#5f676f")


def sequential(palette: Palette) -> LinearSegmentedColormap:
    """From nothing to much: near the ground first; its lightness goes one way, so that all eyes see the same order."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ("#f6f6ee", "#bfe0cc", "#63b1c0", "#2a6c9c", "#12294d")
    if palette is DARK:
        stops = ("#1c2127", "#1f4b69", "#2f8a9a", "#93cd9f", "#faf4b8")
    return LinearSegmentedColormap.from_list("fanlight-sequential", stops)


def diverging(palette: Palette) -> LinearSegmentedColormap:
    """From below nothing (blue) to above it (orange); nothing is near the ground."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ("#0a4377", "#5aa3d4", "#f3f3f0", "#e89a52", "#963a00")
    if palette is DARK:
        stops = ("#9ad2ff", "#2f7ab2", "#1f242a", "#bd671b", "#ffc47f")
    return LinearSegmentedColormap.from_list("fanlight-diverging", stops)


def lightness(colour: Any) -> float:
    """Relative luminance, 0 (black) to 1. Source: WCAG 2."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: Any) -> str:
    """The ink that stands out on a colour."""
    return DARK.ground if lightness(colour) > 0.2 else "#ffffff"


def mixed(colour: Any, ground: Any, share: float) -> tuple[float, float, float]:
    """So much of a colour on a ground: what transparency would show, without what lies beneath."""
    from matplotlib.colors import to_rgb

    a, b = to_rgb(colour), to_rgb(ground)
    red, green, blue = (x * share + y * (1 - share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def colour_bar(page: Page, place: tuple[float, float, float, float], colours: Any, label: str) -> Axes:
    """A scale of colours at (left, bottom, width, height), inches; upright if it is higher than wide. colours: a ScalarMappable."""
    axes = page.axes(*place)
    upright = place[3] > place[2]
    bar = page.figure.colorbar(colours, cax=axes, orientation="vertical" if upright else "horizontal")
    bar.outline.set_visible(False)
    axes.tick_params(colors=page.palette.ink, labelsize=SMALL, length=2)
    (axes.set_ylabel if upright else axes.set_xlabel)(label, size=SMALL, color=page.palette.ink, family=list(fonts()))
    return axes


# -- pages -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A figure with its heading. Places in the body are inches from its lower left corner."""

    figure: Figure
    palette: Palette
    width: float
    height: float
    """Of the body: what is below the heading."""

    def axes(self, left: float, bottom: float, width: float, height: float, **how: Any) -> Axes:
        """New axes at a place, dressed. how: as for `Figure.add_axes`."""
        whole = self.figure.get_size_inches()
        place = (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
        axes = self.figure.add_axes(place, **how)
        dress(axes, self.palette)
        return axes

    def text(self, x: float, y: float, said: str, size: float = SMALL, **how: Any) -> Text:
        """A drawable text at a place; in ink, unless `color` says otherwise."""
        whole = self.figure.get_size_inches()
        look = {"color": self.palette.ink, "family": list(fonts()), "va": "center"} | how
        return self.figure.text(x / whole[0], y / whole[1], said, size=size, **look)


def page(width: float, height: float, title: str, facts: Sequence[str] = (), *, dark: bool = False) -> Page:
    """An empty page: a body of width x height inches under a title and lines of facts, all drawable texts; long ones are wrapped.

    Errors: MissingExtra.
    """
    palette = palette_of(dark)
    room = width - 2 * MARGIN
    lines = [(line, TITLE, True) for line in wrapped(title, room, TITLE, bold=True)]
    lines += [(line, FACTS, False) for fact in facts if fact for line in wrapped(fact, room, FACTS)]
    heading = MARGIN * 0.7 + sum(size * LINE for _, size, _ in lines) / 72
    figure = new_figure(width, height + heading, palette)
    y = height + heading - MARGIN * 0.7
    for line, size, is_title in lines:
        step = size * LINE / 72
        figure.text(
            MARGIN / width, (y - step / 2) / (height + heading), line, size=size, va="center", ha="left",
            weight="bold" if is_title else "normal", color=palette.ink if is_title else quiet(palette),
            family=list(fonts()),
        )  # fmt: skip
        y -= step
    return Page(figure, palette, width, height)


def quiet(palette: Palette) -> tuple[float, float, float]:
    """The colour of lesser texts, which are read all the same."""
    return mixed(palette.ink, palette.faint, 0.45)


# -- axes ------------------------------------------------------------------------------------------------------------------


def dress(axes: Axes, palette: Palette, sides: Sequence[str] = ("left", "bottom")) -> None:
    """Ground, ink, and only the sides that are named."""
    axes.set_facecolor(palette.ground)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set_color(palette.faint)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=palette.ink, labelsize=SMALL, length=3, width=0.8, color=palette.faint, which="both")
    axes.tick_params(left="left" in sides, bottom="bottom" in sides, right="right" in sides, top="top" in sides)


def grid(axes: Axes, palette: Palette, which: Which = "x") -> None:
    """Faint lines at the ticks of an axis."""
    axes.grid(axis=which, color=palette.faint, alpha=0.22, lw=0.7)


def name(axes: Axes, palette: Palette, which: Which, label: str, size: float = BODY) -> None:
    """What an axis shows, with its unit."""
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(label, size=size, color=palette.ink, family=list(fonts()))


def subtitle(axes: Axes, palette: Palette, said: str, size: float = BODY, **how: Any) -> Text:
    """A drawable title above axes, at their left end; may have several lines."""
    look: dict[str, Any] = {"color": palette.ink, "family": list(fonts()), "loc": "left", "pad": 6.0} | how
    return axes.set_title(said, size=size, **look)


def percent_axis(axes: Axes, which: Which, *, log: bool = False, nbins: int = 5) -> None:
    """An axis of probabilities: ticks as percents; on a log scale one for each power of ten, or of several."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(base=10, numticks=8))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(LogLocator(base=10, subs=(), numticks=8))
    else:
        axis.set_major_locator(MaxNLocator(nbins=nbins, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda prob, _at: short_percent(prob)))


class Shown(NamedTuple):
    """Which labels an axis shows."""

    every: int
    """Each so manyth; 1: all."""
    turned: bool
    """They stand upright."""


def token_ticks(
    axes: Axes,
    which: Which,
    labels: Sequence[str],
    *,
    at: Sequence[float] | None = None,
    most: int = 16,
    size: float = SMALL,
    spacing: float = 1.0,
    colours: Sequence[Colour] | None = None,
) -> Shown:
    """Tokens' labels as ticks, at 0, 1, 2, ... or `at`: all of them, or each 2nd, 5th, 10th, ... where all have no room.

    spacing: how much of the axes one label has, in units of the axis (1: a cell); the limits must be set before. Along x,
    labels stand upright where they are wider than that. colours: one for each label.
    """
    texts = [token(label, most) for label in labels]
    places = list(range(len(texts))) if at is None else list(at)
    axis = axes.xaxis if which == "x" else axes.yaxis
    cell = spacing * _inches(axes, which)
    line = size * 1.2 / 72
    widest = max((width_of(text, size, mono=True) for text in texts), default=0.0)
    turned = which == "x" and widest + size * 0.5 / 72 > cell and (widest > 2 * line or cell <= line)
    needed = line if which == "y" or turned else widest + size * 0.5 / 72
    every = next(k * 10**tens for tens in range(9) for k in (1, 2, 5) if k * 10**tens * cell >= needed or cell <= 0)
    axis.set_ticks(places[::every], texts[::every])
    inks = None if colours is None else list(colours)[::every]
    for i, text in enumerate(axis.get_ticklabels()):
        text.set_fontfamily(list(fonts(mono=True)))
        text.set_fontsize(size)
        if turned:
            text.set_rotation(90)
        if inks is not None and i < len(inks):
            text.set_color(inks[i])
    return Shown(every, turned)


def _inches(axes: Axes, which: Which) -> float:
    """How long one unit of an axis is."""
    whole, place = axes.figure.get_size_inches(), axes.get_position()  # type: ignore[union-attr]
    length = place.width * whole[0] if which == "x" else place.height * whole[1]
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    return float(length / max(abs(high - low), 1e-12))


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in their order, moved as little as need be so that each is a gap from the next, between low and high if all fit."""
    groups: list[tuple[float, int]] = []  # (middle, how many), each group packed with the gap
    for i in sorted(range(len(places)), key=lambda i: (places[i], i)):
        groups.append((places[i], 1))
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _top(groups[-1], -gap):
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
        while True:
            middle, n = groups[-1]
            held = min(max(middle, low + (n - 1) * gap / 2), high - (n - 1) * gap / 2)
            groups[-1] = (held, n)
            if len(groups) < 2 or _top(groups[-2], gap) + gap <= _top(groups[-1], -gap) + 1e-9:
                break
            (a, k), (b, m) = groups[-2:]
            groups[-2:] = [((a * k + b * m) / (k + m), k + m)]
    spread = [middle + (i - (n - 1) / 2) * gap for middle, n in groups for i in range(n)]
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    found = [0.0] * len(places)
    for place, i in zip(spread, order, strict=True):
        found[i] = place
    return found


def _top(group: tuple[float, int], gap: float) -> float:
    """Where a packed group ends; with a negative gap, where it begins."""
    return group[0] + (group[1] - 1) * gap / 2
