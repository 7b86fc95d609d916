"""A beginning on disk: what goes on from it is what goes on from the text itself; another model, or a damaged file, is refused."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.errors import CheckpointError, ContextOverflow, OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from fanlight import Model

RULES = "You are a patient gardener. You answer in short sentences, and you never speak of anything but plants. " * 6
LIVE = {"max_new_tokens": 8, "candidates": 3}


def fresh(smollm: Model, **options: Any) -> Model:
    """The same model, which has computed nothing yet."""
    from fanlight.api import Model

    return Model(smollm._parts, **options)


@pytest.mark.parametrize("cache_type", [None, "f32", "int8"])
def test_a_text_goes_on_from_a_file_as_from_the_text(smollm: Model, tmp_path: Path, cache_type: str | None) -> None:
    path = tmp_path / "rules.safetensors"
    plain = fresh(smollm, cache_type=cache_type).generate(RULES + "Roses", **LIVE)
    n_bytes = fresh(smollm, cache_type=cache_type).save_prefix(path, RULES)
    assert path.stat().st_size == n_bytes
    model = fresh(smollm, cache_type=cache_type)
    ids = model.load_prefix(path)
    assert ids == smollm.prompt_ids(RULES)
    out = model.generate(RULES + "Roses", **LIVE)
    assert out.usage.n_reused >= len(ids) - 1  # the last token may be another one with what follows
    assert out.ids == plain.ids
    assert [step.record for step in out.steps] == [step.record for step in plain.steps]


def test_the_file_can_be_read_by_anyone(smollm: Model, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "rules.safetensors"
    fresh(smollm).save_prefix(path, RULES)
    arrays = load_file(path)
    n, sizes = len(smollm.prompt_ids(RULES)), smollm.decoder.config
    assert arrays["ids"].tolist() == list(smollm.prompt_ids(RULES))
    assert arrays["keys"].shape == arrays["values"].shape == (sizes.n_layer, sizes.n_kv_head, n, sizes.head_dim)


def rewritten(path: Path, change: dict[str, str]) -> Path:
    """The same file with other words in its header."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    header["__metadata__"].update(change)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    other = path.with_name("other.safetensors")
    other.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + n :])
    return other


def test_another_models_file_and_damaged_ones_are_refused(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "rules.safetensors"
    model = fresh(smollm)
    model.save_prefix(path, RULES)
    for change, words in (
        ({"model": "0" * 64}, "another model's file"),
        ({"kernels": "other"}, "other kernels"),
        ({"cache_type": "F32"}, "another cache_type"),
        ({"version": "2"}, "a prefix of version '2', this Fanlight reads version 1"),
        ({"format": "pt"}, "no prefix that Fanlight saved"),
    ):
        with pytest.raises(CheckpointError, match=words):
            model.load_prefix(rewritten(path, change))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"incomplete|damaged"):
        model.load_prefix(cut)
    with pytest.raises(CheckpointError, match="missing"):
        model.load_prefix(tmp_path / "missing.safetensors")
    assert model.generate("Hello", max_new_tokens=2).ids == smollm.generate("Hello", max_new_tokens=2).ids


def test_what_does_not_fit_says_so_with_numbers(smollm: Model, tmp_path: Path) -> None:
    path = tmp_path / "rules.safetensors"
    fresh(smollm).save_prefix(path, RULES)
    page_bytes = smollm.decoder.new_pool().page_bytes
    small = fresh(smollm, prefix_bytes=page_bytes)
    n = len(smollm.prompt_ids(RULES))
    for ask in (lambda: small.load_prefix(path), lambda: small.save_prefix(path, RULES)):
        with pytest.raises(
            OptionError, match=f"{n} tokens take.* {-(-n // 64) * page_bytes} bytes, .* {page_bytes}: load"
        ):
            ask()
    with pytest.raises(OptionError, match="prefix_bytes allows 0"):
        fresh(smollm, prefix_bytes=0).save_prefix(path, RULES)
    with pytest.raises(ContextOverflow):
        fresh(smollm).save_prefix(path, [1] * 9000)
    with pytest.raises(CheckpointError, match="cannot be written"):
        fresh(smollm).save_prefix(tmp_path / "no" / "folder", RULES)
