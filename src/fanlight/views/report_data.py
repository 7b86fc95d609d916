"""A Trace as the data of a page: strings once, numbers as arrays in base64. In: a Trace. Out: what JSON can hold. Knows no HTML.

`page/trace_data.js` reads it; `report_arrays` says how arrays are written. What the chosen token and the candidates had before and
after all processors is kept in float32; of what stands between, and inside the model, what an eye cannot tell apart is rounded.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from itertools import chain
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

from fanlight.views.report_arrays import array, whole
from fanlight.views.report_attention import attention_data
from fanlight.views.report_facts import facts_of
from fanlight.views.ribbon_colors import MEASURES, Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.trace.looks import Contributions, Lens, Norms, Timings
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

LEVELS = 32
"""Steps of the scale of colours above none."""
MOST_CANDIDATES, MOST_CANDIDATES_OF_LONG, LONG = 40, 12, 1000
"""Of a step, and of a step of a trace of more than LONG."""
MOST_LENS_TOKENS, LENS_BYTES = 10, 4_000_000


class Labels:
    """Every token that the page names, once."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._places: dict[int, int] = {}
        self.words: list[str] = []

    def place(self, token: int) -> int:
        """Where its label stands in `words`."""
        found = self._places.get(token)
        if found is None:
            found = self._places[token] = len(self.words)
            self.words.append(self._trace.token_label(token) or f"#{token}")
        return found

    def places(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Of many tokens, in their shape."""
        import numpy as np

        unique, where = np.unique(tokens, return_inverse=True)
        found = np.array([self.place(int(token)) for token in unique], np.int64)
        return found[where].reshape(tokens.shape)

    @property
    def ids(self) -> list[int]:
        """The tokens, in the order of `words`."""
        return list(self._places)


class Strings:
    """Other strings, once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Where it stands in `words`."""
        return self._places.setdefault(text, len(self._places))

    @property
    def words(self) -> list[str]:
        """All of them."""
        return list(self._places)


def report_data(trace: Trace) -> dict[str, Any]:
    """All that the page shows."""
    labels, strings = Labels(trace), Strings()
    records = list(trace.steps)[: trace.n_steps]
    n, left_out = len(records), []
    prompt_at = [labels.place(token) for token in trace.prompt_ids]
    steps, missed = _steps(records, labels, strings)
    if missed:
        left_out.append(missed)
    looks: dict[str, Any] = {}
    if trace.lens is not None:
        looks["lens"], missed = _lens(trace.lens, labels)
        if missed:
            left_out.append(missed)
    if trace.attention is not None:
        looks["attention"], missed = attention_data(trace.attention)
        if missed:
            left_out.append(missed)
    if trace.contributions is not None:
        looks["contributions"] = _contributions(trace.contributions)
    if trace.norms is not None:
        looks["norms"] = _norms(trace.norms)
    if trace.timings is not None:
        looks["timings"] = _timings(trace.timings)
    return {
        "version": 1,
        **facts_of(trace, records),
        "leftOut": left_out,
        "nPrompt": len(trace.prompt_ids),
        "nSteps": n,
        "nLevels": LEVELS,
        "prompt": {"label": whole(prompt_at), "pieces": pieces_of(trace, trace.prompt_ids)},
        "pieces": list(trace.pieces[:n]),
        "measures": [measure_data(measure) for measure in MEASURES.values()],
        "steps": steps,
        **looks,
        "labels": labels.words,
        "ids": whole(labels.ids),
        "strings": strings.words,
    }


def pieces_of(trace: Trace, tokens: Iterable[int]) -> list[str]:
    """What each token adds to the text: a character of several tokens belongs to its last."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(trace.token_bytes(token)) for token in tokens]


def level(share: float) -> int:
    """Of a share of the scale: 0 is no colour, LEVELS the strongest."""
    return round(share * LEVELS)


def measure_data(measure: Measure) -> dict[str, Any]:
    """What the legend of a measure says."""
    ticks = [[f"{tick:g}", level(measure.share(tick))] for tick in measure.ticks]
    return {"name": measure.name, "unit": measure.unit, "meaning": measure.meaning, "ticks": ticks}


# -- steps -----------------------------------------------------------------------------------------------------------------


def _steps(records: Sequence[StepRecord], labels: Labels, strings: Strings) -> tuple[dict[str, Any], str]:
    most = MOST_CANDIDATES if len(records) <= LONG else MOST_CANDIDATES_OF_LONG
    chains: dict[tuple[tuple[str, bool], ...], int] = {}
    chain_of = [chains.setdefault(tuple((e.label, e.removes) for e in r.effects), len(chains)) for r in records]
    effects = [effect for record in records for effect in record.effects]
    rows = [_Candidates(record, most, labels, strings) for record in records]
    is_cut = any(len(row.at) < len(record.candidate_ids) for row, record in zip(rows, records, strict=True))
    has_noise = any(record.noise is not None for record in records)
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row.at))
    found = {
        "token": whole([labels.place(r.id) for r in records]),
        "rawLogprob": array([r.raw_logprob for r in records], "f32"),
        "finalLogprob": array([r.final_logprob for r in records], "f32"),
        "entropy": array([r.raw_entropy for r in records], "f32"),
        "finalEntropy": array([r.final_entropy for r in records], "f32"),
        "margin": array([_number(r.margin) for r in records], "f32"),
        "lead": array([_number(r.lead) for r in records], "f32"),
        "rank": whole([r.raw_rank for r in records]),
        "finalRank": whole([r.final_rank for r in records]),
        "nVocab": whole([r.raw.n_kept for r in records]),
        "nKept": whole([r.n_kept for r in records]),
        "eos": array([r.eos_prob for r in records], "f32"),
        "finalEos": array([r.final_eos_prob for r in records], "f32"),
        "runnerUp": array([-1 if r.runner_up is None else labels.place(r.runner_up) for r in records], "i32"),
        "levels": {
            name: array([level(_share(measure, record)) for record in records], "u8")
            for name, measure in MEASURES.items()
        },
        "chains": [[[label, removes] for label, removes in chain] for chain in chains],
        "chain": whole(chain_of),
        "effects": {
            "before": whole([e.n_before for e in effects]),
            "kept": whole([e.n_kept for e in effects]),
            "removed": array([e.removed_prob for e in effects], "f32"),
            "entropy": array([e.before.entropy for e in effects], "f32"),
            "entropyAfter": array([e.entropy_after for e in effects], "f32"),
        },
        "candidates": {
            "offset": whole(offsets),
            "token": whole([place for row in rows for place in row.tokens]),
            "raw": array([value for row in rows for value in row.raw], "f32"),
            "final": array([value for row in rows for value in row.final], "f32"),
            "after": array(list(chain.from_iterable(row.after for row in rows)), "lp16"),
            "rule": whole([place for row in rows for place in row.rules]),
            **({"noise": array([value for row in rows for value in row.noise], "f32")} if has_noise else {}),
        },
        "guesses": {
            str(i): [strings.place(r.guess.drafter), labels.place(r.guess.id), r.guess.right]
            for i, r in enumerate(records)
            if r.guess is not None
        },
        "stop": {str(i): r.stop.detail for i, r in enumerate(records) if r.stop is not None},
    }
    missed = f"{most} candidates of each step; the trace has more" if is_cut else ""
    return found, missed


class _Candidates:
    """Of one step, those that are shown: the most probable before and after the processors, the chosen one, the runner-up."""

    __slots__ = ("after", "at", "final", "noise", "raw", "rules", "tokens")

    def __init__(self, record: StepRecord, most: int, labels: Labels, strings: Strings) -> None:
        ids, raw, final = record.candidate_ids, record.raw_logits, record.final_logits
        self.at: list[int] = list(range(len(ids)))
        if len(ids) > most:
            self.at = _chosen_places(record, most)
        self.at.sort(key=lambda i: (-raw[i], ids[i]))
        logsumexp, final_logsumexp = record.raw.logsumexp, record.final.logsumexp
        self.tokens = [labels.place(ids[i]) for i in self.at]
        self.raw = [raw[i] - logsumexp for i in self.at]
        self.final = [final[i] - final_logsumexp for i in self.at]
        # after every processor, one after another; the last of them is `final`
        self.after = [e.logits[i] - e.after.logsumexp for e in record.effects[:-1] for i in self.at]
        removals = record.removals()
        rules = (removals.get(ids[i]) for i in self.at)
        self.rules = [strings.place(removal.rule) + 1 if removal is not None else 0 for removal in rules]
        noise = record.noise
        self.noise = [nan if noise is None else noise[i] for i in self.at]


def _chosen_places(record: StepRecord, most: int) -> list[int]:
    ids, final = record.candidate_ids, record.final_logits
    must = [ids.index(token) for token in (record.id, record.runner_up) if token in ids]
    by_raw = sorted(range(len(ids)), key=lambda i: (-record.raw_logits[i], ids[i]))
    by_final = sorted((i for i in range(len(ids)) if final[i] > -inf), key=lambda i: (-final[i], ids[i]))
    return list(dict.fromkeys((*must, *by_final[: most // 3], *by_raw)))[:most]


def _share(measure: Measure, record: StepRecord) -> float:
    return measure.share(measure.value(record))


def _number(value: float | None) -> float:
    return nan if value is None else value


# -- what was seen inside ----------------------------------------------------------------------------------------------


def _lens(lens: Lens, labels: Labels) -> tuple[dict[str, Any], str]:
    n, n_layers, k = lens.ids.shape
    kept = min(k, MOST_LENS_TOKENS, max(1, (LENS_BYTES // max(1, n * n_layers) - 8) // 4))
    found = {
        "nLayers": n_layers,
        "k": kept,
        "token": whole(labels.places(lens.ids[:, :, :kept])),
        "logprob": array(lens.logprobs[:, :, :kept], "lp16"),
        "chosen": array(lens.chosen_logprobs, "lp16"),
        "rank": whole(lens.chosen_ranks),
        "entropy": array(lens.entropies, "f32"),
    }
    return found, f"lens: {kept} tokens of {k} for each layer" if kept < k else ""


def _contributions(parts: Contributions) -> dict[str, Any]:
    names = {"embedding": "embedding", "attention": "attention", "feedForward": "feed_forward", "constant": "constant"}
    found = {name: array(getattr(parts, field), "f32") for name, field in names.items()}
    return {"nLayers": parts.attention.shape[1], "logit": array(parts.logits, "f32"), **found}


def _norms(norms: Norms) -> dict[str, Any]:
    names = {"residual": "residual", "attention": "attention", "feedForward": "feed_forward"}
    found = {name: array(getattr(norms, field), "f32") for name, field in names.items()}
    return {"nLayers": norms.attention.shape[1], **found}


def _timings(timings: Timings) -> dict[str, Any]:
    return {
        "forward": array(timings.forward, "f32"),
        "deciding": array(timings.deciding, "f32"),
        "layers": array(timings.layers, "f32"),
        "head": _finite(timings.head),
        "embedding": _finite(timings.embedding),
    }


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None
