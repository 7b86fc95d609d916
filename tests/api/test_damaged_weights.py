"""Weights that are NaN or infinite are named: at load where rounding would hide them, else with the first logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fanlight
from cli.conftest import fanlight_process
from fanlight.checkpoints.gguf import open_gguf
from fanlight.errors import CheckpointError, NumericError
from fanlight.sources import find_model
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

VALUES = [float("nan"), float("inf"), float("-inf")]


def damaged_folder(folder: Path, tensor: str, place: tuple[int, ...], value: float, **sizes: Any) -> Path:
    tiny.write_folder(folder, tiny.gpt2(**sizes))
    weights = load_file(folder / "model.safetensors")
    weights[tensor][place] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("transformer.h.1.mlp.c_fc.weight", (5, 17)),
        ("transformer.h.0.ln_1.weight", (3,)),
        ("transformer.h.0.attn.c_attn.bias", (40,)),
        ("transformer.wte.weight", (66, 7)),
    ],
)
@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_float_model_is_refused_at_load(
    tmp_path: Path, tensor: str, place: tuple[int, ...], value: float, kernels: str
) -> None:
    folder = damaged_folder(tmp_path / "m", tensor, place, value)
    with pytest.raises(CheckpointError) as caught:
        fanlight.load(folder, kernels=kernels)
    what = "NaN" if np.isnan(value) else "infinity"
    assert f"tensor {tensor!r} holds {what} (weight {list(place)})" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_halves_too(tmp_path: Path, dtype: str) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[3, 4] = float("nan")
    folder = tiny.write_folder(tmp_path / "m", model, dtype)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj\.weight' holds NaN \(weight \[3, 4\]\)"):
        fanlight.load(folder)


def test_doubles_that_do_not_fit_float32(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "m", tiny.gpt2())
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].double()
    weights["transformer.wte.weight"][2, 2] = 1e300
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="do not fit float32"):
        fanlight.load(folder)


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    folder = damaged_folder(tmp_path / "m", "transformer.ln_f.weight", (1,), float("nan"))
    ran = fanlight_process("generate", "-m", str(folder), "abc")
    assert ran.code == 2
    assert "'transformer.ln_f.weight' holds NaN" in ran.error


def test_logits_that_are_none_of_sound_weights_say_so(tmp_path: Path) -> None:
    model = tiny.gpt2()
    with torch.no_grad():
        for block in model.transformer.h:
            block.mlp.c_fc.weight *= 1e25
            block.mlp.c_proj.weight *= 1e25
    with pytest.raises(NumericError, match="NaN"):
        fanlight.load(tiny.write_folder(tmp_path / "m", model)).generate("abc")


@pytest.mark.parametrize("quantize", ["q8_0", "q4_1"])
@pytest.mark.parametrize("value", VALUES)
def test_quantizing_does_not_hide_it(tmp_path: Path, quantize: str, value: float) -> None:
    folder = damaged_folder(tmp_path / "m", "transformer.h.1.mlp.c_fc.weight", (5, 17), value, n_embd=96, n_inner=256)
    with pytest.raises(CheckpointError, match=r"'transformer\.h\.1\.mlp\.c_fc\.weight' holds"):
        fanlight.load(folder, quantize=quantize)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_quantised_file_is_refused_at_load(tmp_path: Path, kernels: str) -> None:
    raw = bytearray(find_model().read_bytes())
    array = open_gguf(find_model()).arrays["blk.17.ffn_up.weight"]
    start = raw.index(bytes(array.data[:4096]))
    at = start + 20 * 777
    raw[at : at + 2] = (0x7C00).to_bytes(2, "little")
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(
        CheckpointError, match=r"model\.gguf: tensor 'blk\.17\.ffn_up\.weight' holds infinity \(a block's scale"
    ):
        fanlight.load(path, kernels=kernels)
