"""Rows of logits to try processors on, plain and awkward, and short ways to build processors. Knows no test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Processor, Surroundings, build_processors
from fanlight.kernels import load_ops

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops

    Row = NDArray[np.float32]

INF = float("inf")
REFERENCE, NATIVE = load_ops("reference"), load_ops("native")
BOTH = (REFERENCE, NATIVE)
SIZES = (1, 7, 33, 1000)


def plain_rows(n_vocab: int, n: int = 4) -> Iterable[Row]:
    """Random rows, from flat to peaked, all logits different."""
    for seed in range(n):
        random = np.random.default_rng(100 * n_vocab + seed)
        yield random.normal(0, (0.3, 2, 5, 12)[seed % 4], n_vocab).astype(np.float32)


def awkward_rows(n_vocab: int) -> dict[str, Row]:
    """Rows that go wrong where something is careless."""
    random = np.random.default_rng(n_vocab)
    base = random.normal(0, 3, n_vocab).astype(np.float32)
    holes, one_left, one_hot = base.copy(), np.full(n_vocab, -INF, np.float32), np.zeros(n_vocab, np.float32)
    holes[random.random(n_vocab) < 0.5] = -INF
    holes[n_vocab // 2] = 1.5  # something is left
    one_left[n_vocab // 3] = -7.25
    one_hot[n_vocab - 1] = 200
    return {
        "ties": np.round(base).astype(np.float32),
        "holes": holes,
        "all equal": np.full(n_vocab, 0.75, np.float32),
        "one hot": one_hot,
        "huge": base * np.float32(1e30),
        "tiny": base * np.float32(1e-30),
        "one left": one_left,
        "negative": -np.abs(base) - 50,
        "positive": np.abs(base) + 50,
    }


def all_rows(n_vocab: int) -> list[tuple[str, Row]]:
    """Both, with names."""
    plain = [(f"plain {i}", row) for i, row in enumerate(plain_rows(n_vocab))]
    return plain + list(awkward_rows(n_vocab).items())


def around(ops: Ops = REFERENCE, **what: Any) -> Surroundings:
    """Surroundings of a vocabulary of 33, if nothing else is said."""
    return replace(Surroundings(ops=ops, n_vocab=33), **what)


def built(options: dict[str, Any], ops: Ops = REFERENCE, **what: Any) -> tuple[Processor, ...]:
    """The processors of settings; without the top_k that sampling has by default."""
    return build_processors(GenerationConfig.from_options({"top_k": None} | options), around(ops, **what))


def run(processors: Sequence[Processor], row: Row, ids: Sequence[int] = ()) -> Row:
    """The row after processors of one kind of ops."""
    if not processors:
        return row
    tensor = processors[0].ops.tensor(np.ascontiguousarray(row), len(row))  # type: ignore[attr-defined]
    for processor in processors:
        tensor = processor(ids, tensor)
    result: Row = tensor.numpy()[0]
    return result


def softmax(row: Row) -> NDArray[np.float64]:
    """Probabilities in float64."""
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


def survivors(row: Row) -> set[int]:
    """Ids that are left."""
    return set(np.flatnonzero(row > -INF).tolist())
