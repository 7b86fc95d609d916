"""Promise: guessing ahead changes no token, on the real model: 200 prompts, greedy and sampled, looked up; half of them left early.

Rows of one pass that verify several guesses must be, to the last bit, those of a pass for each: near ties would show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fanlight.decoding.config import GenerationConfig

if TYPE_CHECKING:
    from fanlight import Model

N_PROMPTS, N_NEW = 200, 12
REPETITIVE = (
    "red, green, blue, red, green, blue, red,",
    "1 2 3 4 1 2 3 4 1 2 3",
    "def f(x):\n    return x\n\ndef g(x):\n    return x\n\ndef h(x):\n",
    "The cat sat. The dog sat. The cat sat. The",
    "yes no yes no yes no yes",
)
WAYS: dict[str, dict[str, Any]] = {
    "prompt lookup": {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 2},
    "early exit": {"assistant_early_exit": 24, "num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0},
}
CHOOSING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "frequency_penalty": 0.1},
}


def prompts() -> list[str]:
    """Pieces of prose of unequal lengths, every fifth one repetitive."""
    from importlib.resources import files

    words = files("fanlight").joinpath("data/prose.txt").read_text(encoding="utf-8").split()
    found = []
    for i in range(N_PROMPTS):
        begin, n = i * 4 % (len(words) - 20), 2 + i % 7
        text = " ".join(words[begin : begin + n])
        found.append(f"{REPETITIVE[i // 5 % len(REPETITIVE)]}{' ' * (i % 2)}" if i % 5 == 4 else text)
    return found


def written(model: Model, options: dict[str, Any], every: int = 1) -> tuple[list[list[int]], int]:
    """The new ids of every so many-th prompt, all through one engine; and how many guesses were right."""
    engine = model.engine(max_batch=4)  # among many texts, a lookup would hardly guess
    for seed, prompt in list(enumerate(prompts()))[::every]:
        config = GenerationConfig(max_new_tokens=N_NEW, candidates=0, ignore_eos=True, seed=seed, **options)
        engine.submit(model.prompt_ids(prompt), config)
    events = engine.run()
    ids: list[list[int]] = [[] for _ in range(0, N_PROMPTS, every)]
    n_right = 0
    for event in events:
        assert event.id is not None
        assert event.decision is not None
        ids[event.request_id].append(event.id)
        n_right += event.decision.guess is not None and event.decision.guess.right
    assert engine.cache.pool.n_pages == engine.cache.n_kept
    return ids, n_right


@pytest.fixture(scope="module", params=CHOOSING)
def plain(request: pytest.FixtureRequest, smollm: Model) -> tuple[dict[str, Any], list[list[int]]]:
    """How tokens are chosen, and what is written without guessing."""
    options = CHOOSING[request.param]
    ids, n_right = written(smollm, options)
    assert n_right == 0
    assert len({tuple(each) for each in ids}) > N_PROMPTS // 2
    return options, ids


@pytest.mark.parametrize("way", WAYS)
def test_texts_are_the_same_with_guesses(
    smollm: Model, plain: tuple[dict[str, Any], list[list[int]]], way: str
) -> None:
    options, expected = plain
    every = 2 if way == "early exit" else 1  # its guesses are passes too
    ids, n_right = written(smollm, {**options, **WAYS[way]}, every)
    assert ids == expected[::every]
    assert n_right > 30
