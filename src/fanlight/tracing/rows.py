"""One row a step: the numbers that people ask for, under the names that queries, CSV and Parquet share. Knows no file.

In: a Trace. Out: columns of plain values, None where a step has no such number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fanlight.tracing.columns import Steps

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

ROW: Mapping[str, tuple[str, str]] = {
    "step": ("INTEGER", "0 for the first new token"),
    "token": ("TEXT", "the chosen token's text"),
    "token_id": ("INTEGER", "its id"),
    "position": ("INTEGER", "in the whole text, the prompt counted"),
    "raw_prob": ("REAL", "its probability, as the model had it"),
    "final_prob": ("REAL", "the same after all processors"),
    "surprise": ("REAL", "-log(raw_prob), in nats"),
    "rank": ("INTEGER", "tokens before it, as the model had it; 0: the most probable one"),
    "final_rank": ("INTEGER", "the same after all processors"),
    "entropy": ("REAL", "of the model's distribution, in nats"),
    "final_entropy": ("REAL", "the same after all processors"),
    "margin": ("REAL", "its final logit minus the largest other one"),
    "n_kept": ("INTEGER", "tokens that no processor removed"),
    "eos_prob": ("REAL", "probability of ending here, as the model had it"),
    "tail_prob": ("REAL", "of the tokens beyond the most probable ones that are recorded"),
    "drafter": ("TEXT", "who guessed it ahead, if it was guessed"),
    "guess_right": ("INTEGER", "1: the guess was right; 0: it was not"),
}
"""Name -> its type in SQL, and what it is."""

_COLUMNS = {
    "token_id": "id",
    "position": "position",
    "raw_prob": "raw_prob",
    "final_prob": "final_prob",
    "surprise": "surprise",
    "rank": "raw_rank",
    "final_rank": "final_rank",
    "entropy": "raw_entropy",
    "final_entropy": "final_entropy",
    "margin": "margin",
    "n_kept": "n_kept",
    "eos_prob": "eos_prob",
    "tail_prob": "tail_prob",
}


def step_columns(trace: Trace) -> dict[str, list[Any]]:
    """The columns of ROW, a value a step."""
    steps = Steps.of(trace.steps)
    found: dict[str, list[Any]] = {"step": list(range(len(steps))), "token": [trace.token_text(i) for i in trace.ids]}
    for name, column in _COLUMNS.items():
        found[name] = [value if value == value else None for value in steps.column(column).tolist()]
    found["drafter"], found["guess_right"] = _guesses(steps)
    return found


def _guesses(steps: Steps) -> tuple[list[str | None], list[int | None]]:
    arrays, drafters = steps.columns.arrays, steps.columns.drafters
    if "guess_drafter" not in arrays:
        return [None] * len(steps), [None] * len(steps)
    numbers, right = arrays["guess_drafter"].tolist(), arrays["guess_right"].tolist()
    return [None if i < 0 else drafters[i] for i in numbers], [
        None if i < 0 else int(was) for i, was in zip(numbers, right, strict=True)
    ]
