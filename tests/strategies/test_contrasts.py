"""Strategies that set two rows, or states, against each other: each against a plain NumPy one that computes everything anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fanlight
from fakes.decoder import FakeDecoder, hashed_logits, hashed_state
from fakes.runs import engine_of, generate, nearly, small_vocabulary
from fanlight.engine.request import Helpers
from fanlight.errors import ContextOverflow
from fanlight.kernels.reference_tensor import Tensor
from fanlight.models.base import FINAL
from models import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fanlight import Model

N_VOCAB, END = 19, 18
PROMPTS = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=6)


def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
    return hashed_logits(history, N_VOCAB, 1.0)


def engine(**sizes: Any) -> Any:
    decoder = FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB, **sizes)
    return engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, END))


def log_softmax(row: Any) -> NDArray[np.float64]:
    shifted = np.asarray(row, np.float64) - np.max(row)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return found


def greedy(row_of: Callable[[list[int]], Any], prompt: Sequence[int], n_new: int, end: int = END) -> list[int]:
    """The arg max of each row, up to the end."""
    ids = list(prompt)
    while len(ids) < len(prompt) + n_new and (len(ids) == len(prompt) or ids[-1] != end):
        ids.append(int(np.argmax(row_of(ids))))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    """Of five layers, in Fanlight and in transformers."""
    model = tiny.llama(num_hidden_layers=5)
    folder = tiny.write_folder(tmp_path_factory.mktemp("llama") / "tiny", model)
    return fanlight.load(folder, kernels="native"), model


def states_of(model: Any, ids: Sequence[int]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """(logits (n, V), states (n, E) after so many layers; the last one is what the head reads)."""
    with torch.no_grad():
        out = model(torch.tensor([list(ids)]), output_hidden_states=True)
    return out.logits[0].numpy(), [states[0].numpy() for states in out.hidden_states]


# -- contrastive search ---------------------------------------------------------------------------------------------------


def contrastive(
    look: Callable[[list[int]], tuple[Any, Any]], prompt: Sequence[int], k: int, alpha: float, n_new: int, end: int
) -> list[int]:
    """look: ids -> (last row of logits, states of all ids)."""
    ids = list(prompt)
    while len(ids) < len(prompt) + n_new and (len(ids) == len(prompt) or ids[-1] != end):
        probs = np.exp(log_softmax(look(ids)[0]))
        best, choice = -np.inf, -1
        for token in np.argsort(-probs, kind="stable")[:k].tolist():
            states = np.asarray(look([*ids, token])[1], np.float64)
            states /= np.linalg.norm(states, axis=-1, keepdims=True)
            score = (1 - alpha) * probs[token] - alpha * (states[:-1] @ states[-1]).max()
            if score > best:
                best, choice = score, token
        ids.append(choice)
    return ids[len(prompt) :]


@settings(max_examples=50, deadline=None)
@given(
    prompt=PROMPTS,
    k=st.sampled_from([2, 4, 19]),
    alpha=st.sampled_from([0.1, 0.6, 1.0]),
    n_new=st.sampled_from([1, 5, 9]),
    limits=st.sampled_from([{}, {"max_cache_bytes": 600}, {"prefill_chunk": 1}, {"max_batch": 1}]),
    use_cache=st.booleans(),
)
def test_contrastive_search_equals_a_plain_one(
    prompt: list[int], k: int, alpha: float, n_new: int, limits: dict[str, int], use_cache: bool
) -> None:
    """In a cache that holds all candidates, or hardly one; in any chunks."""
    decoder = FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB, n_ctx=20)
    one = engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, END), **limits)
    options = {"penalty_alpha": alpha, "top_k": k, "max_new_tokens": n_new, "use_cache": use_cache}
    (found,) = generate(one, prompt, options)

    def look(ids: list[int]) -> tuple[Any, Any]:
        return logits_of(ids), [hashed_state(ids[: i + 1], FINAL) for i in range(len(ids))]

    assert found.ids == contrastive(look, prompt, k, alpha, n_new, END)


def test_contrastive_search_reads_the_states_of_a_real_model(llama: tuple[Model, Any]) -> None:
    ours, theirs = llama
    for prompt in ([5, 17, 40, 3], [88], [*range(30, 61, 3)]):
        out = ours.generate(prompt, penalty_alpha=0.6, top_k=5, max_new_tokens=9, ignore_eos=True)

        def look(ids: list[int]) -> tuple[Any, Any]:
            logits, states = states_of(theirs, ids)
            return logits[-1], states[-1]

        assert list(out.ids) == contrastive(look, prompt, 5, 0.6, 9, -1)
        assert list(out.ids) != list(ours.generate(prompt, max_new_tokens=9, ignore_eos=True).ids)
        assert out.search is not None
        assert out.search.kind == "contrastive search"
        assert len(out.search.nodes) == 9 * 5


def test_contrastive_search_fills_the_window_to_its_last_place() -> None:
    one = engine(n_ctx=8)
    (found,) = generate(one, [1, 2, 3], {"penalty_alpha": 0.6, "top_k": 3, "max_new_tokens": 50, "ignore_eos": True})
    assert len(found.ids) == 6
    assert found.stop.endswith("the context window of 8 tokens is full")


# -- DoLa -----------------------------------------------------------------------------------------------------------------


def dola(final: Any, early: Sequence[Any]) -> NDArray[np.float64]:
    """The row after DoLa."""
    last = log_softmax(final)
    rows = [log_softmax(row) for row in early]

    def divergence(row: NDArray[np.float64]) -> float:
        middle = np.log(0.5 * (np.exp(last) + np.exp(row)))
        return float((np.exp(last) * (last - middle)).sum() / 2 + (np.exp(row) * (row - middle)).sum() / 2)

    furthest = max(rows, key=divergence)
    return np.where(last >= last.max() + np.log(0.1), last - furthest, -np.inf)


@settings(max_examples=40, deadline=None)
@given(prompt=PROMPTS, layers=st.sets(st.integers(0, 2), min_size=1).map(sorted), lookup=st.booleans())
def test_dola_equals_a_plain_one(prompt: list[int], layers: list[int], lookup: bool) -> None:
    one = engine()
    options: dict[str, Any] = {"dola_layers": layers, "max_new_tokens": 9}
    if lookup:
        options |= {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1}
    (found,) = generate(one, prompt, options)
    read_out = one.decoder.read_out

    def row_of(ids: list[int]) -> NDArray[np.float64]:
        early = [read_out(Tensor(hashed_state(ids, layer)[None]), norm=False).numpy()[0] for layer in layers]
        return dola(logits_of(ids), early)

    assert found.ids == greedy(row_of, prompt, 9)


@pytest.mark.parametrize(("setting", "layers"), [([1, 3], (1, 3)), ("low", (0,)), ("high", (2, 4)), ([4], (4,))])
def test_dola_reads_the_layers_of_a_real_model(
    llama: tuple[Model, Any], setting: str | list[int], layers: tuple[int, ...]
) -> None:
    """By the head alone, without the final norm, as its authors did."""
    ours, theirs = llama
    head = theirs.lm_head.weight.detach().numpy()

    def row_of(ids: list[int]) -> NDArray[np.float64]:
        logits, states = states_of(theirs, ids)
        return dola(logits[-1], [states[layer][-1] @ head.T for layer in layers])

    for prompt in ([5, 17, 40, 3], [88]):
        out = ours.generate(prompt, dola_layers=setting, max_new_tokens=9, ignore_eos=True)
        assert list(out.ids) == greedy(row_of, prompt, 9, -1)


# -- contrastive decoding -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    prompt=PROMPTS,
    alpha=st.sampled_from([0.02, 0.1, 1.0]),
    beta=st.sampled_from([0.0, 0.5, 2.0]),
    lookup=st.booleans(),
    limits=st.sampled_from([{}, {"max_batch": 1}, {"prefill_chunk": 2}]),
)
def test_contrastive_decoding_equals_a_plain_one(
    prompt: list[int], alpha: float, beta: float, lookup: bool, limits: dict[str, int]
) -> None:
    amateur_logits = nearly(logits_of, N_VOCAB, 0.7)
    amateur = FakeDecoder(logits_of=amateur_logits, n_vocab=N_VOCAB, page_tokens=3)
    decoder = FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB)
    options: dict[str, Any] = {"contrastive_alpha": alpha, "contrastive_beta": beta, "max_new_tokens": 9}
    if lookup:
        options |= {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    one = engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, END), **limits)
    (found,) = generate(one, prompt, options, Helpers(amateur=amateur))

    def row_of(ids: list[int]) -> NDArray[np.float64]:
        expert, other = logits_of(ids).astype(np.float64), amateur_logits(ids).astype(np.float64)
        return np.where(expert >= expert.max() + np.log(alpha), (1 + beta) * expert - beta * other, -np.inf)

    assert found.ids == greedy(row_of, prompt, 9)


# -- guidance -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    prompt=PROMPTS,
    negative=st.none() | PROMPTS,
    scale=st.sampled_from([0.5, 1.5, 4.0]),
    lookup=st.booleans(),
    use_cache=st.booleans(),
    limits=st.sampled_from([{}, {"max_batch": 1}, {"prefill_chunk": 2}, {"max_cache_bytes": 700}]),
)
def test_guidance_equals_a_plain_one(
    prompt: list[int],
    negative: list[int] | None,
    scale: float,
    lookup: bool,
    use_cache: bool,
    limits: dict[str, int],
) -> None:
    decoder = FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB, n_ctx=24)
    options: dict[str, Any] = {"guidance_scale": scale, "max_new_tokens": 9, "use_cache": use_cache}
    if negative is not None:
        options["negative_prompt_ids"] = negative
    if lookup:
        options |= {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    one = engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, END), **limits)
    (found,) = generate(one, prompt, options)

    def row_of(ids: list[int]) -> NDArray[np.float64]:
        instead = [*(negative or prompt[-1:]), *ids[len(prompt) :]]
        positive, other = log_softmax(logits_of(ids)), log_softmax(logits_of(instead))
        return other + scale * (positive - other)

    assert found.ids == greedy(row_of, prompt, 9)


@pytest.mark.parametrize("scale", [0.4, 1.5, 3.0])
@pytest.mark.parametrize("negative", [None, [4], [12, 7, 90, 33, 2, 41]])
def test_guidance_equals_that_of_transformers(
    llama: tuple[Model, Any], scale: float, negative: list[int] | None
) -> None:
    ours, theirs = llama
    for prompt in ([5, 17, 40, 3], [88]):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=11,
            guidance_scale=scale,
            negative_prompt_ids=None if negative is None else torch.tensor([negative]),
            pad_token_id=tiny.EOS,
        )[0, len(prompt) :].tolist()
        out = ours.generate(prompt, max_new_tokens=11, guidance_scale=scale, negative_prompt_ids=negative)
        assert list(out.ids) == expected


def test_a_negative_prompt_that_fills_the_window_first_ends_the_text_and_nothing_else() -> None:
    one = engine(n_ctx=12)
    options = {"guidance_scale": 2.0, "negative_prompt_ids": [1] * 10, "max_new_tokens": 50, "ignore_eos": True}
    (found,) = generate(one, [1, 2], options)
    assert len(found.ids) == 3  # the last of them needs no place
    assert found.stop.endswith("the context window of 12 tokens is full (the negative prompt's)")


def test_an_amateur_whose_window_is_full_ends_the_text() -> None:
    amateur = FakeDecoder(logits_of=logits_of, n_vocab=N_VOCAB, n_ctx=7)
    (found,) = generate(engine(), [1, 2], {"max_new_tokens": 50, "ignore_eos": True}, Helpers(amateur=amateur))
    assert len(found.ids) == 6
    assert found.stop.endswith("the context window of 7 tokens is full (the amateur's)")
    with pytest.raises(ContextOverflow, match="the prompt has 8 tokens, the amateur's context window holds 7"):
        engine().submit([1] * 8, None, Helpers(amateur=amateur))
