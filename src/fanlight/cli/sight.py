"""Where the data of a picture come from: a prompt and a model, or a kept run. In: flags. Out: traces and rows. Knows no picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.cli.kept import opened
from fanlight.cli.output import Output
from fanlight.cli.settings import load_model, make_config, say_defaults, say_notes
from fanlight.decoding.config import DEFAULTS
from fanlight.errors import OptionError
from fanlight.trace.options import TraceOptions

if TYPE_CHECKING:
    from fanlight.api import Model
    from fanlight.trace.distribution import Distribution
    from fanlight.tracing.trace import Trace
    from fanlight.views.terminal import Canvas

FEW_TOKENS = 24
"""Tokens that are written for a picture of a text, if nobody says how many."""


class Picture(NamedTuple):
    """One view: both ways to show it."""

    figure: Callable[[], Any]
    text: Callable[[Canvas], str]


class Sight:
    """A prompt and a model, or a trace, each read when it is needed."""

    def __init__(self, values: dict[str, Any], prompt: str | None, output: Output) -> None:
        self.values, self.prompt, self._output = values, prompt, output
        self.dark: bool = values.get("dark", False)

    @cached_property
    def model(self) -> Model:
        """The model that the flags name; of a trace, the one that wrote it must be it."""
        kept = self.kept
        model = load_model(self.values, self._output)
        if kept is not None:
            from fanlight.tracing.replay import check_model

            check_model(kept, model)
        return model

    @property
    def has_model(self) -> bool:
        """Whether it was needed."""
        return "model" in self.__dict__

    @cached_property
    def kept(self) -> Trace | None:
        """The trace that the flags name; None: they name none. Errors: TraceError."""
        return opened(self.values["trace"]) if "trace" in self.values else None

    def trace(
        self, *, n: int = FEW_TOKENS, looks: TraceOptions | None = None, needs: str = "", without: Sequence[str] = ()
    ) -> Trace:
        """The kept run, or one that is written now. needs: what it must hold. without: settings that are none of the text's."""
        found = self.kept
        if found is None:
            text = self.text
            given = (
                {} if any(name in self.values for name in ("max_new_tokens", "max_length")) else {"max_new_tokens": n}
            )
            values = {name: value for name, value in {**given, **self.values}.items() if name not in without}
            config = make_config(values, self.model)
            say_defaults(values, self.model, config, self._output)
            say_notes(config, self._output, values)
            found = self.model.generate(text, config, trace=looks or True).trace
            assert found is not None
        if needs and not found.n_steps:
            raise OptionError("the text has no token, so that there is no step to show")
        if needs and needs not in found.has:
            why = found.header.missing.get(needs)
            what = f"{self.values.get('trace', 'this run')} has no {needs}"
            raise OptionError(
                f"{what}: {why}" if why else f"{what}; record it: fanlight generate PROMPT --look {needs}"
            )
        return found

    def written(self, **more: Any) -> Trace:
        """The same, which has a token at least. Errors: OptionError."""
        found = self.trace(**more)
        if not found.n_steps:
            raise OptionError("the text has no token, so that there is no step to show")
        return found

    @property
    def text(self) -> str:
        """The prompt; of a trace, its whole text. Errors: OptionError if there is neither."""
        if self.prompt is not None:
            return self.prompt
        if self.kept is not None:
            return (self.kept.header.prompt or "") + self.kept.text
        raise OptionError("this picture needs a PROMPT, or --trace FILE")

    def step(self, trace: Trace, default: int = 0) -> int:
        """The step that the flags name."""
        return trace.at(self.values.get("step", default))

    def row(self) -> tuple[Distribution, int | None]:
        """The whole row after the prompt, or at a step of the trace, and the token that was chosen there."""
        from fanlight.trace.distribution import Distribution

        trace = self.kept
        if trace is None:
            text = self.text
            if "step" in self.values:
                raise OptionError("--step is of a kept run: give --trace FILE with it, or a longer PROMPT")
            logits = self.model.logits(text)[-1]
            return Distribution.of_row(logits, self.model.tokenizer.token_label, text[-40:]), None
        step = self.step(trace)
        kept = trace.distribution(step)
        if kept.is_whole:
            return kept, trace.ids[step]
        return self.rows(trace, [step])[0], trace.ids[step]

    def rows(self, trace: Trace, steps: Sequence[int]) -> list[Distribution]:
        """The whole rows of some steps, by the model: a trace holds the most probable tokens alone."""
        from fanlight.trace.distribution import Distribution

        ids, n = trace.prompt_ids + trace.ids, len(trace.prompt_ids)
        logits = self.model.logits(ids[: n + max(steps)])
        label = self.model.tokenizer.token_label
        return [Distribution.of_row(logits[n + step - 1], label, trace.context(step)) for step in steps]

    def check(self, shown: Sequence[str] = ()) -> None:
        """Errors: OptionError for settings beside a kept run, which has its own. shown: those that the picture shows."""
        own = [name for name in (*DEFAULTS, "preset", "settings", "order") if name in self.values and name not in shown]
        if "trace" in self.values and own:
            raise OptionError(
                f"--{own[0].replace('_', '-')} is for a PROMPT: a kept run has its own settings; what others would have "
                "chosen is told by: fanlight trace what-if"
            )


def labels(trace: Trace) -> list[str]:
    """Of every position."""
    return [trace.token_label(token) for token in trace.prompt_ids + trace.ids]


def chosen(trace: Trace) -> list[str]:
    """Of every step's token."""
    return [trace.token_label(token) for token in trace.ids]
