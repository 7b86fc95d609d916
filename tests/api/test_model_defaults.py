"""A model's own settings count where a caller says nothing; the window and the types are the caller's to choose."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import fanlight
from fanlight import GenerationConfig
from fanlight.errors import CheckpointError, ContextOverflow, OptionError
from models import tiny
from models.closeness import kl_divergence

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tiny.write_folder(tmp_path / "tiny", tiny.gpt2())
    said = {
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.8,
        "eos_token_id": tiny.EOS,
        "encoder_no_repeat_ngram_size": 3,
    }
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


def test_precedence(folder: Path) -> None:
    model = fanlight.load(folder)
    assert model.defaults.values == {"do_sample": True, "temperature": 0.5, "top_p": 0.8}
    out = model.generate("a", max_new_tokens=2, temperature=0.9)
    assert (out.config.do_sample, out.config.temperature, out.config.top_p) == (True, 0.9, 0.8)
    out = model.generate("a", GenerationConfig(max_new_tokens=2))
    assert (out.config.do_sample, out.config.temperature) == (False, 1.0)
    assert model.settings() == GenerationConfig(do_sample=True, temperature=0.5, top_p=0.8)


def test_what_is_not_applied_is_in_the_notes(folder: Path) -> None:
    (note,) = fanlight.load(folder).generate("a", max_new_tokens=1).notes
    assert "generation_config.json asks for encoder_no_repeat_ngram_size 3" in note


def test_a_damaged_file_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": -3}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: temperature"):
        fanlight.load(folder)


def test_a_shorter_window(folder: Path) -> None:
    model = fanlight.load(folder, n_ctx=9)
    assert model.describe().n_ctx == 9
    with pytest.raises(ContextOverflow, match=r"10.*9"):
        model.generate([1] * 10)
    same = fanlight.load(folder).logits([5, 6, 7])
    assert (model.logits([5, 6, 7]) == same).all()


@pytest.mark.parametrize("n_ctx", [0, -1, 132, 2.5, True, "9"])
def test_windows_that_the_model_has_not(folder: Path, n_ctx: object) -> None:
    with pytest.raises(OptionError, match="n_ctx must be"):
        fanlight.load(folder, n_ctx=n_ctx)  # type: ignore[arg-type]


def test_a_type_to_quantize_to_that_is_none(folder: Path) -> None:
    with pytest.raises(OptionError, match="q8_0 or q4_1"):
        fanlight.load(folder, quantize="q9")


@pytest.mark.parametrize(("quantize", "dtype"), [("q8_0", "Q8_0"), ("q4_1", "Q4_1")])
def test_float_weights_are_quantized_on_the_way_in(tmp_path: Path, quantize: str, dtype: str) -> None:
    folder = tiny.write_folder(tmp_path / "tiny", tiny.gpt2(n_embd=96, n_inner=256))
    plain, packed = fanlight.load(folder), fanlight.load(folder, quantize=quantize)
    assert packed.describe().packed_bytes < 0.4 * plain.describe().packed_bytes
    (line,) = packed.describe().conversions
    assert line == f"10 arrays: F32 -> {dtype} (as asked for)"
    ids = list(range(1, 60))
    expected, found = plain.logits(ids), packed.logits(ids)
    assert not (expected == found).all()
    assert kl_divergence(expected, found) < (1.0 if dtype == "Q4_1" else 0.03)


def test_what_cannot_be_quantized_stays_and_is_not_said_to_be(folder: Path) -> None:
    about = fanlight.load(folder, quantize="q8_0").describe()  # rows of 36 weights are no whole blocks
    assert about.conversions == ()
