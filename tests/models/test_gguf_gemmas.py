"""GGUF files of Gemma 2, Gemma 3 and OLMo 2: the logits of their folders, or a refusal where the format has no word."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map
from transformers import AutoModelForCausalLM

import fanlight
from fanlight.errors import CheckpointError
from models import tiny
from models.gguf_twin import twin
from models.passes import forward
from models.test_gguf_parity import PROMPTS, worst
from models.zoo_gemmas import FULL, GEMMAS, SLIDING, UNSAYABLE, gemma2, gemma3, olmo2
from models.zoo_llamas import scaled

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

SAYABLE = {name: make for name, make in GEMMAS.items() if name not in UNSAYABLE} | {
    "gemma2, linear rotation": partial(gemma2, **scaled("linear", factor=2.5)),
    "gemma2 of 27B": partial(gemma2, num_hidden_layers=46, query_pre_attn_scalar=8),
    "gemma3 with a cap": partial(gemma3, final_logit_softcapping=6.0),
    "gemma3 of 27B": partial(gemma3, num_hidden_layers=62, query_pre_attn_scalar=8),
}


def written(folder: Path, model: PreTrainedModel, **overrides: Any) -> Path:
    """A GGUF file beside the folder of the same model."""
    return twin(folder / "tiny.gguf", tiny.write_folder(folder / "tiny", model), **overrides)


@pytest.mark.parametrize("case", SAYABLE)
def test_a_file_gives_the_logits_of_its_folder(tmp_path: Path, case: str) -> None:
    theirs = SAYABLE[case]()
    model = fanlight.load(written(tmp_path, theirs), kernels="native")
    folder = fanlight.load(tmp_path / "tiny", kernels="native")
    assert model.describe().unread == ()
    assert worst(forward(model.decoder, PROMPTS), forward(folder.decoder, PROMPTS)) <= 1e-6


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_a_file_cannot_say_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(CheckpointError, match=f"has {UNSAYABLE[case]}|{UNSAYABLE[case]},"):
        written(tmp_path, GEMMAS[case]())


@pytest.mark.parametrize("make", [gemma2, gemma3, olmo2])
def test_names_and_values_are_those_of_the_gguf_package(tmp_path: Path, make: Any) -> None:
    """Norms of Gemma are stored as 1 + w."""
    theirs = make()
    reader = GGUFReader(written(tmp_path, theirs))
    kind = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == kind)
    names = get_tensor_name_map(arch, theirs.config.num_hidden_layers)
    expected = {}
    for name, values in theirs.state_dict().items():
        if name != "lm_head.weight" or not theirs.config.tie_word_embeddings:
            shift = 1.0 if kind != "olmo2" and name.endswith("norm.weight") else 0.0
            expected[names.get_name(name, try_suffixes=(".weight",))] = values.numpy() + np.float32(shift)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("make", [gemma2, gemma3])
def test_transformers_reads_the_same_from_a_file(tmp_path: Path, make: Any) -> None:
    """It knows neither caps nor scale from the file, so these are its defaults here: 50, 30 (Gemma 3: none) and 256."""
    path = written(tmp_path, make(head_dim=256, query_pre_attn_scalar=256))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    assert worst(forward(fanlight.load(path).decoder, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= 2e-5


@pytest.mark.parametrize(
    ("make", "pattern", "layers"),
    [
        (gemma2, None, [1, 0, 1, 0]),
        (gemma2, 3, [1, 1, 0, 1]),
        (gemma2, 0, [1, 1, 1, 1]),
        (gemma3, None, [1, 1, 1, 1, 1, 0, 1]),
        (gemma3, 4, [1, 1, 1, 0, 1, 1, 1]),
    ],
)
def test_which_layers_have_a_window(tmp_path: Path, make: Any, pattern: int | None, layers: list[int]) -> None:
    theirs = make(layer_types=[SLIDING if flag else FULL for flag in layers])
    path = written(tmp_path, theirs)
    key = f"{'gemma2' if make is gemma2 else 'gemma3'}.attention.sliding_window_pattern"
    assert (int(GGUFReader(path).fields[key].parts[-1][0]) if key in GGUFReader(path).fields else None) == pattern
    assert fanlight.load(path).decoder.config.windows == tuple(17 * flag for flag in layers)


def test_a_flag_for_each_layer_is_understood(tmp_path: Path) -> None:
    """As newer converters write it."""
    flags = [True, True, False, False]
    path = written(tmp_path, gemma2(), **{"attention.sliding_window_pattern": flags})
    assert fanlight.load(path).decoder.config.windows == (17, 17, 0, 0)


def test_missing_keys_mean_what_llama_cpp_takes(tmp_path: Path) -> None:
    """The first files of Gemma 2 had none of these."""
    keys = ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window")
    config = fanlight.load(written(tmp_path, gemma2(), **dict.fromkeys(keys))).decoder.config
    assert (config.attn_softcap, config.logit_softcap, config.windows) == (50.0, 30.0, (4096, 0, 4096, 0))


@pytest.mark.parametrize(
    ("make", "key", "value", "message"),
    [
        (gemma2, "attention.sliding_window_pattern", "2", "is '2'; expected a whole number, or true or false"),
        (gemma2, "attention.sliding_window_pattern", [True] * 3, "3 entries of windows, expected one for each of 4"),
        (gemma3, "attention.value_length", 11, "value_length is 11"),
        (olmo2, "attention.sliding_window", 16, "sliding_window is 16"),  # OLMo 3
    ],
)
def test_other_metadata_are_refused(tmp_path: Path, make: Any, key: str, value: Any, message: str) -> None:
    path = written(tmp_path, make(), **{key: value})
    with pytest.raises(CheckpointError, match=message):
        fanlight.load(path)
