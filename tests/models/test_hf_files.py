"""What transformers reads for Fanlight: types, reports, silence, and typed refusals of what it cannot run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from fanlight.errors import CheckpointError, MissingExtra, OptionError
from fanlight.kernels import load_ops
from fanlight.models.hf import HFDecoder, load_hf
from models import tiny
from models.hf_tiny import LLAMA_LIKE, random_model

if TYPE_CHECKING:
    from pathlib import Path

OPS = load_ops("reference")


def logits_after(decoder: HFDecoder, ids: list[int]) -> Any:
    pool = decoder.new_pool()
    return decoder.forward(ids, pool.batch([[pool.allocate()]], [0], [len(ids)]), [len(ids) - 1]).numpy()[0]


def test_types_are_kept_or_widened_as_asked(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"), "BF16")
    wide, report = load_hf(folder, OPS)
    assert set(report.dtypes) == {"BF16"}
    assert report.conversions == [f"{len(load_file(folder / 'model.safetensors'))} arrays: BF16 -> F32"]
    half, kept = load_hf(folder, OPS, "cpu", "BF16")
    assert kept.conversions == []
    assert 2 * kept.packed_bytes == report.packed_bytes
    assert half.new_pool().page_bytes < wide.new_pool().page_bytes
    expected, found = logits_after(wide, [5, 6, 7]), logits_after(half, [5, 6, 7])
    assert 0 < abs(found - expected).max() < 0.05 * (expected.max() - expected.min())


def test_reading_and_running_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny.write_folder(tmp_path, random_model("mamba"))
    capfd.readouterr()
    decoder, _ = load_hf(folder, OPS)
    logits_after(decoder, [5, 6, 7])
    assert capfd.readouterr() == ("", "")


def change_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    weights: dict[str, Any] = {**load_file(folder / "model.safetensors"), **change}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_array_without_use_is_reported(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"))
    change_weights(folder, {"transformer.more": torch.ones(3)})
    assert load_hf(folder, OPS)[1].unread == ["transformer.more"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.h.1.mlp.dense_h_to_4h.weight": None}, r"missing: .transformer.h.1.mlp.dense_h_to_4h.weight"),
        ({"transformer.ln_f.weight": torch.ones(47)}, r"ln_f.weight. has shape \(47,\), expected \(48,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"))
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_hf(folder, OPS)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"))
    (folder / "own.py").write_text("raise SystemExit('code of the model ran')\n")
    change_config(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    with pytest.raises(CheckpointError, match="transformers does not load it"):
        load_hf(folder, OPS)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        load_hf(folder, OPS)


def test_a_model_to_which_something_must_be_added_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model("bloom"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge"):
        load_hf(folder, OPS)


def test_models_that_do_not_write_from_left_to_right_are_refused(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 101,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 28,
    }
    BertLMHeadModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    t5 = T5Config(vocab_size=101, d_model=24, d_kv=4, d_ff=28, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    for name, message in (("bert", "both directions"), ("t5", "an encoder with a decoder")):
        with pytest.raises(CheckpointError, match=message):
            load_hf(tmp_path / name, OPS)
    with pytest.raises(CheckpointError, match="change with the token after it"):
        HFDecoder(random_model("xlnet", d_model=24, n_layer=1, n_head=2, d_inner=28), ops=OPS)


def test_a_model_that_keeps_its_state_inside_is_refused() -> None:
    sizes = {**LLAMA_LIKE, "num_hidden_layers": 3, "attention_window_size": 16, "lru_width": 48}
    with pytest.raises(CheckpointError, match="state"):
        HFDecoder(random_model("recurrent_gemma", **sizes), ops=OPS)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "meta", "abacus"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(OptionError, match="there is cpu"):
        HFDecoder(random_model("bloom"), ops=OPS, device=device)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(OptionError, match="it can be F32, F16, BF16"):
        HFDecoder(random_model("bloom"), ops=OPS, dtype="int8")


def test_missing_libraries_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fanlight\[hf\]'"):
        load_hf(tmp_path, OPS)
