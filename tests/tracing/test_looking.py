"""What is seen inside: equal to transformers' on every architecture, whole or in chunks, on both kernels; what adds up adds up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from fanlight import TraceOptions
from fanlight.cache.paged import PagedCache
from fanlight.errors import OptionError
from fanlight.tracing import looking
from fanlight.tracing.looking import look
from models import tiny
from models.hidden import states_of
from models.zoo import ZOO

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fanlight import Model, Trace

EVERYTHING = TraceOptions(lens=4, attention=True, queries="all", contributions=True, norms=True, timings=True)
RANDOM = np.random.default_rng(23)
IDS = RANDOM.integers(0, tiny.N_VOCAB, 71).tolist()  # a page holds 64
N_PROMPT = 59


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and transformers' model."""
    model = ZOO[request.param]()
    return tiny.write_folder(tmp_path_factory.mktemp("checkpoint"), model), model


def looked(model: Model, options: TraceOptions = EVERYTHING) -> tuple[dict[str, Any], dict[str, str]]:
    decoder = model.decoder
    return look(decoder, PagedCache(decoder.new_pool(), decoder.config.n_ctx), IDS, N_PROMPT, options)


def attentions_of(model: Any) -> list[NDArray[np.float32]]:
    """transformers' own, (n_head, n, n) of each layer."""
    import torch

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([IDS]), output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return [layer[0].numpy() for layer in found.attentions]


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_what_is_seen_is_what_transformers_computes(
    case: tuple[Path, Any], kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder, theirs = case
    model = fanlight.load(folder, kernels=kernels)
    config, n_steps = model.decoder.config, len(IDS) - N_PROMPT
    monkeypatch.setattr(looking, "CHUNK", 29)
    found, missing = looked(model)

    weights = found["attention"].weights.astype(np.float32)  # (L, H, n - 1, n - 1)
    for layer, expected in enumerate(attentions_of(theirs)):
        n = len(IDS) - 1
        np.testing.assert_allclose(weights[layer], expected[:, :n, :n], atol=2e-3)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=5e-3)
    assert (np.triu(weights, 1) == 0).all()  # no query looks at what comes after it

    states, _ = states_of(theirs, IDS)
    steps = slice(N_PROMPT - 1, len(IDS) - 1)
    norms = found["norms"].residual
    for layer in range(config.n_layer + 1):
        np.testing.assert_allclose(norms[:, layer], np.linalg.norm(states[layer][steps], axis=1), rtol=1e-3)
    lens = found["lens"]
    with torch.inference_mode():
        logits = theirs(input_ids=torch.tensor([IDS])).logits[0].double().numpy()[steps]
    logprobs = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    chosen = np.asarray(IDS[N_PROMPT:])
    np.testing.assert_allclose(lens.chosen_logprobs[:, -1], logprobs[np.arange(n_steps), chosen], atol=2e-3)
    np.testing.assert_allclose(lens.logprobs[:, -1, 0], logprobs.max(1), atol=2e-3)
    assert lens.ids.shape == (n_steps, config.n_layer + 1, 4)

    if not config.norm_first:
        assert "norms stand after the sums" in missing["contributions"]
        return
    assert not missing
    parts = found["contributions"]
    total = parts.embedding + parts.attention.sum(1) + parts.feed_forward.sum(1) + parts.constant
    expected = logits[np.arange(n_steps), chosen]
    cap = config.logit_softcap
    if cap:
        expected = cap * np.arctanh(expected / cap)
    np.testing.assert_allclose(total, expected, atol=5e-3 * max(1.0, float(np.abs(expected).max())))


def test_a_block_contributes_what_the_logit_loses_without_it(tmp_path: Path) -> None:
    """By hand, in float64, from transformers' weights."""
    theirs = tiny.llama()
    model = fanlight.load(tiny.write_folder(tmp_path / "tiny", theirs))
    parts = looked(model)[0]["contributions"]
    states, _ = states_of(theirs, IDS)
    x = np.stack(states).astype(np.float64)[:, N_PROMPT - 1 : -1]  # (L + 1, steps, E)
    gain = theirs.model.norm.weight.detach().double().numpy()
    head = theirs.lm_head.weight.detach().double().numpy()[IDS[N_PROMPT:]]  # (steps, E)
    divisor = np.sqrt((x[-1] ** 2).mean(1) + model.decoder.config.norm_eps)
    blocks = ((x[1:] - x[:-1]) * gain * head).sum(-1) / divisor  # (L, steps)
    np.testing.assert_allclose((parts.attention + parts.feed_forward).T, blocks, atol=2e-4)


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_the_size_of_the_pass_changes_no_bit(smollm: Model, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> Trace:
        found = smollm.generate("The cat sat on the", max_new_tokens=9, trace=EVERYTHING).trace
        assert found is not None
        return found

    whole = seen()
    monkeypatch.setattr(looking, "CHUNK", chunk)
    parts = seen()
    assert whole.lens is not None
    assert parts.lens is not None
    for name in ("ids", "logprobs", "chosen_logprobs", "chosen_ranks", "entropies"):
        np.testing.assert_array_equal(getattr(whole.lens, name), getattr(parts.lens, name))
    assert whole.attention is not None
    assert parts.attention is not None
    np.testing.assert_array_equal(whole.attention.weights, parts.attention.weights)
    assert whole.contributions is not None
    assert parts.contributions is not None
    np.testing.assert_allclose(whole.contributions.attention, parts.contributions.attention, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "seed": 4, "prompt_lookup_num_tokens": 4}, {"num_beams": 3}]
)
def test_the_last_layer_of_the_lens_is_what_the_step_saw(smollm: Model, options: dict[str, Any]) -> None:
    trace = smollm.generate("The cat sat on the", max_new_tokens=11, trace=TraceOptions(lens=5), **options).trace
    assert trace is not None
    assert trace.lens is not None
    for step, record in enumerate(trace.steps):
        assert trace.lens.ids[step, -1].tolist() == list(record.candidate_ids[:5])
        assert trace.lens.chosen_ranks[step, -1] == record.raw_rank
        assert trace.lens.chosen_logprobs[step, -1] == np.float32(record.raw_logprob)
        assert trace.lens.entropies[step, -1] == np.float32(record.raw_entropy)


def test_chosen_layers_heads_and_queries_are_cut_out_of_all(smollm: Model) -> None:
    def seen(**options: Any) -> Any:
        found = smollm.generate("The cat sat on the", max_new_tokens=4, trace=TraceOptions(**options)).trace
        assert found is not None
        assert found.attention is not None
        return found.attention

    every = seen(attention=True, queries="all")
    some = seen(attention=[-1, 3], heads=[8, 0, 4], queries=[2, 6])
    assert some.layers == (29, 3)
    assert some.heads == (8, 0, 4)
    assert some.queries == (2, 6)
    cut = every.weights[[29, 3]][:, [8, 0, 4]][:, :, [2, 6], :7]
    np.testing.assert_array_equal(some.weights, cut)
    new = seen(attention=[5])
    assert new.queries == (4, 5, 6, 7)
    np.testing.assert_array_equal(new.weights[0], every.weights[5][:, 4:8])


def test_known_beginnings_are_not_computed_again(smollm: Model) -> None:
    prompt = "A long story begins here. " * 40
    smollm.generate(prompt, max_new_tokens=2)
    calls: list[int] = []
    decoder = smollm.decoder
    with smollm.lent_engine() as engine:
        ids = (*smollm.prompt_ids(prompt), 5, 6, 7)

        class Counting:
            config, ops, new_pool = decoder.config, decoder.ops, decoder.new_pool
            readings, final, head_rows = decoder.readings, decoder.final, decoder.head_rows

            def forward(self, some: Any, *rest: Any) -> Any:
                calls.append(len(some))
                return decoder.forward(some, *rest)

        look(Counting(), engine.cache, ids, len(ids) - 3, TraceOptions(lens=True))  # type: ignore[arg-type]
    assert sum(calls) < 64 + 3  # of more than 200


def test_what_a_model_cannot_show_is_said_and_the_rest_is_there(smollm: Model) -> None:
    decoder = smollm.decoder

    class NoAttention:
        config, ops, new_pool = decoder.config, decoder.ops, decoder.new_pool
        readings, final, head_rows = decoder.readings, decoder.final, decoder.head_rows

        def forward(self, ids: Any, batch: Any, rows: Any, watch: Any = None) -> Any:
            if watch is not None and watch.attention:
                raise OptionError("this model shows no attention")
            return decoder.forward(ids, batch, rows, watch)

    cache = PagedCache(decoder.new_pool(), 512)
    found, missing = look(NoAttention(), cache, IDS, N_PROMPT, EVERYTHING)  # type: ignore[arg-type]
    assert missing == {"attention": "this model shows no attention"}
    assert set(found) == {"lens", "contributions", "norms", "timings"}


def test_a_model_in_transformers_is_seen_through_too(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "tiny", tiny.llama())
    mine, theirs = fanlight.load(folder), fanlight.load(folder, backend="hf")
    (a, _), (b, missing) = looked(mine), looked(theirs)
    assert not missing
    np.testing.assert_allclose(a["attention"].weights, b["attention"].weights, atol=2e-3)
    np.testing.assert_allclose(a["lens"].chosen_logprobs, b["lens"].chosen_logprobs, atol=1e-3)
    np.testing.assert_allclose(a["contributions"].attention, b["contributions"].attention, atol=1e-3)
    np.testing.assert_allclose(a["norms"].feed_forward, b["norms"].feed_forward, rtol=1e-3, atol=1e-4)
    trace = theirs.generate([3, 5, 7], max_new_tokens=4, trace=EVERYTHING).trace
    assert trace is not None
    assert set(trace.has) == {"lens", "attention", "contributions", "norms", "timings"}
    assert fanlight.replay(trace, theirs).same


def test_a_quantised_gguf_is_seen_through(tmp_path: Path) -> None:
    path = tiny.write_gguf(
        tmp_path / "tiny.gguf", tiny.llama(hidden_size=96, intermediate_size=160, head_dim=16), "Q8_0"
    )
    model = fanlight.load(path)
    trace = model.generate([3, 5, 7], max_new_tokens=5, trace=EVERYTHING).trace
    assert trace is not None
    parts = trace.contributions
    assert parts is not None
    total = parts.embedding + parts.attention.sum(1) + parts.feed_forward.sum(1) + parts.constant
    spread = float(np.abs(parts.logits).max())
    np.testing.assert_allclose(
        total, parts.logits, atol=0.05 * spread
    )  # activations are rounded to 8 bits before the head


def test_an_encoder_looks_both_ways_and_a_decoder_back() -> None:
    seen, labels = fanlight.load_encoder().attention("the cat sat on the mat")
    assert len(labels) == seen.weights.shape[-1] == 8  # with [CLS] and [SEP]
    at = [label.strip("␣") for label in labels].index("sat")
    mean = seen.weights[:, :, at].astype(np.float32).mean((0, 1))
    assert (mean > 1e-3).all()  # before it and after it
    np.testing.assert_allclose(seen.weights.astype(np.float32).sum(-1), 1, atol=5e-3)
