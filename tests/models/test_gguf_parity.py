"""GGUF files give the logits of the model they were made from: exactly in float types, closely in block types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import fanlight
from models import tiny
from models.closeness import kl_divergence, same_top
from models.passes import every_way, forward

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(8)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (131, 1, 33, 65)]
WHOLE_BLOCKS = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 16}  # rows of 32 n


def worst(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> float:
    """The largest error as a part of the range."""
    return max(float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_float_files_give_the_logits_of_transformers(tmp_path: Path, dtype: str, tied: bool, kernels: str) -> None:
    theirs = tiny.rounded(tiny.llama(tie_word_embeddings=tied), dtype)
    model = fanlight.load(tiny.write_gguf(tmp_path / "tiny.gguf", theirs, dtype), kernels=kernels)
    assert model.describe().tied_head is tied
    expected = tiny.logits_of(theirs, PROMPTS)
    for way, found in every_way(model.decoder, PROMPTS).items():
        assert worst(found, expected) <= 2e-5, way


def test_a_file_and_a_folder_of_one_model_are_equal(tmp_path: Path) -> None:
    """The same bits: a GGUF file's rows of q and k come back into the folder's order."""
    theirs = tiny.llama()
    file = fanlight.load(tiny.write_gguf(tmp_path / "tiny.gguf", theirs))
    folder = fanlight.load(tiny.write_folder(tmp_path / "tiny", theirs))
    for ids in PROMPTS:
        assert np.array_equal(file.logits(ids), folder.logits(ids))
    assert file.describe().n_parameters == folder.describe().n_parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1"])
def test_block_files_are_close_to_transformers_on_the_same_weights(tmp_path: Path, dtype: str) -> None:
    """Close, not equal: activations are rounded to int8, in the native kernels and in the reference alike."""
    theirs = tiny.rounded(tiny.llama(**WHOLE_BLOCKS), dtype)
    path = tiny.write_gguf(tmp_path / "tiny.gguf", theirs, dtype)
    expected = np.concatenate(tiny.logits_of(theirs, PROMPTS))
    models = [fanlight.load(path, kernels=kernels) for kernels in ("native", "reference")]
    native, reference = (np.concatenate(forward(model.decoder, PROMPTS)) for model in models)
    assert set(models[0].describe().stored_bytes) == {dtype, "F32"}
    for found in (native, reference):
        assert kl_divergence(expected, found) <= 0.02
        assert same_top(expected, found) >= 0.85
    errors = np.abs(native - reference).max(axis=1) / np.ptp(expected)
    assert np.median(errors) <= 1e-6
    assert np.quantile(errors, 0.9) <= 0.01  # an activation on the edge of two integers moves the rest of its row


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_way_changes_no_bit(tmp_path: Path, dtype: str) -> None:
    model = fanlight.load(tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(**WHOLE_BLOCKS), dtype), kernels="native")
    first, *others = (np.concatenate(found) for found in every_way(model.decoder, PROMPTS).values())
    for other in others:
        assert np.array_equal(first, other)


def test_types_may_differ_from_matrix_to_matrix(tmp_path: Path) -> None:
    """As in the default model: here q, k and v too, which share one packed matrix."""
    theirs = tiny.llama(**WHOLE_BLOCKS, tie_word_embeddings=False)
    mixed = {
        "blk.0.attn_k.weight": "Q8_0",
        "blk.1.attn_v.weight": "F16",
        "blk.1.ffn_up.weight": "Q4_1",
        "output.weight": "BF16",
    }
    path = tiny.write_gguf(tmp_path / "tiny.gguf", theirs, "Q8_0", types={**mixed, "token_embd.weight": "F32"})
    model = fanlight.load(path)
    assert set(model.describe().stored_bytes) == {"Q8_0", "F16", "Q4_1", "BF16", "F32"}
    assert not model.describe().conversions  # every part keeps its type
    expected = np.concatenate(tiny.logits_of(theirs, PROMPTS))
    assert kl_divergence(expected, np.concatenate(forward(model.decoder, PROMPTS))) <= 0.05
