"""What a comparison found, as plain data: variants, their texts, every token, where texts part. Knows no model and no terminal.

Probabilities go from 0 to 1, entropies are in nats. raw: the model's own distribution; final: after the settings,
what the token was chosen from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fanlight.comparing.measures import Loop, distinct, longest_loop, mean, parting, perplexity, repetition, self_bleu

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig

DISTINCT_ORDERS = (1, 2, 3)
REPEATED_ORDER = 4


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come."""

    id: int
    label: str
    raw_prob: float
    final_prob: float
    """0 if the settings removed it."""
    removed: str | None
    """By which rule: "top_p=0.92: cumulative 0.923 before it"."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text."""

    id: int
    label: str
    """As one visible word."""
    text: str
    """What it added to the text: nothing while a character is incomplete, and what was held back before."""
    raw_prob: float
    final_prob: float
    raw_logprob: float
    raw_rank: int
    """Tokens that the model thought more probable."""
    entropy: float
    """Of the raw distribution."""
    final_entropy: float
    alternatives: tuple[Alternative, ...]
    """The most probable ones, the token itself among them."""

    def alternative(self, token: int) -> Alternative | None:
        """What was known of another token here; None: it was not among the alternatives."""
        return next((other for other in self.alternatives if other.id == token), None)


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text of one variant. Without an error it can be made again: `model.generate(prompt, config, seed=text.seed)`."""

    sample: int
    """0 for the first of the variant's."""
    seed: int
    """What its noise was drawn with."""
    text: str = ""
    tokens: tuple[Token, ...] = ()
    stop_reason: str = "error"
    """As in StopReason: "eos", "max_new_tokens"; "error" if there is no text."""
    stop_detail: str = ""
    ended_by_token: bool = False
    """Whether its last token is one that ends texts, which no measure of repetition counts."""
    n_reused: int = 0
    """Tokens of the prompt that were there already."""
    n_computed: int = 0
    """Tokens that went through the model for it."""
    error: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Of all tokens."""
        return tuple(token.id for token in self.tokens)

    @property
    def written(self) -> tuple[int, ...]:
        """The ids without one that ended the text."""
        return self.ids[:-1] if self.ended_by_token else self.ids

    @property
    def n_tokens(self) -> int:
        """Of all tokens."""
        return len(self.tokens)

    @cached_property
    def perplexity(self) -> float | None:
        """Under the model as it is, an end-of-sequence token counted."""
        return perplexity([token.raw_logprob for token in self.tokens])

    @cached_property
    def entropy(self) -> float | None:
        """Of the model's own distribution, the mean over the tokens."""
        return mean(token.entropy for token in self.tokens)

    @cached_property
    def final_entropy(self) -> float | None:
        """Of what the tokens were chosen from, the mean over the tokens."""
        return mean(token.final_entropy for token in self.tokens)

    @cached_property
    def distinct(self) -> tuple[float | None, ...]:
        """distinct-1, -2, -3 within this text."""
        return tuple(distinct([self.written], n) for n in DISTINCT_ORDERS)

    @cached_property
    def repetition(self) -> float | None:
        """The share of 4-grams that came before in this text."""
        return repetition(self.written, REPEATED_ORDER)

    @cached_property
    def loop(self) -> Loop | None:
        """The longest run in which a part follows itself."""
        return longest_loop(self.written)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        head: dict[str, Any] = {"sample": self.sample, "seed": self.seed}
        if self.error is not None:
            return {**head, "error": self.error}
        return {
            **head,
            "text": self.text,
            "ids": list(self.ids),
            "stop": {"reason": self.stop_reason, "detail": self.stop_detail},
            "n_tokens": self.n_tokens,
            "perplexity": self.perplexity,
            "entropy": self.entropy,
            "final_entropy": self.final_entropy,
            **{f"distinct_{n}": value for n, value in zip(DISTINCT_ORDERS, self.distinct, strict=True)},
            "repetition_4": self.repetition,
            "loop": None if self.loop is None else {**self.loop._asdict(), "repeats": self.loop.repeats},
            "n_reused": self.n_reused,
            "n_computed": self.n_computed,
            "tokens": [_token_dict(token) for token in self.tokens],
        }


def _token_dict(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "token": token.label,
        "text": token.text,
        "raw_prob": token.raw_prob,
        "final_prob": token.final_prob,
        "raw_logprob": token.raw_logprob,
        "raw_rank": token.raw_rank,
        "entropy": token.entropy,
        "final_entropy": token.final_entropy,
        "alternatives": [
            {"id": a.id, "token": a.label, "raw_prob": a.raw_prob, "final_prob": a.final_prob, "removed": a.removed}
            for a in token.alternatives
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One setting and what it wrote."""

    label: str
    options: Mapping[str, Any]
    """Those in which the variants of this comparison differ, with this variant's values."""
    config: GenerationConfig
    """All of its settings."""
    draws: bool
    """Whether it draws at random; otherwise one text stands for all samples, which would be the same."""
    n_samples: int
    """Texts that count in `across` and in Self-BLEU."""
    texts: tuple[Text, ...]

    def text_of(self, sample: int) -> Text | None:
        """The text of a sample; the only one, if nothing is drawn. None: there is none, or it failed."""
        found = self.texts[sample if self.draws else 0] if self.texts else None
        return None if found is None or found.error is not None else found

    @cached_property
    def good(self) -> tuple[Text, ...]:
        """The texts that did not fail."""
        return tuple(text for text in self.texts if text.error is None)

    @cached_property
    def counted(self) -> tuple[tuple[int, ...], ...]:
        """The ids of all samples: of what draws nothing, the same text again and again, as it would be."""
        if self.draws or not self.good:
            return tuple(text.written for text in self.good)
        return (self.good[0].written,) * self.n_samples

    @property
    def n_tokens(self) -> int:
        """Of all texts that were made."""
        return sum(text.n_tokens for text in self.good)

    @cached_property
    def perplexity(self) -> float | None:
        """Of all tokens of all texts together."""
        return perplexity([token.raw_logprob for text in self.good for token in text.tokens])

    @cached_property
    def entropy(self) -> float | None:
        """Of the model's own distribution, the mean over all tokens."""
        return mean(token.entropy for text in self.good for token in text.tokens)

    @cached_property
    def final_entropy(self) -> float | None:
        """Of what the tokens were chosen from, the mean over all tokens."""
        return mean(token.final_entropy for text in self.good for token in text.tokens)

    @cached_property
    def mean_tokens(self) -> float | None:
        """Of a text."""
        return mean(float(text.n_tokens) for text in self.good)

    @cached_property
    def within(self) -> tuple[float | None, ...]:
        """distinct-1, -2, -3 of one text: the mean over the texts."""
        return tuple(mean(text.distinct[i] for text in self.good) for i in range(len(DISTINCT_ORDERS)))

    @cached_property
    def across(self) -> tuple[float | None, ...]:
        """distinct-1, -2, -3 of all samples together."""
        return tuple(distinct(self.counted, n) for n in DISTINCT_ORDERS)

    @cached_property
    def repetition(self) -> float | None:
        """The share of repeated 4-grams of one text: the mean over the texts."""
        return mean(text.repetition for text in self.good)

    @cached_property
    def loop(self) -> Loop | None:
        """The longest of its texts' loops."""
        return max((text.loop for text in self.good if text.loop), key=lambda loop: loop.n_tokens, default=None)

    @cached_property
    def self_bleu(self) -> float | None:
        """Over the samples; None below two."""
        return self_bleu(self.counted)

    @cached_property
    def stops(self) -> dict[str, int]:
        """Why its texts ended, and how many, the most frequent reason first."""
        reasons = [text.stop_reason for text in self.texts]
        return dict(sorted(((r, reasons.count(r)) for r in dict.fromkeys(reasons)), key=lambda item: -item[1]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the config."""
        return {
            "label": self.label,
            "options": {name: plain(value) for name, value in self.options.items()},
            "draws": self.draws,
            "n_samples": self.n_samples,
            "n_tokens": self.n_tokens,
            "mean_tokens": self.mean_tokens,
            "perplexity": self.perplexity,
            "entropy": self.entropy,
            "final_entropy": self.final_entropy,
            **{f"distinct_{n}_within": value for n, value in zip(DISTINCT_ORDERS, self.within, strict=True)},
            **{f"distinct_{n}_across": value for n, value in zip(DISTINCT_ORDERS, self.across, strict=True)},
            "repetition_4": self.repetition,
            "longest_loop": None if self.loop is None else self.loop.n_tokens,
            "self_bleu": self.self_bleu,
            "stops": self.stops,
            "texts": [text.as_dict() for text in self.texts],
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What one of two texts did where they part."""

    token: Token | None
    """None: it had ended."""
    stop: str | None
    """Then, why."""
    other: Alternative | None
    """What this side knew of the token that the other side chose; None: it was not among its alternatives, or there is none."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a text leaves the baseline's text of the same sample."""

    variant: int
    sample: int
    index: int | None
    """Of the first token that differs; None: the texts are the same."""
    here: Choice | None = None
    baseline: Choice | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "variant": self.variant,
            "sample": self.sample,
            "index": self.index,
            "here": _choice_dict(self.here),
            "baseline": _choice_dict(self.baseline),
        }


def _choice_dict(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    if choice.token is None:
        return {"ended": choice.stop}
    other = choice.other
    return {
        "id": choice.token.id,
        "token": choice.token.label,
        "raw_prob": choice.token.raw_prob,
        "final_prob": choice.token.final_prob,
        "final_prob_of_the_other": None if other is None else other.final_prob,
        "other_removed": None if other is None else other.removed,
    }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several settings on one prompt. The first variant is the baseline."""

    model: str
    prompt: str
    prompt_ids: tuple[int, ...]
    seed: int
    """With it, the same call gives the same texts."""
    samples: int
    variants: tuple[Variant, ...]
    divergences: tuple[Divergence, ...]
    """Of every variant but the first, sample by sample."""
    seconds: float
    """From the first token of the prompt to the last of the last text, all texts together in one batch."""
    first_token_seconds: float | None
    """Until the first text had its first token."""
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Of all texts."""
        return sum(variant.n_tokens for variant in self.variants)

    @property
    def tokens_per_second(self) -> float | None:
        """Of all texts together."""
        return self.n_tokens / self.seconds if self.seconds > 0 else None

    @property
    def n_reused(self) -> int:
        """Tokens of the prompt that were not computed again, over all texts."""
        return sum(text.n_reused for variant in self.variants for text in variant.texts)

    def divergence(self, variant: int, sample: int) -> Divergence | None:
        """Of one text; None: it is the baseline's, or there is nothing to compare.

        Of two variants that draw nothing, that of the first sample stands for all.
        """
        if not (self.variants[variant].draws or self.variants[0].draws):
            sample = 0
        return next((d for d in self.divergences if (d.variant, d.sample) == (variant, sample)), None)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    def __str__(self) -> str:
        return "\n\n".join(
            f"--- {variant.label}, sample {text.sample + 1}: {text.stop_detail or text.error}\n{text.text}"
            for variant in self.variants
            for text in variant.texts
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "seed": self.seed,
            "samples": self.samples,
            "seconds": self.seconds,
            "first_token_seconds": self.first_token_seconds,
            "n_tokens": self.n_tokens,
            "tokens_per_second": self.tokens_per_second,
            "n_reused": self.n_reused,
            "notes": list(self.notes),
            "variants": [variant.as_dict() for variant in self.variants],
            "divergences": [divergence.as_dict() for divergence in self.divergences],
        }


def divergences(variants: tuple[Variant, ...], samples: int) -> tuple[Divergence, ...]:
    """Every text against the first variant's of the same sample."""
    found = []
    for i, variant in enumerate(variants[1:], 1):
        for sample in range(samples if variant.draws or variants[0].draws else 1):
            mine, base = variant.text_of(sample), variants[0].text_of(sample)
            if mine is not None and base is not None:
                found.append(part(mine, base, i, sample))
    return tuple(found)


def part(mine: Text, base: Text, variant: int, sample: int) -> Divergence:
    """Where two texts part, and what each of them did there."""
    index = parting(mine.ids, base.ids)
    if index is None:
        return Divergence(variant, sample, None)
    here = mine.tokens[index] if index < mine.n_tokens else None
    there = base.tokens[index] if index < base.n_tokens else None
    return Divergence(variant, sample, index, _choice(mine, here, there), _choice(base, there, here))


def _choice(text: Text, token: Token | None, other: Token | None) -> Choice:
    if token is None:
        return Choice(None, text.stop_detail, None)
    return Choice(token, None, None if other is None else token.alternative(other.id))


def plain(value: Any) -> Any:
    """A setting's value for JSON: functions by their names, tuples as lists, infinities as null."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, float) and abs(value) == float("inf"):
        return None
    return value
