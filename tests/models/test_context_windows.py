"""The window that a checkpoint declares, the one that a decoder runs with, and what is written out again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fanlight.checkpoints.gguf import open_gguf
from fanlight.checkpoints.safetensors import open_folder
from fanlight.errors import OptionError
from fanlight.kernels import native
from fanlight.models.architecture import write_hf_config
from fanlight.models.registry import architecture_of, build_decoder
from models import tiny
from models.gguf_twin import twin
from models.passes import every_way, forward
from models.zoo import ZOO
from models.zoo_others import longrope, phi3

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fanlight.models.base import Decoder

TOLERANCE = 2e-5  # of the range of the logits
N_ORIGINAL, N_CTX = 70, 131
RANDOM = np.random.default_rng(10)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (131, 71, 99)]  # longer than the original window


def decoder_of(path: Path, **options: Any) -> Decoder:
    checkpoint = open_gguf(path) if path.is_file() else open_folder(path)
    config = checkpoint.metadata if path.is_file() else json.loads((path / "config.json").read_text())
    return build_decoder(checkpoint, config, native, **options)[0]


def worst(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> float:
    """The largest error as a part of the range."""
    return max(float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_longer_window_takes_the_long_factors(tmp_path: Path, form: str) -> None:
    theirs = phi3(**longrope(N_ORIGINAL, N_CTX))
    path = tiny.write_folder(tmp_path / "tiny", theirs)
    path = path if form == "folder" else twin(tmp_path / "tiny.gguf", path)
    expected = tiny.logits_of(theirs, PROMPTS)
    for way, found in every_way(decoder_of(path, n_ctx=N_CTX), PROMPTS).items():
        assert worst(found, expected) <= TOLERANCE, way


@pytest.mark.parametrize("form", ["folder", "file"])
def test_without_a_wish_the_window_is_that_of_the_short_factors(tmp_path: Path, form: str) -> None:
    theirs = phi3(**longrope(N_ORIGINAL, N_CTX))
    path = tiny.write_folder(tmp_path / "tiny", theirs)
    path = path if form == "folder" else twin(tmp_path / "tiny.gguf", path)
    decoder = decoder_of(path)
    assert (decoder.config.n_ctx, decoder.config.n_ctx_declared) == (N_ORIGINAL, N_CTX)
    short = [ids[:N_ORIGINAL] for ids in PROMPTS]
    assert worst(forward(decoder, short), tiny.logits_of(theirs, short)) <= TOLERANCE
    with pytest.raises(OptionError, match=f"n_ctx must be from 1 to {N_CTX}"):
        decoder_of(path, n_ctx=N_CTX + 1)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox", "llama, dynamic rotation"])
def test_a_shorter_window_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    theirs = ZOO[name]()
    decoder = decoder_of(tiny.write_folder(tmp_path / "tiny", theirs), n_ctx=33)
    assert decoder.config.n_ctx == 33
    short = [ids[:33] for ids in PROMPTS]
    assert worst(forward(decoder, short), tiny.logits_of(theirs, short)) <= TOLERANCE


@pytest.mark.parametrize("name", ZOO)
def test_transformers_reads_the_written_config_as_the_same_model(tmp_path: Path, name: str) -> None:
    theirs = ZOO[name]()
    folder = tiny.write_folder(tmp_path / "tiny", theirs)
    config = decoder_of(folder, n_ctx=17).config  # how it was opened must not matter
    written = {"pad_token_id": None, **write_hf_config(architecture_of(config.model_type), config)}
    (folder / "config.json").write_text(json.dumps(written))
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert again.config.max_position_embeddings == theirs.config.max_position_embeddings
    assert worst(tiny.logits_of(again, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= TOLERANCE
    assert decoder_of(folder, n_ctx=17).config == config
