"""Pictures of attention: what is coloured is the weights, what may not be seen is grey, the words are the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.looks import Attention
from fanlight.trace.masks import masked, may_see, softmax
from fanlight.views import axes as ax
from fanlight.views.attention import attention_figure, looked, visible
from fanlight.views.attention_pair import attention_pair_figure
from views.structures import check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = ["The", "␣cat", "␣sat", "␣on", "␣the_$", "␣mat", "\\n"]


def attention_of(
    n_layers: int = 2,
    n_heads: int = 3,
    n: int = 7,
    *,
    kind: str = "causal",
    window: int = 0,
    queries: tuple[int, ...] | None = None,
    layers: tuple[int, ...] | None = None,
) -> Attention:
    rng = np.random.default_rng([n_layers, n_heads, n])
    weights = np.array(
        [[softmax(masked(rng.normal(0, 2, (n, n)), kind, window)) for _ in range(n_heads)] for _ in range(n_layers)]
    )
    rows = queries or tuple(range(n))
    return Attention(
        layers=layers or tuple(range(n_layers)),
        heads=tuple(range(n_heads)),
        queries=rows,
        weights=weights[:, :, list(rows)].astype(np.float16),
        windows=(window,) * n_layers if window else (),
    )


def image(axes: Axes) -> Any:
    return np.asarray(axes.images[0].get_array())


def grey(dark: bool = False) -> tuple[float, float, float]:
    palette = ax.palette_of(dark)
    return ax.mixed(palette.faint, palette.ground, 0.42)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("kind", "window"), [("causal", 0), ("sliding window", 3), ("bidirectional", 0)])
def test_grey_cells_are_those_that_may_not_be_seen(kind: str, window: int, dark: bool) -> None:
    figure = attention_figure(attention_of(kind=kind, window=window), LABELS, layer=1, head=2, dark=dark)
    said = check(figure)
    is_grey = np.isclose(image(figure.axes[0]), grey(dark), atol=1e-6).all(2)
    assert (is_grey == ~may_see(7, kind, window)).all()
    assert ("may not look" in said) == (kind != "bidirectional")
    assert ("sliding window of 3" in said) == (window == 3)
    assert "Layer 1, head 2" in said


def test_the_colours_are_those_of_the_weights_on_the_scale_that_is_said() -> None:
    attention = attention_of()
    weights = attention.weights[0, 1].astype(float)
    seen = may_see(7)
    colours = ax.sequential(ax.palette_of(False))
    for scale, to in (("power", np.sqrt), ("linear", np.asarray)):
        figure = attention_figure(attention, LABELS, layer=0, head=1, scale=scale)
        np.testing.assert_allclose(image(figure.axes[0])[seen], colours(to(weights))[seen][:, :3], atol=1e-6)
        assert ("square root" in figure.axes[1].get_ylabel()) == (scale == "power")
    figure = attention_figure(attention, LABELS, layer=0, head=1, scale="log")
    assert "logarithm" in figure.axes[1].get_ylabel()
    check(figure)


def test_where_the_weights_go_is_counted_once() -> None:
    attention = attention_of(1, 1, 5)
    weights = attention.weights[0, 0].astype(float)
    found = looked(attention, 0, 0)
    assert found.first == pytest.approx(weights[:, 0].mean())
    assert found.itself == pytest.approx(sum(weights[i, i] for i in range(1, 5)) / 5)
    assert found.previous == pytest.approx(sum(weights[i, i - 1] for i in range(2, 5)) / 5)
    assert found.first + found.itself + found.previous + found.rest == pytest.approx(1, abs=2e-3)
    sink = np.zeros((1, 1, 4, 4), np.float16)
    sink[..., 0] = 1
    only = Attention(layers=(9,), heads=(5,), queries=(0, 1, 2, 3), weights=sink)
    assert looked(only, 0, 0).words() == "the first token 100%, itself 0%, the token before 0%"
    assert "Layer 9, head 5: mean weight on the first token 100%" in check(
        attention_figure(only, ["a", "b", "c", "d"], layer=9, head=5)
    ).replace("\n", " ")


@pytest.mark.parametrize("n_heads", [1, 3, 9, 13])
def test_a_layer_shows_all_its_heads(n_heads: int) -> None:
    attention = attention_of(2, n_heads)
    figure = attention_figure(attention, LABELS, layer=-1, dark=True)
    said = check(figure)
    heads = figure.axes[:n_heads]
    for i, axes in enumerate(heads):
        assert axes.get_title(loc="left") == f"head {i}: {looked(attention, 1, i).short()}"
        assert image(axes).shape == (7, 7, 3)
    assert "key: is looked at" in said


@pytest.mark.parametrize(("n_layers", "n_heads", "n"), [(1, 1, 1), (2, 3, 7), (30, 9, 13), (12, 16, 90)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_whole_model_is_one_picture(n_layers: int, n_heads: int, n: int, dark: bool) -> None:
    attention = attention_of(n_layers, n_heads, n)
    figure = attention_figure(attention, [f"␣{i}" for i in range(n)], dark=dark)
    said = check(figure)
    assert f"{n_heads} head" in said
    bars = figure.axes[1].patches
    assert len(bars) == 4 * n_layers
    for layer in range(n_layers):
        widths = [bars[part * n_layers + layer].get_width() for part in range(4)]  # type: ignore[attr-defined]
        assert sum(widths) == pytest.approx(1, abs=0.01)
        firsts = np.mean([looked(attention, layer, head).first for head in range(n_heads)])
        assert widths[0] == pytest.approx(firsts, abs=1e-3)


def test_a_thumbnail_keeps_the_largest_weight_of_cells_that_share_a_dot() -> None:
    weights = np.zeros((1, 1, 101, 101), np.float16)
    weights[0, 0, :, 0] = 1
    weights[0, 0, 77] = 0
    weights[0, 0, 77, 50] = 1
    attention = Attention(layers=(0,), heads=(0,), queries=tuple(range(101)), weights=weights)
    figure = attention_figure(attention, [""] * 101)
    full = ax.sequential(ax.palette_of(False))(1.0)[:3]
    at = np.argwhere(np.isclose(image(figure.axes[0]), full, atol=1e-6).all(2))
    assert set(at[:, 1].tolist()) == {0, int(np.searchsorted(np.arange(40) * 101 // 40, 50, side="right")) - 1}


def test_new_queries_alone_are_rows_over_all_positions() -> None:
    attention = attention_of(queries=(4, 5, 6), window=3, kind="sliding window", layers=(3, 8))
    assert visible(attention, 0).sum(1).tolist() == [3, 3, 3]
    figure = attention_figure(attention, LABELS, layer=8, head=-1, keys=[2, 3, -1])
    said = check(figure)
    assert image(figure.axes[0]).shape == (3, 3, 3)
    assert "3 queries, 3 keys of 7" in said


@pytest.mark.parametrize("n", [1, 2, 60, 500])
def test_long_axes_are_thinned(n: int) -> None:
    queries = tuple(range(max(0, n - 50), n))
    attention = attention_of(1, 2, n, queries=queries)
    check(attention_figure(attention, [f"␣token{i}" for i in range(n)], layer=0, head=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer 2 was not recorded; there is 0, 1"),
        ({"layer": -3}, "layer -3 was not recorded"),
        ({"layer": True}, "a layer is a whole number: got True"),
        ({"layer": 0, "head": 3}, "head 3 was not recorded"),
        ({"head": 1}, "of which layer"),
        ({"keys": [7]}, "position 7 was not recorded"),
        ({"keys": []}, "names no position"),
        ({"scale": "root"}, "power, linear, log: got 'root'"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        attention_figure(attention_of(), LABELS, **arguments)


def test_labels_must_be_as_many_as_positions() -> None:
    with pytest.raises(OptionError, match="each of the 7 positions: got 2"):
        attention_figure(attention_of(), ["a", "b"])
    empty = Attention(layers=(), heads=(), queries=(), weights=np.zeros((0, 0, 0, 7), np.float16))
    with pytest.raises(OptionError, match="no attention weights"):
        attention_figure(empty, LABELS)


# -- a decoder and an encoder ----------------------------------------------------------------------------------------------

ENCODER_LABELS = ["[CLS]", "the", "cat", "sat", "on", "the_$", "mat", ".", "[SEP]"]


@pytest.mark.parametrize("dark", [False, True])
def test_a_token_sees_what_came_before_in_a_decoder_and_all_in_an_encoder(dark: bool) -> None:
    decoder, encoder = attention_of(), attention_of(3, 2, 9, kind="bidirectional")
    figure = attention_pair_figure(decoder, encoder, LABELS, ENCODER_LABELS, token="SAT", dark=dark)
    said = check(figure)
    assert "What 'SAT' may look at: 3 of 7 tokens in the decoder, 9 of 9 tokens in the encoder" in said.replace(
        "\n", " "
    )
    assert "may see:  The  ␣cat  ␣sat" in said
    assert "may not see:  nothing" in said
    left, bars, right, others = figure.axes
    for matrix, row in ((left, 2), (right, 3)):
        (frame,) = [patch for patch in matrix.patches if patch.get_label() == "row"]
        assert frame.get_y() == row - 0.5  # type: ignore[attr-defined]
    for axes, attention, row in ((bars, decoder, 2), (others, encoder, 3)):
        mean = attention.weights.astype(float).mean((0, 1))[row]
        heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
        np.testing.assert_allclose(heights, mean[: len(heights)], rtol=1e-6)
    assert len(bars.patches) == 3
    assert sum(text.get_text() == "×" for text in bars.texts) == 4  # noqa: RUF001


def test_a_long_sentence_fits_too() -> None:
    labels = [f"␣word{i}" for i in range(61)]
    pair = attention_of(1, 1, 61), attention_of(1, 1, 61, kind="bidirectional")
    check(attention_pair_figure(*pair, labels, labels, token="word44", names=("a decoder", "an encoder")))


def test_a_token_that_is_not_there_is_refused() -> None:
    decoder, encoder = attention_of(), attention_of(3, 2, 9, kind="bidirectional")
    with pytest.raises(OptionError, match="decoder: the sentence has no token 'dog'; it has The, ␣cat"):
        attention_pair_figure(decoder, encoder, LABELS, ENCODER_LABELS, token="dog")
    with pytest.raises(OptionError, match="no token ''"):
        attention_pair_figure(decoder, encoder, LABELS, ENCODER_LABELS, token="")
    some = attention_of(queries=(5, 6))
    with pytest.raises(OptionError, match=r'position 2 .* record them with queries="all"'):
        attention_pair_figure(some, encoder, LABELS, ENCODER_LABELS)
    with pytest.raises(OptionError, match="encoder: there must be a label for each of the 9"):
        attention_pair_figure(decoder, encoder, LABELS, LABELS)
