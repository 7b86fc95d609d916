"""Every architecture, and every switch that it has, gives transformers' logits, however the ids reach the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from models import tiny
from models.passes import every_way, forward
from models.zoo import ZOO

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 2e-5  # of the range of the logits; 2e-4 is what is promised
RANDOM = np.random.default_rng(7)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (131, 1, 33, 64)]  # a page holds 64


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder, and transformers' logits of the prompts."""
    model = ZOO[request.param]()
    folder = tiny.write_folder(tmp_path_factory.mktemp("checkpoint"), model)
    return folder, tiny.logits_of(model, PROMPTS)


def assert_close(found: list[Any], expected: list[Any], what: str) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        worst = float(np.abs(ours - theirs).max()) / float(theirs.max() - theirs.min())
        assert worst <= TOLERANCE, f"{len(ours)} ids {what}: {worst:.2g} of the range"


def test_logits_equal_those_of_transformers(case: tuple[Path, list[Any]]) -> None:
    folder, expected = case
    model = fanlight.load(folder, kernels="native")
    assert len(set(expected[0].argmax(axis=1))) > 10, "logits that hardly vary would hide a mistake"
    assert model.describe().unread == ()
    for way, found in every_way(model.decoder, PROMPTS).items():
        assert_close(found, expected, way)


def test_reference_kernels_too(case: tuple[Path, list[Any]]) -> None:
    folder, expected = case
    decoder = fanlight.load(folder, kernels="reference").decoder
    assert_close(forward(decoder, PROMPTS[1:]), expected[1:], "with the reference kernels")
