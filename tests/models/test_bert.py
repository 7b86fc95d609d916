"""BERT gives transformers' hidden states, at every layer, from folders and GGUF files; what it is not is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertForQuestionAnswering

import fanlight
from fanlight.cache.paged import PagedCache
from fanlight.checkpoints.gguf import open_gguf
from fanlight.checkpoints.safetensors import open_folder
from fanlight.errors import CheckpointError
from fanlight.kernels import load_ops
from fanlight.models.registry import build_encoder
from models import tiny, tiny_bert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fanlight.kernels.ops import KVBatch
    from fanlight.models.encoder import BidirectionalEncoder
    from fanlight.models.weights import LoadReport

TOLERANCE = 2e-5  # of the range of the states
RANDOM = np.random.default_rng(11)
LENGTHS = (131, 1, 33, 64)  # a page holds 64
Ids = list[int]


def some_input(n: int, n_segments: int) -> tuple[Ids, Ids]:
    return RANDOM.integers(0, tiny_bert.N_VOCAB, n).tolist(), RANDOM.integers(0, n_segments, n).tolist()


INPUTS = [some_input(n, tiny_bert.N_SEGMENTS) for n in LENGTHS]


def build(path: Path, kernels: str = "native") -> tuple[BidirectionalEncoder, LoadReport]:
    ops = load_ops(kernels)
    if path.is_dir():
        return build_encoder(open_folder(path), json.loads((path / "config.json").read_text()), ops)
    checkpoint = open_gguf(path)
    return build_encoder(checkpoint, checkpoint.metadata, ops)


def batch_of(encoder: BidirectionalEncoder, lengths: Sequence[int]) -> KVBatch:
    cache = PagedCache(encoder.new_pool(), encoder.config.n_ctx)
    slots = [cache.open() for _ in lengths]
    for slot, n in zip(slots, lengths, strict=True):
        cache.reserve(slot, n)
    return cache.batch(list(zip(slots, lengths, strict=True)))


def every_state(encoder: BidirectionalEncoder, ids: Ids, segments: Ids) -> list[NDArray[np.float32]]:
    return [x.numpy() for x in encoder.every_state(ids, segments, batch_of(encoder, [len(ids)]))]


def joined() -> tuple[Ids, Ids]:
    """The ids and segments of all inputs, one after another."""
    return [x for ids, _ in INPUTS for x in ids], [x for _, segments in INPUTS for x in segments]


def together(encoder: BidirectionalEncoder) -> NDArray[np.float32]:
    """The states of all inputs after the last block, from one pass."""
    ids, segments = joined()
    return encoder.forward(ids, segments, batch_of(encoder, LENGTHS)).numpy()


def worst(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest error as a part of the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("name", tiny_bert.ZOO)
def test_the_states_of_every_layer_equal_those_of_transformers(name: str, kernels: str, tmp_path: Path) -> None:
    theirs = tiny_bert.ZOO[name]()
    inputs = [(ids, [s % theirs.config.type_vocab_size for s in segments]) for ids, segments in INPUTS]
    encoder, _ = build(tiny_bert.write_folder(tmp_path / "bert", theirs), kernels)
    for each, expected in zip(inputs, tiny_bert.states_of(theirs, inputs), strict=True):
        found = every_state(encoder, *each)
        assert len(found) == len(expected) == encoder.config.n_layer + 1
        for layer, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert worst(a, b) <= TOLERANCE, f"{len(a)} ids, after {layer} blocks"


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_batch_of_unequal_lengths_equals_each_alone(kernels: str, tmp_path: Path) -> None:
    """Bit for bit, with one thread and with two."""
    encoder, _ = build(tiny_bert.write_folder(tmp_path / "bert", tiny_bert.bert()), kernels)
    alone = np.concatenate([every_state(encoder, *each)[-1] for each in INPUTS])
    before = encoder.ops.get_threads()
    try:
        for threads in (1, 2):
            encoder.ops.set_threads(threads)
            assert np.array_equal(together(encoder), alone)
    finally:
        encoder.ops.set_threads(before)


def test_every_token_sees_those_after_it_and_no_other_sequence(tmp_path: Path) -> None:
    encoder, _ = build(tiny_bert.write_folder(tmp_path / "bert", tiny_bert.bert()))
    ids, segments = joined()
    before = together(encoder)
    ids[130] = (ids[130] + 1) % tiny_bert.N_VOCAB  # the last of the first sequence
    after = encoder.forward(ids, segments, batch_of(encoder, LENGTHS)).numpy()
    changed = (before != after).any(axis=1)
    assert changed[:131].all()
    assert not changed[131:].any()


def test_segments_count(tmp_path: Path) -> None:
    encoder, _ = build(tiny_bert.write_folder(tmp_path / "bert", tiny_bert.bert()))
    ids, segments = INPUTS[2]
    other = [(s + 1) % tiny_bert.N_SEGMENTS for s in segments]
    assert worst(every_state(encoder, ids, other)[-1], every_state(encoder, ids, segments)[-1]) > 0.1


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_span_logits_equal_those_of_transformers(kernels: str, tmp_path: Path) -> None:
    theirs = tiny_bert.bert(BertForQuestionAnswering)
    encoder, report = build(tiny_bert.write_folder(tmp_path / "bert", theirs), kernels)
    assert encoder.config.has_span_head
    assert report.unread == []
    for ids, segments in INPUTS:
        states = encoder.forward(ids, segments, batch_of(encoder, [len(ids)]))
        found, expected = encoder.span_logits(states).numpy(), tiny_bert.run(theirs, ids, segments)
        assert found.shape == (len(ids), 2)
        for side, logits in enumerate((expected.start_logits, expected.end_logits)):
            scale = max(float(np.ptp(logits.numpy())), 1.0)  # one id has no range
            assert float(np.abs(found[:, side] - logits[0].numpy()).max()) / scale <= TOLERANCE


def test_other_heads_are_reported_unread(tmp_path: Path) -> None:
    bare, report = build(tiny_bert.write_folder(tmp_path / "bare", tiny_bert.bert()))
    assert report.unread == ["pooler.dense.bias", "pooler.dense.weight"]
    assert not bare.config.has_span_head
    _, report = build(tiny_bert.write_folder(tmp_path / "masked", tiny_bert.bert(BertForMaskedLM)))
    assert report.unread
    assert all(name.startswith("cls.predictions.") for name in report.unread)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.write_folder(tmp_path / "tiny-bert", tiny_bert.bert())


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]) -> Path:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights) or weights, folder / "model.safetensors")
    return folder


def edit(folder: Path, **values: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def test_the_first_names_of_norms_are_read(folder: Path) -> None:
    """gamma and beta, as TensorFlow's BERT has them and the best known checkpoints still do; position_ids hold nothing."""
    expected = together(build(folder)[0])

    def older(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {
            n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for n in weights
        }
        assert sum(new != old for old, new in names.items()) == 2 + 3 * 4
        renamed = {"bert." + names[name]: weight for name, weight in weights.items()}
        return {**renamed, "bert.embeddings.position_ids": torch.arange(131)[None]}

    encoder, report = build(rewrite(folder, older))
    assert np.array_equal(together(encoder), expected)
    assert report.unread == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]


def test_a_gguf_file_gives_the_bits_of_the_folder(folder: Path, tmp_path: Path) -> None:
    encoder, report = build(tiny_bert.write_gguf(tmp_path / "tiny.gguf", tiny_bert.bert()))
    assert report.unread == []
    assert encoder.config == build(folder)[0].config
    assert np.array_equal(together(encoder), together(build(folder)[0]))


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_a_block_file_is_close_to_transformers_on_the_same_weights(kernels: str, tmp_path: Path) -> None:
    theirs = tiny_bert.bert(hidden_size=96, intermediate_size=160)
    encoder, report = build(tiny_bert.write_gguf(tmp_path / "tiny.gguf", theirs, "Q8_0"), kernels)
    assert set(report.dtypes) == {"F32", "Q8_0"}
    tables = ("position_embeddings", "token_type_embeddings")
    kept = {name: w.clone() for name, w in theirs.named_parameters() if any(table in name for table in tables)}
    tiny.rounded(theirs, "Q8_0")
    theirs.load_state_dict(kept, strict=False)
    expected = np.concatenate([states[-1] for states in tiny_bert.states_of(theirs, INPUTS)])
    found = together(encoder)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / lengths
    assert (
        np.median(cosines) >= 0.99
    )  # activations are rounded to int8, which moves as much as the weights' own rounding
    assert cosines.min() >= 0.9


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(path: Path, *words: str, load: Callable[[Path], object] = build) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "mish"),
        ("type_vocab_size", 0),
        ("max_position_embeddings", 2**40),
        ("layer_norm_eps", -1.0),
    ],
)
def test_what_is_not_implemented_or_absurd_is_refused(folder: Path, key: str, value: object) -> None:
    refused(edit(folder, **{key: value}), key, str(value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_attention_heads", 5, ("42", "multiple of the 5 heads")),
        ("num_hidden_layers", 4, ("encoder.layer.3.", "missing")),
        ("num_hidden_layers", 2, ("encoder.layer.2.", "not part of this architecture")),
        ("type_vocab_size", 2, ("token_type_embeddings", "(3, 42)", "(2, 42)")),
        ("max_position_embeddings", 512, ("position_embeddings", "(131, 42)", "(512, 42)")),
        ("intermediate_size", 51, ("intermediate.dense", "(52, 42)", "(51, 42)")),
    ],
)
def test_a_configuration_that_disagrees_with_the_weights(
    folder: Path, key: str, value: int, words: tuple[str, ...]
) -> None:
    refused(edit(folder, **{key: value}), *words)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.1.attention.self.key.bias",
        "encoder.layer.2.output.LayerNorm.weight",
    ],
)
def test_a_missing_array(folder: Path, name: str) -> None:
    def remove(weights: dict[str, torch.Tensor]) -> None:
        del weights[name]

    refused(rewrite(folder, remove), name, "missing")


def test_an_array_of_another_computation(folder: Path) -> None:
    """Relative positions that the configuration does not tell of."""
    name = "encoder.layer.0.attention.self.distance_embedding.weight"

    def add(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = torch.zeros(261, 7)

    refused(rewrite(folder, add), name, "not part of this architecture")


def test_a_gguf_file_that_is_causal_or_disagrees(tmp_path: Path) -> None:
    theirs = tiny_bert.bert()
    refused(tiny_bert.write_gguf(tmp_path / "causal.gguf", theirs, causal=True), "bert.attention.causal", "True")
    refused(tiny_bert.write_gguf(tmp_path / "heads.gguf", theirs, n_head=5), "42", "multiple of the 5 heads")


def test_a_decoder_is_no_encoder_and_an_encoder_no_decoder(folder: Path, tmp_path: Path) -> None:
    refused(folder, "bert is an encoder", "fanlight.load_encoder", load=fanlight.load)
    gguf = tiny_bert.write_gguf(tmp_path / "tiny.gguf", tiny_bert.bert())
    refused(gguf, "bert is an encoder", "fanlight.load_encoder", load=fanlight.load)
    refused(
        tiny.write_folder(tmp_path / "gpt2", tiny.gpt2()),
        "gpt2 is a decoder",
        "fanlight.load",
        load=fanlight.load_encoder,
    )
