"""The stack as a table and as a picture: complete, legible, and the same every time."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

import fanlight
from fanlight.description import LABELS, Description
from fanlight.errors import OptionError
from fanlight.models import registry
from fanlight.models.weights import short
from fanlight.views.figures import save
from fanlight.views.stack import stack_figure
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_stack import stack_table
from models import tiny
from models.zoo import ZOO

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("gpt2", "llama with biases", "qwen3", "gemma3", "gpt_neox", "olmo2", "phi3", "opt", "smollm3")


def describe(tmp_path: Path, name: str) -> Description:
    model = tiny.gpt2() if name == "gpt2" else ZOO[name]()
    return fanlight.load(tiny.write_folder(tmp_path / "model", model)).describe()


@pytest.mark.parametrize("model_type", [*registry.MODEL_TYPES, *registry.ENCODERS])
def test_every_part_of_every_architecture_has_a_label(model_type: str) -> None:
    for layout in registry.architecture_of(model_type).layouts.values():
        for name in layout.names.values():
            part = short(name.replace("{i}", "0"))
            assert ("w_" + part[2:] if part.startswith("b_") else part.removesuffix("_bias")) in LABELS, part


@pytest.mark.parametrize("name", ZOO)
def test_the_parts_are_all_there_is(tmp_path: Path, name: str) -> None:
    about = describe(tmp_path, name)
    rows = about.stack()
    assert sum(row.n_parameters for row in rows if not row.depth) == about.n_parameters
    assert sum(row.n_bytes for row in rows if not row.depth) == sum(about.stored_bytes.values())
    (blocks,) = [row for row in rows if row.count > 1]
    assert blocks.n_parameters == about.n_layer * sum(row.n_parameters for row in rows if row.depth)
    table = stack_table(about, Canvas(color=False))
    assert len(table.splitlines()) == len(rows) + 1
    assert max(map(len, table.splitlines())) <= 100
    assert all(row.label in table for row in rows)


def test_the_default_models_table() -> None:
    about = fanlight.load().describe()
    assert about.n_parameters == 134_515_008
    table = stack_table(about, Canvas(color=False, unicode=False))
    assert table.isascii()
    assert "49152 -> 576" in table
    assert "language-model head: the embedding" in table
    assert about.facts["not read"] == "nothing: every tensor of the file was read"
    found = about.as_dict()
    assert len(found["arrays"]) == 272
    assert found["arrays"][0] == {
        "name": "embed",
        "stored_name": "token_embd.weight",
        "shape": (49152, 576),
        "dtype": "Q8_0",
        "n_bytes": 30081024,
        "n_parameters": 28311552,
    }


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dark", [False, True])
def test_a_picture_names_every_part_and_no_two_texts_overlap(tmp_path: Path, name: str, dark: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    about = describe(tmp_path, name)
    figure = stack_figure(about, dark=dark)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts: list[Any] = [text for text in figure.axes[0].texts if text.get_text()]
    said = " ".join(text.get_text() for text in texts)
    for part in ("token ids", "token embedding", "attention:", "feed-forward down", "one block", str(about.n_layer)):
        assert part in said
    assert ("language-model head" in said) == (not about.is_encoder)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    for (a, first), (b, second) in combinations(zip(texts, boxes, strict=True), 2):
        assert not first.overlaps(second), (a.get_text(), b.get_text())
    whole = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt"])
def test_a_matrix_takes_in_what_its_part_is_given_however_it_is_stored(tmp_path: Path, name: str) -> None:
    about = describe(tmp_path, name)
    said = [text.get_text() for text in stack_figure(about).axes[0].texts]
    n_ffn = next(max(a.shape) for a in about.arrays if a.name == "blocks.0.w_down")
    for part, arrow in (("up", f"{about.n_embd} → {n_ffn} "), ("down", f"{n_ffn} → {about.n_embd} ")):
        assert said[said.index(f"feed-forward {part}") + 1].startswith(arrow)
    assert n_ffn != about.n_embd


def test_a_picture_of_an_encoder_ends_in_states() -> None:
    figure = stack_figure(fanlight.load_encoder().describe())
    said = {text.get_text() for text in figure.axes[0].texts}
    assert {"a state for every token", "segment embedding", "norm"} <= said


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    about = describe(tmp_path, "gpt2")
    for kind in ("svg", "png"):
        files = [tmp_path / f"{i}.{kind}" for i in range(2)]
        for file in files:
            save(stack_figure(about), file)
        assert files[0].read_bytes() == files[1].read_bytes()
    assert b"token embedding" in (tmp_path / "0.svg").read_bytes()  # text stays text
    save(stack_figure(about), tmp_path / "0.pdf")
    assert (tmp_path / "0.pdf").read_bytes().startswith(b"%PDF")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    about = describe(tmp_path, "gpt2")
    with pytest.raises(OptionError, match="cannot be written"):
        save(stack_figure(about), tmp_path / "no" / "such" / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
