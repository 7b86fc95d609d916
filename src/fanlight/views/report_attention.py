"""Attention weights as the data of a page: the strongest positions of every row. In: an Attention. Out: what JSON can hold.

Of each row and layer: the mean over the heads, at the positions where it is largest; of each head, a few of its own. What is left
out so that the page stays small is said in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanlight.views.report_arrays import array, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.trace.looks import Attention

MOST_BYTES = 1_500_000
"""Before base64; a page of 300 tokens with all else that a trace can hold stays below 3 MB."""
DEGREES = ((32, 4), (24, 3), (20, 2), (16, 1), (12, 0), (8, 0))
"""Positions of the mean over the heads, and of each head: the first pair that fits."""
CHUNK = 16_000_000
"""Weights that are looked at together."""


def attention_data(attention: Attention) -> tuple[dict[str, Any], str]:
    """The data, and what is left out of it."""
    import numpy as np

    n_layers, n_heads, n_rows, n_positions = attention.weights.shape
    width = 4 if n_positions <= 1 << 16 else 6

    def size(layers: int, of_mean: int, of_head: int) -> int:
        of_mean, of_head = min(of_mean, n_positions), min(of_head, n_positions)
        return int(n_rows * ((layers + 1) * of_mean + layers * n_heads * of_head) * width)

    of_mean, of_head = next((d for d in DEGREES if size(n_layers, *d) <= MOST_BYTES), DEGREES[-1])
    kept = list(range(n_layers))
    while len(kept) > 1 and size(len(kept), of_mean, of_head) > MOST_BYTES:
        kept = kept[::-1][::2][::-1]  # the last layer stays
    of_mean, of_head = min(of_mean, n_positions), min(of_head, n_positions)

    total = np.zeros((n_rows, n_positions), np.float32)
    means, heads = [], []
    for layer in range(n_layers):
        mean, tops = _layer(attention.weights[layer], of_head if layer in kept else 0)
        total += mean / n_layers
        if layer in kept:
            means.append(_top(mean, of_mean))
            heads.append(tops)
    every = _top(total, of_mean)
    found: dict[str, Any] = {
        "layers": [attention.layers[i] for i in kept],
        "nLayers": n_layers,
        "heads": list(attention.heads),
        "queries": whole(attention.queries),
        "nMean": of_mean,
        "nHead": of_head,
        "all": {"at": whole(every[0]), "weight": array(every[1], "sq16")},
        "mean": _together(means),
    }
    if of_head:
        found["head"] = _together(heads)
    return found, _left_out(kept, n_layers, of_mean, of_head, n_positions)


def _layer(weights: NDArray[np.float16], of_head: int) -> tuple[NDArray[np.float32], _Top]:
    """The mean over the heads, (n_rows, n_positions), and of each head its strongest, (n_heads, n_rows, of_head)."""
    import numpy as np

    n_heads, n_rows, n_positions = weights.shape
    step = max(1, CHUNK // max(1, n_heads * n_positions))
    means = np.zeros((n_rows, n_positions), np.float32)
    at = np.zeros((n_heads, n_rows, of_head), np.int64)
    values = np.zeros((n_heads, n_rows, of_head), np.float32)
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        chunk = np.asarray(weights[:, rows], np.float32)
        means[rows] = chunk.mean(0)
        if of_head:
            at[:, rows], values[:, rows] = _top(chunk, of_head)
    return means, (at, values)


_Top = tuple["NDArray[np.int64]", "NDArray[np.float32]"]


def _top(weights: NDArray[np.float32], n: int) -> _Top:
    """The n largest along the last axis, descending; ties: lowest position first. n: at most as many as there are."""
    import numpy as np

    if n < weights.shape[-1]:
        at = np.sort(np.argpartition(-weights, n - 1, axis=-1)[..., :n], axis=-1)
    else:
        at = np.broadcast_to(np.arange(n), weights.shape)
    values = np.take_along_axis(weights, at, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    return np.take_along_axis(at, order, -1), np.take_along_axis(values, order, -1)


def _together(tops: list[_Top]) -> dict[str, Any]:
    import numpy as np

    return {"at": whole(np.stack([at for at, _ in tops])), "weight": array(np.stack([w for _, w in tops]), "sq16")}


def _left_out(kept: list[int], n_layers: int, of_mean: int, of_head: int, n_positions: int) -> str:
    parts = []
    if of_mean < n_positions:
        parts.append(f"the {of_mean} strongest of {n_positions} positions for the mean over the heads")
    if of_head and of_head < n_positions:
        parts.append(f"the {of_head} strongest for each head")
    if not of_head:
        parts.append("no single heads")
    if len(kept) < n_layers:
        parts.append(f"{len(kept)} of {n_layers} layers")
    return f"attention: {', '.join(parts)}; the trace has all" if parts else ""
