"""Processors: which are built, in which order, and that each equals the transformers class of the same option."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import build_processors
from fanlight.kernels import reference_rows
from fanlight.kernels.reference_tensor import Tensor

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference_rows)


def labels(**options: Any) -> list[str]:
    return [processor.label for processor in build_processors(GenerationConfig(**options), OPS)]


def test_processors_stand_in_the_order_of_transformers() -> None:
    everything = {"min_p": 0.05, "top_p": 0.9, "top_k": 40, "temperature": 0.7, "repetition_penalty": 1.1}
    processors = build_processors(GenerationConfig(do_sample=True, **everything), OPS)
    assert [str(processor) for processor in processors] == [
        "repetition_penalty(1.1)",
        "temperature(0.7)",
        "top_k(40)",
        "top_p(0.9)",
        "min_p(0.05)",
    ]
    assert [(processor.name, processor.removes) for processor in processors] == [
        ("repetition_penalty", False),
        ("temperature", False),
        ("top_k", True),
        ("top_p", True),
        ("min_p", True),
    ]


def test_what_would_change_nothing_is_left_out() -> None:
    assert labels(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0) == []
    assert labels(do_sample=True, top_k=None) == []
    assert labels(do_sample=True) == ["top_k(50)"]


def test_greedy_uses_the_penalty_alone() -> None:
    everything = {"min_p": 0.05, "top_p": 0.9, "top_k": 40, "temperature": 0.7, "repetition_penalty": 1.1}
    assert labels(**everything) == ["repetition_penalty(1.1)"]
    assert labels(do_sample=True, **everything | {"temperature": 0}) == ["repetition_penalty(1.1)"]


OPTIONS: list[tuple[dict[str, Any], Any]] = [
    ({"repetition_penalty": 1.3}, lambda: hf.RepetitionPenaltyLogitsProcessor(1.3)),
    ({"repetition_penalty": 0.8}, lambda: hf.RepetitionPenaltyLogitsProcessor(0.8)),
    ({"temperature": 0.7}, lambda: hf.TemperatureLogitsWarper(0.7)),
    ({"temperature": 3.0}, lambda: hf.TemperatureLogitsWarper(3.0)),
    ({"top_k": 1}, lambda: hf.TopKLogitsWarper(1)),
    ({"top_k": 31}, lambda: hf.TopKLogitsWarper(31)),
    ({"top_k": 5000}, lambda: hf.TopKLogitsWarper(5000)),
    ({"top_p": 0.05}, lambda: hf.TopPLogitsWarper(0.05)),
    ({"top_p": 0.9}, lambda: hf.TopPLogitsWarper(0.9)),
    ({"min_p": 0.02}, lambda: hf.MinPLogitsWarper(0.02)),
    ({"min_p": 1.0}, lambda: hf.MinPLogitsWarper(1.0)),
]


@pytest.mark.parametrize(
    ("options", "theirs"), OPTIONS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
@pytest.mark.parametrize("n_vocab", [1, 7, 33, 1000])
def test_each_processor_equals_that_of_transformers(options: dict[str, Any], theirs: Any, n_vocab: int) -> None:
    (ours,) = build_processors(GenerationConfig(do_sample=True, **{"top_k": None} | options), OPS)
    for seed in range(5):
        random = np.random.default_rng(seed)
        logits = random.normal(0, 4, (1, n_vocab)).astype(np.float32)
        ids = random.integers(0, n_vocab, 13).tolist()
        expected = theirs()(torch.tensor([ids]), torch.tensor(logits)).numpy()
        result = ours(ids, Tensor(logits)).numpy()
        np.testing.assert_array_equal(np.isneginf(result), np.isneginf(expected))
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_the_whole_chain_equals_that_of_transformers() -> None:
    options = {"repetition_penalty": 1.2, "temperature": 0.6, "top_k": 40, "top_p": 0.8, "min_p": 0.03}
    processors = build_processors(GenerationConfig(do_sample=True, **options), OPS)  # type: ignore[arg-type]
    theirs = [
        hf.RepetitionPenaltyLogitsProcessor(1.2),
        hf.TemperatureLogitsWarper(0.6),
        hf.TopKLogitsWarper(40),
        hf.TopPLogitsWarper(0.8),
        hf.MinPLogitsWarper(0.03),
    ]
    random = np.random.default_rng(8)
    logits = random.normal(0, 3, (1, 997)).astype(np.float32)
    ids = random.integers(0, 997, 50).tolist()
    row, expected = Tensor(logits), torch.tensor(logits)
    for ours, other in zip(processors, theirs, strict=True):
        row, expected = cast("Tensor", ours(ids, row)), other(torch.tensor([ids]), expected)
    result = row.numpy()
    np.testing.assert_array_equal(np.isneginf(result), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-6)
    assert 1 < (result > -math.inf).sum() < 40
