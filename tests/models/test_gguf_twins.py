"""The GGUF file of a model gives the logits of the model, here and in transformers' own reader of such files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import fanlight
from fanlight.errors import CheckpointError
from fanlight.models.architecture import GGUF, write_gguf_config
from fanlight.models.registry import MODEL_TYPES, architecture_of
from models import tiny
from models.closeness import kl_divergence
from models.gguf_twin import twin
from models.passes import forward
from models.zoo import ZOO
from models.zoo_gemmas import UNSAYABLE
from models.zoo_others import gpt_neox, phi3

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOLERANCE = 2e-5  # of the range of the logits
RANDOM = np.random.default_rng(9)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (131, 1, 33)]
NOT_SAID = {
    "mistral with a window": "its files are llama's, which know no window",
    "mistral with a window over a page": "so here",
    "qwen2 with windows above": "no key for windows",
    "qwen3 with biases and windows": "no key for windows",
    "smollm3 with its own layers and windows": "every fourth layer, by the architecture",
    "gpt2 with another activation": "GELU, by the architecture",
    "gpt_neox without attention biases, whole heads rotated": "GELU, by the architecture",
    **UNSAYABLE,
}
"""What the format has no words for."""
TWINS = [name for name in ZOO if name not in NOT_SAID and not name.startswith("opt")]
READ_BY_TRANSFORMERS = {
    "mistral without a window": True,
    "qwen2": True,
    "qwen2 tied": True,
    "qwen3": False,
    "gpt2": False,
    "phi3": False,
}
"""Whether its reader understands all keys of the file; of the other files it reads the arrays alone."""


def worst(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> float:
    """The largest error as a part of the range."""
    return max(float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", TWINS)
def test_logits_of_a_file_equal_those_of_the_folder(tmp_path: Path, name: str) -> None:
    theirs = ZOO[name]()
    model = fanlight.load(twin(tmp_path / "tiny.gguf", tiny.write_folder(tmp_path / "tiny", theirs)))
    assert model.describe().unread == ()
    assert worst(forward(model.decoder, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("model", [phi3, gpt_neox])
def test_fused_arrays_of_other_types(tmp_path: Path, model: Any, dtype: str) -> None:
    """Of block types not equal, but close, because activations are rounded; a row out of place costs whole nats."""
    theirs = tiny.rounded(model(hidden_size=96, intermediate_size=160), dtype)  # rows of 32 n
    path = twin(tmp_path / "tiny.gguf", tiny.write_folder(tmp_path / "tiny", theirs), dtype)
    found, expected = forward(fanlight.load(path).decoder, PROMPTS), tiny.logits_of(theirs, PROMPTS)
    if dtype == "F16":
        assert worst(found, expected) <= TOLERANCE
    assert kl_divergence(np.concatenate(expected), np.concatenate(found)) <= 0.05


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_file_as_the_same_model(tmp_path: Path, name: str) -> None:
    theirs = ZOO[name]()
    twin(tmp_path / "tiny.gguf", tiny.write_folder(tmp_path / "tiny", theirs))
    more = {} if READ_BY_TRANSFORMERS[name] else {"config": theirs.config}
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32, **more)
    assert worst(tiny.logits_of(again, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= TOLERANCE


def test_a_model_that_the_format_does_not_know_is_refused(tmp_path: Path) -> None:
    assert [kind for kind in MODEL_TYPES if GGUF not in architecture_of(kind).layouts] == ["opt"]
    config = fanlight.load(tiny.write_folder(tmp_path / "tiny", ZOO["opt"]())).decoder.config
    with pytest.raises(CheckpointError, match="GGUF has no form of opt; write a folder instead"):
        write_gguf_config(architecture_of("opt"), config)
