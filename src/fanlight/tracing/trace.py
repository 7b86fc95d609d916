"""A Trace: one text with the account of every step, and what was seen inside the model. Knows no file format and no picture.

trace = model.generate("The cat", trace=True).trace
trace.save("run.safetensors"); fanlight.open_trace("run.safetensors").steps[3].candidates
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.trace.distribution import Distribution
    from fanlight.trace.header import Header
    from fanlight.trace.looks import Attention, Contributions, Lens, Norms, Timings
    from fanlight.trace.records import StepRecord
    from fanlight.trace.search import SearchRecord
    from fanlight.tracing.diff import Difference
    from fanlight.tracing.replay import Replay
    from fanlight.tracing.tracking import Tracked
    from fanlight.tracing.what_if import WhatIf

LOOKS = ("lens", "attention", "contributions", "norms", "timings")
Part = Callable[[], Any]
"""Reads or makes a part of a trace when it is asked for."""


class Trace:
    """One text and how it came about. Immutable; from a file, a part is read when it is asked for."""

    def __init__(
        self,
        header: Header,
        *,
        prompt_ids: Sequence[int],
        ids: Sequence[int],
        pieces: Sequence[str],
        vocabulary: Mapping[int, bytes],
        steps: Part,
        looks: Mapping[str, Part],
        search: Part | None = None,
        path: str | None = None,
    ) -> None:
        """Usually made by `Model.generate(..., trace=True)` or `fanlight.open_trace`.

        pieces: what each step added to the text. vocabulary: the bytes of every token that occurs. steps, looks (by the names of
        LOOKS), search: called once, when they are asked for.
        """
        self.header = header
        self.prompt_ids, self.ids, self.pieces = tuple(prompt_ids), tuple(ids), tuple(pieces)
        self.vocabulary = vocabulary
        self.path = path
        """The file that it is kept in; None: it is in memory alone."""
        self._parts: dict[str, Part] = {"steps": steps, **looks}
        if search is not None:
            self._parts["search"] = search
        self._made: dict[str, Any] = {}

    def _part(self, name: str) -> Any:
        if name not in self._made:
            make = self._parts.get(name)
            self._made[name] = make() if make is not None else None
        return self._made[name]

    # -- what is in it ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Of what was asked and what came."""
        return self.header.id

    @property
    def text(self) -> str:
        """The new text."""
        return self.header.text

    @property
    def n_steps(self) -> int:
        """New tokens."""
        return len(self.ids)

    @property
    def steps(self) -> Sequence[StepRecord]:
        """What each step saw."""
        found: Sequence[StepRecord] = self._part("steps")
        return found

    @property
    def lens(self) -> Lens | None:
        """What each layer would say; None if it was not asked for."""
        found: Lens | None = self._part("lens")
        return found

    @property
    def attention(self) -> Attention | None:
        """What looked where; None if it was not asked for."""
        found: Attention | None = self._part("attention")
        return found

    @property
    def contributions(self) -> Contributions | None:
        """What each block added to the chosen logit; None if it was not asked for."""
        found: Contributions | None = self._part("contributions")
        return found

    @property
    def norms(self) -> Norms | None:
        """Lengths of the residual stream; None if they were not asked for."""
        found: Norms | None = self._part("norms")
        return found

    @property
    def timings(self) -> Timings | None:
        """Seconds of every part; None if they were not asked for."""
        found: Timings | None = self._part("timings")
        return found

    @property
    def search(self) -> SearchRecord | None:
        """The tree that a search went through, if it was one."""
        found: SearchRecord | None = self._part("search")
        return found

    @property
    def has(self) -> tuple[str, ...]:
        """Which of LOOKS it holds, and "search"."""
        return tuple(name for name in self._parts if name != "steps")

    def needs(self, what: str) -> None:
        """Errors: OptionError if it does not hold this one of LOOKS."""
        if what in self._parts:
            return
        why = self.header.missing.get(what)
        raise OptionError(
            f"this trace has no {what}: {why}" if why else f"this trace has no {what}; record it with {what}=True"
        )

    def at(self, step: int) -> int:
        """A step's number, counted from the end if it is negative. Errors: OptionError if there is none such."""
        if isinstance(step, bool) or not isinstance(step, int):
            raise OptionError(f"a step is a whole number: got {step!r:.80}")
        if not self.n_steps:
            raise OptionError(f"there is no step {step}; the trace has none: its text has no token")
        if not -self.n_steps <= step < self.n_steps:
            there = f"{self.n_steps}, from 0 to {self.n_steps - 1}" if self.n_steps else "none"
            raise OptionError(f"there is no step {step}; the trace has {there}")
        return step % self.n_steps

    # -- tokens -------------------------------------------------------------------------------------------------------

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for; a token that does not occur in the trace: b""."""
        return self.vocabulary.get(token, b"")

    def token_text(self, token: int) -> str:
        """A token for display, as the model's tokenizer shows it."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_label(self, token: int) -> str:
        """A token on one line: spaces and line ends are visible; one that does not occur in the trace: "#123"."""
        from fanlight.text.tokenizer import label

        raw = self.vocabulary.get(token)
        return f"#{token}" if raw is None else label(raw)

    def distribution(self, step: int) -> Distribution:
        """What a step kept of its raw row. Errors: OptionError if there is no such step."""
        from fanlight.trace.distribution import Distribution

        step = self.at(step)
        return Distribution.of_record(self.steps[step], self.token_label, self.context(step))

    def context(self, step: int, n_chars: int = 40) -> str:
        """The end of the text before a step."""
        before = b"".join(
            map(self.token_bytes, (*self.prompt_ids[-n_chars:], *self.ids[max(0, step - n_chars) : step]))
        )
        text = before.decode("utf-8", "replace")
        return text if len(text) <= n_chars else f"\u2026{text[-n_chars:]}"

    # -- a text as a whole --------------------------------------------------------------------------------------------

    @property
    def perplexity(self) -> float:
        """e to the mean surprise of the tokens, under the model's own distribution; NaN of no tokens."""
        from math import exp, nan

        return exp(-sum(record.raw_logprob for record in self.steps) / self.n_steps) if self.n_steps else nan

    def rank_histogram(self, limits: Sequence[int] = (1, 10, 100, 1000)) -> dict[str, int]:
        """How many tokens were the first, among the first 10, 100, 1000, and beyond: {"1": 31, "2-10": 8, ...}.

        Source: GLTR, Gehrmann et al. 2019. Errors: OptionError for limits that do not grow.
        """
        if not limits or limits[0] < 1 or any(b <= a for a, b in pairwise(limits)):
            raise OptionError(f"limits of a rank histogram must grow from 1: got {limits!r:.80}")
        names, first = [], 1
        for limit in limits:
            names.append(str(limit) if limit == first else f"{first}-{limit}")
            first = limit + 1
        found = dict.fromkeys([*names, f"{first}+"], 0)
        for record in self.steps:
            at = next((i for i, limit in enumerate(limits) if record.raw_rank < limit), len(limits))
            found[[*found][at]] += 1
        return found

    # -- what to do with it -------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Trace:
        """Keep it in a file; of a folder, in a file named by its id. The same trace, which knows its path. Errors: TraceError."""
        from fanlight.tracing.files import save_trace

        return self.at_path(save_trace(self, path))

    def export(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
        """Write it as .json, .csv or .parquet. Errors: OptionError, MissingExtra."""
        from fanlight.tracing.export import export_trace

        export_trace(self, path, kind)

    def replay(self, model: Any, **options: Any) -> Replay:
        """Write the text again with the model, and say whether it is the same. See `fanlight.replay`."""
        from fanlight.tracing.replay import replay

        return replay(self, model, **options)

    def branch(
        self, model: Any, step: int, *, token: int | str | None = None, trace: Any = True, **settings: Any
    ) -> Trace:
        """Go on from a step with another token, or other settings. See `fanlight.branch`."""
        from fanlight.tracing.branching import branch

        return branch(self, model, step, token=token, trace_options=trace, **settings)

    def what_if(self, config: GenerationConfig | None = None, **options: Any) -> WhatIf:
        """What other settings would have chosen at each step, without the model. See `fanlight.what_if`."""
        from fanlight.tracing.what_if import what_if

        return what_if(self, config, **options)

    def track(self, what: Any, *, model: Any = None) -> Tracked | list[Tracked]:
        """The probability of a token or a string at each step. See `fanlight.track`."""
        from fanlight.tracing.tracking import track

        found: Tracked | list[Tracked] = track(self, what, model=model)
        return found

    def diff(self, other: Trace) -> Difference:
        """What differs between two traces. See `fanlight.diff`."""
        from fanlight.tracing.diff import diff

        return diff(self, other)

    # -- the same trace, and something else ---------------------------------------------------------------------------

    def at_path(self, path: str | os.PathLike[str]) -> Trace:
        """This one, which lies at a path."""
        return self._with(self.header, os.fspath(path))

    def marked(self, problem: str) -> Trace:
        """This one, marked incomplete."""
        return self._with(replace(self.header, complete=False, problem=problem), self.path)

    def without_looks(self, why: str) -> Trace:
        """This one, without what was seen inside the model."""
        gone = dict.fromkeys((name for name in self._parts if name in LOOKS), why)
        header = replace(self.header, missing={**self.header.missing, **gone})
        return self._with(header, self.path, without=LOOKS)

    def _with(self, header: Header, path: str | None, without: Sequence[str] = ()) -> Trace:
        looks = {name: part for name, part in self._parts.items() if name in LOOKS and name not in without}
        return Trace(
            header,
            prompt_ids=self.prompt_ids,
            ids=self.ids,
            pieces=self.pieces,
            vocabulary=self.vocabulary,
            steps=self._parts["steps"],
            looks=looks,
            search=self._parts.get("search"),
            path=path,
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    def __repr__(self) -> str:
        state = "" if self.header.complete else ", incomplete"
        looks = "".join(f", {name}" for name in self.has)
        return f"Trace({self.id}, {self.header.origin.model!r}, {self.n_steps} steps{looks}{state})"
