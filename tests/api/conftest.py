"""Models for the tests of the API: one from a table of logits, with bytes for tokens, and a tiny real one in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fakes.byte_tokenizer import ByteTokenizer
from fakes.decoder import FakeDecoder
from fanlight.api import Model
from fanlight.loading import Loaded
from fanlight.models.weights import LoadReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fakes.decoder import LogitsOf


@pytest.fixture
def fake() -> Callable[..., Model]:
    """A Model over FakeDecoder and ByteTokenizer: fake(logits_of, n_ctx=..., chat_template=...)."""

    def make(logits_of: LogitsOf | None = None, n_ctx: int = 64, tokenizer: Any = None, **options: Any) -> Model:
        return Model(
            Loaded(
                name="fake",
                decoder=FakeDecoder(n_ctx=n_ctx, logits_of=logits_of),
                tokenizer=tokenizer or ByteTokenizer(**options),
                report=LoadReport(path="fake", format="fake"),
            )
        )

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 folder of 200 kB."""
    from models import tiny

    return tiny.write_folder(tmp_path_factory.mktemp("api") / "tiny-gpt2", tiny.gpt2())


def other_vocabulary() -> Model:
    """A model of bytes."""
    decoder = FakeDecoder()
    return Model(
        Loaded(name="bytes", decoder=decoder, tokenizer=ByteTokenizer(), report=LoadReport(path="", format="none"))
    )
