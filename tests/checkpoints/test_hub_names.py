"""What a name means, and which files of a repository are read: pure text."""

from __future__ import annotations

import pytest

from fanlight.checkpoints.hub_names import HubName, choose_files, matching, parse_name, pick_gguf
from fanlight.errors import CheckpointError, ModelNotFound, OptionError

NAME = HubName("org/name")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gpt2-medium", HubName("gpt2-medium")),
        ("org/name", HubName("org/name")),
        ("org/SmolLM2-1.7B_x", HubName("org/SmolLM2-1.7B_x")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        ("org/name:Q4_K_M", HubName("org/name", file="Q4_K_M")),
        ("org/name@v2:sub/a-00001-of-00002.gguf", HubName("org/name", "v2", "sub/a-00001-of-00002.gguf")),
    ],
)
def test_a_name_is_read_and_written_again(text: str, name: HubName) -> None:
    assert parse_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "./name",
        "../name",
        "~/name",
        "/org/name",
        "a/b/c",
        "org/",
        "/name",
        "org//name",
        "org\\name",
        "model.gguf",
        "org/model.gguf",
        "org/model.safetensors",
        "org/name.git",
        "org--name",
        "org/na..me",
        "org/-name",
        "org/name.",
        "two words",
        "name\n",
        "name@",
        "name:",
        "name@../../etc",
        "name@a@b",
        "name:../../etc/passwd",
        "name:/etc/passwd",
        "name:a//b",
        "näme",
        "x" * 97,
    ],
)
def test_what_looks_like_a_path_or_breaks_the_rules_is_no_name(text: str) -> None:
    assert parse_name(text) is None


def test_small_files_come_first_and_the_weights_last() -> None:
    listing = [
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "config.json",
        "vocab.json",
        "generation_config.json",
    ]
    assert choose_files(listing, NAME).files == (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "vocab.json",
        "model.safetensors",
    )


def test_one_file_of_weights_is_preferred_to_shards() -> None:
    shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    assert choose_files(["config.json", *shards, "model.safetensors"], NAME) == (
        ("config.json", "model.safetensors"),
        False,
    )
    assert choose_files(["config.json", *shards], NAME) == (("config.json", "model.safetensors.index.json"), True)


def test_safetensors_are_preferred_to_gguf_unless_a_file_is_named() -> None:
    listing = ["config.json", "model.safetensors", "x-Q8_0.gguf"]
    assert choose_files(listing, NAME).files[-1] == "model.safetensors"
    assert choose_files(listing, NAME._replace(file="q8_0")).files == ("x-Q8_0.gguf",)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "c:\\x", "x\0y", "", "a\nb"])
def test_a_listing_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="inside the repository"):
        choose_files(["config.json", "model.safetensors", name], NAME)


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (["config.json", "pytorch_model.bin"], ("pickles", "'pytorch_model.bin'", "save_pretrained")),
        (["config.json", "pytorch_model-00001-of-00002.bin", "model.onnx"], ("pickles", "safetensors or GGUF")),
        (["adapter_config.json", "adapter_model.safetensors"], ("adapter", "PEFT")),
        (["model.safetensors", "README.md"], ("no config.json",)),
        (["config.json", "model.onnx"], ("'model.onnx'", "choose another model")),
        (["README.md"], ("'README.md'", ".gguf")),
        ([], ("empty repository",)),
        (["mmproj-x-f16.gguf"], ("'mmproj-x-f16.gguf'",)),
    ],
)
def test_a_repository_with_nothing_to_read_says_what_it_has(listing: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError) as caught:
        choose_files(listing, NAME)
    assert [word for word in ("org/name", *words) if word not in str(caught.value)] == []


GGUFS = [
    "a-Q4_0.gguf",
    "a-Q4_0_4_4.gguf",
    "a-Q4_K_M.gguf",
    "a-Q4_K_S.gguf",
    "a-IQ4_NL.gguf",
    "BF16/a-BF16.gguf",
    "a.F16.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Q4_0", ["a-Q4_0.gguf"]),
        ("q4_k_m", ["a-Q4_K_M.gguf"]),
        ("Q4_K", []),
        ("Q4_NL", []),
        ("iq4_nl", ["a-IQ4_NL.gguf"]),
        ("F16", ["a.F16.gguf"]),
        ("bf16", ["BF16/a-BF16.gguf"]),
        ("a-bf16", ["BF16/a-BF16.gguf"]),
        ("a-Q4_0.gguf", ["a-Q4_0.gguf"]),
        ("Q4_0.gguf", []),
        ("", GGUFS),
    ],
)
def test_a_quantisation_picks_its_file_and_no_other(wanted: str, found: list[str]) -> None:
    assert matching(GGUFS, wanted) == found


def test_several_gguf_files_and_none_named_are_listed() -> None:
    with pytest.raises(OptionError, match=r"2 GGUF files are there.*org/name:a-Q4_0\.gguf.*a-Q4_0\.gguf, a-Q8_0\.gguf"):
        pick_gguf(["a-Q8_0.gguf", "a-Q4_0.gguf", "mmproj.gguf", "README.md"], NAME)


def test_a_file_that_is_not_there_is_listed_against() -> None:
    with pytest.raises(ModelNotFound, match=r"'Q2_K'; there are a-Q8_0\.gguf"):
        pick_gguf(["a-Q8_0.gguf"], NAME._replace(file="Q2_K"))
    with pytest.raises(ModelNotFound, match="no GGUF file in this repository"):
        pick_gguf(["model.safetensors"], NAME._replace(file="Q2_K"))


def test_a_part_of_a_split_model_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(CheckpointError, match="one of 3 parts"):
        pick_gguf(["a-00001-of-00003.gguf"], NAME._replace(file="a-00001-of-00003.gguf"))
