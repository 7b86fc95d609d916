"""The tree that a search leaves behind, and the text that is shown before a search has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.decoder import FakeDecoder, hashed_logits
from fakes.runs import config_of, engine_of, generate, outcomes, repeating, run, search_of, small_vocabulary
from fanlight.trace.search import Node, SearchRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fanlight.engine.loop import Engine

N_VOCAB = 13
SEARCHES = st.sampled_from(
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "num_return_sequences": 3},
        {"num_beams": 3, "force_words_ids": [[5, 2], [7]], "num_return_sequences": 2},
        {"num_beams": 3, "do_sample": True, "seed": 2, "num_return_sequences": 2},
        {"num_beams": 2, "early_stopping": True},
        {"penalty_alpha": 0.6, "top_k": 4},
    ]
)


def engine(seed: int = 0) -> Engine:
    decoder = FakeDecoder(logits_of=lambda history: hashed_logits([seed, *history], N_VOCAB, 1.2), n_vocab=N_VOCAB)
    return engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, 11, 12))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), options=SEARCHES, n_new=st.sampled_from([1, 4, 9]))
def test_a_record_is_a_tree_whose_fates_agree(seed: int, options: dict[str, Any], n_new: int) -> None:
    if "force_words_ids" in options:
        n_new = max(n_new, 4)
    events = run(engine(seed), (1, 2), {**options, "max_new_tokens": n_new})
    search, texts = search_of(events), outcomes(events)
    parents: dict[int, list[Node]] = {}
    for number, node in enumerate(search.nodes):
        assert -1 <= node.parent < number
        assert node.depth == (search.nodes[node.parent].depth + 1 if node.parent >= 0 else 1)
        assert node.fate in {"kept", "pruned", "finished", "returned"}
        assert node.logprob <= 1e-6 or options.get("do_sample") or options.get("diversity_penalty")
        parents.setdefault(node.parent, []).append(node)
    for number, node in enumerate(search.nodes):
        if node.fate in {"pruned", "finished"}:
            assert number not in parents  # nobody went on from it
        if node.parent >= 0:
            assert search.nodes[node.parent].fate == "kept"
    found = [outcome.ids for outcome in texts if outcome.ids != [None]]  # phrases may leave room for one text only
    assert [list(search.path(node)) for node in search.returned] == found
    assert [number for number, node in enumerate(search.nodes) if node.fate == "returned"] == sorted(search.returned)
    beams = options.get("num_beams", 0)
    for depth in range(1, max(node.depth for node in search.nodes)):
        if beams:
            kept = [node for node in search.nodes if node.depth == depth and node.fate == "kept"]
            assert len(kept) <= beams
    assert any(node.fate == "pruned" for node in search.nodes)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}], ids=str)
def test_without_records_there_is_no_tree_and_the_same_text(options: dict[str, Any]) -> None:
    recorded = generate(engine(), (1, 2), options)
    events = run(engine(), (1, 2), {**options, "candidates": 0})
    assert events[-1].search is None
    assert [outcome.ids for outcome in outcomes(events)] == [outcome.ids for outcome in recorded]
    assert set(outcomes(events)[0].records) == {None}


def test_scores_of_nodes_are_sums_along_their_paths() -> None:
    search = search_of(run(engine(), (1, 2), {"num_beams": 4, "max_new_tokens": 7}))
    for number, node in enumerate(search.nodes):
        total, at = 0.0, number
        while at >= 0:
            total, at = total + search.nodes[at].logprob, search.nodes[at].parent
        assert node.score == pytest.approx(total, abs=1e-4)


def test_a_path_leads_from_the_prompt_to_its_node() -> None:
    nodes = [Node(-1, 4, 1, 0, 0, "kept"), Node(-1, 5, 1, 0, 0, "kept"), Node(1, 6, 2, 0, 0, "returned")]
    search = SearchRecord("beam search", tuple(nodes), (2,))
    assert (search.path(2), search.path(0), search.path(-1)) == ((5, 6), (4,), ())


def certain_at_first(history: Sequence[int]) -> NDArray[np.float32]:
    """The first tokens leave no doubt, the later ones all."""
    logits = hashed_logits(history, N_VOCAB, 0.1)
    if len(history) < 7:
        logits[len(history)] = 30
    return logits


def test_what_all_beams_agree_on_is_shown_before_the_search_ends() -> None:
    decoder = FakeDecoder(logits_of=certain_at_first, n_vocab=N_VOCAB)
    one = engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, 11))
    options = {"num_beams": 3, "max_new_tokens": 12, "candidates": 2, "early_stopping": "never"}
    expected = generate(one, (1, 2), options)[0]
    early, events = 0, []
    stream = one.stream(one.submit((1, 2), config_of(options)))
    n_before = len(decoder.passes)
    for event in stream:
        events.append(event)
        early += len(decoder.passes) - n_before < 10
    assert outcomes(events)[0] == expected
    assert expected.ids[:5] == [2, 3, 4, 5, 6]
    assert early >= 5
    assert [event.index for event in events] == list(range(len(events)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    order=st.sampled_from([1, 2, 20]),
    num_beams=st.sampled_from([2, 4]),
    early_stopping=st.sampled_from([False, True, "never"]),
    spread=st.sampled_from([0.5, 4.0]),
)
def test_pieces_that_come_early_join_to_the_text_that_wins(
    seed: int, order: int, num_beams: int, early_stopping: Any, spread: float
) -> None:
    """With several texts nothing is shown early, and the first of them is the same."""

    def one() -> Engine:
        decoder = FakeDecoder(logits_of=repeating(order, N_VOCAB, seed, spread), n_vocab=N_VOCAB)
        return engine_of(decoder, vocabulary=small_vocabulary(N_VOCAB, 11, 12))

    options = {"num_beams": num_beams, "early_stopping": early_stopping, "max_new_tokens": 14}
    (shown,) = generate(one(), (1, 2), options)
    late, _ = generate(one(), (1, 2), {**options, "num_return_sequences": 2})
    assert shown == late
