"""What all pictures share: matplotlib when it is asked for, colours for light and dark ground, files written whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import MissingExtra, OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Palette(NamedTuple):
    """Colours that eyes without one kind of cone tell apart too. Source: Okabe and Ito 2008."""

    ground: str
    ink: str
    faint: str
    attention: str
    feed_forward: str
    norm: str
    table: str


LIGHT = Palette("#ffffff", "#1b1f24", "#8a929b", "#0072b2", "#d55e00", "#7a7f85", "#009e73")
DARK = Palette("#16191d", "#eceff2", "#79818a", "#56b4e9", "#e69f00", "#9aa1a8", "#2fc59b")
CSS_DPI = 96
"""Of a browser's inch."""


def new_figure(width: float, height: float, palette: Palette) -> Figure:
    """An empty figure, inches; in a notebook it shows itself. Errors: MissingExtra."""
    try:
        made = _shown_figure()
    except ImportError as error:
        raise MissingExtra(f"pictures need matplotlib ({error}): pip install 'fanlight[plot]'") from None
    figure: Figure = made(figsize=(width, height), facecolor=palette.ground, dpi=120)
    return figure


@cache
def _shown_figure() -> Any:
    """The class ShownFigure, made when it is first asked for, because matplotlib is an optional library."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A Figure that notebooks show without pyplot: fine dots, at the size that it has on paper."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            from PIL import Image

            whole, small = BytesIO(), BytesIO()
            self.savefig(whole, format="png", facecolor=self.get_facecolor())
            # the notebook keeps it: 256 colours are a third of the bytes, and look the same
            few = Image.open(whole).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            few.save(small, format="png", optimize=True)
            width, height = self.get_size_inches() * CSS_DPI
            return small.getvalue(), {"width": round(width), "height": round(height)}

    ShownFigure.__module__, ShownFigure.__qualname__ = __name__, "ShownFigure"
    return ShownFigure


def __getattr__(name: str) -> Any:  # so that pickle finds the class
    if name == "ShownFigure":
        return _shown_figure()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write .png, .svg or .pdf; the file is there whole or not at all, and the same for the same picture. Errors: OptionError."""
    import matplotlib

    kind = Path(path).suffix[1:].lower()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    how = matplotlib.rc_context({"svg.hashsalt": "fanlight", "svg.fonttype": "none" if kind == "svg" else "path"})
    with written_whole(path) as part, how:
        figure.savefig(part, format=kind, metadata=metadata, facecolor=figure.get_facecolor())


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what takes its name when all went well; otherwise nothing is left. Errors: OptionError."""
    target = Path(path)
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise OptionError(
            f"{target}: cannot be written ({error.strerror or error}); check the folder and its rights"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink()
