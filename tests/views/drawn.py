"""What a test reads off a picture: its texts, where they stand, whether they overlap or are cut off. Knows no view."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from matplotlib.text import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rendered(figure: Figure) -> Any:
    """A renderer, after everything took its place. A warning, such as one of a missing glyph, is an error."""
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.draw()
    return canvas.get_renderer()


def texts(figure: Figure) -> list[Text]:
    """Every text that is to be seen, tick labels too."""
    hidden = set()
    for axes in figure.axes:
        for axis, (a, b) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            slack = 1e-9 * abs(b - a)
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if (
                    not min(a, b) - slack <= tick.get_loc() <= max(a, b) + slack
                ):  # matplotlib keeps it, and does not draw it
                    hidden |= {tick.label1, tick.label2}
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in seen if text not in hidden]


def said(figure: Figure) -> str:
    """All of them, one after another, as a reader sees them; a text that was wrapped is in one piece."""
    return " ".join(text.get_text().replace(r"\$", "$") for text in texts(figure))


def check(figure: Figure) -> None:
    """No two texts overlap, none is cut off, none is taken for a formula, every glyph is there."""
    renderer = rendered(figure)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
    assert boxes
    whole = figure.bbox
    for name, box in boxes:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, (name, box, whole)
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, (name, box, whole)
    for (a, first), (b, second) in combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 0.5 or down <= 0.5, (a, b, across, down)
