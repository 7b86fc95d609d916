"""The insides of models that transformers runs: between attention and feed-forward, attention weights, readings, seconds."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.errors import KernelError, NumericError, OptionError
from fanlight.kernels import load_ops
from fanlight.models import hf, hf_attention, hf_states
from fanlight.models.base import FINAL, Watch
from fanlight.models.hf import HFDecoder
from models import tiny
from models.hf_tiny import LLAMA_LIKE, random_model
from models.hidden import blocks_of
from models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

TOLERANCE = 2e-5  # of the range
RANDOM = np.random.default_rng(29)
PROMPT = RANDOM.integers(0, tiny.N_VOCAB, 67).tolist()  # a page holds 64, the windows below 16 or 17
OPS = load_ops("reference")
MORE: dict[str, Callable[[], Any]] = {
    "phi": partial(random_model, "phi", **{**LLAMA_LIKE, "num_key_value_heads": 6}),
    "granite": partial(random_model, "granite", **LLAMA_LIKE, residual_multiplier=0.22),
    "granitemoeshared": partial(  # its feed-forward network is two modules
        random_model, "granitemoeshared", **LLAMA_LIKE, shared_intermediate_size=20, residual_multiplier=0.22
    ),
    "nemotron_h": partial(  # blocks of one part each: Mamba, attention, feed-forward
        random_model,
        "nemotron_h",
        **{**LLAMA_LIKE, "num_hidden_layers": 3, "head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 24},
        layers_block_type=["mamba", "attention", "mlp"],
        ssm_state_size=7,
        n_groups=2,
    ),
}
MIDDLES = {  # model -> the module that reads the stream inside a block; or "+", and the one whose output is added to it
    "llama with biases": "post_attention_layernorm",
    "mistral with a window": "post_attention_layernorm",
    "gpt2": "ln_2",
    "opt": "final_layer_norm",
    "opt, post-norm, with a narrow embedding": "fc1",
    "openai-gpt": "mlp",
    "gpt_neox": "+attention",
    "gpt_neox one after the other, tied": "post_attention_layernorm",
    "gemma2 with tight caps": "pre_feedforward_layernorm",
    "gemma3": "pre_feedforward_layernorm",
    "olmo2": "mlp",
    "bloom": "post_attention_layernorm",
    "mpt": "norm_2",
    "falcon": "+self_attention",
    "cohere": "+self_attn",
    "phi": "+self_attn",
    "stablelm": "post_attention_layernorm",
    "mixtral": "post_attention_layernorm",
    "jamba": "pre_ff_layernorm",
    "granite": "post_attention_layernorm",
    "granitemoeshared": "post_attention_layernorm",
    "mamba": "+mixer",
}
ATTENTIVE = [
    *("llama with biases", "gpt2", "gpt_neox", "gemma2 with tight caps", "opt", "mistral with a window", "starcoder2"),
    *("falcon", "phi", "granite", "stablelm", "bloom", "mpt", "gpt_bigcode", "openai-gpt", "jamba"),
]


def model_of(name: str) -> Any:
    return MORE[name]() if name in MORE else ZOO[name]() if name in ZOO else random_model(name)


class Texts:
    """Sequences in one cache."""

    def __init__(self, decoder: HFDecoder) -> None:
        self.decoder = decoder
        self.cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)

    def feed(
        self, parts: Sequence[tuple[CacheSlot, list[int]]], rows: Sequence[int], watch: Watch | None = None
    ) -> Any:
        for slot, ids in parts:
            assert self.cache.reserve(slot, len(ids))
        batch = self.cache.batch([(slot, len(ids)) for slot, ids in parts])
        together = [token for _, ids in parts for token in ids]
        return self.decoder.forward(together, batch, rows, watch).numpy()


def look(decoder: HFDecoder, ids: list[int], watch: Watch, rows: Sequence[int] = ()) -> Any:
    texts = Texts(decoder)
    return texts.feed([(texts.cache.open(), ids)], rows, watch)


def assert_close(found: Any, expected: Any, what: str) -> None:
    assert found.shape == expected.shape, what
    worst = float(np.abs(found - expected).max()) / float(np.ptp(expected))
    assert worst <= TOLERANCE, f"{what}: {worst:.2g} of the range"


def middles_of(model: Any, ids: Sequence[int], where: str) -> list[NDArray[np.float32]]:
    """By hooks on the modules that are named."""
    blocks = blocks_of(model)
    given: dict[int, Any] = {}
    seen: dict[int, Any] = {}

    def keep(into: dict[int, Any], i: int) -> Callable[..., None]:
        def hook(_: Any, args: Any, last: Any) -> None:
            values = (*args, *last.values()) if isinstance(last, dict) else last  # of a pre-hook, or a result
            first = values[0] if isinstance(values, tuple) else values
            into[i] = first.detach().clone().reshape(len(ids), -1).numpy()

        return hook

    hooks = []
    for i, block in enumerate(blocks):
        module = getattr(block, where.removeprefix("+"))
        hooks.append(block.register_forward_pre_hook(keep(given, i), with_kwargs=True))
        if where[0] == "+":
            hooks.append(module.register_forward_hook(keep(seen, i)))
        else:
            hooks.append(module.register_forward_pre_hook(keep(seen, i), with_kwargs=True))
    with torch.no_grad():
        model(torch.tensor([list(ids)]))
    for hook in hooks:
        hook.remove()
    return [given[i] + seen[i] if where[0] == "+" else seen[i] for i in range(len(blocks))]


def attentions_of(model: Any, ids: Sequence[int]) -> list[NDArray[np.float32]]:
    """(n_head, T, T) of each layer that has attention, of transformers' own."""
    config, before = model.config, model.config._attn_implementation
    config._attn_implementation = "eager"
    with torch.no_grad():
        found = model(torch.tensor([list(ids)]), output_attentions=True).attentions
    config._attn_implementation = before
    return [weights[0].numpy() for weights in found]


# -- inside blocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIDDLES)
def test_the_stream_inside_a_block_is_what_stands_between_its_parts(name: str) -> None:
    model = model_of(name)
    decoder = HFDecoder(model, ops=OPS)
    expected = middles_of(model, PROMPT[:19], MIDDLES[name])
    watch = Watch(middles=True, rows=range(19))
    look(decoder, PROMPT[:19], watch)
    assert list(watch.inner) == list(range(decoder.config.n_layer))
    assert watch.states == {}
    for block, inner in watch.inner.items():
        assert_close(inner.numpy(), expected[block], f"block {block}")


def test_blocks_of_one_part_have_it_before_or_after_their_middle() -> None:
    """Attention and Mamba before it, a feed-forward network after."""
    decoder = HFDecoder(model_of("nemotron_h"), ops=OPS)
    watch = Watch(layers=(0, 1, 2, 3), middles=True, rows=range(7))
    look(decoder, PROMPT[:7], watch)
    states = {layer: watch.states[layer].numpy() for layer in range(4)}
    for block, layer in ((0, 1), (1, 2), (2, 2)):
        assert_close(watch.inner[block].numpy(), states[layer], f"block {block}")
    assert not np.allclose(states[2], states[3])


@pytest.mark.parametrize("name", ["llama with biases", "gpt_neox", "gemma2 with tight caps", "granite"])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_hides_no_part(name: str, dtype: str) -> None:
    model = model_of(name)
    expected = middles_of(model, PROMPT[:19], MIDDLES[name])
    watch = Watch(middles=True, rows=range(19))
    look(HFDecoder(model, ops=OPS, dtype=dtype), PROMPT[:19], watch)
    for block, inner in watch.inner.items():
        difference = np.median(np.abs(inner.numpy() - expected[block]))
        assert difference <= 0.05 * expected[block].std(), f"block {block}"


def test_attention_that_comes_second_is_told_by_its_name() -> None:
    """Of a block whose parts read the same."""
    model = random_model("phi", **{**LLAMA_LIKE, "num_key_value_heads": 6})
    expected = middles_of(model, PROMPT[:19], "+self_attn")
    kind = type(blocks_of(model)[0])

    def forward(self: Any, hidden_states: Any, **options: Any) -> Any:
        normed = self.input_layernorm(hidden_states)
        fed = self.mlp(normed)
        return hidden_states + fed + self.self_attn(hidden_states=normed, **options)[0]

    for block in blocks_of(model):
        block.forward = forward.__get__(block, kind)
    watch = Watch(middles=True, times=True, rows=range(19))
    look(HFDecoder(model, ops=OPS), PROMPT[:19], watch)
    for block, inner in watch.inner.items():
        assert_close(inner.numpy(), expected[block], f"block {block}")


def test_a_block_that_adds_up_to_nothing_says_what_was_tried() -> None:
    decoder = HFDecoder(random_model("rwkv"), ops=OPS)  # the first block goes on from a norm of what it reads
    for watch in (Watch(middles=True), Watch(times=True)):
        with pytest.raises(
            OptionError, match=r"block 0 of .*Rwkv.* \(rwkv.blocks.0\) cannot be told apart .*attention.key"
        ):
            look(decoder, PROMPT[:7], watch, [6])


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_layer_0_is_the_embedding_where_states_are_handed_out_late(name: str) -> None:
    model = random_model(name)
    watch = Watch(layers=(0, 1, 2), rows=range(7))
    look(HFDecoder(model, ops=OPS), PROMPT[:7], watch)
    np.testing.assert_array_equal(
        watch.states[0].numpy(), model.get_input_embeddings().weight[PROMPT[:7]].detach().numpy()
    )
    after: list[Any] = []
    hooks = [
        block.register_forward_hook(
            lambda _, args, result: after.append(result[0] if isinstance(result, tuple) else result)
        )
        for block in blocks_of(model)
    ]
    tiny.logits_of(model, [PROMPT[:7]])
    for hook in hooks:
        hook.remove()
    for layer in (1, 2):
        assert_close(watch.states[layer].numpy(), after[layer - 1].detach().numpy().reshape(7, -1), f"layer {layer}")


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTENTIVE)
def test_weights_are_those_of_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over pieces, chunks and groups of rows, of a text longer than the windows."""
    monkeypatch.setattr(hf, "PIECE", 20)
    monkeypatch.setattr(hf_attention, "MAX_BYTES", 4 * 4 * 6 * 67 * 7)  # about 7 rows at once
    model = model_of(name)
    decoder = HFDecoder(model, ops=OPS)
    expected = (
        dict(zip((1, 3), attentions_of(model, PROMPT), strict=True))
        if name == "jamba"
        else dict(enumerate(attentions_of(model, PROMPT)))
    )
    texts = Texts(decoder)
    slot = texts.cache.open()
    start = 0
    for n in (1, 30, 2, 33, 1):
        watch = Watch(attention=dict.fromkeys(expected), rows=range(n))
        texts.feed([(slot, PROMPT[start : start + n])], [n - 1], watch)
        assert list(watch.weights) == list(expected)
        for layer, of_all in expected.items():
            found = watch.weights[layer].numpy()
            right = of_all[:, start : start + n, : start + n].transpose(1, 0, 2).reshape(-1, start + n)
            assert found.shape == right.shape
            np.testing.assert_allclose(found, right, atol=2e-5, err_msg=f"layer {layer} from {start}")
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
            np.testing.assert_array_equal(found[right == 0], 0)
        start += n


@pytest.mark.parametrize("name", ["llama with biases", "starcoder2", "openai-gpt"])
def test_weights_of_some_rows_and_heads_of_several_sequences(name: str) -> None:
    """In the order asked for; as wide as the row that sees most."""
    model = model_of(name)
    texts = Texts(HFDecoder(model, ops=OPS))
    one, other = texts.cache.open(), texts.cache.open()
    texts.feed([(one, PROMPT[:30])], [])
    rows = [9, 2, 13, 2]  # of 11 ids of one sequence, then 5 of the other
    watch = Watch(attention={1: [4, 0], 0: None}, rows=rows)
    texts.feed([(one, PROMPT[30:41]), (other, PROMPT[50:55])], [15], watch)
    of_one, of_other = attentions_of(model, PROMPT[:41]), attentions_of(model, PROMPT[50:55])
    for layer, heads in ((1, [4, 0]), (0, list(range(6)))):
        found = watch.weights[layer].numpy().reshape(4, len(heads), 40)
        for i, row in enumerate(rows):
            weights, at = (of_one, 30 + row) if row < 11 else (of_other, row - 11)
            right = weights[layer][heads, at]
            np.testing.assert_allclose(found[i, :, : at + 1], right[:, : at + 1], atol=2e-5)
            assert not found[i, :, at + 1 :].any()


def test_no_rows_keep_nothing() -> None:
    watch = Watch(attention={0: None}, middles=True, layers=(1,), rows=[])
    look(HFDecoder(model_of("gpt2"), ops=OPS), PROMPT[:7], watch, [6])
    assert [watch.weights[0].shape[0], watch.inner[1].shape, watch.states[1].shape] == [0, (0, 36), (0, 36)]


def test_what_has_no_weights_says_so() -> None:
    for name, watch, message in (
        ("mamba", Watch(attention={0: None}), "has no attention"),
        (
            "jamba",
            Watch(attention={1: None, 2: None}),
            r"layer 2 of .*Jamba.* no attention weights; those of layers 1, 3 ",
        ),
        ("bloom", Watch(attention={2: None}), "layer 2 in a pass of 2"),
        ("bloom", Watch(attention={0: [5, 6]}), "no head 6 in layer 0; give numbers from 0 to 5"),
        ("bloom", Watch(attention={0: [-1]}), "no head -1 in layer 0"),
    ):
        decoder = HFDecoder(random_model(name), ops=OPS)
        with pytest.raises(OptionError, match=message):
            look(decoder, PROMPT[:7], watch, [6])
        assert look(decoder, PROMPT[:7], Watch(), [6]).shape == (1, tiny.N_VOCAB)


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda weights: None, "hands out no attention weights, expected those of 2 layers"),
        (
            lambda weights: [w[:, :, :, :-1] for w in weights],
            r"shape \(1, 6, 5, 4\) in layer 0, expected \(1, n_head, 5, 5\)",
        ),
        (lambda weights: [w.flip(-1) for w in weights], "no distribution over the positions before each"),
        (lambda weights: [w * 1.5 for w in weights], "no distribution"),
        (lambda weights: 1 / 0, r"does not hand out attention weights \(division by zero\)"),
    ],
)
def test_weights_that_are_none_are_refused(bend: Callable[[Any], Any], message: str) -> None:
    model = random_model("starcoder2")
    forward = model.forward

    def bent(*args: Any, output_attentions: bool = False, **options: Any) -> Any:
        result = forward(*args, output_attentions=output_attentions, **options)
        if output_attentions:
            result["attentions"] = bend(result["attentions"])
        return result

    model.forward = bent
    decoder = HFDecoder(model, ops=OPS)
    with pytest.raises(OptionError, match=message):
        look(decoder, PROMPT[:7], Watch(attention={0: None}), [6])
    assert model.config._attn_implementation == "sdpa"


# -- nothing changes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama with biases", "starcoder2", "falcon", "jamba", "openai-gpt"])
def test_looking_everywhere_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what comes after it, over several pieces, nor how the model is set up."""
    monkeypatch.setattr(hf, "PIECE", 8)
    model = model_of(name)
    decoder = HFDecoder(model, ops=OPS)
    before = model.config._attn_implementation
    plain, watched = Texts(decoder), Texts(decoder)
    slots = plain.cache.open(), watched.cache.open()
    layer = 1
    for ids, rows, kept in (
        (PROMPT[:19], [18, 4], [17, 0, 17]),
        ([5], [0], [0]),
        ([6, 7, 8], [2], [0, 1]),
        ([9], [0], []),
    ):
        watch = Watch(layers=(1, 2), final=True, middles=True, times=True, attention={layer: None}, rows=kept)
        found = watched.feed([(slots[1], ids)], rows, watch)
        np.testing.assert_array_equal(found, plain.feed([(slots[0], ids)], rows))
        assert {x.shape[0] for x in (*watch.states.values(), *watch.inner.values())} == {len(kept)}
    assert model.config._attn_implementation == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_watch_is_emptied_before_every_pass() -> None:
    decoder = HFDecoder(model_of("gpt2"), ops=OPS)
    watch = Watch(layers=(0,), middles=True, attention={0: None}, times=True)
    look(decoder, PROMPT[:7], watch, [6])
    seconds = watch.seconds
    watch.layers, watch.middles, watch.attention, watch.times = (1,), False, {}, False
    look(decoder, PROMPT[:7], watch, [6])
    assert (list(watch.states), watch.inner, watch.weights, watch.seconds) == ([1], {}, {}, {})
    assert len(seconds) == 6


# -- readings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "k"), [("opt", 1), ("cohere", 7), ("gemma2 with tight caps", 101), ("opt", 300)])
def test_readings_are_what_the_ops_say_of_each_row(name: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many equal logits, in groups of rows, whose logits torch may round differently."""
    model = model_of(name)
    with torch.no_grad():
        model.get_output_embeddings().weight[20:60] = model.get_output_embeddings().weight[20]
    monkeypatch.setattr(hf_states, "READ_BYTES", 8 * tiny.N_VOCAB * 4)  # 4 rows at once
    decoder = HFDecoder(model, ops=OPS)
    watch = Watch(layers=(0, 1, 2), rows=range(13))
    look(decoder, PROMPT[:13], watch)
    tokens = [*RANDOM.integers(0, tiny.N_VOCAB, 9).tolist(), 20, 21, 40, 59]
    for x in watch.states.values():
        logits = decoder.read_out(x)
        found = decoder.readings(x, tokens, k)
        assert found.ids.shape == found.logits.shape == (13, min(k, tiny.N_VOCAB))
        assert [a.dtype for a in found] == [np.int32, np.float32, np.float64, np.float64, np.float32, np.int32]
        for i, token in enumerate(tokens):
            row, values = OPS.row(logits, i), logits.numpy()[i]
            atol = 1e-4 * float(np.ptp(values))
            np.testing.assert_allclose(found.logits[i], values[found.ids[i]], atol=atol)
            np.testing.assert_allclose(found.logits[i], OPS.top(row, k)[1], atol=atol)
            same = [other for other in found.ids[i].tolist() if 20 <= other < 60]
            assert same == list(range(20, 20 + len(same))), "ties: the lowest id first"
            stats = OPS.stats(row)
            assert found.logsumexp[i] == pytest.approx(stats.logsumexp, abs=atol)
            assert found.entropy[i] == pytest.approx(stats.entropy, abs=1e-3)
            assert found.token_logits[i] == pytest.approx(values[token], abs=atol)
            if token in found.ids[i]:
                assert found.token_ranks[i] == found.ids[i].tolist().index(token)
            else:
                assert found.token_ranks[i] >= k


@pytest.mark.parametrize("k", [0, 1, 6, 33])
def test_ties_at_the_edge_are_cut_at_the_lowest_ids(k: int) -> None:
    logits = torch.tensor(RANDOM.integers(0, 4, (5, 33)), dtype=torch.float32)
    logits[1] = 2.0
    logits[2, 3:] = -torch.inf
    tokens = [0, 32, 2, 17, 31]
    found = hf_states.summed_up(torch, logits, tokens, k)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    np.testing.assert_array_equal(found.ids, order[:, :k])
    np.testing.assert_array_equal(found.logits, np.take_along_axis(logits.numpy(), order[:, :k], 1))
    assert found.token_ranks.tolist() == [row.tolist().index(token) for row, token in zip(order, tokens, strict=True)]
    for i in range(5):
        stats = OPS.stats(OPS.row(OPS.tensor(logits.numpy().tobytes(), 33), i))
        assert (found.logsumexp[i], found.entropy[i]) == pytest.approx((stats.logsumexp, stats.entropy), abs=1e-12)


def test_readings_of_no_rows_and_of_rows_that_are_none() -> None:
    decoder = HFDecoder(model_of("gpt2"), ops=OPS)
    empty = decoder.readings(OPS.tensor(b"", 36), [], 3)
    assert [a.shape for a in empty] == [(0, 3), (0, 3), (0,), (0,), (0,), (0,)]
    x = OPS.tensor(np.ones((2, 36), np.float32).tobytes(), 36)
    for tokens, k in (([1], 3), ([1, 101], 3), ([-1, 1], 3), ([1, 2], -1)):
        with pytest.raises(KernelError, match="one token for each row, from 0 to 100"):
            decoder.readings(x, tokens, k)
    broken = np.ones((2, 36), np.float32)
    broken[1, 7] = np.nan
    with pytest.raises(NumericError, match="row 1 of the logits"):
        decoder.readings(OPS.tensor(broken.tobytes(), 36), [1, 2], 3)


@pytest.mark.parametrize(("name", "factor"), [("gpt2", 1.0), ("bloom", 1.0), ("cohere", 0.0625), ("granite", None)])
def test_final_states_times_head_rows_are_logits_up_to_a_factor(name: str, factor: float | None) -> None:
    decoder = HFDecoder(model_of(name), ops=OPS)
    watch = Watch(layers=(1, 2), final=True, rows=range(7))
    look(decoder, PROMPT[:7], watch)
    assert_close(decoder.final(watch.states[2]).numpy(), watch.states[FINAL].numpy(), "final")
    tokens = [3, 100, 0, 3]
    rows = decoder.head_rows(tokens).numpy()
    assert rows.shape == (4, decoder.config.n_embd)
    for layer in (1, 2):
        products = decoder.final(watch.states[layer]).numpy() @ rows.T
        logits = decoder.read_out(watch.states[layer]).numpy()[:, tokens]
        of_one = factor or 1 / decoder.model.config.logits_scaling
        assert_close(products * of_one, logits, f"layer {layer}")
    assert decoder.head_rows([]).shape == (0, decoder.config.n_embd)
    with pytest.raises(KernelError, match=r"id 101 is outside 0\.\.100"):
        decoder.head_rows([3, 101])


# -- seconds ----------------------------------------------------------------------------------------------------------


def slowed(module: Any) -> None:
    forward = module.forward

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return forward(*args, **options)

    module.forward = slow


@pytest.mark.parametrize(
    ("name", "attention", "feed_forward"),
    [
        ("llama with biases", "self_attn", "mlp"),
        ("gpt_neox", "attention", "mlp"),
        ("opt, post-norm, with a narrow embedding", "self_attn", "fc2"),
    ],
)
def test_seconds_are_where_they_pass(
    name: str, attention: str, feed_forward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three pieces, all of which count."""
    monkeypatch.setattr(hf, "PIECE", 8)
    model = model_of(name)
    decoder = HFDecoder(model, ops=OPS)
    slow = {("attention", 1), ("feed_forward", 0), ("head", 0)}
    slowed(getattr(blocks_of(model)[1], attention))
    slowed(getattr(blocks_of(model)[0], feed_forward))
    slowed(model.get_output_embeddings())
    begin = time.perf_counter()
    watch = Watch(times=True)
    look(decoder, PROMPT[:19], watch, [18])
    whole = time.perf_counter() - begin
    n_layer = decoder.config.n_layer
    keys = {(part, i) for part in ("attention", "feed_forward") for i in range(n_layer)}
    assert set(watch.seconds) == {("embedding", 0), ("head", 0), *keys}
    assert 0.45 <= sum(watch.seconds.values()) <= whole
    assert {key for key, seconds in watch.seconds.items() if seconds >= 0.15} == slow
    assert all(seconds > 0 for seconds in watch.seconds.values())


def test_a_pass_that_computes_nothing_takes_no_seconds() -> None:
    watch = Watch(times=True)
    look(HFDecoder(model_of("gpt2"), ops=OPS), PROMPT[:7], watch)
    assert len(watch.seconds) == 6
    assert not any(watch.seconds.values())
