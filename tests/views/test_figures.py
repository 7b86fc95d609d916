"""Figures in notebooks: they show themselves, small and at their size, and are Figures like any other."""

from __future__ import annotations

import pickle
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fanlight.views.figures import DARK, LIGHT, Palette, new_figure


def drawn(palette: Palette = LIGHT) -> Figure:
    figure = new_figure(3.5, 2, palette)
    axes = figure.add_axes((0.1, 0.2, 0.7, 0.7), facecolor=palette.ground)
    axes.imshow(np.linspace(0, 1, 7 * 11).reshape(7, 11), aspect="auto")
    figure.text(0.5, 0.05, "a heading", color=palette.ink)
    return figure


def png_of(figure: Figure) -> tuple[bytes, dict[str, int]]:
    made: tuple[bytes, dict[str, int]] = figure._repr_png_()  # type: ignore[attr-defined]
    return made


def test_a_figure_shows_itself_at_its_size_on_its_ground() -> None:
    for palette in (LIGHT, DARK):
        png, about = png_of(drawn(palette))
        assert about == {"width": 336, "height": 192}
        image = Image.open(BytesIO(png)).convert("RGB")
        assert image.size == (420, 240)
        corner = image.getpixel((0, 0))
        assert "#{:02x}{:02x}{:02x}".format(*corner) == palette.ground  # type: ignore[misc]


def test_few_colours_look_like_all_of_them() -> None:
    figure, whole = drawn(), BytesIO()
    figure.savefig(whole, format="png")
    png = png_of(figure)[0]
    assert len(png) < len(whole.getvalue())
    exact, shown = (np.asarray(Image.open(each).convert("RGB"), np.int16) for each in (whole, BytesIO(png)))
    assert np.abs(exact - shown).mean() < 1


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert png_of(drawn()) == png_of(drawn())


def test_a_figure_can_be_pickled() -> None:
    figure = drawn()
    again = pickle.loads(pickle.dumps(figure))
    assert isinstance(again, Figure)
    assert png_of(again) == png_of(figure)
