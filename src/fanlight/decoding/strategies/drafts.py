"""Drafters: who guesses the next tokens, so that one pass can compute several. In: ids. Out: ids. Knows no model.

From repeats in the text (prompt lookup: Saxena 2023), by a smaller model (Leviathan et al. 2023), by the first layers of the
model itself (Draft & Verify, LayerSkip: Elhoushi et al. 2024), or what a grammar leaves no choice about.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from math import exp
from typing import TYPE_CHECKING

from fanlight.decoding.step import StepSettings, decide
from fanlight.decoding.strategies.base import ASSISTANT, Answer, Host, Line, Want
from fanlight.errors import FanlightError

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.strategies.sampling import Drafter

Guessing = Generator[list[Want], list[Answer], list[int]]
DEFAULT_NGRAM = 8
BUCKETS = 4
"""Matches of one token, two, three, and more: they are worth different trust."""
PRIOR = ((0.3, 3.0), (0.6, 3.0), (0.75, 3.0), (0.85, 3.0))
"""For each: how often a token after such a match is expected to be the same, and how many tokens that opinion weighs."""
FORGIVENESS = 0.02
"""Of a right token, what each guess that was not worth making earns."""
MEMORY = 0.9
"""What is left of a token's weight when the next one is known."""


class PromptLookup:
    """What followed the last tokens when they came before: the longest match, the last of several.

    The i-th token of a guess is right in share^i of all cases, where `share` is what this text has shown for matches of that
    length. A guess is as long as gives the most tokens for the time that the pass takes.
    """

    name = "prompt_lookup"
    is_sure = False

    def __init__(self, n_tokens: int, n_gram: int, pass_cost: Callable[[], float]) -> None:
        """n_tokens: the longest guess. n_gram: the longest match that is looked for. pass_cost: see Host."""
        self.n_tokens, self.n_gram, self._pass_cost = n_tokens, n_gram, pass_cost
        self._seen: list[dict[tuple[int, ...], int]] = [{} for _ in range(n_gram + 1)]
        self._n_indexed = 0  # ids[:n] whose n-grams, with a token after them, are in _seen
        self._right = [share * weight for share, weight in PRIOR]
        self._tried = [weight for _, weight in PRIOR]
        self._bucket = 0  # of the last guess

    def guess(self, ids: Sequence[int], settings: StepSettings, room: int) -> Guessing:
        """See Drafter."""
        yield from ()
        self._index(ids)
        for n in range(min(self.n_gram, len(ids) - 1), 0, -1):
            at = self._seen[n].get(tuple(ids[len(ids) - n :]))
            if at is not None:
                self._bucket = min(n, BUCKETS) - 1
                return list(ids[at : at + min(self._worth(), room)])
        return []

    def learn(self, ids: Sequence[int], n_guessed: int, n_right: int) -> None:
        """See Drafter."""
        bucket = self._bucket
        for i in range(min(n_right + 1, n_guessed)):  # those after a wrong one tell nothing
            self._right[bucket] = self._right[bucket] * MEMORY + (i < n_right)
            self._tried[bucket] = self._tried[bucket] * MEMORY + 1

    def _worth(self) -> int:
        """How many tokens to guess: the most of them for the rows of the pass and its own cost."""
        share = self._right[self._bucket] / self._tried[self._bucket]
        n_tokens, right, cost = 1.0, share, self._pass_cost() + 1
        n = 0
        while n < self.n_tokens and (n_tokens + right) * cost > n_tokens * (cost + 1):
            n_tokens, right, cost, n = n_tokens + right, right * share, cost + 1, n + 1
        if not n:  # now and then a look, for the text may have changed
            self._right[self._bucket] += FORGIVENESS
            self._tried[self._bucket] += FORGIVENESS
        return n

    def _index(self, ids: Sequence[int]) -> None:
        for end in range(self._n_indexed, len(ids)):  # the n-grams before position `end`, which is what followed them
            for n in range(1, min(self.n_gram, end) + 1):
                self._seen[n][tuple(ids[end - n : end])] = end
        self._n_indexed = len(ids)


class _ByRows:
    """What drafters share that choose from logits: settings of their own, and the length of a guess."""

    is_sure = False

    def __init__(self, config: GenerationConfig) -> None:
        self._length: float = config.num_assistant_tokens
        self._adapts = config.num_assistant_tokens_schedule != "constant"
        self._threshold = config.assistant_confidence_threshold

    def learn(self, ids: Sequence[int], n_guessed: int, n_right: int) -> None:
        """See Drafter."""
        if self._adapts:
            self._length = self._length + 2 if n_right == n_guessed else max(1, self._length - 1)

    def _extend(self, ids: Sequence[int], guess: list[int], answer: Answer, settings: StepSettings) -> bool:
        """One more token, under the same noise as the model's own choice will have; whether to go on."""
        row = answer.logits[-1]
        try:
            token = decide([*ids, *guess], row, settings).choice.id
        except FanlightError:  # the text may never come this way; where it does, its own decision says so
            return False
        prob = exp(settings.ops.gather(row, (token,))[0] - settings.ops.stats(row).logsumexp)
        if prob < self._threshold and guess:
            return False
        guess.append(token)
        return prob >= self._threshold


class ModelDraft(_ByRows):
    """A smaller model with the same vocabulary guesses."""

    name = "assistant"

    def __init__(self, host: Host) -> None:
        super().__init__(host.config)
        self._host = host
        self._line: Line | None = None

    def guess(self, ids: Sequence[int], settings: StepSettings, room: int) -> Guessing:
        """See Drafter."""
        own, n = draft_settings(settings), min(int(self._length), room)
        if self._line is None:
            self._line = self._host.open(ids, ASSISTANT)
        line, guess = self._line, list[int]()
        line.ids.extend(ids[len(line.ids) :])
        while len(guess) < n and len(line.ids) <= self._host.window(ASSISTANT):
            (answer,) = yield [Want(line)]
            if not self._extend(ids, guess, answer, own):
                break
            if len(guess) < n:
                line.ids.append(guess[-1])
        return guess

    def learn(self, ids: Sequence[int], n_guessed: int, n_right: int) -> None:
        """See Drafter. The line goes back to what came out as guessed."""
        super().learn(ids, n_guessed, n_right)
        assert self._line is not None
        same = len(ids) - 1  # all but the token that the model added itself
        if len(self._line.ids) > same:
            self._host.cut(self._line, same)


class EarlyExit(_ByRows):
    """The first layers of the model guess."""

    name = "early_exit"

    def __init__(self, host: Host, line: Line, n_layer: int) -> None:
        super().__init__(host.config)
        self._host, self._line, self._n_layer = host, line, n_layer

    def guess(self, ids: Sequence[int], settings: StepSettings, room: int) -> Guessing:
        """See Drafter. The line is left as it was; the engine knows which positions went through the first layers alone."""
        own, n, line = draft_settings(settings), min(int(self._length), room), self._line
        guess: list[int] = []
        n_before = len(line.ids)
        while len(guess) < n:
            (answer,) = yield [Want(line, n_layer=self._n_layer)]
            if not self._extend(ids, guess, answer, own):
                break
            if len(guess) < n:
                line.ids.append(guess[-1])
        self._host.cut(line, n_before)
        return guess


class Forced:
    """Tokens that a grammar leaves no choice about; where there is a choice, another drafter may guess."""

    name = "forced"

    def __init__(self, forced: Callable[[Sequence[int]], list[int]], otherwise: Drafter | None) -> None:
        """forced: ids -> the only tokens that can follow."""
        self._forced, self._otherwise, self._mine = forced, otherwise, True
        self.is_sure = otherwise is None

    def guess(self, ids: Sequence[int], settings: StepSettings, room: int) -> Guessing:
        """See Drafter."""
        found = self._forced(ids)[:room]
        self._mine = bool(found) or self._otherwise is None
        self.name = "forced" if self._mine or self._otherwise is None else self._otherwise.name
        if not self._mine and self._otherwise is not None:
            found = yield from self._otherwise.guess(ids, settings, room)
        return found

    def learn(self, ids: Sequence[int], n_guessed: int, n_right: int) -> None:
        """See Drafter."""
        if self._otherwise is not None and not self._mine:
            self._otherwise.learn(ids, n_guessed, n_right)


def draft_settings(settings: StepSettings) -> StepSettings:
    """Those of a guess: no record, and no processor that needs another row."""
    processors = tuple(p for p in settings.processors if p.beside is None)
    return replace(settings, processors=processors, candidates=0, keep_raw=False, keep_final=False, remembers=False)
