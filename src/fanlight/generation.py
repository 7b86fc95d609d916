"""What a model hands back: steps as they come, and finished texts. In: an engine's events. Out: text with its account.

Knows no checkpoint and no terminal.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.stopping import CANCELLED
from fanlight.engine.request import Usage
from fanlight.errors import FanlightError, NumericError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import Decision
    from fanlight.engine.loop import Engine
    from fanlight.engine.request import Request, StepEvent
    from fanlight.engine.stream import EventStream
    from fanlight.text.tokenizer import AnyTokenizer
    from fanlight.trace.records import Removal, StepRecord
    from fanlight.trace.search import SearchRecord
    from fanlight.trace.stop import Stop
    from fanlight.tracing.recording import Recorder
    from fanlight.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """One token that could have come next, and how likely it was before (raw) and after (final) the processors."""

    id: int
    text: str
    raw_logit: float
    raw_prob: float
    final_prob: float
    """0 if a processor removed it."""
    removal: Removal | None = None
    """Which processor did, and by what rule."""


@dataclass(frozen=True, slots=True)
class Step:
    """One chosen token."""

    index: int
    """0 for the first new token."""
    id: int
    text: str
    """What this step added to the text: maybe nothing yet (a part of a character), maybe more than this token."""
    stop: Stop | None
    """Why the text ended here, on the last step."""
    decision: Decision
    _tokenizer: AnyTokenizer = field(repr=False, compare=False)
    sequence: int = 0
    """Which text of the request, with num_return_sequences or best_of."""

    @property
    def record(self) -> StepRecord:
        """What the step saw. FanlightError if the request asked for no record (candidates=0)."""
        if self.decision.record is None:
            raise FanlightError("this step was not recorded: generate with candidates above 0")
        return self.decision.record

    @property
    def token(self) -> str:
        """The chosen token for display."""
        return self._tokenizer.token_text(self.id)

    def __repr__(self) -> str:
        end = f", {self.stop.reason.value}" if self.stop is not None else ""
        return f"Step({self.index}, {self.token!r}, id={self.id}{end})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    @property
    def candidates(self) -> tuple[TokenCandidate, ...]:
        """The most probable tokens of the raw logits, descending; then those of the final logits, and the chosen one."""
        text, record = self._tokenizer.token_text, self.record
        removals = record.removals()
        return tuple(
            TokenCandidate(c.id, text(c.id), c.raw_logit, c.raw_prob, c.final_prob, removals.get(c.id))
            for c in record.candidates
        )


class Speculation(NamedTuple):
    """What guessing ahead gave: the text is the same without it."""

    n_guessed: int
    """Guesses that were looked at: of a pass, those up to the first wrong one."""
    n_right: int
    n_steps: int
    """Tokens of the text; those that were not guessed right cost a pass each."""
    seconds_saved: float | None = None
    """Of the request, against passes that guess nothing, of which it has a few; None if it had none."""

    @property
    def share(self) -> float:
        """Of the guesses, those that were right."""
        return self.n_right / self.n_guessed if self.n_guessed else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Of the model."""
        return self.n_steps / max(1, self.n_steps - self.n_right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """New ids, the end-of-sequence token included if there was one."""
    text: str
    """The new text: without the prompt, the end-of-sequence token, and the stop string with all that follows it."""
    stop: Stop
    steps: tuple[Step, ...]
    config: GenerationConfig
    seed: int
    """What the noise of this text was drawn with: with it alone, the same settings give the text again."""
    request_seed: int
    """The request's own seed, or the one made for it: with it, the same settings give all its texts again."""
    notes: tuple[str, ...]
    """Settings that had no effect, and other things worth knowing, a sentence each."""
    prefill_seconds: float
    """Until the first token was chosen. Time spent by the caller between steps does not count, here and below; for one of many
    jobs, and in a service, it is what passed on the clock."""
    decode_seconds: float
    """From the first token to the last."""
    usage: Usage
    """Tokens that the model had to compute for the request, with all its texts, and those that were there already."""
    score: float | None = None
    """What texts of one request were compared by: log-probability over length^length_penalty of beams, log-probability a token
    of best_of."""
    answer: str | None = None
    """With vote_pattern: what it found in this text."""
    votes: int | None = None
    """With vote_pattern: how many of the texts gave that answer."""
    others: tuple[Generation, ...] = ()
    """With num_return_sequences: the other texts, the best first."""
    search: SearchRecord | None = None
    """The tree that a search went through, if steps were recorded."""
    trace: Trace | None = field(default=None, compare=False)
    """With `trace`: all of it, to keep, to look at, to replay."""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        others = f", {len(self.others)} others" if self.others else ""
        return f"Generation({self.text!r:.80}, {len(self.ids)} tokens, {self.stop.reason.value}{others})"

    @property
    def all(self) -> tuple[Generation, ...]:
        """This text and the others."""
        return (self, *self.others)

    @property
    def speculation(self) -> Speculation | None:
        """How well it was guessed ahead; None if nothing was."""
        guesses = [step.decision.guess for step in self.steps if step.decision.guess is not None]
        if not guesses:
            return None
        n_right = sum(guess.right for guess in guesses)
        return Speculation(len(guesses), n_right, len(self.steps), self.usage.seconds_saved)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Raw logits of every step, (n_steps, n_vocab). FanlightError without output_logits."""
        return self._rows("output_logits", lambda decision: decision.raw)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Final logits of every step, (n_steps, n_vocab). FanlightError without output_scores."""
        return self._rows("output_scores", lambda decision: decision.final)

    @property
    def hidden_states(self) -> NDArray[np.float32]:
        """The residual stream behind each step, (n_steps, n_layer + 1, n_embd). FanlightError without output_hidden_states."""
        import numpy as np

        if not self.config.output_hidden_states:
            raise FanlightError("these were not kept: generate with output_hidden_states=True")
        states = [step.decision.states for step in self.steps if step.decision.states is not None]
        if not states:
            raise FanlightError("no states were kept: a search keeps none, and a text without a token has none")
        return np.stack(states)

    def _rows(self, option: str, row: Callable[[Decision], object]) -> NDArray[np.float32]:
        import numpy as np

        if not getattr(self.config, option):
            raise FanlightError(f"these were not kept: generate with {option}=True")
        if not self.steps:
            raise FanlightError("no logits were kept: the text has no token")
        return np.concatenate([row(step.decision).numpy() for step in self.steps])  # type: ignore[attr-defined]


class _Text:
    """One of the texts of a request, while it comes."""

    __slots__ = ("pieces", "score", "steps", "stop")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.steps: list[Step] = []
        self.stop: Stop | None = None
        self.score: float | None = None


class Assembly:
    """The texts of one request, put together from its events."""

    def __init__(self, request: Request, tokenizer: AnyTokenizer, notes: Sequence[str] = ()) -> None:
        """notes: what the result says beside the settings' own."""
        self.request = request
        self.prefill_seconds = self.decode_seconds = 0.0
        self._tokenizer, self._notes = tokenizer, tuple(notes)
        self._texts = [_Text() for _ in range(request.n_outputs)]
        self._search: SearchRecord | None = None
        self._usage = Usage(0, 0)

    def add(self, event: StepEvent) -> Step | None:
        """Take an event that is not an error; the step that it stands for, if one does."""
        text = self._texts[event.output]
        text.pieces.append(event.text)
        text.stop, text.score = event.stop, event.score
        self._search = event.search or self._search
        self._usage = event.usage or self._usage
        if event.id is None or event.decision is None:
            return None
        step = Step(event.index, event.id, event.text, event.stop, event.decision, self._tokenizer, event.output)
        text.steps.append(step)
        return step

    def take_time(self, started: float) -> None:
        """With an event. Among others, a text's time is what passes: until its first token, and from there on."""
        seconds = time.perf_counter() - started
        if not self.prefill_seconds:
            self.prefill_seconds = seconds
        self.decode_seconds = seconds - self.prefill_seconds

    def result(self) -> Generation:
        """What has come so far, the best of several texts first."""
        config = self.request.config
        found = [self._generation(i, text) for i, text in enumerate(self._texts)]
        if config.best_of > 1:
            found = _ranked(found, config.vote_pattern)[: config.num_return_sequences]
        first, *others = found
        return replace(first, others=tuple(others), search=self._search)

    def _generation(self, index: int, text: _Text) -> Generation:
        config, score = self.request.config, text.score
        if config.best_of > 1 and score is not None:
            score = score / max(1, len(text.steps))
        return Generation(
            prompt_ids=self.request.prompt_ids,
            ids=tuple(step.id for step in text.steps),
            text="".join(text.pieces),
            stop=text.stop or CANCELLED,
            steps=tuple(text.steps),
            config=config,
            seed=self.request.seed_of(index),
            request_seed=self.request.seed,
            notes=config.notes() + self._notes,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            usage=self._usage,
            score=score,
        )


class Stream(Iterator[Step]):
    """One request on its way: its steps, each as soon as it is chosen.

    Closing it, leaving its `with` block or dropping it ends the request.
    """

    def __init__(
        self,
        engine: Engine,
        submit: Callable[[Engine], Request],
        tokenizer: AnyTokenizer,
        *,
        notes: Sequence[str] = (),
        explain: Callable[[NumericError], NumericError] = lambda error: error,
        closed: Callable[[], None] = lambda: None,
        recorder: Recorder | None = None,
    ) -> None:
        """Made by `Model.stream`. submit: queues the request. explain: says more of an error. closed: called once, at the end.

        recorder: makes the trace, if one is wanted.
        """
        started = time.perf_counter()
        self._engine, self._recorder = engine, recorder
        self._result: Generation | None = None
        self._events: EventStream | None = None
        self._closed = closed
        if recorder is not None:
            recorder.begin(engine)
        try:
            self._events = engine.stream(submit(engine))
        except BaseException:
            self.close()
            raise
        self._assembly = Assembly(self._events.request, tokenizer, notes)
        self._explain = explain
        self._assembly.prefill_seconds = time.perf_counter() - started
        self._begun = False

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What is continued."""
        return self._assembly.request.prompt_ids

    @property
    def config(self) -> GenerationConfig:
        """The settings."""
        return self._assembly.request.config

    @property
    def n_texts(self) -> int:
        """How many texts its steps belong to; which of them is returned is known at the end."""
        return self._assembly.request.n_outputs

    @property
    def seed(self) -> int:
        """What the noise is drawn with."""
        return self._assembly.request.seed

    def __next__(self) -> Step:
        while True:
            started = time.perf_counter()
            try:
                assert self._events is not None
                event = next(self._events)
            except StopIteration:
                self.close()
                raise
            except BaseException as error:
                self.close()
                if self._recorder is not None:
                    self._recorder.fail(self._assembly.result(), error)
                if isinstance(error, NumericError):
                    raise self._explain(error) from error
                raise
            seconds = time.perf_counter() - started  # the engine's, not that of whoever shows the steps
            if not self._begun:
                self._assembly.prefill_seconds += seconds
                self._begun = True
            else:
                self._assembly.decode_seconds += seconds
            step = self._assembly.add(event)
            if step is not None:
                if self._recorder is not None:
                    self._recorder.step(step, self._engine, self._assembly.result)
                return step

    def close(self) -> None:
        """End the request if it has not ended. May be called again."""
        closed, self._closed = self._closed, lambda: None
        if self._events is not None:
            self._events.close(closed)
        else:
            closed()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self.close()
        if self._recorder is not None and self._result is None:
            self._recorder.leave(self._assembly.result(), error)

    def __del__(self) -> None:
        self.close()

    def result(self) -> Generation:
        """The finished text, the best of several first; what has not come yet is waited for, unless the stream was closed."""
        for _ in self:
            pass
        if self._result is None:
            result = self._assembly.result()
            self._result = result if self._recorder is None else self._recorder.finish(result)
        return self._result


def _ranked(found: Sequence[Generation], pattern: str | None) -> list[Generation]:
    """The best first: by votes for their answers if there is a pattern (Wang et al. 2022), then by log-probability a token."""
    if pattern is not None:
        answers = [_answer(pattern, generation.text) for generation in found]
        votes = Counter(answer for answer in answers if answer is not None)
        found = [
            replace(generation, answer=answer, votes=votes[answer] if answer is not None else 0)
            for generation, answer in zip(found, answers, strict=True)
        ]
    return sorted(found, key=lambda g: (-(g.votes or 0), -(g.score if g.score is not None else -inf)))


def _answer(pattern: str, text: str) -> str | None:
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    last = found[-1]  # an answer follows its reasoning
    return last.group(1) if last.re.groups else last.group()
