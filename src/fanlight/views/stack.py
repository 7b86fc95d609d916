"""A model as a tower of blocks, one of them opened beside it. In: a Description. Out: a matplotlib Figure. Knows no model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from fanlight.description import LABELS, Description, is_turned, shape_in_words
from fanlight.errors import OptionError
from fanlight.models.weights import StoredArray, short
from fanlight.views.figures import DARK, LIGHT, Palette, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 13.0, 9.6  # inches, and the units of everything below
TOWER, STREAM = 2.35, 5.75  # where the tower's middle and the block's residual stream stand
BRANCH_LEFT, BRANCH_RIGHT = 6.35, 12.7
MOST_SLABS = 16
BOX, GAP = 0.56, 0.26
TITLE, DETAIL = 10, 8.2


class Box(NamedTuple):
    """One part: what it is, a line of facts, and its kind, which is a colour."""

    title: str
    detail: str
    kind: str
    share: float
    """Of the whole model's parameters, of all blocks together: how strongly the box is filled."""


def stack_figure(description: Description, *, dark: bool = False) -> Figure:
    """The tower from token ids to probabilities, and one block: norms, attention, feed-forward, the residual stream.

    Errors: MissingExtra; OptionError for a model whose parts another library keeps.
    """
    if not description.arrays:
        raise OptionError(f"{description.name}: transformers keeps the parts of this model; there is no stack to draw")
    palette = DARK if dark else LIGHT
    figure = new_figure(WIDTH, HEIGHT, palette)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.set_axis_off()
    _Drawing(axes, palette, description).draw()
    return figure


class _Drawing:
    def __init__(self, axes: Axes, palette: Palette, d: Description) -> None:
        self.axes, self.p, self.d = axes, palette, d
        self.alone = {a.name: a for a in d.arrays if "." not in a.name}
        self.block = {short(a.name): a for a in d.arrays if a.name.startswith("blocks.0.")}
        self.norm_of_sum = d.norm == "after" and "attn_post_norm" not in self.block
        self.height = BOX

    def draw(self) -> None:
        d = self.d
        kind = "an encoder" if d.is_encoder else "a decoder"
        size = f"{d.n_parameters / 1e6:.1f} M parameters" if d.n_parameters >= 1e5 else f"{d.n_parameters:,} parameters"
        self.text(0.4, HEIGHT - 0.42, d.name, 15, weight="bold", left=True)
        self.text(
            0.4, HEIGHT - 0.78, f"{d.model_type}, {kind}: {size}, window of {d.n_ctx} tokens", 10, faint=True, left=True
        )
        low, high = self.tower()
        self.opened(low, high)

    # -- the tower ------------------------------------------------------------------------------------------------------

    def tower(self) -> tuple[float, float]:
        """Draws it; where the block that is opened begins and ends."""
        d, y = self.d, 0.45
        self.text(TOWER, y, "token ids", TITLE)
        y = self.arrow_up(TOWER, y + 0.16)
        tables: list[str] = [n for n in ("embed", "positions", "segments", "embed_norm", "w_in") if n in self.alone]
        bottom_of_embedding = y
        for name in tables:
            y = self.tower_box(y, self.box(self.alone[name], "norm" if name == "embed_norm" else "table"))
            y = self.arrow_up(TOWER, y)
        slabs = min(d.n_layer, MOST_SLABS)
        above: list[str] = [n for n in ("norm", "w_out", "head", "w_span") if n in self.alone]
        room = HEIGHT - 1.25 - y - (len(above) + 2) * (BOX + GAP) - (BOX + GAP if d.tied_head else 0)
        step = max(0.07, min(0.34, room / max(1, slabs)))
        each = sum(prod(a.shape) for a in self.block.values())
        low = first_slab = y
        for i in range(slabs):
            opened = i == slabs // 2
            self.rectangle(
                TOWER - 1.45,
                y,
                2.9,
                step * 0.78,
                self.p.attention if opened else self.p.faint,
                0.55 if opened else 0.22,
            )
            if opened:
                low, high = y, y + step * 0.78
            y += step
        y -= step * 0.22
        word = "block" if d.n_layer == 1 else "blocks"
        shown = "" if slabs == d.n_layer else f" ({slabs} drawn)"
        self.text(
            TOWER - 1.62,
            (first_slab + y) / 2,
            f"{d.n_layer} {word}{shown}, {each / 1e6:.2f} M each",
            DETAIL,
            turned=True,
        )
        y = self.arrow_up(TOWER, y)
        for name in above:
            y = self.tower_box(y, self.box(self.alone[name], "norm" if name == "norm" else "table"))
            y = self.arrow_up(TOWER, y)
        if d.tied_head:
            y = self.tower_box(y, Box("language-model head", "the token embedding, turned", "table", 0.0))
            self.link(TOWER + 1.45, y - BOX / 2, bottom_of_embedding + BOX / 2)
            y = self.arrow_up(TOWER, y)
        if d.is_encoder:
            self.text(TOWER, y + 0.14, "a state for every token", TITLE)
        else:
            self.text(TOWER, y + 0.14, f"softmax: probabilities of {d.n_vocab} tokens", TITLE)
        return low, high

    def tower_box(self, y: float, box: Box) -> float:
        self.draw_box(TOWER - 1.45, y, 2.9, box)
        return y + BOX

    # -- the block ------------------------------------------------------------------------------------------------------

    def opened(self, low: float, high: float) -> None:
        d, bottom, top = self.d, 0.5, HEIGHT - 1.2
        self.rectangle(STREAM - 0.55, bottom, BRANCH_RIGHT - STREAM + 0.75, top - bottom, self.p.faint, 0.07)
        for start, end in ((low, bottom), (high, top)):
            self.line([(TOWER + 1.45, start), (STREAM - 0.55, end)], dashed=True)
        self.text(BRANCH_LEFT, top - 0.2, "one block", 11, weight="bold", left=True)
        halves = [self.attention_rows(), self.feed_forward_rows()]
        n_rows = sum(map(len, halves))
        room = top - bottom - (1.9 if self.norm_of_sum else 1.25)
        step = min(BOX + GAP + 0.12, room / n_rows)
        self.height = min(BOX, step * 0.76)
        y = bottom + 0.42
        self.line([(STREAM, bottom + 0.05), (STREAM, top - 0.45)], width=2.4, arrow=True)
        self.text(STREAM - 0.33, bottom + 0.95, "residual stream", DETAIL, turned=True, faint=True)
        first = y - 0.12
        for i, rows in enumerate(halves):
            start = first if d.parallel else y - 0.12
            x = BRANCH_LEFT - (0.18 if d.parallel and i else 0.0)
            before = y
            for row in rows:
                self.row(y, row)
                y += step
            middle = (BRANCH_LEFT + BRANCH_RIGHT) / 2
            self.line(
                [
                    (STREAM, start),
                    (x - 0.1, start),
                    (x - 0.1, before + self.height / 2),
                    (BRANCH_LEFT, before + self.height / 2),
                ],
                arrow=True,
            )
            for k in range(len(rows) - 1):
                self.line([(middle, before + k * step + self.height), (middle, before + (k + 1) * step)], arrow=True)
            out = y - step + self.height + 0.13
            self.line([(middle, y - step + self.height), (middle, out), (STREAM + 0.13, out)], arrow=True)
            self.plus(STREAM, out)
            y = max(y, out) + 0.2
            if self.norm_of_sum:
                self.norm_on_stream(out + 0.2)
                y += 0.3

    def attention_rows(self) -> list[list[Box]]:
        d = self.d
        seen = "every token sees all others" if d.is_encoder else "every token sees itself and those before"
        windows = [w for w in d.windows if w]
        if windows:
            where = "" if len(windows) == d.n_layer else f" in {len(windows)} of {d.n_layer} layers"
            seen += f", {max(windows)} at most{where}"
        keys = "" if d.n_kv_head == d.n_head else f", {d.n_kv_head} of them with keys and values"
        heads = Box(
            f"attention: {d.n_head} heads of {d.head_dim}{keys}", f"{seen}; positions {d.positions}", "attention", 0.0
        )
        projections = [n for n in ("w_qkv", "w_q", "w_k", "w_v") if n in self.block]
        norms = [n for n in ("q_norm", "k_norm") if n in self.block]
        rows = [[self.box(self.block[n], "attention") for n in projections]]
        rows += [[self.box(self.block[n], "norm") for n in norms]] if norms else []
        rows += [[heads], [self.box(self.block["w_o"], "attention")]]
        return self.with_norms(rows, "attn")

    def feed_forward_rows(self) -> list[list[Box]]:
        d = self.d
        wide = [n for n in ("w_gate_up", "w_gate", "w_up") if n in self.block]
        name = {"gelu_tanh": "GELU", "gelu": "GELU", "silu": "SiLU", "relu": "ReLU"}.get(d.activation, d.activation)
        how = f"{name} of the gate, times up" if d.gated else name
        rows = [
            [self.box(self.block[n], "feed_forward") for n in wide],
            [Box(how, f"{d.n_ffn} values", "feed_forward", 0.0)],
        ]
        return self.with_norms([*rows, [self.box(self.block["w_down"], "feed_forward")]], "mlp")

    def with_norms(self, rows: list[list[Box]], half: str) -> list[list[Box]]:
        before, after = self.block.get(f"{half}_norm"), self.block.get(f"{half}_post_norm")
        before = None if self.norm_of_sum else before
        return [
            *([[self.box(before, "norm", after=False)]] if before else []),
            *rows,
            *([[self.box(after, "norm", after=True)]] if after else []),
        ]

    def row(self, y: float, boxes: Sequence[Box]) -> None:
        width = (BRANCH_RIGHT - BRANCH_LEFT - GAP * (len(boxes) - 1)) / len(boxes)
        for i, box in enumerate(boxes):
            self.draw_box(BRANCH_LEFT + i * (width + GAP), y, width, box)

    # -- parts ----------------------------------------------------------------------------------------------------------

    def box(self, array: StoredArray, kind: str, after: bool | None = None) -> Box:
        name, n = short(array.name), prod(array.shape)
        title = LABELS.get(name, name)
        if after is not None:
            title = title.replace("before", "after") if after else title
        is_table = name in ("embed", "positions", "segments")
        size = f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,}"
        words = shape_in_words(array.shape[::-1] if is_table or is_turned(array, self.d.n_embd) else array.shape)
        facts = [words.replace("->", "→"), size] if len(array.shape) > 1 else [f"{n:,}"]
        times = self.d.n_layer if array.name.startswith("blocks.") else 1
        return Box(title, "   ".join([*facts, array.dtype]), kind, n * times / max(1, self.d.n_parameters))

    def draw_box(self, x: float, y: float, width: float, box: Box) -> None:
        color: str = getattr(self.p, box.kind)
        self.rectangle(x, y, width, self.height, color, 0.10 + 0.65 * min(1.0, box.share * 1.6), edge=True)
        self.text(x + width / 2, y + self.height * 0.68, box.title, self.fitting(box.title, width, TITLE))
        self.text(x + width / 2, y + self.height * 0.27, box.detail, self.fitting(box.detail, width, DETAIL))

    @staticmethod
    def fitting(text: str, width: float, size: float) -> float:
        """A size of type in which the text fits: letters are about 0.58 of it wide, 72 points make a unit."""
        return min(size, 72 * (width - 0.12) / (0.58 * max(1, len(text))))

    def rectangle(
        self, x: float, y: float, width: float, height: float, color: str, fill: float, edge: bool = False
    ) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Rectangle

        line = color if edge else "none"
        self.axes.add_patch(
            Rectangle((x, y), width, height, facecolor=to_rgba(color, fill), edgecolor=line, linewidth=1.2, zorder=2)
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        weight: str = "normal",
        left: bool = False,
        faint: bool = False,
        turned: bool = False,
    ) -> None:
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            fontweight=weight,
            color=self.p.faint if faint else self.p.ink,
            ha="left" if left else "center",
            va="center",
            rotation=90 if turned else 0,
            zorder=4,
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, width: float = 1.2, dashed: bool = False, arrow: bool = False
    ) -> None:
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=self.p.faint, linewidth=width, linestyle=(0, (4, 3)) if dashed else "-", zorder=1)
        if arrow:
            tail, tip = points[-2], points[-1]
            style = {"arrowstyle": "-|>", "color": self.p.faint, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
            self.axes.annotate("", xy=tip, xytext=tail, arrowprops=style, zorder=1)

    def arrow_up(self, x: float, y: float) -> float:
        self.line([(x, y), (x, y + GAP)], arrow=True)
        return y + GAP

    def plus(self, x: float, y: float) -> None:
        from matplotlib.patches import Circle

        self.axes.add_patch(
            Circle((x, y), 0.13, facecolor=self.p.ground, edgecolor=self.p.ink, linewidth=1.2, zorder=3)
        )
        self.axes.text(x, y, "+", fontsize=11, color=self.p.ink, ha="center", va="center_baseline", zorder=4)

    def norm_on_stream(self, y: float) -> None:
        """The norm of a sum, where the stream itself passes through it."""
        self.rectangle(STREAM - 0.4, y, 0.8, 0.24, self.p.ground, 1.0, edge=True)
        self.rectangle(STREAM - 0.4, y, 0.8, 0.24, self.p.norm, 0.15, edge=True)
        self.text(STREAM, y + 0.12, "norm", DETAIL)

    def link(self, x: float, top: float, bottom: float) -> None:
        """The head is the embedding: a dashed way beside the tower."""
        self.line([(x, top), (x + 0.28, top), (x + 0.28, bottom), (x, bottom)], dashed=True)
