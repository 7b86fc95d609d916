"""Fans: the most probable tokens after each text, their probabilities, the rest; the same as from the model's own rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanlight.decoding.config import GenerationConfig
from fanlight.errors import ContextOverflow, OptionError
from fanlight.tracing.fan import PROMPT, fan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight import Model
    from fanlight.tracing.fan import Fan

TEXT = "The cat sat on the"


def probs_after(model: Model, ids: tuple[int, ...]) -> NDArray[np.float64]:
    row = model.logits(ids)[-1].astype(np.float64)
    weights = np.exp(row - row.max())
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def test_nodes_are_the_most_probable_tokens_after_their_text(smollm: Model) -> None:
    found = fan(smollm, TEXT, width=3, depth=3, min_prob=0.03)
    assert found.prompt_ids == tuple(smollm.tokenizer.encode(TEXT))
    for at in [PROMPT, *range(len(found.nodes))]:
        depth = 0 if at == PROMPT else found.nodes[at].depth
        if depth == 3:
            assert found.children(at) == ()
            assert found.nodes[at].rest == 1.0
            continue
        probs = probs_after(smollm, found.prompt_ids + found.path(at))
        expected = [token for token in np.argsort(-probs, kind="stable")[:3].tolist() if probs[token] >= 0.03]
        children = [found.nodes[child] for child in found.children(at)]
        assert [child.id for child in children] == expected
        np.testing.assert_allclose([child.prob for child in children], probs[expected], rtol=1e-5)
        rest = found.rest if at == PROMPT else found.nodes[at].rest
        assert rest == pytest.approx(1 - probs[expected].sum(), abs=1e-6)
        before = 1.0 if at == PROMPT else found.nodes[at].cumulative
        for child in children:
            assert child.cumulative == pytest.approx(before * child.prob)
            assert child.depth == depth + 1
            assert child.label == smollm.tokenizer.token_label(child.id)
    assert found.depth == 3


def test_probabilities_of_the_leaves_and_of_all_rests_add_up_to_one(smollm: Model) -> None:
    found = fan(smollm, TEXT, width=4, depth=2, min_prob=0.0)
    inner = {node.parent for node in found.nodes}
    total = found.rest + sum(found.nodes[at].cumulative * found.nodes[at].rest for at in inner if at != PROMPT)
    assert total + sum(found.nodes[leaf].cumulative for leaf in found.leaves) == pytest.approx(1)
    assert len(found.nodes) == 4 + 16
    best = found.leaves[0]
    assert found.nodes[best].cumulative == max(found.nodes[leaf].cumulative for leaf in found.leaves)
    assert found.text(best) == "".join(map(smollm.tokenizer.token_label, found.path(best)))


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.5, "top_k": 2},
        {"do_sample": True, "top_p": 0.4, "presence_penalty": 1.5},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1},
        {"min_new_tokens": 3, "stop_strings": ["."]},
    ],
    ids=lambda options: ",".join(options),
)
def test_final_probabilities_are_those_that_a_run_draws_from(smollm: Model, options: dict[str, Any]) -> None:
    found = fan(smollm, TEXT, width=3, depth=3, final=True, **options)
    assert found.is_final
    at = PROMPT
    for _ in range(3):  # the way that greedy decoding goes
        at = found.children(at)[0]
    greedy = {name: value for name, value in options.items() if name != "stop_strings"} | {"do_sample": False}
    run = smollm.generate(TEXT, max_new_tokens=3, **greedy)
    if "top_k" not in options:  # whose probabilities need the draw's own settings
        assert found.path(at) == run.ids
    for step in range(3):
        text = found.path(at)[:step]
        config = smollm.settings(**{name: v for name, v in options.items() if name != "stop_strings"})
        config = config.replace(candidates=3)
        (outcome,) = smollm.generate_each(
            [_job(found, text, config)],
        )
        assert outcome.generation is not None
        record = outcome.generation.steps[-1].record
        total = record.final.logsumexp
        final = dict(zip(record.candidate_ids, np.exp(np.array(record.final_logits) - total).tolist(), strict=True))
        node = next(i for i in [PROMPT, *range(len(found.nodes))] if found.path(i) == text)
        for child in found.children(node):
            assert found.nodes[child].prob == pytest.approx(final[found.nodes[child].id])
            assert found.nodes[child].prob > 0


def _job(found: Fan, text: tuple[int, ...], config: GenerationConfig) -> Any:
    from fanlight.jobs import Job

    return Job(0, found.prompt_ids, config, given=(*text, 7))


def test_nothing_follows_the_end_of_a_text(smollm: Model) -> None:
    first = fan(smollm, TEXT, width=2, depth=1).nodes[0]
    found = fan(smollm, TEXT, width=2, depth=3, config=GenerationConfig(eos_token_id=[first.id]))
    assert found.nodes[0].is_end
    assert found.nodes[0].rest == 0.0
    assert found.children(0) == ()
    assert found.children(1) != ()
    goes_on = fan(smollm, TEXT, width=2, depth=2, config=GenerationConfig(eos_token_id=[first.id], ignore_eos=True))
    assert not goes_on.nodes[0].is_end


def test_a_fan_without_a_likely_token_is_empty(smollm: Model) -> None:
    found = fan(smollm, TEXT, width=3, depth=2, min_prob=1.0)
    assert found.nodes == ()
    assert found.rest == 1.0
    assert found.leaves == ()
    assert found.depth == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 0}, "width must be a whole number from 1 to 100: got 0"),
        ({"depth": True}, "depth must be"),
        ({"min_prob": 1.5}, "min_prob must be between 0 and 1"),
        ({"top_p": 0.5}, "give final=True"),
        ({"config": 3}, "config must be a GenerationConfig"),
        ({"final": True, "num_beams": 2}, "cannot be combined with a given text"),
    ],
)
def test_what_makes_no_fan_is_an_error(smollm: Model, options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        fan(smollm, TEXT, **options)


def test_a_prompt_that_fills_the_window_is_an_error(smollm: Model) -> None:
    n_ctx = smollm.decoder.config.n_ctx
    with pytest.raises(ContextOverflow):
        fan(smollm, [5] * (n_ctx + 1), width=2, depth=1)
