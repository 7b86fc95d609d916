"""What looks where, in a terminal. In: an Attention and the labels of its positions, a Canvas. Out: text.

One head as a matrix of shades, queries down and keys across; a layer's heads as small ones; of the whole model, for each head what
it looks at most. A decoder and an encoder on one sentence: what a token may look at in each. Shades have the square root of a
weight, as in the pictures in files. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError
from fanlight.views.attention import Looked, looked, visible
from fanlight.views.terminal import Canvas, columns, left, right
from fanlight.views.terminal_sheet import (
    Brush,
    among,
    bands,
    beside,
    count,
    cut,
    name_of,
    ruler,
    scale_of,
    shade,
    sheet,
    short_percent,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.trace.looks import Attention

    Weights = NDArray[np.float64]
    Seen = NDArray[np.bool_]

NAME, SAID, NUMBER = 14, 22, 3  # columns: a token at most, what is beside a row, a weight in a cell
MOST_ROWS = 40
"""Queries of one head; of a longer text, the last ones."""
TILE, TILE_GAP = 18, 2  # cells a side of a small matrix at most, and columns between two
SCALE = (0.0, 0.01, 0.05, 0.25, 1.0)
LETTERS = {"first": "F", "itself": "I", "before": "B", "others": "O"}
MEANING = {
    "first": "the first token",
    "itself": "itself",
    "before": "the token before",
    "others": "other tokens",
}
COLORS = {"first": "model", "itself": "final", "before": "sure", "others": "others"}


def attention_text(
    attention: Attention,
    labels: Sequence[str],
    *,
    layer: int | None = None,
    head: int | None = None,
    canvas: Canvas,
) -> str:
    """layer and head: one matrix. layer alone: its heads. Neither: all that was recorded.

    labels: of every position. layer, head: the model's numbers; negative ones count from the last that was recorded.
    Errors: OptionError.
    """
    n = attention.weights.shape[3]
    if head is not None and layer is None:
        there = ", ".join(map(str, attention.layers[:8]))
        raise OptionError(f"head {head} of which layer? give layer=, one of {there}")
    if not attention.weights.size:
        raise OptionError("there are no attention weights: no query, layer or head was recorded")
    if len(labels) != n:
        raise OptionError(f"there must be a label for each of the {n} positions: got {len(labels)}")
    if layer is None:
        return _model(attention, canvas)
    at = among("layer", layer, attention.layers)
    if head is None:
        return _layer(attention, at, canvas)
    return _head(attention, labels, at, among("head", head, attention.heads), canvas)


# -- one head --------------------------------------------------------------------------------------------------------------


def _head(attention: Attention, labels: Sequence[str], layer: int, head: int, canvas: Canvas) -> str:
    brush, n_all = Brush(canvas), len(labels)
    queries = attention.queries[-MOST_ROWS:]
    weights = np.asarray(attention.weights[layer, head], np.float64)[-MOST_ROWS:]
    seen = visible(attention, layer)[-MOST_ROWS:]
    names = [name_of(labels[q], min(NAME, max(4, canvas.width // 5)), canvas) for q in queries]
    number, widest = len(str(queries[-1])), max(map(columns, names))
    lead = number + 1 + widest + 1
    said = SAID if canvas.width >= 60 else 0
    room = max(1, canvas.width - lead - (said + 1 if said else 0))
    if n_all * NUMBER <= room:
        cell, starts = NUMBER, list(range(n_all))
    else:
        cell = 2 if n_all * 2 <= room else 1
        starts = [n_all * i // min(n_all, room) for i in range(min(n_all, room))]
    cells, cells_seen = np.maximum.reduceat(weights, starts, 1), np.logical_or.reduceat(seen, starts, 1)
    lines = [canvas.paint(" " * lead + ruler(starts, cell), "dim")]
    for i, query in enumerate(queries):
        row = "".join(
            _cell(float(weight), bool(own), cell, brush) for weight, own in zip(cells[i], cells_seen[i], strict=True)
        )
        most = int(weights[i].argmax())
        at = f"{short_percent(float(weights[i, most])):>4} {most} "
        beside_it = f" {at}{name_of(labels[most], said - len(at), canvas)}" if said else ""
        lines.append(f"{right(str(query), number)} {left(names[i], widest)} {row}{canvas.paint(beside_it, 'dim')}")
    found = looked(attention, layer, head)
    facts = [
        "Rows look (queries), columns are looked at (keys)" + ("; at the right: where most goes." if said else ".")
    ]
    facts[0] += " Numbers are percents." if cell == NUMBER else ""
    if len(queries) < len(attention.queries):
        facts.append(f"Shown: the last {len(queries)} of {len(attention.queries):,} queries.")
    if len(starts) < n_all:
        facts.append(f"Of {n_all:,} keys, those that share a column have their largest weight.")
    lines += ["", _scale(brush)]
    title = f"Layer {attention.layers[layer]}, head {attention.heads[head]}: mean weight on {found.words()}"
    return sheet(canvas, title, facts, lines)


def _cell(weight: float, seen: bool, cell: int, brush: Brush) -> str:
    canvas = brush.canvas
    if not seen:
        return canvas.paint(right(_dot(canvas), cell), "dim")
    if cell == NUMBER:
        whole = round(weight * 100)
        said = "100" if whole == 100 else f" {whole:>2}" if whole else "  ." if not canvas.unicode else "   "
        return brush.much(said, sqrt(weight))
    if canvas.color:
        return brush.much(" " * cell, sqrt(weight))
    return shade(sqrt(weight), canvas) * cell


def _dot(canvas: Canvas) -> str:
    return "·" if canvas.unicode else "-"


def _scale(brush: Brush) -> str:
    names = [(f"{value:.0%}", sqrt(value)) for value in SCALE]
    head = brush.canvas.paint("weight: ", "dim")
    if brush.canvas.color:
        return head + scale_of(names, brush)
    marks = [f"{name} {shade(share, brush.canvas).strip() or 'blank'}" for name, share in names]
    return f"{head}{'  '.join(marks)}  may not look {_dot(brush.canvas)}"


# -- several heads ---------------------------------------------------------------------------------------------------------


def _layer(attention: Attention, layer: int, canvas: Canvas) -> str:
    brush, n = Brush(canvas), len(attention.heads)
    seen = visible(attention, layer)
    side = min(TILE, seen.shape[1])
    tiles = []
    for head in range(n):
        weights = np.asarray(attention.weights[layer, head], np.float64)
        title = f"head {attention.heads[head]}"
        body = _tile(weights, seen, side, brush)
        said = _short(looked(attention, layer, head))
        tiles.append([canvas.paint(title, "bold"), *body, canvas.paint(said, "dim"), ""])
    wide = [max(columns("others 100%"), side) + TILE_GAP] * n
    lines: list[str] = []
    for band in bands(wide, canvas.width + TILE_GAP):
        lines += beside([[left("", wide[0] - TILE_GAP), *tiles[i]] for i in band], TILE_GAP)[1:]
    found = looked(attention, layer)
    pooled = max(seen.shape) > side
    facts = [
        f"{count(n, 'head')}; rows look ({len(attention.queries):,} queries), columns are looked at ({seen.shape[1]:,} keys)"
        + ("; cells that share a place have their largest weight" if pooled else "")
        + ("; grey: may not look there." if canvas.color and not seen.all() else ".")
    ]
    return sheet(
        canvas, f"Layer {attention.layers[layer]}: mean weight on {found.words()}", facts, [*lines, _scale(brush)]
    )


def _tile(weights: Weights, seen: Seen, side: int, brush: Brush) -> list[str]:
    """A small matrix. A line of a terminal is as high as two columns are wide: it holds two rows."""
    high = 2 * ((min(side, len(weights)) + 1) // 2)
    small, own = _pooled(_pooled(weights, side, 1), high, 0), _pooled(_pooled(seen, side, 1), high, 0)
    small = np.where(own, np.sqrt(small), -1.0)
    if brush.canvas.color and brush.canvas.unicode:
        pairs = zip(small[::2], small[1::2], strict=True)
        return ["".join(brush.halves(float(a), float(b)) for a, b in zip(*pair, strict=True)) for pair in pairs]
    both, any_own = np.maximum(small[::2], small[1::2]), own[::2] | own[1::2]
    dot = _dot(brush.canvas)
    return [
        "".join(
            brush.much(shade(float(w), brush.canvas), float(w)) if may else dot
            for w, may in zip(row, mays, strict=True)
        )
        for row, mays in zip(both, any_own, strict=True)
    ]


def _pooled(values: NDArray[Any], n: int, axis: int) -> NDArray[Any]:
    """n values along an axis: the largest of each group; fewer ones are repeated."""
    size = values.shape[axis]
    starts = np.arange(n) * size // n
    return values.take(starts, axis) if size <= n else np.maximum.reduceat(values, starts, axis)


def _parts(found: Looked) -> dict[str, float]:
    return {"first": found.first, "itself": found.itself, "before": found.previous, "others": found.rest}


def _short(found: Looked) -> str:
    parts = _parts(found)
    name = max(parts, key=lambda part: parts[part])
    return f"{name} {min(1.0, parts[name]):.0%}"


def _model(attention: Attention, canvas: Canvas) -> str:
    """A line for each layer: what each head looks at most, and the layer's mean as a bar of parts."""
    n_layers, n_heads = len(attention.layers), len(attention.heads)
    lead, cell = max(5, len(str(attention.layers[-1]))) + 1, max(4, len(str(attention.heads[-1])) + 1)
    found = [[_parts(looked(attention, i, j)) for j in range(n_heads)] for i in range(n_layers)]
    bar = min(24, canvas.width - lead - min(n_heads * cell, canvas.width) - 2)
    lines: list[str] = []
    for band in bands([cell] * n_heads, canvas.width - lead):
        has_bar = bar >= 8 and len(band) == n_heads
        heads = "".join(right(str(attention.heads[j]), cell) for j in band)
        more = "  mean of the layer" if has_bar else ""
        lines += [""] if lines else []
        lines.append(canvas.paint(cut(f"{'layer':>{lead - 1}} {heads}{more}", canvas.width, canvas), "dim"))
        for i in range(n_layers):
            cells = "".join(_most(found[i][j], cell, canvas) for j in band)
            own = _bar([{name: found[i][j][name] for name in LETTERS} for j in range(n_heads)], bar, canvas)
            lines.append(f"{right(str(attention.layers[i]), lead - 1)} {cells}{'  ' + own if has_bar else ''}")
    if bar < 8 or bands([cell] * n_heads, canvas.width - lead)[0] != range(n_heads):
        lines += ["", canvas.paint("mean of each layer", "dim")]
        for i in range(n_layers):
            lines.append(
                f"{right(str(attention.layers[i]), lead - 1)}  {_bar(found[i], min(40, canvas.width - lead - 1), canvas)}"
            )
    firsts = np.array([[one["first"] for one in row] for row in found])
    most = [int(at) for at in np.unravel_index(int(firsts.argmax()), firsts.shape)]
    named = ", ".join(f"{canvas.paint(letter, COLORS[name])} {MEANING[name]}" for name, letter in LETTERS.items())
    facts = [
        f"Of each head, where most of its weight goes, in percent. Most on the first token: layer {attention.layers[most[0]]}, "
        f"head {attention.heads[most[1]]}, {firsts.max():.0%}."
    ]
    title = f"{count(n_layers, 'layer')} x {count(n_heads, 'head')}: mean weight on {looked(attention).words()}"
    return sheet(canvas, title, facts, [*lines, "", *_legend(named, canvas)])


def _legend(named: str, canvas: Canvas) -> list[str]:
    parts = named.split(", ")
    if canvas.width >= 62:
        return [", ".join(parts)]
    return [", ".join(parts[:2]), ", ".join(parts[2:])]


def _most(parts: dict[str, float], cell: int, canvas: Canvas) -> str:
    name = max(parts, key=lambda part: parts[part])
    whole = min(99, round(parts[name] * 100))
    return " " * (cell - 3) + canvas.paint(f"{LETTERS[name]}{whole:>2}", COLORS[name])


def _bar(found: Sequence[dict[str, float]], width: int, canvas: Canvas) -> str:
    """The means of several heads, beside each other in one bar; without colour, of their letters."""
    means = [sum(one[name] for one in found) / len(found) for name in LETTERS]
    ends = [round(sum(means[: i + 1]) / max(1e-9, sum(means)) * width) for i in range(len(means))]
    sizes = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    full = "█" if canvas.unicode else "#"
    return "".join(
        canvas.paint((full if canvas.color else letter) * size, COLORS[name])
        for (name, letter), size in zip(LETTERS.items(), sizes, strict=True)
    )


# -- a decoder and an encoder ----------------------------------------------------------------------------------------------


def attention_pair_text(
    decoder: Attention,
    encoder: Attention,
    decoder_labels: Sequence[str],
    encoder_labels: Sequence[str],
    *,
    token: str = "sat",
    names: tuple[str, str] = ("decoder", "encoder"),
    canvas: Canvas,
) -> str:
    """The mean of all recorded layers and heads of each, in the row of one token: what it may look at, and how much it does.

    token: a word, or a part of one as the labels have it; spaces, marks and case do not matter. Errors: OptionError.
    """
    given = zip(names, (decoder, encoder), (decoder_labels, encoder_labels), strict=True)
    sides = [_row(name, attention, labels, token) for name, attention, labels in given]
    high = max(float(weights.max()) for weights, _, _ in sides) or 1.0
    room = (canvas.width - 3) // 2
    stacked = room < 26
    tables = [
        _pair_side(name, labels, side, high, canvas.width if stacked else room, canvas)
        for name, labels, side in zip(names, (decoder_labels, encoder_labels), sides, strict=True)
    ]
    word = name_of(token.strip(), 24, canvas)
    counts = [
        f"{int(seen.sum())} of {count(len(seen), 'token')} in the {name}"
        for name, (_, seen, _) in zip(names, sides, strict=True)
    ]
    facts = [f"Mean weights of the recorded layers and heads; \u00d7: may not look there; ▸: '{word}' itself."]
    lines = [*tables[0], "", *tables[1]] if stacked else beside(tables, 3)
    return sheet(canvas, f"What '{word}' may look at: {', '.join(counts)}", facts, lines)


def _row(name: str, attention: Attention, labels: Sequence[str], token: str) -> tuple[Weights, Seen, int]:
    """Weights and what may be seen, (positions,), and where the token stands."""
    weights = np.asarray(attention.weights, np.float64)
    if not weights.size:
        raise OptionError(f"{name}: there are no attention weights; record them with attention=True")
    n = weights.shape[3]
    if len(labels) != n:
        raise OptionError(f"{name}: there must be a label for each of the {n} positions: got {len(labels)}")
    wanted = _bare(token)
    at = next((i for i, label in enumerate(labels) if wanted and _bare(label) == wanted), None)
    if at is None:
        raise OptionError(f"{name}: the sentence has no token {token!r:.80}; it has {', '.join(labels[:20])}")
    if at not in attention.queries:
        raise OptionError(
            f'{name}: position {at} ({labels[at]}) was not recorded as a query; record them with queries="all"'
        )
    row = attention.queries.index(at)
    seen = np.logical_or.reduce([visible(attention, i)[row] for i in range(len(attention.layers))])
    return weights.mean((0, 1))[row], seen, at


def _cross(canvas: Canvas) -> str:
    return "\u00d7" if canvas.unicode else "x"


def _bare(label: str) -> str:
    return label.replace("␣", " ").removeprefix("##").strip().casefold()


def _pair_side(
    name: str, labels: Sequence[str], side: tuple[Weights, Seen, int], high: float, width: int, canvas: Canvas
) -> list[str]:
    weights, seen, own = side
    room = min(NAME, max(4, width // 3))
    names = [name_of(label, room, canvas) for label in labels]
    widest = max(map(columns, names))
    bar = width - widest - 2 - 5
    lines = [canvas.paint(f"{name}: {int(seen.sum())} of {len(seen)}", "bold")]
    for i, label in enumerate(names):
        mark = canvas.paint(canvas.plain("▸ "), "final") if i == own else "  "
        if not seen[i]:
            lines.append(mark + canvas.paint(f"{left(label, widest)}    {_cross(canvas)}", "cut"))
            continue
        share = float(weights[i])
        drawn = canvas.bar(share / high, bar, "final" if i == own else "model") if bar >= 1 else ""
        lines.append(f"{mark}{left(label, widest)} {short_percent(share):>4} {drawn}")
    return lines
