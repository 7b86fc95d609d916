"""The lens in a terminal: the token of every layer, marked where it is the chosen one."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.traces import a_trace
from fanlight.errors import OptionError
from fanlight.trace.looks import Lens
from fanlight.tracing.trace import Trace
from fanlight.views.lens import WHAT
from fanlight.views.terminal import Canvas
from fanlight.views.terminal_lens import lens_text
from fanlight.views.terminal_sheet import short_percent
from views.terminals import CANVASES, LABELS, SIZES, anything, check, lines, unbroken


def made(n_steps: int = 7, n_layer: int = 5) -> tuple[Trace, Lens, list[str]]:
    trace = a_trace(n_steps=n_steps, n_layer=n_layer, attention=False)
    assert trace.lens is not None
    return trace, trace.lens, [trace.token_label(token) for token in trace.ids]


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize(("n_steps", "n_layer"), [(1, 1), (13, 5), (3, 61)])
def test_it_fits(canvas: Canvas, what: str, n_steps: int, n_layer: int) -> None:
    trace, lens, labels = made(n_steps, n_layer)
    check(lens_text(lens, labels, trace.token_label, canvas, what=what), canvas)


@anything
@given(st.lists(LABELS, min_size=33, max_size=33), SIZES)
def test_it_fits_with_any_labels(labels: list[str], canvas: Canvas) -> None:
    _, lens, own = made(3)
    check(lens_text(lens, labels[: len(own)], labels.__getitem__, canvas), canvas)


@pytest.mark.parametrize("color", [False, True])
def test_every_cell_holds_its_layers_token_and_is_marked_where_it_is_the_chosen_one(color: bool) -> None:
    _, lens, _ = made(4, 3)
    text = lines(lens_text(lens, list("abcd"), lambda token: f"t{token}", Canvas(width=80, color=color)))
    rows = [line for line in text if re.match(r" +(emb\.|\d|out) ", line)]
    assert len(rows) == 4
    for layer, line in enumerate(rows):
        cells = re.findall(r"(\u25b8?)t(\d+)", line)
        assert [int(token) for _, token in cells] == lens.ids[:, layer, 0].tolist()
        assert [bool(sign) for sign, _ in cells] == (lens.chosen_ranks[:, layer] == 0).tolist()


def test_other_kinds_hold_their_numbers() -> None:
    _, lens, labels = made(4, 3)
    numbers: dict[str, Callable[[int, int], str]] = {
        "chosen": lambda i, j: short_percent(exp(float(lens.chosen_logprobs[i, j]))),
        "rank": lambda i, j: str(lens.chosen_ranks[i, j]),
        "entropy": lambda i, j: f"{lens.entropies[i, j]:.2f}",
    }
    for what, number in numbers.items():
        text = lines(lens_text(lens, labels, str, Canvas(width=80), what=what))
        rows = [line.replace("\u25b8", " ").split()[1:] for line in text if re.match(r" +(emb\.|\d|out) ", line)]
        assert rows == [[number(step, layer) for step in range(4)] for layer in range(4)]


def test_steps_that_have_no_room_follow_below_and_none_is_lost() -> None:
    trace, lens, labels = made(23)
    text = lines(lens_text(lens, labels, trace.token_label, Canvas(width=60)))
    steps = [int(word) for line in text if line.strip().startswith("step") for word in line.split()[1:]]
    assert steps == list(range(23))
    some = lines(lens_text(lens, labels, trace.token_label, Canvas(width=60), steps=[3, -1]))
    assert [line.split()[1:] for line in some if line.strip().startswith("step")] == [["3", "22"]]


def test_the_heading_says_when_tokens_settle_and_what_is_unknown_is_refused() -> None:
    ranks = np.array([[4, 0, 0, 0], [9, 2, 0, 0], [7, 5, 5, 0]], np.int32)
    _, lens, _ = made(3, 3)
    found = Lens(
        ids=lens.ids, logprobs=lens.logprobs, chosen_logprobs=lens.chosen_logprobs, chosen_ranks=ranks,
        entropies=lens.entropies,
    )  # fmt: skip
    assert "half of 3 tokens are settled by block 2 of 3" in unbroken(lens_text(found, list("abc"), str, Canvas()))
    with pytest.raises(OptionError, match="a lens shows prob, chosen, rank, entropy"):
        lens_text(lens, list("abc"), str, Canvas(), what="heat")
    with pytest.raises(OptionError, match="a label for each of the 3 steps"):
        lens_text(lens, ["a"], str, Canvas())
