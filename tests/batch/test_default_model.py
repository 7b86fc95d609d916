"""A batch on the default model: every row is what `Model.generate` gives alone, whatever is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch.fake import results, write_rows
from fanlight.batch import run_job
from fanlight.batch.rows import row_seed
from fanlight.cli.batch import step_of

if TYPE_CHECKING:
    from fanlight import Generation, Model

ROWS: list[dict[str, Any]] = [
    {"prompt": "The future of artificial intelligence is"},
    {"prompt": "The future of", "id": "drawn", "do_sample": True, "top_p": 0.9},
    {"prompt": "The future of", "id": "drawn again", "do_sample": True, "top_p": 0.9},
    {"prompt": "", "max_new_tokens": 1},
    {"prompt": "One, two, three,", "stop_strings": ["six"], "max_new_tokens": 31},
    {"prompt": "Twice:", "do_sample": True, "num_return_sequences": 2, "seed": 5},
    {"prompt": "The best of three", "do_sample": True, "best_of": 3, "seed": 6, "temperature": 0.9},
    {"prompt": "Beams are", "settings": {"num_beams": 3, "max_new_tokens": 5}},
    {"prompt": "A number:", "regex": " [0-9]{3}"},
    {"messages": [{"role": "user", "content": "Say hello."}], "repetition_penalty": 1.2},
    {"prompt": "The future of " * 40, "prompt_lookup_num_tokens": 3},
    {"prompt": "Once", "preset": "creative", "top_k": 7},
]


def alone(model: Model, row: dict[str, Any], row_id: str, **base: Any) -> Generation:
    row = dict(row)
    prompt, messages = row.pop("prompt", None), row.pop("messages", None)
    row.pop("id", None)
    preset = row.pop("preset", None)
    options = {**base, **(preset_values(preset) if preset else {}), **row.pop("settings", {}), **row}
    config = model.settings(**options)
    if config.samples and config.seed is None:
        config = config.replace(seed=row_seed(8, row_id))
    return model.chat(messages, config) if messages is not None else model.generate(prompt, config)


def preset_values(name: str) -> dict[str, Any]:
    from fanlight.decoding.presets import preset

    return dict(preset(name))


def test_every_row_is_what_it_would_be_alone(smollm: Model, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    base: dict[str, Any] = {"max_new_tokens": 7}
    outputs = []
    for max_batch in (1, 5):
        target = tmp_path / f"out{max_batch}.jsonl"
        run_job(smollm, source, target, max_batch=max_batch, seed=8, steps=step_of, candidates=2, **base)
        outputs.append(target.read_bytes())
    assert outputs[0] == outputs[1]
    for row, found in zip(ROWS, results(target), strict=True):
        expected = alone(smollm, row, found["id"], candidates=2, **base)
        assert found["text"] == expected.text, row
        assert found["stop"]["detail"] == expected.stop.detail
        assert [other["text"] for other in found.get("others", [])] == [other.text for other in expected.others]
        assert [step["id"] for step in found["steps"]] == list(expected.ids)
        assert [step["raw_logprob"] for step in found["steps"]] == [s.record.raw_logprob for s in expected.steps]
        assert found.get("seed") == (expected.request_seed if expected.config.samples else None)
        again = smollm.generate(row["prompt"], **expected.config.values()) if "prompt" in row else expected
        assert again.text == found["text"]
    texts = {found["id"]: found["text"] for found in results(target)}
    assert texts["drawn"] != texts["drawn again"]


@pytest.mark.parametrize(
    "value", [[{"role": 5}], [{"role": "user", "content": 7}], [{}], [{"role": "user", "content": {}}]]
)
def test_messages_that_no_template_takes_are_an_error_with_their_line(
    smollm: Model, tmp_path: Path, value: Any
) -> None:
    rows = [{"prompt": "Once"}, {"messages": value}, {"prompt": "The end"}]
    run_job(smollm, write_rows(tmp_path / "rows", rows), tmp_path / "out.jsonl", max_new_tokens=1)
    first, wrong, last = results(tmp_path / "out.jsonl")
    assert "text" in first
    assert "text" in last
    assert wrong["error"]["message"].startswith("line 2: ")
