"""What all pictures share: matplotlib when it is asked for, colours for light and dark ground, files written whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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


def new_figure(width: float, height: float, palette: Palette) -> Figure:
    """An empty figure, inches. Errors: MissingExtra."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(f"pictures need matplotlib ({error}): pip install 'fanlight[plot]'") from None
    return Figure(figsize=(width, height), facecolor=palette.ground, dpi=120)


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
