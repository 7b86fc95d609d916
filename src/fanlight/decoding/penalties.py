"""Processors that weigh tokens by the ids so far: penalties and biases. Knows no model; of texts, only a callable.

Counting starts where the settings say: over the whole sequence, over its last tokens, with or without the prompt.
"""

from __future__ import annotations

from collections import Counter
from math import log
from typing import TYPE_CHECKING

from fanlight.decoding.processors import OnOps, Surroundings
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


LARGEST = 1e30
"""What a logit can lose or gain at most: float32 ends at 3e38, and penalties add up."""


class Span:
    """Which of the ids a penalty looks at."""

    __slots__ = ("last", "skip")

    def __init__(self, last: int, skip: int) -> None:
        """last: how many at most, 0 for all. skip: how many of the first never count."""
        self.last, self.skip = last, skip

    def of(self, ids: Sequence[int]) -> Sequence[int]:
        """Those that count."""
        begin = max(self.skip, len(ids) - self.last if self.last else 0)
        return ids[begin:] if begin else ids


class RepetitionPenalty(OnOps):
    """Tokens that came: positive logits are divided by the penalty, negative ones multiplied. Source: Keskar et al. 2019."""

    __slots__ = ("span",)
    name = "repetition_penalty"

    def __init__(self, value: float, span: Span, ops: Ops) -> None:
        super().__init__(value, ops)
        self.span = span

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.repetition_penalty(logits, self.span.of(ids), self.value)


class EncoderRepetitionPenalty(OnOps):
    """Tokens of the prompt become more probable, by the inverse of the penalty. Source: transformers."""

    __slots__ = ("prompt_ids",)
    name = "encoder_repetition_penalty"

    def __init__(self, value: float, prompt_ids: Sequence[int], ops: Ops) -> None:
        super().__init__(value, ops)
        self.prompt_ids = prompt_ids

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.repetition_penalty(logits, self.prompt_ids, 1 / self.value)


class FrequencyPenalty(OnOps):
    """A logit loses the penalty each time that its token came. Source: OpenAI's API."""

    __slots__ = ("span",)
    name = "frequency_penalty"

    def __init__(self, value: float, span: Span, ops: Ops) -> None:
        super().__init__(value, ops)
        self.span = span

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        counts = Counter(self.span.of(ids))
        return self.ops.bias(logits, list(counts), [-self.value * n for n in counts.values()])


class PresencePenalty(FrequencyPenalty):
    """A logit loses the penalty once, if its token came. Source: OpenAI's API."""

    __slots__ = ()
    name = "presence_penalty"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        seen = list(dict.fromkeys(self.span.of(ids)))
        return self.ops.bias(logits, seen, [-self.value] * len(seen))


class Dry(OnOps):
    """Don't repeat yourself: what would make a repeat longer loses multiplier * base^(its length - allowed). Source: p-e-w 2024.

    A repeat is a run of tokens that ends the text and came before; it does not reach over a token with a breaker in its text.
    """

    __slots__ = ("allowed", "base", "breaks", "last_n", "steepest")
    name = "dry"

    def __init__(
        self, multiplier: float, base: float, allowed: int, last_n: int, breaks: Callable[[int], bool], ops: Ops
    ) -> None:
        super().__init__(multiplier, ops)
        self.base, self.allowed, self.last_n, self.breaks = base, allowed, last_n, breaks
        self.label = f"dry({multiplier:g}, base {base:g}, allowed {allowed})"
        self.steepest = int(80 / log(base)) if base > 1 else 0  # the power of the base beyond which float32 ends

    def repeats(self, ids: Sequence[int]) -> dict[int, int]:
        """Token -> the length of the longest repeat that it would carry on.

        Backwards, a repeat is a place that begins like the whole: Gusfield's Z algorithm, which goes over the text once.
        """
        back = list(ids[-self.last_n :] if self.last_n else ids)[::-1]
        if len(back) < 2 or self.breaks(back[0]):
            return {}
        longest: dict[int, int] = {}
        lengths: dict[int, int] = {}  # place -> length, where that is not 0
        reach = len(back)  # no repeat goes further: there is a breaker
        begin, end = 0, 0  # of the repeat that ends last
        at = 0
        while True:
            try:
                at = back.index(back[0], at + 1)
            except ValueError:
                return longest
            length = min(end - at, lengths.get(at - begin, 0), reach) if at < end else 0
            while length < reach and at + length < len(back) and back[length] == back[at + length]:
                if self.breaks(back[length]):
                    reach = length
                else:
                    length += 1
            lengths[at] = length
            if at + length > end:
                begin, end = at, at + length
            follower = back[at - 1]
            if length > longest.get(follower, 0):
                longest[follower] = length

    def penalties(self, ids: Sequence[int]) -> dict[int, float]:
        """What each token would lose."""
        return {
            token: min(self.value * self.base ** min(length - self.allowed, self.steepest), LARGEST)
            for token, length in self.repeats(ids).items()
            if length >= self.allowed and not self.breaks(token)
        }

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        found = self.penalties(ids)
        return self.ops.bias(logits, list(found), [-amount for amount in found.values()]) if found else logits


class Biases(OnOps):
    """Adds to logits: of single tokens always, of longer sequences to the token that would complete one. Source: transformers."""

    __slots__ = ("amounts", "ids", "longer", "name", "removes")

    def __init__(
        self, name: str, biases: Sequence[tuple[Sequence[int], float]], ops: Ops, *, removes: bool = False
    ) -> None:
        self.name, self.removes = name, removes
        super().__init__(float(len(biases)), ops)
        known = {tuple(ids): amount for ids, amount in biases}  # of one that stands twice the last counts
        self.ids = [ids[0] for ids in known if len(ids) == 1]
        self.amounts = [amount for ids, amount in known.items() if len(ids) == 1]
        self.longer: dict[int, list[tuple[tuple[int, ...], int, float]]] = {}  # by the token before the one it is about
        for ids, amount in known.items():
            if len(ids) > 1:
                self.longer.setdefault(ids[-2], []).append((ids[:-1], ids[-1], amount))
        self.label = f"{name}({len(biases)} {'entry' if len(biases) == 1 else 'entries'})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        tokens, amounts = self.ids, self.amounts
        nearby = self.longer.get(ids[-1], ()) if ids else ()
        matched = [(last, amount) for begin, last, amount in nearby if tuple(ids[-len(begin) :]) == begin]
        if matched:
            tokens = tokens + [token for token, _ in matched]
            amounts = amounts + [amount for _, amount in matched]
        return self.ops.bias(logits, tokens, amounts) if tokens else logits


# -- settings -> processors ------------------------------------------------------------------------------------------------


def _span(config: GenerationConfig, around: Surroundings, counts_prompt: bool) -> Span:
    counts = counts_prompt if config.penalize_prompt is None else config.penalize_prompt
    return Span(config.repetition_penalty_range, 0 if counts else around.n_prompt)


def repetition(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """repetition_penalty, repetition_penalty_range, penalize_prompt."""
    if config.repetition_penalty == 1:
        return None
    return RepetitionPenalty(config.repetition_penalty, _span(config, around, True), around.ops)


def encoder_repetition(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """encoder_repetition_penalty, on the prompt."""
    value = config.encoder_repetition_penalty
    return None if value == 1 else EncoderRepetitionPenalty(value, around.prompt_ids, around.ops)


def frequency(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """frequency_penalty."""
    value = config.frequency_penalty
    return FrequencyPenalty(value, _span(config, around, False), around.ops) if value else None


def presence(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """presence_penalty."""
    value = config.presence_penalty
    return PresencePenalty(value, _span(config, around, False), around.ops) if value else None


def dry(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """dry_multiplier and what belongs to it."""
    if not config.dry_multiplier:
        return None
    return Dry(
        config.dry_multiplier,
        config.dry_base,
        config.dry_allowed_length,
        config.dry_penalty_last_n,
        _breaker(config.dry_sequence_breakers, around.token_text),
        around.ops,
    )


def _breaker(breakers: Sequence[str], token_text: Callable[[int], str] | None) -> Callable[[int], bool]:
    known: dict[int, bool] = {}

    def breaks(token: int) -> bool:
        if token_text is None:
            return False
        found = known.get(token)
        if found is None:
            text = token_text(token)
            found = known[token] = any(breaker in text for breaker in breakers)
        return found

    return breaks


def sequence_bias(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """sequence_bias."""
    for ids, _ in config.sequence_bias:
        check_ids("sequence_bias", ids, around)
    return Biases("sequence_bias", config.sequence_bias, around.ops) if config.sequence_bias else None


def logit_bias(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """logit_bias."""
    check_ids("logit_bias", [token for token, _ in config.logit_bias], around)
    biases = [((token,), amount) for token, amount in config.logit_bias]
    return Biases("logit_bias", biases, around.ops) if biases else None


def check_ids(name: str, ids: Sequence[int], around: Surroundings) -> None:
    """Errors: OptionError for an id that the model does not have."""
    for token in ids:
        if token >= around.n_vocab:
            raise OptionError(f"{name}: id {token} is not in the model's vocabulary, 0 to {around.n_vocab - 1}")
