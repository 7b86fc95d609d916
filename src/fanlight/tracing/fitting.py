"""Whether the arrays of steps fit each other: what no single one of them tells. Out: nothing, or a TraceError. Knows no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import TraceError
from fanlight.tracing.layout import DAMAGED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.tracing.columns import Columns

    Array = NDArray[Any]


def check_together(where: str, columns: Columns) -> None:
    """That the arrays fit each other. Errors: TraceError."""
    arrays = columns.arrays
    n_steps, counts = len(arrays["id"]), np.diff(arrays["candidate_offsets"])
    match = arrays["candidate_ids"] == np.repeat(arrays["id"], counts)
    step_of = np.repeat(np.arange(n_steps), counts)
    of_effect = np.repeat(np.arange(n_steps), np.diff(arrays["effect_offsets"]))
    lengths = np.diff(arrays["effect_logit_offsets"])
    above = arrays["raw_logits"] - np.repeat(arrays["raw_logsumexp"].astype(np.float64), counts)
    effect_above = arrays["effect_logits"] - np.repeat(arrays["effect_logsumexp"].astype(np.float64), lengths)
    faults = (
        (np.bincount(step_of[match], minlength=n_steps) == 0, "ids", "one of the step's candidates"),
        (arrays["n_top"] > counts, "steps/n_top", "at most the number of the step's candidates"),
        (arrays["effect_kind"] >= len(columns.effects), "steps/effect_kind", f"below {len(columns.effects)}"),
        (
            np.diff(arrays["effect_logit_offsets"]) != counts[of_effect],
            "steps/effect_logit_offsets",
            "a logit a candidate",
        ),
        (above > 1, "steps/raw_logits", "at most the row's logsumexp"),
        (effect_above > 1, "steps/effect_logits", "at most the row's logsumexp"),
        (
            _gained(arrays, of_effect),
            "steps/effect_logsumexp",
            "at most that of the row before it, since tokens were removed",
        ),
        ([not 0 <= step < n_steps for step in columns.stops], "stops", f"steps below {n_steps}"),
    )
    for fault, name, expected in faults:
        if np.any(fault):
            raise TraceError(f"{where}: {name!r} at {np.argmax(fault)}, expected {expected}; {DAMAGED}")
    if "guess_drafter" in arrays:
        drafter = arrays["guess_drafter"]
        if np.any(drafter >= len(columns.drafters)) or np.any((drafter >= 0) & (arrays["guess_id"] < 0)):
            raise TraceError(
                f"{where}: 'steps/guess_drafter', expected numbers below {len(columns.drafters)}, each with an id; {DAMAGED}"
            )
    if "noise" in arrays:
        none = np.isnan(arrays["noise"])
        if np.any(np.bincount(step_of[none], minlength=n_steps) % np.maximum(counts, 1)):
            raise TraceError(
                f"{where}: 'steps/noise' is NaN for some candidates of a step, expected all or none; {DAMAGED}"
            )


def _gained(arrays: Mapping[str, Array], of_effect: Array) -> Array:
    """Which effects removed tokens and left more than there was."""

    def before(name: str) -> Array:
        if f"effect_before_{name}" in arrays:
            return arrays[f"effect_before_{name}"]
        found = np.concatenate([arrays[f"raw_{name}"][:1], arrays[f"effect_{name}"][:-1]])[: len(of_effect)]
        first = np.diff(of_effect, prepend=-1) > 0
        found[first] = arrays[f"raw_{name}"][of_effect[first]]
        return found

    left = arrays["effect_logsumexp"].astype(np.float64)
    if "effect_kept_logsumexp" in arrays:
        kept = arrays["effect_kept_logsumexp"].astype(np.float64)
        left = np.where(np.isnan(kept), left, kept)
    found: Array = (arrays["effect_n_kept"] != before("n_kept")) & (left > before("logsumexp") + 1)
    return found
