"""Models go out as folders and GGUF files, and come back, and into transformers, as what they were."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import fanlight
from fanlight.errors import CheckpointError, FanlightError, OptionError
from fanlight.sources import find_model
from models import tiny
from models.test_gguf_twins import NOT_SAID
from models.zoo import ZOO
from models.zoo_gemmas import UNSAYABLE

if TYPE_CHECKING:
    from pathlib import Path

IDS = np.random.default_rng(3).integers(0, tiny.N_VOCAB, 40).tolist()


@pytest.mark.parametrize("name", ZOO)
def test_a_folder_written_again_gives_transformers_the_same_logits(tmp_path: Path, name: str) -> None:
    model = ZOO[name]()
    source = tiny.write_folder(tmp_path / "source", model)
    (expected,) = tiny.logits_of(model, [IDS])
    fanlight.export(source, tmp_path / "again")
    (found,) = tiny.logits_of_folder(tmp_path / "again", [IDS])
    assert np.abs(found - expected).max() <= 1e-6 * float(expected.max() - expected.min())  # its GELU has two spellings
    assert np.array_equal(fanlight.load(tmp_path / "again").logits(IDS), fanlight.load(source).logits(IDS))


@pytest.mark.parametrize("name", [name for name in ZOO if name not in NOT_SAID and not name.startswith("opt")])
def test_through_a_gguf_file_and_back(tmp_path: Path, name: str) -> None:
    source = tiny.write_folder(tmp_path / "source", ZOO[name]())
    ours = fanlight.load(source)
    fanlight.export(source, tmp_path / "model.gguf")
    there = fanlight.load(tmp_path / "model.gguf")
    expected = ours.logits(IDS)
    span = float(expected.max() - expected.min())
    assert np.abs(there.logits(IDS) - expected).max() <= 1e-5 * span  # scaled rotations are stored in float32
    assert there.describe().unread == ()
    assert there.tokenizer.encode("in the there") == ours.tokenizer.encode("in the there")
    assert there.tokenizer.eos_ids == ours.tokenizer.eos_ids
    fanlight.export(tmp_path / "model.gguf", tmp_path / "back")
    assert np.abs(fanlight.load(tmp_path / "back").logits(IDS) - expected).max() <= 1e-5 * span
    (found,) = tiny.logits_of_folder(tmp_path / "back", [IDS])
    assert np.abs(found - expected).max() <= 2e-5 * span


@pytest.mark.parametrize("name", [*NOT_SAID, "opt"])
def test_what_gguf_cannot_say_is_refused_or_said(tmp_path: Path, name: str) -> None:
    source = tiny.write_folder(tmp_path / "source", ZOO[name]())
    if "window" in name and "own layers" not in name and name not in UNSAYABLE:  # exact within one window
        report = fanlight.export(source, tmp_path / "model.gguf")
        window = max(fanlight.load(source).decoder.config.windows)
        assert f"context_length is {window}" in report.notes[0]
        there = fanlight.load(tmp_path / "model.gguf")
        assert there.decoder.config.n_ctx == window
        ids = IDS[:window]
        assert np.array_equal(there.logits(ids), fanlight.load(source).logits(ids))
        return
    with pytest.raises(CheckpointError) as caught:
        fanlight.export(source, tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("dtype", "torch_type"), [("f16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)]
)
def test_types_of_a_folder(tmp_path: Path, dtype: str, torch_type: torch.dtype) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.gpt2())
    report = fanlight.export(source, tmp_path / "there", dtype=dtype)
    assert set(report.dtypes) == {dtype.upper()}
    assert AutoConfig.from_pretrained(tmp_path / "there").dtype == torch_type
    there = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    ours = AutoModelForCausalLM.from_pretrained(source).to(torch_type)
    assert all(torch.equal(a, b) for a, b in zip(there.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_1", "q4_0"])
def test_types_of_a_gguf_file(tmp_path: Path, dtype: str) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.llama(hidden_size=96, intermediate_size=160, head_dim=32))
    report = fanlight.export(source, tmp_path / "there.gguf", dtype=dtype)
    assert set(report.dtypes) == {dtype.upper(), "F32"}  # norms stay
    there = fanlight.load(tmp_path / "there.gguf")
    assert set(there.describe().stored_bytes) == set(report.dtypes)
    expected = np.array(fanlight.load(source).logits(IDS))
    assert np.corrcoef(there.logits(IDS).ravel(), expected.ravel())[0, 1] > {
        "q8_0": 0.99,
        "q4_1": 0.7,
        "q4_0": 0.6,
    }.get(dtype, 0.999)


def test_ggufs_own_reader_finds_what_was_written(tmp_path: Path) -> None:
    fanlight.export(None, tmp_path / "there.gguf")
    ours, theirs = GGUFReader(tmp_path / "there.gguf"), GGUFReader(find_model())
    said = {name: (list(map(int, field.types)), field.contents()) for name, field in theirs.fields.items()}
    kept = [
        name for name in said if name.startswith(("llama.", "tokenizer.ggml", "tokenizer.chat")) and name in ours.fields
    ]
    assert len(kept) > 20
    for name in kept:
        field = ours.fields[name]
        assert list(map(int, field.types)) == said[name][0], name
        if name != "tokenizer.ggml.token_type":
            assert field.contents() == said[name][1], name
    arrays = {tensor.name: tensor for tensor in ours.tensors}
    for tensor in theirs.tensors:
        assert arrays[tensor.name].tensor_type == tensor.tensor_type
        assert np.array_equal(arrays[tensor.name].data, tensor.data)
        assert list(arrays[tensor.name].shape) == list(tensor.shape)


def test_the_default_model_in_transformers(tmp_path: Path) -> None:
    """The quantised GGUF as a folder: transformers' own reading of the GGUF file gives the same logits and the same ids."""
    fanlight.export(None, tmp_path / "there")
    file = find_model()
    text = "The keeper of the lighthouse said: <|im_start|> \u00e9t\u00e9 \U0001f389\n\n  12345"
    there, tokenizer = load(tmp_path / "there"), AutoTokenizer.from_pretrained(tmp_path / "there")
    ours = fanlight.load()
    assert tokenizer(text, split_special_tokens=True).input_ids == list(ours.tokenizer.encode(text))
    chat = [{"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == list(ours.chat_ids(chat))
    ids = torch.tensor([ours.tokenizer.encode(text)])
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        found, expected = there(ids).logits[0], theirs(ids).logits[0]
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.max() - expected.min())


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_settings_go_along(tmp_path: Path) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.gpt2())
    said = {"do_sample": True, "temperature": 0.5, "top_p": 0.75, "eos_token_id": tiny.EOS}
    (source / "generation_config.json").write_text(json.dumps(said))
    wanted = fanlight.load(source).defaults.values
    for target in ("there.gguf", "there"):
        fanlight.export(source, tmp_path / target)
        assert fanlight.load(tmp_path / target).defaults.values == wanted


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.gpt2())
    (tmp_path / "file").write_text("x")
    for target in ("file/model.gguf", "file/folder", "source", "file", "no/such/folder/model.gguf"):
        with pytest.raises(FanlightError) as caught:
            fanlight.export(source, tmp_path / target)
        assert str(tmp_path / target).split("/model.gguf")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source"]
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.gpt2())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for target in ("model.gguf", "folder"):
        with pytest.raises(CheckpointError, match="No space left"):
            fanlight.export(source, tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("target", "dtype"), [("x", "q8_0"), ("x.gguf", "q5_k"), ("x", ""), ("x.gguf", "F32")])
def test_types_that_are_none(tmp_path: Path, target: str, dtype: str) -> None:
    source = tiny.write_folder(tmp_path / "source", tiny.gpt2())
    with pytest.raises(OptionError, match="can have"):
        fanlight.export(source, tmp_path / target, dtype=dtype)
