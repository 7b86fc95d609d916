"""The watermark of green lists, and its detector. In: settings, ids, logits (1, n_vocab). Out: logits; or a Detection.

The tokens before a place seed a random choice of "green" tokens, whose logits get a bias; a detector with the same key
counts how many tokens of a text are green. Source: Kirchenbauer et al. 2023 (arXiv 2301.10226 and 2306.04634); seeds,
tables and defaults are those of transformers' WatermarkLogitsProcessor, so that each side detects the other's texts.
Knows no model and no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from math import erfc, sqrt
from typing import TYPE_CHECKING, Any

from fanlight.decoding.processors import OnOps
from fanlight.decoding.rules import Rule, number, one_of, whole
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.kernels.ops import Ops, Tensor

OPTION = "watermarking_config"
SCHEMES = ("lefthash", "selfhash")
TABLE_SIZE = 1_000_003
"""Entries of the table that selfhash looks tokens up in: the numbers below it, shuffled by the key."""
N_CANDIDATES = 40
"""So many of the most probable tokens are tried with selfhash; the others get no bias."""
INTEGERS = whole(-(2**63), high=2**63 - 1)
RULES = {
    "greenlist_ratio": number(0, 1, "a number above 0 and below 1", open_low=True, open_high=True),
    "bias": number(-1e6, 1e6, "a number between -1e+06 and 1e+06"),
    "hashing_key": INTEGERS,
    "seeding_scheme": one_of(*SCHEMES),
    "context_width": whole(1, high=2**31 - 1),
}


# -- settings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """How green lists are made. Raises OptionError, which names the setting, its range and the value."""

    greenlist_ratio: float = 0.25
    """Above 0, below 1: the green part of the vocabulary."""
    bias: float = 2.0
    """-1e+06 to 1e+06: added to the logit of a green token."""
    hashing_key: int = 15485863
    """A signed 64-bit integer, to be kept secret: who has it can detect the watermark, and imitate it."""
    seeding_scheme: str = "lefthash"
    """"lefthash": the last token seeds the list. "selfhash": the token itself, with those before it."""
    context_width: int = 1
    """1 or more: tokens that seed a list with selfhash; and so many must stand before the first one that is marked."""

    def __post_init__(self) -> None:
        check(self, RULES)

    @classmethod
    def from_options(cls, source: Mapping[str, Any] | object) -> Watermark:
        """Settings from names and values, or from an object that has them as attributes: transformers' WatermarkingConfig."""
        return cls(**options_of(source, cls))


def options_of(source: Mapping[str, Any] | object, settings: type[Any]) -> dict[str, Any]:
    """The fields of a settings class that a mapping or an object gives; OptionError for unknown and for missing ones."""
    names = {field.name: field.default is MISSING for field in fields(settings)}
    if isinstance(source, Mapping):
        for name in source:
            if name not in names:
                raise OptionError(f"{OPTION} has an unknown setting {name!r}; known settings: {', '.join(names)}")
        found = dict(source)
    else:
        found = {name: getattr(source, name) for name in names if hasattr(source, name)}
        if not found:
            raise OptionError(f"{OPTION} must be a mapping or an object with {', '.join(names)}: got {source!r:.200}")
    missing = [name for name, is_required in names.items() if is_required and name not in found]
    if missing:
        raise OptionError(f"{OPTION} lacks {', '.join(missing)}: got {', '.join(map(repr, found)) or 'nothing'}")
    return found


def check(settings: Any, rules: Mapping[str, Rule]) -> None:
    """Put each setting of a new object into its frozen form, or raise OptionError."""
    for name, rule in rules.items():
        object.__setattr__(settings, name, rule(f"{OPTION}.{name}", getattr(settings, name)))


# -- green lists ----------------------------------------------------------------------------------------------------


class GreenLists:
    """Which tokens are green where: what the processor and the detector share."""

    def __init__(self, settings: Watermark, n_vocab: int, ops: Ops) -> None:
        n_green = int(n_vocab * settings.greenlist_ratio)
        if n_green < 1:
            raise OptionError(
                f"{OPTION}.greenlist_ratio must leave at least one of {n_vocab} tokens green: "
                f"got {settings.greenlist_ratio}"
            )
        self.settings, self.n_vocab = settings, n_vocab
        self.is_selfhash = settings.seeding_scheme == "selfhash"
        self._table = shuffled(settings.hashing_key, TABLE_SIZE, min(n_vocab, TABLE_SIZE)) if self.is_selfhash else ()

        def mask(seed: int) -> bytes:
            return ops.green_list(seed, n_vocab, n_green)

        def is_green(seed: int, token: int) -> bool:
            return bool(self.mask(seed)[token >> 3] >> (token & 7) & 1)

        self.mask = lru_cache(maxsize=64)(mask)
        """The bits of the green tokens, by seed."""
        self.is_green = lru_cache(maxsize=1 << 14)(is_green)
        """Whether the list of a seed has a token."""

    def seeds(self, before: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """The seed of each token's list, where `before` are the tokens in front of it."""
        settings = self.settings
        if not self.is_selfhash:
            return [_seed(settings.hashing_key * before[-1])] * len(tokens)
        tail = [self._entry(token) for token in before[len(before) - settings.context_width + 1 :]]
        seeds = []
        for token in tokens:
            own = self._entry(token)
            seeds.append(_seed(min(_wrapped(settings.hashing_key * entry * own) for entry in (*tail, own))))
        return seeds

    def _entry(self, token: int) -> int:
        return self._table[token % TABLE_SIZE] + 1


@lru_cache(maxsize=4)
def shuffled(seed: int, n: int, n_first: int) -> tuple[int, ...]:
    """The first entries of torch.randperm(n) on a CPU with this seed: MT19937 drives a Fisher-Yates shuffle from the left.

    Only places that a swap has reached are held.
    """
    from fanlight.kernels.mersenne import random_words

    reached: dict[int, int] = {}
    first: list[int] = []
    for place, draw in enumerate(random_words(seed, n_first).tolist()):
        other = place + draw % (n - place)
        first.append(reached.get(other, other))
        reached[other] = reached.pop(place, place)
    return tuple(first)


def _wrapped(product: int) -> int:
    """As a signed 64-bit integer."""
    return (product + 2**63) % 2**64 - 2**63


def _seed(product: int) -> int:
    return product % (2**64 - 1)


class WatermarkProcessor(OnOps):
    """The green tokens get the bias; before `context_width` tokens there is no list."""

    __slots__ = ("bias", "lists")
    name = OPTION

    def __init__(self, settings: Watermark, n_vocab: int, ops: Ops) -> None:
        super().__init__(settings.bias, ops)
        self.lists = GreenLists(settings, n_vocab, ops)
        self.bias = settings.bias
        self.label = f"watermark({settings.seeding_scheme}, {settings.greenlist_ratio:g}, {settings.bias:+g})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """(1, n_vocab) -> (1, n_vocab)."""
        lists, ops = self.lists, self.ops
        if len(ids) < lists.settings.context_width:
            return logits
        if not lists.is_selfhash:
            (seed,) = lists.seeds(ids, (0,))
            return ops.bias_mask(logits, lists.mask(seed), self.bias)
        tokens, _ = ops.top(logits, N_CANDIDATES)
        seeds = lists.seeds(ids, tokens)
        green = [token for token, seed in zip(tokens, seeds, strict=True) if lists.is_green(seed, token)]
        return ops.bias(logits, green, [self.bias] * len(green)) if green else logits


# -- detection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What the green tokens of a text say."""

    n_tokens: int
    """Tokens that were scored."""
    n_green: int
    green_fraction: float
    z_score: float
    """Standard deviations above what a text without the watermark has on average."""
    p_value: float
    """How often a text without the watermark scores as high, by the normal distribution."""
    is_watermarked: bool
    """Whether the z-score is above the threshold."""

    @property
    def confidence(self) -> float:
        """1 - p_value."""
        return 1 - self.p_value


class WatermarkDetector:
    """Counts green tokens, with the settings that a text was made with.

    bos_id: a text's first token is left out if it is this one.
    """

    def __init__(self, settings: Watermark, n_vocab: int, ops: Ops, bos_id: int | None = None) -> None:
        self.settings, self.n_vocab, self.bos_id = settings, n_vocab, bos_id
        self.lists = GreenLists(settings, n_vocab, ops)

    def detect(
        self, ids: Sequence[int], *, z_threshold: float = 3.0, ignore_repeated_ngrams: bool = False
    ) -> Detection:
        """Score a text, best without its prompt. OptionError if it is too short, or from another vocabulary.

        ignore_repeated_ngrams: a token with the tokens that seed its list counts once, however often it occurs.
        """
        ids = list(ids[1:] if len(ids) and ids[0] == self.bos_id else ids)
        width = self.settings.context_width
        if len(ids) <= width:
            raise OptionError(
                f"a watermark with context_width {width} needs {width + 1} tokens or more to score: got {len(ids)}"
            )
        check_ids(ids, self.n_vocab)
        n_before = width - self.lists.is_selfhash
        ngrams = Counter(tuple(ids[i - n_before : i + 1]) for i in range(n_before, len(ids)))
        scored = sorted((self.lists.seeds(ngram[:-1], ngram[-1:])[0], ngram) for ngram in ngrams)  # by list
        counts = dict.fromkeys(ngrams, 1) if ignore_repeated_ngrams else ngrams
        n_tokens = sum(counts.values())
        n_green = sum(counts[ngram] for seed, ngram in scored if self.lists.is_green(seed, ngram[-1]))
        ratio = self.settings.greenlist_ratio
        z_score = (n_green - ratio * n_tokens) / sqrt(n_tokens * ratio * (1 - ratio))
        return Detection(
            n_tokens=n_tokens,
            n_green=n_green,
            green_fraction=n_green / n_tokens,
            z_score=z_score,
            p_value=upper_tail(z_score),
            is_watermarked=z_score > z_threshold,
        )


def check_ids(ids: Sequence[int], n_vocab: int) -> None:
    """OptionError for an id that the vocabulary does not have."""
    for place, token in enumerate(ids):
        if not 0 <= token < n_vocab:
            raise OptionError(
                f"token {place} of the text must be an id from 0 to {n_vocab - 1}: got {token}; "
                "take the tokenizer of the model that wrote it"
            )


def upper_tail(z_score: float) -> float:
    """The probability of a larger z-score under the standard normal distribution."""
    return 0.5 * erfc(z_score / sqrt(2))
