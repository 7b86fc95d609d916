"""What each layer would say, as a map: the tokens, the frames and the colours are those of the lens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.looks import Lens
from fanlight.views import axes as ax
from fanlight.views.lens import WHAT, lens_figure, settled
from views.structures import check

WORDS = ["the", "␣of_$", "␣mat", "\\n", "␣internationalisation", "猫", "."]


def label(token: int) -> str:
    return WORDS[token % len(WORDS)]


def lens_of(n_steps: int, n_layer: int, k: int = 3) -> tuple[Lens, list[str]]:
    rng = np.random.default_rng([n_steps, n_layer])
    logits = rng.normal(0, 1, (n_steps, n_layer + 1, 7)) + np.linspace(0, 3, n_layer + 1)[None, :, None] * rng.normal(
        0, 1, (n_steps, 1, 7)
    )
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1, kind="stable")
    chosen = order[:, -1, 0].copy()
    chosen[1::3] = order[1::3, -1, 1]  # not always the first
    ranks = (order == chosen[:, None, None]).argmax(-1)
    return Lens(
        ids=order[..., :k].astype(np.int32),
        logprobs=np.take_along_axis(logprobs, order, -1)[..., :k].astype(np.float32),
        chosen_logprobs=np.take_along_axis(logprobs, chosen[:, None, None].repeat(n_layer + 1, 1), -1)[..., 0].astype(
            np.float32
        ),
        chosen_ranks=ranks.astype(np.int32),
        entropies=-(np.exp(logprobs) * logprobs).sum(-1).astype(np.float32),
    ), [label(int(token)) for token in chosen]


def shown(figure: Any) -> Any:
    return np.asarray(figure.axes[0].images[0].get_array())  # (layers, steps, 3)


@pytest.mark.parametrize("dark", [False, True])
def test_every_cell_holds_what_its_layer_would_say_and_right_ones_are_framed(dark: bool) -> None:
    lens, labels = lens_of(5, 11)
    figure = lens_figure(lens, labels, label, dark=dark)
    said = check(figure)
    axes = figure.axes[0]
    (cut,) = {t.get_text() for t in axes.texts if t.get_text().endswith(ax.HIDDEN)}
    found = {t.get_position(): t.get_text() for t in axes.texts}
    assert found == {(x, y): ax.token(label(int(lens.ids[x, y, 0])), len(cut)) for x in range(5) for y in range(12)}
    frames = {(round(p.get_x() + 0.46), round(p.get_y() + 0.42)) for p in axes.patches if p.get_label() == "right"}  # type: ignore[attr-defined]
    assert frames == {(x, y) for x in range(5) for y in range(12) if lens.chosen_ranks[x, y] == 0}
    assert "embedding" in said
    assert "11 (out)" in said
    assert "␣of_$" in said


@pytest.mark.parametrize("what", WHAT)
def test_the_colours_are_those_of_what_is_asked_for(what: str) -> None:
    lens, labels = lens_of(4, 6)
    figure = lens_figure(lens, labels, label, what=what)
    check(figure)
    colours = ax.sequential(ax.palette_of(False))
    expected = {
        "prob": lambda: colours(np.exp(lens.logprobs[..., 0])),
        "chosen": lambda: colours(np.exp(lens.chosen_logprobs)),
        "rank": lambda: colours.reversed()(np.log10(lens.chosen_ranks + 1)),  # the scale ends at 10
        "entropy": lambda: colours(lens.entropies / max(1.0, float(lens.entropies.max()))),
    }[what]()
    np.testing.assert_allclose(shown(figure), expected[..., :3].transpose(1, 0, 2), atol=0.02)
    assert WHAT[what].split(" (")[0] in figure.axes[1].get_ylabel().replace("\n", " ")


def test_steps_are_those_that_are_named() -> None:
    lens, labels = lens_of(9, 4)
    figure = lens_figure(lens, labels, label, steps=[-1, 0, 5])
    assert shown(figure).shape == (5, 3, 3)
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert ticks == [ax.token(labels[i]) for i in (8, 0, 5)]


@pytest.mark.parametrize(("n_steps", "n_layer"), [(1, 1), (10, 30), (25, 11), (300, 30), (61, 127)])
@pytest.mark.parametrize("dark", [False, True])
def test_short_and_long_texts_small_and_deep_models_fit(n_steps: int, n_layer: int, dark: bool) -> None:
    lens, labels = lens_of(n_steps, n_layer)
    figure = lens_figure(lens, labels, label, what="chosen", dark=dark)
    check(figure)
    assert bool(figure.axes[0].texts) == (n_steps <= 25)
    assert shown(figure).shape[1] == n_steps
    if n_layer == 127:
        assert shown(figure).shape[0] == 43  # each third, the last one among them
        assert any("of 3 layers one is drawn" in text.get_text() for text in figure.texts)


def test_a_line_runs_around_all_cells_that_are_right_where_there_is_no_room_for_frames() -> None:
    lens, labels = lens_of(40, 5)
    figure = lens_figure(lens, labels, label)
    (line,) = [c for c in figure.axes[0].collections if c.get_label() == "right"]
    right = np.pad(lens.chosen_ranks.T == 0, 1)
    edges = (right[1:] != right[:-1]).sum() + (right[:, 1:] != right[:, :-1]).sum()
    segments = line.get_segments()  # type: ignore[attr-defined]
    assert len(segments) == edges
    for (x0, y0), (x1, y1) in segments:
        assert abs(x1 - x0) + abs(y1 - y0) == 1
        sides = ((x0, y0), (x0 - 1, y0)) if x0 == x1 else ((x0, y0), (x0, y0 - 1))
        inside = [bool(right[int(y + 1.5), int(x + 1.5)]) for x, y in sides]
        assert sorted(inside) == [False, True]


def test_a_token_is_settled_from_where_it_stays_the_first() -> None:
    right = np.array([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], bool)
    assert settled(right).tolist() == [3, 0, 5]
    lens, labels = lens_of(1, 4)
    last = settled(lens.chosen_ranks == 0)[0]
    assert f"settled from block {last} of 4 on" in check(lens_figure(lens, labels, label)).replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "probability"}, "prob, chosen, rank, entropy: got 'probability'"),
        ({"steps": [3]}, "there is no step 3; the trace has 3, from 0 to 2"),
        ({"steps": [-4]}, "there is no step -4"),
        ({"steps": []}, "names no step"),
        ({"labels_of_steps": ["a"]}, "a label for each of the 3 steps: got 1"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    lens, labels = lens_of(3, 2)
    with pytest.raises(OptionError, match=message):
        lens_figure(lens, **{"labels_of_steps": labels, "label": label, **arguments})
