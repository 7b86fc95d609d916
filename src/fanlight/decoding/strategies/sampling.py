"""The autoregressive loop: one token after the other, greedily or drawn; guessed ahead where a drafter knows how. Knows no model.

A guess changes nothing but the time: every token is decided by `decide` from the same row as without it, with the noise of its
own position. Guesses that turn out right only were computed in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanlight.decoding.contrasts import LAYERS
from fanlight.decoding.step import NONE, StepSettings, decide
from fanlight.decoding.strategies.base import Answer, Host, Line, Output, Steps, Want, together
from fanlight.trace.records import Guess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Tensor


class Drafter(Protocol):
    """Guesses what comes next."""

    name: str
    is_sure: bool
    """Whether it is never wrong."""

    def guess(
        self, ids: Sequence[int], settings: StepSettings, room: int
    ) -> Generator[list[Want], list[Answer], list[int]]:
        """Up to `room` tokens that may follow ids."""

    def learn(self, ids: Sequence[int], n_guessed: int, n_right: int) -> None:
        """How good the last guess was; ids: the text with what came."""


class Beside(NamedTuple):
    """Another line that goes along and whose row some processor reads."""

    name: str
    line: Line


class Start(NamedTuple):
    """A line whose last row is computed already, with those beside it."""

    answers: list[Answer]


def sample(
    host: Host,
    output: Output,
    line: Line,
    settings: StepSettings,
    *,
    drafter: Drafter | None = None,
    beside: Sequence[Beside] = (),
    layers: tuple[int, ...] = (),
    start: Start | None = None,
) -> Steps:
    """Write one text. layers: whose read-outs a processor wants to see (DoLa)."""
    kept = kept_layers(host)
    looked_at = (*layers, *kept)
    ids, lines, keeps_cache = output.ids, [line, *(other.line for other in beside)], host.config.use_cache
    scored = output.score is not None
    is_calibrated = drafter is None or drafter.is_sure  # else one pass goes first that tells what guesses save
    while True:
        guess: list[int] = []
        if start is None:
            room = host.max_length - len(ids) - 1
            if drafter is not None and room > 0 and is_calibrated:
                guess = yield from drafter.guess(ids, settings, room)
                for each in lines:
                    each.ids.extend(guess)
            is_calibrated = True
            n_rows = len(guess) + 1
            wants = [Want(line, n_rows, looked_at)]
            if beside:
                wants += [Want(other.line, n_rows) for other in beside]
            answers = yield wants
        else:
            answers, start = start.answers, None
        n_right = 0
        for i, row in enumerate(answers[0].logits):
            others = _others(host, i, answers, beside, layers) if beside or layers else NONE
            decision = decide(ids, row, settings, others)
            token = decision.choice.id
            if decision.processors is not None:
                settings = replace(settings, processors=decision.processors)
            if kept:
                decision = decision._replace(states=_states(answers[0], kept, i))
            right = False
            if i < len(guess):
                assert drafter is not None
                right = token == guess[i]
                n_right += right
                decision = decision._replace(guess=Guess(drafter.name, guess[i], right))
            if scored:
                output.score = (output.score or 0.0) + _logprob(row, token, settings)
            known = len(ids) + 1 - settings.n_prompt < len(settings.begin)  # the next one too
            if output.emit(token, decision, may_end=not known) is not None:
                for each in lines:
                    host.close(each, keep=True)
                return
            if not right:
                break
        surplus = len(guess) - n_right
        for each in lines:
            if surplus:
                host.cut(each, len(each.ids) - surplus)
            each.ids.append(token)
            if not keeps_cache:
                host.recompute(each)
        if guess and drafter is not None:
            drafter.learn(ids, len(guess), n_right)


def sample_many(
    host: Host,
    settings: Sequence[StepSettings],
    *,
    beside: Sequence[Beside] = (),
    layers: tuple[int, ...] = (),
    drafter_for: Callable[[Line], Drafter | None] = lambda line: None,
) -> Steps:
    """Several texts after one prompt, which is computed once. settings: one for each text."""
    line = host.open(host.prompt_ids)
    answers = yield [Want(line, 1, (*layers, *kept_layers(host))), *(Want(other.line, 1) for other in beside)]
    if len(settings) == 1:
        only = settings[0]
        yield from sample(
            host,
            host.outputs[0],
            line,
            only,
            drafter=drafter_for(line),
            beside=beside,
            layers=layers,
            start=Start(answers),
        )
        return
    parts: dict[int, Steps] = {}
    for i, (output, own) in enumerate(zip(host.outputs, settings, strict=True)):
        is_last = i == len(settings) - 1
        mine = line if is_last else host.fork(line)
        others = beside if is_last else tuple(Beside(b.name, host.fork(b.line)) for b in beside)
        drafter = drafter_for(mine)
        parts[i] = sample(host, output, mine, own, drafter=drafter, beside=others, layers=layers, start=Start(answers))
    yield from together(parts)


def _others(
    host: Host, i: int, answers: Sequence[Answer], beside: Sequence[Beside], layers: tuple[int, ...]
) -> Mapping[str, Tensor]:
    found = {other.name: answer.logits[i] for other, answer in zip(beside, answers[1:], strict=True)}
    if layers:
        found[LAYERS] = read_out_layers(host, answers[0], layers, i)
    return found


def kept_layers(host: Host) -> tuple[int, ...]:
    """Whose states the request wants to keep: with output_hidden_states all, from the embedding (0) on."""
    return tuple(range(host.n_layer + 1)) if host.config.output_hidden_states else ()


def read_out_layers(host: Host, answer: Answer, layers: tuple[int, ...], i: int) -> Tensor:
    """The rows that the head reads from earlier layers at row i, without the final norm, as DoLa's authors do: (n, n_vocab)."""
    stacked = _states(answer, layers, i)
    return host.read_out(host.ops.tensor(stacked, stacked.shape[1]), norm=False)


def _states(answer: Answer, layers: tuple[int, ...], i: int) -> NDArray[np.float32]:
    """Of row i: (len(layers), n_embd)."""
    import numpy as np

    states = [np.concatenate([part.numpy() for part in answer.states[layer]])[i] for layer in layers]
    return np.ascontiguousarray(np.stack(states), dtype=np.float32)


def _logprob(row: Tensor, token: int, settings: StepSettings) -> float:
    return settings.ops.gather(row, (token,))[0] - settings.ops.stats(row).logsumexp
