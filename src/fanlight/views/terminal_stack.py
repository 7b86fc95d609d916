"""The stack of a model's parts as a table in a terminal. In: a Description. Out: text. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.description import Description, StackRow, shape_in_words

if TYPE_CHECKING:
    from fanlight.views.terminal import Canvas

LABEL, SHAPE, COUNT, TYPES = 38, 18, 12, 12
BAR = 7


def stack_table(description: Description, canvas: Canvas) -> str:
    """A line for each part from the embedding to the head, with the first block opened."""
    rows = description.stack()
    if not rows:
        return canvas.paint("the parts are known to the library that computes this model", "dim")
    head = f"{'part':<{LABEL}}{'in -> out':<{SHAPE}}{'parameters':>{COUNT}}  {'type':<{TYPES}}{'MB':>8}"
    whole = sum(row.n_parameters for row in rows if not row.depth) or 1
    lines = [canvas.paint(canvas.plain(head), "dim")]
    lines += [_line(row, whole, canvas) for row in rows]
    return "\n".join(lines)


def _line(row: StackRow, whole: int, canvas: Canvas) -> str:
    label = "  " * row.depth + row.label + (", the first opened" if row.count > 1 else "")
    count = f"{row.n_parameters:,}" if row.n_parameters else "-"
    size = f"{row.n_bytes / 1e6:.2f}" if row.n_bytes else "-"
    text = (
        f"{label:<{LABEL}}{shape_in_words(row.shape):<{SHAPE}}{count:>{COUNT}}  "
        f"{'+'.join(row.dtypes) or '-':<{TYPES}}{size:>8}"
    )
    share = row.n_parameters * (1 if not row.depth else 0) / whole
    style = "dim" if row.depth else "bold"
    bar = canvas.plain("█" * round(share * BAR)) if canvas.unicode else "#" * round(share * BAR)
    return f"{canvas.paint(canvas.plain(text), style)}  {canvas.paint(bar, 'model')}".rstrip()
