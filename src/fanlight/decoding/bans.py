"""Processors that rule tokens out, or in, by the ids so far: bans, ends of text, forced tokens. Knows no model and no text."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fanlight.decoding.penalties import LARGEST, Biases, check_ids
from fanlight.decoding.processors import OnOps, Surroundings
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


class Removal(OnOps):
    """A filter that removes tokens by their ids, when its rule says so."""

    __slots__ = ()
    removes = True

    def banned(self, ids: Sequence[int]) -> Sequence[int]:
        """Which tokens go now."""
        raise AssertionError("every filter of this kind has a rule")

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        gone = self.banned(ids)
        return self.ops.bias(logits, list(gone), [-inf] * len(gone)) if gone else logits


class NoRepeatNgram(Removal):
    """No sequence of n tokens comes twice. Source: Paulus et al. 2017."""

    __slots__ = ()
    name = "no_repeat_ngram_size"

    def banned(self, ids: Sequence[int]) -> Sequence[int]:
        """The tokens that would complete one that was there."""
        n = int(self.value)
        if len(ids) + 1 < n:
            return ()
        if n == 1:
            return tuple(dict.fromkeys(ids))
        begin, last = list(ids[len(ids) - n + 1 :]), ids[-1]
        found: dict[int, None] = {}
        at = n - 3
        end = len(ids) - 1
        sequence = list(ids)
        while True:
            try:
                at = sequence.index(last, at + 1, end)
            except ValueError:
                return tuple(found)
            if sequence[at - n + 2 : at + 1] == begin:
                found[sequence[at + 1]] = None


class Until(Removal):
    """Tokens (the ends of a text) that go until the sequence has so many tokens."""

    __slots__ = ("name", "tokens", "until")

    def __init__(self, name: str, value: int, until: int, tokens: Sequence[int], ops: Ops) -> None:
        self.name = name
        super().__init__(value, ops)
        self.until, self.tokens = until, tuple(tokens)

    def banned(self, ids: Sequence[int]) -> Sequence[int]:
        """All of them, before that."""
        return self.tokens if len(ids) < self.until else ()


class Suppress(OnOps):
    """Tokens that go: always, or at one length only."""

    __slots__ = ("kept", "name", "only_at")
    removes = True

    def __init__(self, name: str, tokens: Sequence[int], n_vocab: int, ops: Ops, only_at: int | None = None) -> None:
        self.name = name
        super().__init__(float(len(tokens)), ops)
        self.only_at = only_at
        self.label = f"{name}({len(tokens)} {'id' if len(tokens) == 1 else 'ids'})"
        bits = bytearray(b"\xff" * ((n_vocab + 31) // 32 * 4))
        for token in tokens:
            bits[token >> 3] &= ~(1 << (token & 7))
        self.kept = bytes(bits)  # as `ops.mask` takes it: however many go, it is one pass

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.mask(logits, self.kept) if self.only_at is None or len(ids) == self.only_at else logits


class Forced(OnOps):
    """At one length of the sequence, only these tokens stay, all equally probable. Source: transformers."""

    __slots__ = ("at", "name", "tokens")

    def __init__(self, name: str, tokens: Sequence[int], at: int, ops: Ops) -> None:
        self.name = name
        super().__init__(tokens[0], ops)
        self.tokens, self.at = tuple(dict.fromkeys(tokens)), at
        self.label = f"{name}({', '.join(map(str, self.tokens))})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor. A token that was removed before is forced all the same."""
        if len(ids) != self.at:
            return logits
        import numpy as np

        n_vocab = logits.shape[1]
        row = np.full(n_vocab, -np.inf, np.float32)
        row[list(self.tokens)] = 0
        return self.ops.tensor(row, n_vocab)


class LengthDecay(OnOps):
    """From a length on, the end of the text gains |its logit| * (factor^n - 1). Source: transformers."""

    __slots__ = ("eos_ids", "factor", "start")
    name = "exponential_decay_length_penalty"

    def __init__(self, start: int, factor: float, eos_ids: Sequence[int], ops: Ops) -> None:
        super().__init__(factor, ops)
        self.start, self.factor, self.eos_ids = start, factor, tuple(dict.fromkeys(eos_ids))
        self.label = f"{self.name}({factor:g} after {start})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        n = len(ids) - self.start
        if n <= 0 or not self.eos_ids:
            return logits
        try:
            gain = self.factor**n - 1
        except OverflowError:
            gain = LARGEST
        now = self.ops.gather(logits, self.eos_ids)
        gains = [min(abs(logit) * gain, LARGEST) if logit > -inf else 0.0 for logit in now]
        return self.ops.bias(logits, list(self.eos_ids), gains)


# -- settings -> processors ------------------------------------------------------------------------------------------------


def no_repeat_ngram(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """no_repeat_ngram_size."""
    n = config.no_repeat_ngram_size
    return NoRepeatNgram(n, around.ops) if n else None


def bad_words(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """bad_words_ids; the end of text alone cannot be one of them, as in transformers."""
    for ids in config.bad_words_ids:
        check_ids("bad_words_ids", ids, around)
    ends = {(token,) for token in around.eos_ids}
    banned = [(ids, -inf) for ids in config.bad_words_ids if ids not in ends]
    return Biases("bad_words_ids", banned, around.ops, removes=True) if banned else None


def min_length(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """min_length, the prompt counted."""
    n = config.min_length
    return Until("min_length", n, n, around.eos_ids, around.ops) if n and around.eos_ids else None


def min_new_tokens(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """min_new_tokens."""
    n = config.min_new_tokens
    return Until("min_new_tokens", n, around.n_prompt + n, around.eos_ids, around.ops) if n and around.eos_ids else None


def forced_bos(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """forced_bos_token_id: after a prompt of one token."""
    token = config.forced_bos_token_id
    if token is None:
        return None
    check_ids("forced_bos_token_id", (token,), around)
    _not_suppressed("forced_bos_token_id", (token,), config)
    return Forced("forced_bos_token_id", (token,), 1, around.ops)


def forced_eos(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """forced_eos_token_id: the last token that the length allows."""
    tokens = config.forced_eos_token_id
    if not tokens:
        return None
    check_ids("forced_eos_token_id", tokens, around)
    _not_suppressed("forced_eos_token_id", tokens, config)
    if around.max_length is None:
        raise OptionError("forced_eos_token_id needs an end that is known: set max_new_tokens or max_length")
    return Forced("forced_eos_token_id", tokens, around.max_length - 1, around.ops)


def decay(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """exponential_decay_length_penalty: start counts new tokens."""
    if config.exponential_decay_length_penalty is None:
        return None
    start, factor = config.exponential_decay_length_penalty
    return LengthDecay(around.n_prompt + start, factor, around.eos_ids, around.ops)


def suppress(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """suppress_tokens."""
    check_ids("suppress_tokens", config.suppress_tokens, around)
    return (
        Suppress("suppress_tokens", config.suppress_tokens, around.n_vocab, around.ops)
        if config.suppress_tokens
        else None
    )


def begin_suppress(config: GenerationConfig, around: Surroundings) -> OnOps | None:
    """begin_suppress_tokens: at the first new token; after a forced beginning, at the second."""
    tokens = config.begin_suppress_tokens
    check_ids("begin_suppress_tokens", tokens, around)
    if not tokens:
        return None
    begin = around.n_prompt + (1 if around.n_prompt <= 1 and config.forced_bos_token_id is not None else 0)
    return Suppress("begin_suppress_tokens", tokens, around.n_vocab, around.ops, only_at=begin)


def _not_suppressed(name: str, tokens: Sequence[int], config: GenerationConfig) -> None:
    if set(tokens) <= set(config.suppress_tokens):
        listed = ", ".join(map(str, tokens))
        raise OptionError(f"{name} asks for {listed}, which suppress_tokens removes: take it out of one of them")
