"""A row: what may stand in it, what is said of one that is wrong, and what is written of a result."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.fake import generation_of
from fanlight.batch.rows import Row, parse_row, result_of, row_seed
from fanlight.decoding.config import GenerationConfig
from fanlight.errors import ContextOverflow, OptionError
from fanlight.jobs import Outcome

CHAT = [{"role": "user", "content": "hé"}]


def test_a_row_has_a_prompt_or_messages_settings_and_metadata() -> None:
    row = parse_row({"id": "a", "prompt": "Once", "top_k": 3, "settings": {"seed": 7}, "metadata": [1, None]}, 4)
    assert row == Row(4, "a", "Once", {"top_k": 3, "seed": 7}, [1, None])
    assert parse_row({"messages": CHAT}, 31) == Row(31, "31", CHAT, {})
    assert parse_row({"prompt": "", "id": 7, "preset": "creative"}, 0) == Row(0, "7", "", {"preset": "creative"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"prompt": "a", "temprature": 1}, "line 5: unknown key 'temprature'; did you mean 'temperature'?"),
        ({"prompt": "a", "max_tokens": 1}, "did you mean 'max_new_tokens'?"),
        ({"prompt": "a", "custom_id": "x"}, "did you mean 'id'?"),
        ({"prompts": "a"}, "unknown key 'prompts'; did you mean 'prompt'?"),
        ({"id": "a", "metadata": 1}, "neither prompt nor messages is given, found 'id', 'metadata'"),
        ({"prompt": "a", "Metdata": "x"}, "did you mean 'metadata'?"),
        ({"prompt": "a", "zzzzzzzz": 1}, "unknown key 'zzzzzzzz'; a row has id, prompt, messages, settings, metadata"),
        ({}, "found an empty object"),
        ({"prompt": "a", "messages": CHAT}, "both prompt and messages"),
        ({"prompt": ["a"]}, "prompt must be a text: got a list"),
        ({"messages": []}, "got a list without any"),
        ({"messages": "hello"}, "messages must be a list of objects"),
        ({"messages": ["hello"]}, "messages must be a list of objects"),
        ({"prompt": "a", "settings": [1]}, "settings must be an object of settings by their names: got a list"),
        ({"prompt": "a", "top_k": 1, "settings": {"top_k": 1}}, "top_k stands both in the row and in its settings"),
        ({"prompt": "a", "settings": {"id": "x"}}, "id belongs into the row itself"),
        ({"prompt": "a", "stopping_criteria": "f"}, "stopping_criteria takes functions"),
        ({"prompt": "a", "output_logits": True}, "output_logits keeps arrays"),
        ({"prompt": "a", "id": ""}, "id must be a text of 1 to 1000 characters, or a whole number: got ''"),
        ({"prompt": "a", "id": True}, "got True"),
        ({"prompt": "a", "id": ["x"]}, "or a whole number: got a list;"),
        ({"prompt": "a", "id": 1.5}, "got 1.5"),
        ({"prompt": "a\ud800b"}, "prompt: character 2 is half a surrogate pair, \\ud800"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "half a surrogate pair"),
        ({"prompt": "a", "stop_strings": "\udfff"}, "stop_strings: character 1 is half a surrogate pair"),
        ({"prompt": "a", "metadata": float("nan")}, "metadata must be what JSON can say"),
        ({"prompt": "a", "metadata": b"x"}, "metadata must be what JSON can say"),
        ([1], "found a list"),
        (None, "found null"),
    ],
)
def test_a_wrong_row_says_where_and_what(value: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_row(value, 4)
    assert str(caught.value).startswith("line 5: ")
    assert said in str(caught.value)


@given(st.integers(), st.text(max_size=9))
def test_a_rows_seed_is_a_function_that_survives_json(seed: int, name: str) -> None:
    found = row_seed(seed, name)
    assert 0 <= found < 2**48
    assert found == row_seed(seed, name)
    assert found != row_seed(seed + 1, name)
    assert found != row_seed(seed, name + "x")


def test_seeds_of_many_rows_differ() -> None:
    assert len({row_seed(seed, str(i)) for seed in range(7) for i in range(1000)}) == 7000


def test_a_result_is_plain_data() -> None:
    config = GenerationConfig(do_sample=True, seed=9)
    row = Row(3, "x", "Once", {}, {"k": 1})
    found = result_of(row, Outcome(3, generation_of("Once", config), None))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found)[:4] == ["id", "index", "text", "stop"]
    assert (found["id"], found["index"], found["seed"], found["metadata"]) == ("x", 3, 9, {"k": 1})
    assert found["stop"] == {"reason": "max_new_tokens", "detail": "cut off", "token": None, "string": None}
    assert (found["n_prompt_tokens"], found["n_new_tokens"]) == (3, 2)
    assert found["usage"] == {"n_reused": 1, "n_computed": 2}


def test_a_result_without_drawing_has_no_seed() -> None:
    assert "seed" not in result_of(Row(0, "0", "a", {}), Outcome(0, generation_of("a", GenerationConfig()), None))


def test_a_result_says_what_had_no_effect_unless_it_is_known() -> None:
    outcome = Outcome(0, generation_of("a", GenerationConfig(top_p=0.5)), None)
    row = Row(0, "0", "a", {})
    assert result_of(row, outcome)["notes"] == ["top_p has no effect: do_sample is false"]
    assert "notes" not in result_of(row, outcome, known_notes=["top_p has no effect: do_sample is false"])


def test_other_texts_and_their_scores_are_kept() -> None:
    config = GenerationConfig(do_sample=True, seed=9, num_return_sequences=2)
    other = replace(generation_of("b", config), seed=77, score=-0.5, votes=2, answer="4")
    found = result_of(Row(0, "0", "a", {}), Outcome(0, replace(generation_of("a", config), others=(other,)), None))
    assert [(o["text"], o["text_seed"], o["score"], o["votes"], o["answer"]) for o in found["others"]] == [
        (other.text, 77, -0.5, 2, "4")
    ]


def test_an_error_is_a_result() -> None:
    found = result_of(Row(6, "x", "a", {}, "m"), Outcome(6, None, ContextOverflow("too long")))
    error = {"type": "ContextOverflow", "message": "line 7: too long"}
    assert found == {"id": "x", "index": 6, "error": error, "metadata": "m"}
