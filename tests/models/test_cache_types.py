"""A decoder's KV cache in the type that is asked for; what int8 costs in quality, on the default model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fanlight import load
from fanlight.errors import OptionError
from fanlight.kernels import native
from fanlight.kernels.ops import CACHE_DTYPES


@pytest.fixture(scope="module")
def decoder() -> Any:
    return load().decoder


@pytest.fixture(scope="module")
def text() -> list[int]:
    """A thousand tokens of English."""
    words = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return list(load().prompt_ids(words))[:1000]


def logits_of(decoder: Any, ids: list[int], dtype: str | None, chunk: int = 250) -> np.ndarray:
    pool = decoder.new_pool(dtype)
    table = [pool.allocate() for _ in range(-(-len(ids) // pool.page_tokens))]
    rows = []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        rows.append(decoder.forward(part, pool.batch([table], [start], [len(part)]), range(len(part))).numpy())
    return np.concatenate(rows)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: np.ndarray = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def test_the_type_asked_for_is_the_pools(decoder: Any) -> None:
    assert [decoder.new_pool(dtype).dtype for dtype in CACHE_DTYPES] == list(CACHE_DTYPES)
    assert decoder.new_pool().dtype == decoder.new_pool(None).dtype == "F16"  # a quantised checkpoint


@pytest.mark.parametrize("dtype", ["i8", "Q8_0", ""])
def test_other_types_are_refused_by_name(decoder: Any, dtype: str) -> None:
    with pytest.raises(OptionError, match=f"type is '{dtype}'; it can be F16, F32, I8, or None"):
        decoder.new_pool(dtype)


def test_smaller_types_stay_near_the_wide_one(decoder: Any, text: list[int]) -> None:
    """Of next tokens: mean KL divergence from their distribution with an F32 cache, and how often another one is the likeliest.

    Most of it, in half precision all, is rounded activations that fall to the other side: any change in the last place does that.
    """
    wide = log_probabilities(logits_of(decoder, text, "F32"))
    for dtype, most_nats, most_changed in (("F16", 6e-3, 0.06), ("I8", 9e-3, 0.07)):
        found = log_probabilities(logits_of(decoder, text, dtype))
        divergence = (np.exp(wide) * (wide - found)).sum(axis=1)
        assert 0 < divergence.mean() < most_nats, dtype
        assert (wide.argmax(axis=1) != found.argmax(axis=1)).mean() < most_changed, dtype


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_chunks_and_threads_change_no_bit(decoder: Any, text: list[int], dtype: str) -> None:
    ids, before = text[:301], native.get_threads()
    native.set_threads(2)
    expected = logits_of(decoder, ids, dtype)
    native.set_threads(1)
    found = logits_of(decoder, ids, dtype, chunk=37)
    native.set_threads(before)
    np.testing.assert_array_equal(found, expected)
