"""Configurations of Gemma 2, Gemma 3 and OLMo 2: sparse ones, ones with a vision part, refused ones, and written ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

import fanlight
from fanlight.errors import CheckpointError
from fanlight.models.architecture import write_hf_config
from fanlight.models.registry import architecture_of
from models import tiny
from models.passes import forward
from models.test_gguf_parity import PROMPTS, worst
from models.zoo_gemmas import GEMMAS, gemma2, gemma3, olmo2

if TYPE_CHECKING:
    from pathlib import Path

VISION = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}


def edit(folder: Path, **changes: Any) -> None:
    """config.json changed: None takes a key away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.fixture
def with_vision(tmp_path: Path) -> tuple[Path, Any]:
    text = gemma3(num_hidden_layers=2, query_pre_attn_scalar=256).config
    config = Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(**VISION, patch_size=4),
        mm_tokens_per_image=4,
        image_token_index=99,
        boi_token_index=97,
        eoi_token_index=98,
    )
    theirs = tiny.randomised(Gemma3ForConditionalGeneration, config)
    return tiny.write_folder(tmp_path / "tiny", theirs), theirs


def test_the_text_part_of_a_checkpoint_with_a_vision_part_is_read(with_vision: tuple[Path, Any]) -> None:
    folder, theirs = with_vision
    model = fanlight.load(folder)
    unread = model.describe().unread
    assert worst(forward(model.decoder, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= 2e-5
    assert {name.split(".")[0] for name in unread} == {"vision_tower", "multi_modal_projector"}
    assert model.describe().n_parameters + sum(
        p.numel() for name, p in theirs.named_parameters() if "language_model" not in name
    ) == sum(p.numel() for p in theirs.parameters())


def test_what_a_text_part_leaves_out_is_what_transformers_takes(with_vision: tuple[Path, Any]) -> None:
    """Published configurations hold few keys."""
    folder, _ = with_vision
    expected = fanlight.load(folder).decoder.config
    text = json.loads((folder / "config.json").read_text())["text_config"]
    gone = (
        "query_pre_attn_scalar",
        "hidden_activation",
        "layer_types",
        "tie_word_embeddings",
        "final_logit_softcapping",
    )
    edit(folder, text_config={key: value for key, value in text.items() if key not in gone}, tie_word_embeddings=None)
    assert fanlight.load(folder).decoder.config == expected


def test_older_words_mean_the_same(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, gemma3(num_hidden_layers=7))
    expected = fanlight.load(folder).decoder.config
    edit(folder, rope_parameters=None, layer_types=None, rope_theta=80000.0, rope_local_base_freq=10000.0)
    assert fanlight.load(folder).decoder.config == expected
    edit(folder, sliding_window_pattern=3)
    assert fanlight.load(folder).decoder.config.windows == (17, 17, 0, 17, 17, 0, 17)


def test_a_missing_cap_is_the_default_and_null_is_none(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, gemma2(attn_logit_softcapping=None, final_logit_softcapping=None))
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("attn_logit_softcapping", "_"))
    config = fanlight.load(folder).decoder.config
    assert (config.attn_softcap, config.logit_softcap) == (50.0, 0.0)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (gemma2, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        (gemma2, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        (gemma2, {"final_logit_softcapping": -3}, "final_logit_softcapping is -3"),
        (gemma2, {"layer_types": ["chunked_attention"] * 4, "sliding_window": 3}, "layer_types is"),
        (gemma3, {"attn_logit_softcapping": 50.0}, "Gemma 3 has none"),
        (gemma3, {"text_config": 7}, "text_config is 7; expected an object"),
        (gemma3, {"sliding_window_pattern": "6"}, "sliding_window_pattern is '6'"),
        (olmo2, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_what_is_not_implemented_is_refused(tmp_path: Path, make: Any, changes: dict[str, Any], message: str) -> None:
    folder = tiny.write_folder(tmp_path, make())
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        fanlight.load(folder)


@pytest.mark.parametrize("case", GEMMAS)
def test_a_written_configuration_is_read_alike_by_transformers_and_here(tmp_path: Path, case: str) -> None:
    theirs = GEMMAS[case]()
    folder = tiny.write_folder(tmp_path, theirs)
    config = fanlight.load(folder).decoder.config
    written = write_hf_config(architecture_of(config.model_type), config)
    again = type(theirs)(type(theirs.config)(**written)).eval()
    again.load_state_dict(theirs.state_dict())
    assert worst(tiny.logits_of(again, PROMPTS), tiny.logits_of(theirs, PROMPTS)) <= 1e-6
    (folder / "config.json").write_text(json.dumps(written))
    assert fanlight.load(folder).decoder.config == config
