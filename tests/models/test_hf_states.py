"""States of models that transformers runs: by layer, before and after the final norm, and the logits that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fanlight.cache.paged import PagedCache
from fanlight.errors import OptionError
from fanlight.kernels import load_ops
from fanlight.models import hf
from fanlight.models.base import FINAL, Watch
from fanlight.models.hf import HFDecoder
from models import tiny
from models.hf_tiny import CASES, random_model
from models.hidden import cut_after, states_of
from models.zoo import ZOO

TOLERANCE = 2e-5  # of the range
RANDOM = np.random.default_rng(23)
PROMPT = RANDOM.integers(0, tiny.N_VOCAB, 19).tolist()
OPS = load_ops("reference")
NATIVE_ONES = ["gemma2 with tight caps", "gemma3 with a cap, its own scale and head", "opt", "olmo2"]
NARROW = "opt, post-norm, with a narrow embedding"


def model_of(name: str) -> Any:
    return ZOO[name]() if name in ZOO else random_model(name)


class Text:
    """One sequence in a cache of its own."""

    def __init__(self, decoder: HFDecoder) -> None:
        self.decoder = decoder
        self.cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)
        self.slot = self.cache.open()

    def feed(self, ids: list[int], logit_rows: list[int], watch: Watch | None = None) -> Any:
        assert self.cache.reserve(self.slot, len(ids))
        return self.decoder.forward(ids, self.cache.batch([(self.slot, len(ids))]), logit_rows, watch).numpy()


def assert_close(found: Any, expected: Any, what: str) -> None:
    worst = float(np.abs(found - expected).max()) / float(np.ptp(expected))
    assert worst <= TOLERANCE, f"{what}: {worst:.2g} of the range"


@pytest.mark.parametrize("name", [*CASES, *NATIVE_ONES])
def test_states_are_those_of_every_layer(name: str) -> None:
    model = model_of(name)
    decoder = HFDecoder(model, ops=OPS)
    n_layer = decoder.config.n_layer
    watch = Watch(layers=tuple(range(n_layer + 1)), final=True, rows=range(19))
    logits = Text(decoder).feed(PROMPT, [18], watch)
    states, final = states_of(model, PROMPT)
    for layer, expected in enumerate(states):
        assert_close(watch.states[layer].numpy(), expected, f"layer {layer}")
    assert_close(watch.states[FINAL].numpy(), final, "final")
    assert_close(logits[0], tiny.logits_of(model, [PROMPT])[0][18], "logits")
    assert_close(decoder.read_out(watch.states[n_layer]).numpy()[18], logits[0], "read out of the last layer")
    assert_close(
        decoder.read_out(watch.states[FINAL], norm=False).numpy()[18], logits[0], "read out of the final states"
    )


@pytest.mark.parametrize("name", ["bloom", "starcoder2", "stablelm", "gemma2 with tight caps"])
def test_an_earlier_layer_reads_out_as_a_model_with_fewer_layers(name: str) -> None:
    model = model_of(name)
    decoder, watch = HFDecoder(model, ops=OPS), Watch(layers=(1,), rows=range(19))
    Text(decoder).feed(PROMPT, [18], watch)
    assert_close(decoder.read_out(watch.states[1]).numpy(), tiny.logits_of(cut_after(model, 1), [PROMPT])[0], "layer 1")


@pytest.mark.parametrize("model_type", ["bloom", "starcoder2", "mamba", "openai-gpt"])
def test_looking_changes_no_bit_of_the_logits(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several pieces, with states wanted at other positions than logits."""
    monkeypatch.setattr(hf, "PIECE", 8)
    decoder = HFDecoder(random_model(model_type), ops=OPS)
    plain, watched = Text(decoder), Text(decoder)
    for ids, rows, kept in ((PROMPT, [18, 4], [17, 0, 17]), ([5], [0], [0]), ([6, 7, 8], [2], [0, 1])):
        watch = Watch(layers=(1, 2), final=True, rows=kept)
        np.testing.assert_array_equal(watched.feed(ids, rows, watch), plain.feed(ids, rows))
        assert {name: x.shape for name, x in watch.states.items()} == dict.fromkeys((1, 2, FINAL), (len(kept), 48))


@pytest.mark.parametrize("model_type", ["bloom", "mamba", "openai-gpt"])
def test_states_of_chunks_and_of_a_batch_without_logits(model_type: str) -> None:
    model = random_model(model_type)
    decoder = HFDecoder(model, ops=OPS)
    expected = [states_of(model, ids)[1] for ids in (PROMPT, PROMPT[7:11])]
    cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)
    one, other = cache.open(), cache.open()
    cache.reserve(one, 15)
    assert decoder.forward(PROMPT[:15], cache.batch([(one, 15)]), []).shape == (0, tiny.N_VOCAB)
    cache.reserve(one, 4)
    cache.reserve(other, 4)
    watch = Watch(final=True, rows=range(8))
    logits = decoder.forward([*PROMPT[15:], *PROMPT[7:11]], cache.batch([(one, 4), (other, 4)]), [], watch)
    assert logits.shape == (0, tiny.N_VOCAB)
    assert_close(watch.states[FINAL].numpy()[:4], expected[0][15:], "a chunk")
    assert_close(watch.states[FINAL].numpy()[4:], expected[1], "its neighbour")


def test_a_pass_cannot_be_left_early() -> None:
    text = Text(HFDecoder(random_model("bloom"), ops=OPS))
    with pytest.raises(OptionError, match=r"assistant_early_exit 1: .* transformers .* native"):
        text.feed(PROMPT, [18], Watch(n_layer=1))
    with pytest.raises(OptionError, match="left after 3 layers"):
        text.feed(PROMPT, [18], Watch(n_layer=3))
    with pytest.raises(OptionError, match="layer 3 in a pass of 2"):
        text.feed(PROMPT, [18], Watch(layers=(3,)))
    assert text.feed(PROMPT, [18], Watch(n_layer=2)).shape == (1, tiny.N_VOCAB)


def test_what_a_projection_hides_is_refused_and_the_rest_is_there() -> None:
    """Of small OPT, whose last states are handed out after it."""
    model = model_of(NARROW)
    decoder = HFDecoder(model, ops=OPS)
    watch = Watch(layers=(0, 1), final=True)
    logits = Text(decoder).feed(PROMPT, [18, 3], watch)
    assert_close(watch.states[1].numpy(), states_of(model, PROMPT)[0][1][[18, 3]], "layer 1")
    assert watch.states[FINAL].shape == (2, 30)
    assert_close(decoder.read_out(watch.states[FINAL], norm=False).numpy(), logits, "final")
    with pytest.raises(OptionError, match="choose layers from 0 to 2"):
        Text(decoder).feed(PROMPT, [18], Watch(layers=(3,)))
    with pytest.raises(OptionError, match="no final norm"):
        decoder.read_out(watch.states[1])


def test_a_model_whose_logits_are_made_otherwise_says_so() -> None:
    """And still writes: only what needs its states is refused."""
    model = random_model("bloom")
    head = model.forward

    def bent(*args: Any, **options: Any) -> Any:
        result = head(*args, **options)
        result["logits"] = torch.sin(result["logits"])
        return result

    model.forward = bent
    decoder = HFDecoder(model, ops=OPS)
    assert Text(decoder).feed(PROMPT, [18], Watch(layers=(1,))).shape == (1, tiny.N_VOCAB)
    with pytest.raises(OptionError, match="something else than its last hidden states"):
        Text(decoder).feed(PROMPT, [18], Watch(final=True))


def test_a_model_that_hands_out_no_states_says_so() -> None:
    model = random_model("bloom")
    forward = model.forward

    def silent(*args: Any, output_hidden_states: bool = False, **options: Any) -> Any:
        return forward(*args, **options)

    model.forward = silent
    decoder = HFDecoder(model, ops=OPS)
    with pytest.raises(OptionError, match="hands out no hidden states, expected 3"):
        Text(decoder).feed(PROMPT, [18], Watch(layers=(1,)))
    assert Text(decoder).feed(PROMPT, [18]).shape == (1, tiny.N_VOCAB)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_reads_out_its_own_logits(dtype: str) -> None:
    decoder = HFDecoder(random_model("cohere"), ops=OPS, dtype=dtype)  # its logits are a part of the head's product
    watch = Watch(layers=(2,))
    logits = Text(decoder).feed(PROMPT, [18, 1], watch)
    found = decoder.read_out(watch.states[2]).numpy()
    assert np.abs(found - logits).max() <= 0.02 * np.ptp(logits)
