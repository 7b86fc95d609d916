"""A request on its way: its strategy, its texts, its lines. Between the engine, which computes, and the strategy, which decides.

See decoding.strategies.base.Host.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fanlight.decoding.strategies.base import MAIN
from fanlight.engine.request import Usage
from fanlight.engine.sequence import Sequence as Line
from fanlight.errors import FanlightError, NumericError

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import StepSettings
    from fanlight.decoding.stopping import StopRules
    from fanlight.decoding.strategies.base import Answer, Steps, Want
    from fanlight.decoding.strategies.base import Line as AnyLine
    from fanlight.engine.lane import Lane
    from fanlight.engine.output import Output
    from fanlight.engine.pace import Pace
    from fanlight.engine.request import DetokenizerFactory, Request, StepEvent
    from fanlight.kernels.ops import Tensor
    from fanlight.trace.search import SearchRecord
    from fanlight.trace.stop import Stop


LONGEST_CHARACTER = 4
"""Tokens that one character may be spread over."""


PASS = 8.0
"""What a pass costs by itself, in rows: one of 8 rows takes 1.7 times as long as one of a single row, on two cores with AVX2."""
KEPT_LINES = 8
"""Of a request that ends with all its lines open, such as a search's, how many others may go on from."""


class Run:
    """One request's state."""

    def __init__(
        self,
        request: Request,
        *,
        lanes: dict[str, Lane],
        settings: Sequence[StepSettings],
        rules: StopRules,
        rank: tuple[int, int],
        detokenizer_factory: DetokenizerFactory | None = None,
    ) -> None:
        """lanes: by the names that strategies use. settings: one for each text. rank: its place in the queue."""
        self._detokenizer_factory = detokenizer_factory
        self.request = request
        self.lanes = lanes
        self.config: GenerationConfig = request.config
        self.prompt_ids = request.prompt_ids
        self.settings = settings[0]
        self.ops = lanes[MAIN].decoder.ops
        self.n_ctx = lanes[MAIN].cache.n_ctx
        self.n_layer = lanes[MAIN].decoder.config.n_layer
        self.max_length = rules.longest(len(request.prompt_ids))
        self.outputs: list[Output] = []
        self.lines: list[Line] = []
        self.search: SearchRecord | None = None
        """What a search leaves behind of its tree."""
        self.rank = rank
        """See Scheduler."""
        self.n_reused = self.n_computed = 0
        """Positions that came from what others had computed; those that passes have computed."""
        self.pace: Pace | None = None
        """If it guesses ahead."""
        self.ended = False
        self.events: list[StepEvent] = []
        """Not handed out yet."""
        self.steps: Steps | None = None
        self._eos_ids, self._deadline = rules.eos_ids, rules.deadline
        self._wants: list[Want] = []
        self._n_missing = 0

    # -- for strategies -------------------------------------------------------------------------------------------------

    def open(self, ids: Iterable[int], model: str = MAIN) -> Line:
        """See Host."""
        lane = self.lanes[model]
        line = Line(self, lane, ids, lane.cache.open())
        self.lines.append(line)
        return line

    def fork(self, line: AnyLine) -> Line:
        """See Host."""
        assert isinstance(line, Line)
        twin = Line(self, line.lane, line.ids, line.lane.cache.fork(line.slot))
        twin.n_full, twin.is_fresh, twin.is_prompt = line.n_full, False, False
        self.lines.append(twin)
        line.lane.scheduler.join(twin, line)
        return twin

    def close(self, line: AnyLine, *, keep: bool = False) -> None:
        """See Host."""
        assert isinstance(line, Line)
        if not line.closed:
            if keep:
                line.remember(whole=True)
            line.closed, line.want = True, None
            line.lane.scheduler.remove(line)
            self.lines.remove(line)

    def cut(self, line: AnyLine, length: int) -> None:
        """See Host."""
        assert isinstance(line, Line)
        del line.ids[length:]
        line.forget(length)

    def recompute(self, line: AnyLine, length: int = 0) -> None:
        """See Host."""
        assert isinstance(line, Line)
        line.forget(length)

    def window(self, model: str) -> int:
        """See Host."""
        return self.lanes[model].cache.n_ctx

    def pass_cost(self) -> float:
        """See Host."""
        return PASS / max(1, self.lanes[MAIN].n_sequences)

    def read_out(self, states: Tensor, *, norm: bool) -> Tensor:
        """See Host."""
        return self.lanes[MAIN].decoder.read_out(states, norm=norm)

    def completes(self, ids: Sequence[int], token: int) -> bool:
        """See Host. Looks at the last tokens alone: an earlier stop string would have ended the text."""
        strings = self.config.stop_strings
        if not strings or self._detokenizer_factory is None:
            return False
        begin = max(len(self.prompt_ids), len(ids) - max(map(len, strings)) - LONGEST_CHARACTER)
        stream = self._detokenizer_factory(tuple(ids[:begin]))
        text = "".join([stream.feed(each) for each in ids[begin:]]) + stream.feed(token)
        return any(string in text for string in strings)

    def expired(self) -> bool:
        """See Host."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def ends(self, token: int) -> bool:
        """See Host."""
        return token in self._eos_ids

    @property
    def n_new(self) -> int:
        """Tokens of all its texts."""
        return sum(output.n_new for output in self.outputs)

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return Usage(self.n_reused, self.n_computed, self.pace.seconds_saved if self.pace is not None else None)

    # -- for the engine -------------------------------------------------------------------------------------------------

    def begin(self, steps: Steps) -> None:
        """Start the strategy, up to its first wants."""
        self.steps = steps
        self._resume(None)

    def arrived(self, line: Line) -> bool:
        """A line has its answer; whether it was the last that was missing."""
        line.want = None
        self._n_missing -= 1
        return self._n_missing == 0

    def advance(self) -> None:
        """Hand the answers over, and take the next wants. Errors in the strategy end this request alone."""
        answers = []
        for want in self._wants:
            line: Line = want.line  # type: ignore[assignment]  # of `open` or `fork`
            assert line.answer is not None
            answers.append(line.answer)
            line.answer = None
        self._resume(answers)

    def _resume(self, answers: list[Answer] | None) -> None:
        assert self.steps is not None
        try:
            self._wants = next(self.steps) if answers is None else self.steps.send(answers)
        except StopIteration:
            self.finish()
            return
        except NumericError as error:  # these rows are damaged; those of others are not
            where = f"request {self.request.id}, position {max(len(output.ids) for output in self.outputs)}"
            self.fail(NumericError(f"{where}: {error}"))
            return
        except FanlightError as error:
            self.fail(error)
            return
        except Exception as error:
            failure = FanlightError(f"request {self.request.id} ended by a fault of fanlight: {error!r}")
            failure.__cause__ = error
            self.fail(failure)
            return
        self._n_missing = len(self._wants)
        for want in self._wants:
            line: Line = want.line  # type: ignore[assignment]  # of `open` or `fork`
            line.ask(want)
            if not line.is_here:
                line.lane.scheduler.add(line)

    def finish(self, *, keep: bool = True) -> None:
        """The strategy has returned, or the request ends now: everything is given back. keep: it is sound, for others to go on."""
        self.ended = True
        self._wants = []  # which hold lines, which hold this
        if self.steps is not None:
            self.steps.close()
        for i, line in enumerate(tuple(self.lines)):
            self.close(line, keep=keep and i < KEPT_LINES)

    def fail(self, error: FanlightError) -> None:
        """End with an error."""
        from fanlight.engine.request import StepEvent

        n_new = max((output.n_new for output in self.outputs), default=0)
        self.finish(keep=False)
        self.events.append(StepEvent(self.request.id, n_new, None, None, "", None, error))

    def end(self, stop: Stop) -> None:
        """End all texts that have not ended, without another token."""
        self.finish()
        for output in self.outputs:
            if not output.ended:
                output.end(stop)
