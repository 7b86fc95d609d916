"""Models that transformers runs behind Fanlight's protocol: the same logits on every way, the same texts, typed refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
)

from fanlight.api import Model
from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.loop import Engine
from fanlight.errors import KernelError, OptionError
from fanlight.kernels import load_ops
from fanlight.loading import Loaded
from fanlight.models import hf
from fanlight.models.hf import HFDecoder, load_hf
from fanlight.models.hf_pool import IdPool
from fanlight.text.tokenizer import Tokenizer
from models import tiny
from models.hf_tiny import CASES, random_model
from models.passes import every_way

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOLERANCE = 2e-5  # of the range of the logits
RANDOM = np.random.default_rng(11)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (67, 1, 19)]  # a page holds 64
OPS = load_ops("reference")
KINDS = ["bloom", "starcoder2", "mamba", "openai-gpt"]  # attention, sliding windows, states, no cache


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """transformers' own, made once."""
    return {model_type: random_model(model_type) for model_type in KINDS}


def decoder_of(model: Any) -> HFDecoder:
    return HFDecoder(model, ops=OPS)


class Sequences:
    """Sequences in one cache of a decoder; the pool's pages and memos are open to a test."""

    def __init__(self, decoder: HFDecoder) -> None:
        self.decoder = decoder
        self.cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)
        self.pool = cast("IdPool", self.cache.pool)

    def feed(self, *parts: tuple[CacheSlot, list[int]], logits: bool = True) -> list[NDArray[np.float32]]:
        """Append ids to each, in one pass: the logits after the last of each."""
        for slot, ids in parts:
            assert self.cache.reserve(slot, len(ids))
        batch = self.cache.batch([(slot, len(ids)) for slot, ids in parts])
        together = [token for _, ids in parts for token in ids]
        last = np.cumsum([len(ids) for _, ids in parts]) - 1
        return list(self.decoder.forward(together, batch, last.tolist() if logits else []).numpy())

    def open(self, ids: list[int]) -> tuple[CacheSlot, NDArray[np.float32]]:
        slot = self.cache.open()
        return slot, self.feed((slot, ids))[0]

    def branch(self, slot: CacheSlot) -> CacheSlot:
        """Another sequence with a copy of the pages."""
        other = self.cache.open()
        assert self.cache.reserve(other, slot.length)
        for source, target in zip(slot.pages, other.pages, strict=True):
            self.pool.copy(source, target)
        other.length = slot.length
        return other


def of_transformers(model: Any, ids: list[int]) -> NDArray[np.float32]:
    last: NDArray[np.float32] = tiny.logits_of(model, [ids])[0][-1]
    return last


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
    worst = float(np.abs(found - expected).max()) / float(expected.max() - expected.min())
    assert worst <= TOLERANCE, f"{what}: {worst:.2g} of the range"


# -- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", CASES)
def test_logits_equal_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, random_model(model_type))
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = tiny.logits_of(model, PROMPTS)
    assert len(set(expected[0].argmax(axis=1))) > 8, "logits that hardly vary would hide a mistake"
    decoder, report = load_hf(folder, OPS)
    for way, found in every_way(decoder, PROMPTS).items():
        for ids, ours, theirs in zip(PROMPTS, found, expected, strict=True):
            assert_close(ours, theirs, f"{len(ids)} ids {way}")
    assert report.model_type == decoder.config.model_type == model_type
    assert report.n_parameters == sum(p.numel() for p in model.parameters())
    assert report.packed_bytes == 4 * report.n_parameters
    assert set(report.dtypes) == {"F32"}
    assert (report.unread, report.conversions) == ([], [])


def test_sizes_are_told_in_our_words(models: dict[str, Any]) -> None:
    sizes = decoder_of(models["starcoder2"]).config
    assert (sizes.n_layer, sizes.n_head, sizes.n_kv_head, sizes.head_dim) == (2, 6, 2, 8)
    assert (sizes.n_embd, sizes.n_ffn, sizes.n_vocab, sizes.n_ctx) == (48, 52, tiny.N_VOCAB, 131)
    assert (sizes.norm_eps, sizes.tied_head) == (1e-5, True)
    states = decoder_of(models["mamba"]).config
    assert (states.n_head, states.n_ctx) == (0, 1 << 20)


@pytest.mark.parametrize("model_type", KINDS)
def test_numbers_do_not_depend_on_others_nor_on_how_a_prompt_was_cut(
    model_type: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: alone at once; and in chunks, beside others with the same beginning."""
    monkeypatch.setattr(hf, "PIECE", 8)
    decoder, prompt = decoder_of(models[model_type]), PROMPTS[0][:29]
    alone = Sequences(decoder)
    slot, first = alone.open(prompt)
    expected = [first, *(alone.feed((slot, [token]))[0] for token in (5, 6, 7))]

    together = Sequences(decoder)
    long, _ = together.open(PROMPTS[0])
    same, other = together.cache.open(), together.open(PROMPTS[2])[0]
    for start in range(0, 24, 6):
        together.feed((other, [start]), (same, prompt[start : start + 6]), logits=False)
    found = [together.feed((other, [9]), (same, prompt[24:]))[1]]
    found += [together.feed((long, [token]), (same, [token]), (other, [token]))[1] for token in (5, 6, 7)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert_close(found[3], of_transformers(models[model_type], [*prompt, 5, 6, 7]), model_type)


@pytest.mark.parametrize("model_type", KINDS)
def test_a_lost_memo_changes_no_bit(model_type: str, models: dict[str, Any]) -> None:
    decoder = decoder_of(models[model_type])
    rows = []
    for max_count in (256, 0):
        sequences = Sequences(decoder)
        sequences.pool.memos.max_count = max_count
        slot, logits = sequences.open(PROMPTS[2])
        rows.append([logits, *(sequences.feed((slot, ids))[0] for ids in ([1], [2, 3, 4], [5]))])
        assert len(sequences.pool.memos) <= max_count
    assert all(np.array_equal(a, b) for a, b in zip(*rows, strict=True))


@pytest.mark.parametrize("model_type", KINDS)
def test_sequences_branch_and_are_cut_off(model_type: str, models: dict[str, Any]) -> None:
    model = models[model_type]
    sequences, prompt = Sequences(decoder_of(model)), PROMPTS[2]
    slot, _ = sequences.open(prompt)
    branches = [slot, *(sequences.branch(slot) for _ in range(2))]
    for token, branch in enumerate(branches):
        assert_close(sequences.feed((branch, [token]))[0], of_transformers(model, [*prompt, token]), f"branch {token}")
    for token, branch in enumerate(branches):  # none disturbed another
        ids = [*prompt, token, 7, 8]
        assert_close(sequences.feed((branch, [7, 8]))[0], of_transformers(model, ids), f"branch {token}, two more")
    for length in (len(prompt) + 2, 11, 0):
        sequences.cache.truncate(slot, length)
        ids = [*[*prompt, 0, 7, 8][:length], 50, 51]
        assert_close(sequences.feed((slot, [50, 51]))[0], of_transformers(model, ids), f"cut to {length}")
        sequences.cache.truncate(slot, length)


def computed_by(model: Any, sequences: Sequences, *parts: tuple[CacheSlot, list[int]]) -> list[int]:
    """How many ids each call of the model had while these were fed."""
    calls: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, options: calls.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        sequences.feed(*parts)
    finally:
        hook.remove()
    return calls


@pytest.mark.parametrize("model_type", KINDS)
def test_nothing_is_computed_twice_while_there_is_a_memo(
    model_type: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "PIECE", 8)
    model, prompt = models[model_type], PROMPTS[2]
    sequences = Sequences(decoder_of(model))
    slot, again = sequences.open(prompt)[0], sequences.cache.open()
    branches = [slot, sequences.branch(slot)]
    calls = {
        "a step": computed_by(model, sequences, (slot, [1])),
        "a branch": computed_by(model, sequences, (branches[1], [2])),
        "a step of both": computed_by(model, sequences, *((branch, [3]) for branch in branches)),
        "the same beginning": computed_by(model, sequences, (again, [*prompt[:17], 4])),
    }
    if model_type == "openai-gpt":  # without a cache there is nothing to remember
        assert calls == {"a step": [20], "a branch": [20], "a step of both": [21, 21], "the same beginning": [18]}
    elif model_type == "mamba":  # a state cannot be cut back to a shared beginning
        assert calls == {"a step": [1], "a branch": [1], "a step of both": [1, 1], "the same beginning": [18]}
    else:  # two pieces of 8 are shared, if the window is not full
        rest = [8, 8, 2] if model_type == "starcoder2" else [2]
        assert calls == {"a step": [1], "a branch": [1], "a step of both": [1, 1], "the same beginning": rest}


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "bytes_per_token", "bytes_per_sequence"),
    [
        ("bloom", 2 * 2 * 48 * 4, 0),  # layers, keys and values, n_embd, float32
        ("starcoder2", 2 * 2 * 16 * 4, 2 * 8),  # 2 of 6 heads; each layer keeps its window's size as a number
        ("mamba", 0, 2 * 96 * (7 + 4) * 4),  # the state and the convolution's window, n_embd doubled
        ("openai-gpt", 0, 0),
    ],
)
def test_a_page_costs_what_the_cache_takes(
    model_type: str, bytes_per_token: int, bytes_per_sequence: int, models: dict[str, Any]
) -> None:
    pool = decoder_of(models[model_type]).new_pool()
    ids = 4
    assert pool.page_bytes == pool.page_tokens * (bytes_per_token + ids) + bytes_per_sequence


@pytest.mark.parametrize("model_type", ["bloom", "mamba"])
def test_memos_take_no_more_than_the_pages_in_use_and_the_spare(model_type: str, models: dict[str, Any]) -> None:
    sequences = Sequences(decoder_of(models[model_type]))
    pool = sequences.pool
    pool.spare_bytes = 20_000
    slots = [sequences.open(PROMPTS[2])[0] for _ in range(6)]
    assert len(pool.memos) >= 6, "every live sequence has its memo"
    for slot in slots:
        sequences.cache.release(slot)
    for n in range(20):
        slot, _ = sequences.open([n, *PROMPTS[2]])
        assert 0 < pool.memos.nbytes <= pool.n_pages * pool.page_bytes + pool.spare_bytes
        sequences.cache.release(slot)
    pool.memos.max_count = 2
    sequences.open([1, 2])
    assert len(pool.memos) == 2


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", KINDS)
def test_greedy_texts_equal_those_of_transformers(model_type: str, models: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, models[model_type])
    decoder, report = load_hf(folder, OPS)
    model = Model(Loaded(name="tiny", decoder=decoder, tokenizer=Tokenizer.from_folder(folder), report=report))
    text = "the thin heron"
    ids = model.prompt_ids(text)
    theirs = (
        models[model_type].generate(torch.tensor([ids]), do_sample=False, max_new_tokens=23)[0, len(ids) :].tolist()
    )
    found = model.generate(text, max_new_tokens=23)
    assert list(found.ids) == theirs
    assert len(set(theirs)) > 3
    assert model.describe().n_layer == 2


def events_of(engine: Engine, prompts: list[list[int]], **options: Any) -> list[list[int | None]]:
    requests = [
        engine.submit(ids, GenerationConfig(seed=seed, ignore_eos=True, max_new_tokens=9, **options))
        for seed, ids in enumerate(prompts)
    ]
    events = engine.run()
    return [[event.id for event in events if event.request_id == request.id] for request in requests]


@pytest.mark.parametrize("model_type", ["bloom", "mamba"])
def test_a_sampled_text_is_the_same_alone_in_a_batch_and_in_a_cache_too_small(
    model_type: str, models: dict[str, Any]
) -> None:
    decoder = decoder_of(models[model_type])
    prompts = [PROMPTS[0][:58], PROMPTS[2], PROMPTS[0][:60], [3]]
    page_bytes = decoder.new_pool().page_bytes
    alone = [events_of(Engine(decoder), [[1]] * seed + [ids], do_sample=True)[seed] for seed, ids in enumerate(prompts)]
    assert events_of(Engine(decoder), prompts, do_sample=True) == alone
    assert events_of(Engine(decoder, prefill_chunk=7), prompts, do_sample=True) == alone
    assert events_of(Engine(decoder, max_cache_bytes=4 * page_bytes), prompts, do_sample=True) == alone
    assert len({tuple(ids) for ids in alone}) == len(prompts)


# -- the pool ---------------------------------------------------------------------------------------------------------


def test_batches_are_checked() -> None:
    pool = IdPool(8)
    page = pool.allocate()
    batch = pool.batch([[page], [pool.allocate()]], [3, 0], [2, 1])
    assert (batch.n_rows, batch.positions) == (3, [3, 4, 0])
    assert batch.take([2, 1]).positions == [0, 4]
    for arguments in (([[page]], [0], []), ([[page]], [-1], [1]), ([[page]], [60], [5]), ([[7]], [0], [1])):
        with pytest.raises(KernelError):
            pool.batch(*arguments)
    with pytest.raises(KernelError, match="row 3"):
        batch.take([3])
    pool.release(page)
    with pytest.raises(KernelError, match="not in use"):
        pool.release(page)
    assert pool.allocate() == page


def test_a_cache_that_transformers_keeps_has_no_type_and_no_pages_to_read(models: dict[str, Any]) -> None:
    decoder = decoder_of(models["bloom"])
    for dtype in ("F16", "I8"):
        with pytest.raises(OptionError, match=f"{dtype!r} has no effect with backend hf"):
            decoder.new_pool(dtype)
    pool = decoder.new_pool(None)
    page = pool.allocate()
    for call in (lambda: pool.read(page, 1), lambda: pool.write(page, {})):
        with pytest.raises(OptionError, match="cannot be read or written with backend hf"):
            call()


def test_ids_and_rows_must_be_as_many(models: dict[str, Any]) -> None:
    decoder = decoder_of(models["bloom"])
    pool = decoder.new_pool()
    with pytest.raises(KernelError, match="2 ids for a batch of 1 rows"):
        decoder.forward([1, 2], pool.batch([[pool.allocate()]], [0], [1]), [0])
