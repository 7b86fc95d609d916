"""The watermark of SynthID-Text, and its detector. In: settings, ids, logits (1, n_vocab). Out: logits; or a Detection.

Each token gets one bit a key ("g-values") by a hash of it and the tokens before it; the draw becomes a tournament that
tokens with ones tend to win, and averaged over keys the distribution stays what it was. A detector with the same keys
finds more ones than chance has. Source: Dathathri et al. 2024 (Nature 634, 818-823); hashes and tables are those of
transformers' SynthIDTextWatermarkLogitsProcessor, so that each side detects the other's texts.

Hashes are 64-bit and wrap: hash(x) of tokens x is h = 1, then h = (h + token) * 6364136223846793005 + 1 for each. A
token's bit for a key is table[hash(context, token, key) mod table size]. Knows no model and no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any

from fanlight.decoding.processors import OnOps
from fanlight.decoding.rules import Rule, as_integer, boolean, whole
from fanlight.decoding.watermark import INTEGERS, OPTION, check, options_of, upper_tail
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops, Tensor

MULTIPLIER = 6364136223846793005
MOST_KEYS = 256
AT_ONCE = 1 << 15
"""Bits that are made together: few enough for a processor's cache."""
IMPOSSIBLE = -3.4028234663852886e38
"""The smallest float32: the logit of a token that lost the tournament for certain."""


# -- settings -------------------------------------------------------------------------------------------------------


def _keys(value: Any) -> tuple[int, ...]:
    keys = tuple(INTEGERS.check(as_integer(key)) for key in value)
    if not 0 < len(keys) <= MOST_KEYS:
        raise ValueError
    return keys


RULES = {
    "keys": Rule(f"1 to {MOST_KEYS} signed 64-bit integers", _keys, "int", many=True),
    "ngram_len": whole(2, high=1024),
    "context_history_size": whole(0, high=1 << 20),
    "sampling_table_size": whole(2, high=1 << 24),
    "sampling_table_seed": INTEGERS,
    "skip_first_ngram_calls": boolean(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthID:
    """How tokens are marked. Raises OptionError, which names the setting, its range and the value."""

    keys: tuple[int, ...]
    """1 to 256 signed 64-bit integers, one for each round of the tournament; to be kept secret. 20 to 30 are usual."""
    ngram_len: int
    """2 to 1024: the token and those before it that its bits depend on. 5 is usual."""
    context_history_size: int = 1024
    """0 to 2^20: a context that is among the last so many is not marked again."""
    sampling_table_size: int = 1 << 16
    """2 to 2^24."""
    sampling_table_seed: int = 0
    """A signed 64-bit integer."""
    skip_first_ngram_calls: bool = False
    """Leave the first tokens of the text as they are, whose context is not full."""

    def __post_init__(self) -> None:
        check(self, RULES)

    @classmethod
    def from_options(cls, source: Mapping[str, Any] | object) -> SynthID:
        """Settings from names and values, or from an object that has them as attributes.

        transformers' SynthIDTextWatermarkingConfig is one. Its debug_mode, which replaces all logits, is refused.
        """
        from collections.abc import Mapping

        if isinstance(source, Mapping):
            debug = source.get("debug_mode", False)
            source = {name: value for name, value in source.items() if name != "debug_mode"}
        else:
            debug = getattr(source, "debug_mode", False)
        if debug:
            raise OptionError(f"{OPTION}.debug_mode must be false: got {debug!r}")
        return cls(**options_of(source, cls))


# -- g-values -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def sampling_table(seed: int, size: int) -> NDArray[np.uint8]:
    """The bits that hashes are mapped to. OptionError if all are equal: they would mark nothing."""
    from fanlight.kernels.mersenne import random_bits

    table = random_bits(seed, size)
    if table.min() == table.max():
        raise OptionError(
            f"{OPTION}.sampling_table_size must be large enough for both bits with sampling_table_seed {seed}: got {size}"
        )
    table.flags.writeable = False
    return table


def _extended(hashes: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The hashes with one token more. Arrays, because NumPy warns where a lone number wraps."""
    return (hashes + tokens) * MULTIPLIER + 1


def _context_hashes(tokens: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The hashes of every n tokens in a row: (T,) -> (T - n + 1,)."""
    import numpy as np

    n_contexts = len(tokens) - n + 1
    hashes = np.ones(n_contexts, np.int64)
    for start in range(n):
        hashes = _extended(hashes, tokens[start : start + n_contexts])
    return hashes


class _Bits:
    """What the processor and the detector share: n-grams, by their hashes, and a key -> g-values."""

    def __init__(self, settings: SynthID) -> None:
        import numpy as np

        self.settings = settings
        self.table = sampling_table(settings.sampling_table_seed, settings.sampling_table_size)
        self.offsets = _extended(np.zeros(1, np.int64), np.array(settings.keys, np.int64))  # key * multiplier + 1
        self.size = len(self.table)

    def of(self, hashes: NDArray[np.int64], keys: slice = slice(None)) -> NDArray[np.uint8]:
        """The g-values, a row for each of these keys: (n,) -> (n_keys, n)."""
        places = hashes * MULTIPLIER + self.offsets[keys, None]
        if self.size & (self.size - 1):
            places %= self.size
        else:
            places &= self.size - 1  # the same, and faster
        bits: NDArray[np.uint8] = self.table[places]
        return bits


class SynthIDProcessor(OnOps):
    """Probabilities go through one round for each key: p * (1 + g - the sum of g * p), unless the context came before.

    n_prompt: tokens that were there before the text: they belong to no context, and zeros stand in for them.

    The result is a row of log-probabilities. It differs from that of transformers in two things: all is float64, so that
    a token keeps a probability that float32 rounds to 0, and a token that was removed stays removed.
    """

    __slots__ = ("bits", "n_prompt")
    name = OPTION

    def __init__(self, settings: SynthID, n_prompt: int, ops: Ops) -> None:
        super().__init__(float(len(settings.keys)), ops)
        self.bits = _Bits(settings)
        self.n_prompt = n_prompt
        self.label = f"synthid({len(settings.keys)} keys, {settings.ngram_len}-grams)"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """(1, n_vocab) -> (1, n_vocab)."""
        import numpy as np

        context = self._context(ids)
        if context is None:
            return logits
        row = logits.numpy()[0]  # (1, V) -> (V,)
        if not len(row) or not np.isfinite(row.max()):
            return logits  # nothing is left, or the row is damaged: the choice says so
        kept = np.flatnonzero(row > -np.inf)
        probs = np.exp(row[kept].astype(np.float64) - row.max())
        probs /= probs.sum()
        hashes = _extended(context, kept)
        for first in range(0, len(self.bits.offsets), n_together := max(1, AT_ONCE // len(kept))):
            for g in self.bits.of(hashes, slice(first, first + n_together)):
                probs *= g + ((1 - g) * probs).sum() / probs.sum()  # 1 - sum of g * p, but never below 0
        with np.errstate(divide="ignore"):
            row[kept] = np.maximum(np.log(probs), IMPOSSIBLE)
        return self.ops.tensor(row, len(row))

    def _context(self, ids: Sequence[int]) -> NDArray[np.int64] | None:
        """The hash of the tokens before this place, (1,); None if it is not to be marked."""
        import numpy as np

        settings, width = self.bits.settings, self.bits.settings.ngram_len - 1
        n_text = len(ids) - self.n_prompt
        if n_text < 0:
            raise OptionError(f"a text must have the {self.n_prompt} tokens of its prompt: got {len(ids)}")
        first = width if settings.skip_first_ngram_calls else 0
        if n_text < first:
            return None
        start = max(first, n_text - settings.context_history_size) - width  # of the oldest context that counts
        text = ids[self.n_prompt + max(start, 0) :]
        hashes = _context_hashes(np.array([0] * -min(start, 0) + list(text), np.int64), width)
        own = hashes[-1:]
        is_repeated = (hashes[:-1] == own).any() or _is_empty_slot(own[0], n_text - first, settings)
        return None if is_repeated else own


def _is_empty_slot(context: int, n_before: int, settings: SynthID) -> bool:
    """Whether a context's hash is the 0 that stands in a history that is not full yet."""
    return context == 0 and n_before < settings.context_history_size


# -- detection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthIDDetection:
    """What the g-values of a text say."""

    n_tokens: int
    """Tokens that were scored: those with a full context that did not come before."""
    mean: float
    """Of the g-values."""
    weighted_mean: float
    """The same, where the weight falls from 10 for the first key to 1 for the last, in equal steps."""
    z_score: float
    """Standard deviations of the mean above that of the table."""
    weighted_z_score: float
    p_value: float
    """How often a text without the watermark has such a z_score or a higher, by the normal distribution."""
    is_watermarked: bool
    """Whether z_score is above the threshold."""

    @property
    def confidence(self) -> float:
        """1 - p_value."""
        return 1 - self.p_value


class SynthIDDetector:
    """Scores texts with the keys that they were made with.

    eos_ids: a text ends before the first of these.
    """

    def __init__(self, settings: SynthID, eos_ids: Sequence[int] = ()) -> None:
        self.settings, self.eos_ids = settings, frozenset(eos_ids)
        self._bits = _Bits(settings)

    def detect(self, ids: Sequence[int], *, z_threshold: float = 3.0) -> SynthIDDetection:
        """Score a text without its prompt. OptionError if no token of it can be scored.

        Without the watermark g-values are draws from the table, whose share of ones is near 1/2, but not equal to it: for
        a long text the difference would count.
        """
        import numpy as np

        ids = self._text(ids)
        g_values = self.g_values(ids)[self.counted(ids)]
        n_tokens, n_keys = g_values.shape
        if not n_tokens:
            raise OptionError(
                f"a SynthID watermark with ngram_len {self.settings.ngram_len} needs as many tokens or more to score, "
                f"without a prompt: got {len(ids)}"
            )
        weights = np.linspace(10, 1, n_keys)
        weights *= n_keys / weights.sum()
        expected = float(self._bits.table.mean())
        mean, weighted_mean = float(g_values.mean()), float((g_values * weights).mean())
        error = sqrt(expected * (1 - expected) / (n_tokens * n_keys))
        z_score = (mean - expected) / error
        return SynthIDDetection(
            n_tokens=n_tokens,
            mean=mean,
            weighted_mean=weighted_mean,
            z_score=z_score,
            weighted_z_score=(weighted_mean - expected) / (error * sqrt(float((weights**2).mean()))),
            p_value=upper_tail(z_score),
            is_watermarked=z_score > z_threshold,
        )

    def g_values(self, ids: Sequence[int]) -> NDArray[np.uint8]:
        """The bits of every n-gram: (T,) -> (T - ngram_len + 1, n_keys), for detectors that are trained on them."""
        import numpy as np

        if len(ids) < self.settings.ngram_len:
            return np.zeros((0, len(self.settings.keys)), np.uint8)
        hashes = _context_hashes(np.array(ids, np.int64), self.settings.ngram_len)
        return self._bits.of(hashes).T

    def counted(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Whether the context of an n-gram is none of the last `context_history_size`: (T,) -> (T - ngram_len + 1,)."""
        import numpy as np

        counted: list[bool] = []
        if len(ids) >= self.settings.ngram_len:
            latest: dict[int, int] = {}
            hashes = _context_hashes(np.array(ids[:-1], np.int64), self.settings.ngram_len - 1)
            for place, context in enumerate(hashes.tolist()):
                is_recent = context in latest and place - latest[context] <= self.settings.context_history_size
                counted.append(not is_recent and not _is_empty_slot(context, place, self.settings))
                latest[context] = place
        return np.array(counted, np.bool_)

    def _text(self, ids: Sequence[int]) -> Sequence[int]:
        end = next((place for place, token in enumerate(ids) if token in self.eos_ids), len(ids))
        return ids[:end]
