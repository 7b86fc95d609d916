"""Traces made by hand, for the tests of pictures of structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fanlight.trace.header import Header, Origin, Parent
from fanlight.trace.records import StepRecord
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.trace import Trace
from views import drawn
from views.records import record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBS = (0.5, 0.25, 0.15, 0.07, 0.03)


def steps_of(ids: Sequence[int]) -> list[StepRecord]:
    return [record(PROBS, chosen=token % len(PROBS), shown=4) for token in ids]


def trace_of(
    ids: Sequence[int],
    vocabulary: Mapping[int, bytes],
    *,
    name: str = "a1b2",
    parent: Parent | None = None,
    prompt: str | None = "The cat",
    steps: Sequence[StepRecord] | None = None,
    detail: str = "cut off by max_new_tokens",
) -> Trace:
    pieces = [vocabulary[token].decode("utf-8", "replace") for token in ids]
    header = Header(
        id=name,
        origin=Origin(model="tiny", fingerprint="f", architecture="gpt2", kernels="reference"),
        prompt=prompt,
        text="".join(pieces),
        stop=Stop(StopReason.MAX_NEW_TOKENS, detail),
        seed=7,
        request_seed=7,
        settings={},
        setting_origins={},
        parent=parent,
    )
    made = list(steps) if steps is not None else steps_of(ids)
    return Trace(header, prompt_ids=(1, 2), ids=ids, pieces=pieces, vocabulary=vocabulary, steps=lambda: made, looks={})


def check(figure: Figure) -> str:
    """As `drawn.check`, for pictures of many texts; what is said, as one string."""
    renderer = drawn.rendered(figure)
    texts = drawn.texts(figure)
    found = np.array([text.get_window_extent(renderer).extents for text in texts])  # x0, y0, x1, y1
    names = [text.get_text() for text in texts]
    whole = figure.bbox.extents
    for name, box in zip(names, found, strict=True):
        assert (box[:2] >= whole[:2]).all(), (name, box, whole)
        assert (box[2:] <= whole[2:]).all(), (name, box, whole)
    shared = np.minimum(found[:, None, 2:], found[None, :, 2:]) - np.maximum(found[:, None, :2], found[None, :, :2])
    both = np.triu((shared > 0.5).all(2), 1)  # pixels: what smooth edges share is less
    assert not both.any(), [(names[i], names[j]) for i, j in np.argwhere(both)[:5]]
    return drawn.said(figure)
