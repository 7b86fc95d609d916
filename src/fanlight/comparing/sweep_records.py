"""What a sweep found: for every point of its grid the measures over all prompts, and which points no other betters.

In: the measures of texts, one by one. Out: plain data. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any, NamedTuple

from fanlight.comparing.measures import Spread, distinct, frontier, longest_loop, repetition, self_bleu, spread
from fanlight.comparing.records import DISTINCT_ORDERS, REPEATED_ORDER, plain
from fanlight.errors import OptionError

DIVERSITIES = ("self_bleu", *(f"distinct_{n}" for n in DISTINCT_ORDERS))


class Measured(NamedTuple):
    """One text, as far as a sweep keeps it."""

    written: tuple[Hashable, ...]
    """Its ids without one that ended it."""
    n_tokens: int
    """With it."""
    logprob: float
    """The sum over its tokens, under the model itself."""
    entropy: float | None
    stop_reason: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of the grid. Each measure is a mean over the prompts, with its standard error."""

    label: str
    options: Mapping[str, Any]
    """What the grid sets here."""
    draws: bool
    n_texts: int
    n_failed: int
    n_prompts: int
    """Those with a text that did not fail: what the means are over."""
    stops: Mapping[str, int]
    log_perplexity: Spread | None
    """Nats a token: minus the mean log-probability of the tokens, of all texts of a prompt together."""
    tokens: Spread | None
    """Of a text."""
    entropy: Spread | None
    """Of the model's own distribution, nats."""
    distinct: tuple[Spread | None, ...]
    """distinct-1, -2, -3 of all samples of a prompt."""
    repetition: Spread | None
    """The share of repeated 4-grams of a text."""
    loop: Spread | None
    """Tokens of the longest run in which a part of a text follows itself."""
    self_bleu: Spread | None
    """Of the samples of a prompt; None below two."""

    @property
    def perplexity(self) -> float | None:
        """The geometric mean over the prompts."""
        return None if self.log_perplexity is None else exp(self.log_perplexity.mean)

    def diversity(self, measure: str) -> Spread | None:
        """The larger, the more diverse: distinct_n as it is, self_bleu as 1 minus it. Errors: OptionError for another name."""
        if measure == "self_bleu":
            found = self.self_bleu
            return None if found is None else found._replace(mean=1 - found.mean)
        if measure not in DIVERSITIES:
            raise OptionError(f"diversity can be {', '.join(DIVERSITIES)}: got {measure!r:.80}")
        return self.distinct[DIVERSITIES.index(measure) - 1]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "label": self.label,
            "options": {name: plain(value) for name, value in self.options.items()},
            "draws": self.draws,
            "n_texts": self.n_texts,
            "n_failed": self.n_failed,
            "n_prompts": self.n_prompts,
            "stops": dict(self.stops),
            "perplexity": self.perplexity,
        }
        spreads = {
            "log_perplexity": self.log_perplexity,
            "tokens": self.tokens,
            "entropy": self.entropy,
            **{f"distinct_{n}": value for n, value in zip(DISTINCT_ORDERS, self.distinct, strict=True)},
            "repetition_4": self.repetition,
            "longest_loop": self.loop,
            "self_bleu": self.self_bleu,
        }
        return found | {name: None if value is None else value._asdict() for name, value in spreads.items()}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All points of a grid, measured on the same prompts with the same noise."""

    model: str
    axes: Mapping[str, tuple[Any, ...]]
    """The grid: the values of each option."""
    points: tuple[Point, ...]
    n_prompts: int
    samples: int
    seed: int
    seconds: float
    """This run took."""
    n_new: int
    """Texts that this run made; others were there already."""
    n_new_tokens: int
    path: str | None = None
    """The file with every text, a JSON line each."""
    first_error: str | None = None
    """Of the texts that failed."""
    notes: tuple[str, ...] = ()

    @property
    def n_texts(self) -> int:
        """Of all points."""
        return sum(point.n_texts for point in self.points)

    @property
    def n_failed(self) -> int:
        """Of all points."""
        return sum(point.n_failed for point in self.points)

    def frontier(self, diversity: str | None = None) -> tuple[int, ...]:
        """The points that no other betters in both perplexity (lower) and diversity (higher), the least perplexity first."""
        measure = diversity or self.diversity
        pairs = [
            None if p.perplexity is None or (d := p.diversity(measure)) is None else (p.perplexity, d.mean)
            for p in self.points
        ]
        return tuple(frontier(pairs))

    @property
    def diversity(self) -> str:
        """The measure that there is: Self-BLEU where there are several samples, distinct-2 otherwise."""
        return "self_bleu" if any(point.self_bleu is not None for point in self.points) else "distinct_2"

    def as_dict(self, diversity: str | None = None) -> dict[str, Any]:
        """For JSON. diversity: as `frontier` takes it."""
        on_it = self.frontier(diversity)
        return {
            "model": self.model,
            "axes": {name: [plain(value) for value in values] for name, values in self.axes.items()},
            "n_prompts": self.n_prompts,
            "samples": self.samples,
            "seed": self.seed,
            "seconds": self.seconds,
            "n_texts": self.n_texts,
            "n_failed": self.n_failed,
            "first_error": self.first_error,
            "n_new": self.n_new,
            "n_new_tokens": self.n_new_tokens,
            "path": self.path,
            "notes": list(self.notes),
            "diversity": diversity or self.diversity,
            "points": [{**point.as_dict(), "on_frontier": i in on_it} for i, point in enumerate(self.points)],
        }


@dataclass
class Tally:
    """The texts of one point as they come. What it keeps of a prompt whose texts are complete is a few numbers."""

    label: str
    options: Mapping[str, Any]
    draws: bool
    samples: int
    _waiting: dict[str, list[Measured | None]] = field(default_factory=dict)
    _rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    _stops: dict[str, int] = field(default_factory=dict)
    n_texts: int = 0
    n_failed: int = 0

    @property
    def n_expected(self) -> int:
        """Texts of each prompt."""
        return self.samples if self.draws else 1

    def add(self, prompt: str, text: Measured | None) -> None:
        """One more text; None: it failed."""
        reason = "error" if text is None else text.stop_reason
        self._stops[reason] = self._stops.get(reason, 0) + 1
        self.n_texts += 1
        self.n_failed += text is None
        group = self._waiting.setdefault(prompt, [])
        group.append(text)
        if len(group) == self.n_expected:
            self._rows[prompt] = self._measure([text for text in self._waiting.pop(prompt) if text is not None])

    def point(self, prompts: Sequence[str]) -> Point:
        """What was found. prompts: their order, so that the same texts give the same bits in whatever order they came."""
        rows = [self._rows[prompt] for prompt in prompts if prompt in self._rows]

        def over(name: str) -> Spread | None:
            return spread(row.get(name) for row in rows)

        return Point(
            label=self.label,
            options=self.options,
            draws=self.draws,
            n_texts=self.n_texts,
            n_failed=self.n_failed,
            n_prompts=sum(bool(row) for row in rows),
            stops=dict(sorted(self._stops.items(), key=lambda item: (-item[1], item[0]))),
            log_perplexity=over("log_perplexity"),
            tokens=over("tokens"),
            entropy=over("entropy"),
            distinct=tuple(over(f"distinct_{n}") for n in DISTINCT_ORDERS),
            repetition=over("repetition"),
            loop=over("loop"),
            self_bleu=over("self_bleu"),
        )

    def _measure(self, texts: Sequence[Measured]) -> dict[str, float | None]:
        """Of one prompt. A setting that draws nothing counts as so many equal samples as the others have."""
        if not texts:
            return {}
        n_tokens = sum(text.n_tokens for text in texts)
        ids = sorted((text.written for text in texts), key=repr)  # they came in any order
        counted = ids if self.draws else ids * self.samples
        loops = [longest_loop(text) for text in ids]
        entropies = [(text.entropy, text.n_tokens) for text in texts if text.entropy is not None]
        return {
            "log_perplexity": -sum(sorted(text.logprob for text in texts)) / n_tokens if n_tokens else None,
            "tokens": n_tokens / len(texts),
            "entropy": sum(sorted(e * n for e, n in entropies)) / sum(n for _, n in entropies) if entropies else None,
            **{f"distinct_{n}": distinct(counted, n) for n in DISTINCT_ORDERS},
            "repetition": _mean([repetition(text, REPEATED_ORDER) for text in ids]),
            "loop": sum(loop.n_tokens if loop else 0 for loop in loops) / len(loops),
            "self_bleu": self_bleu(counted),
        }


def _mean(values: Sequence[float | None]) -> float | None:
    found = spread(values)
    return None if found is None else found.mean
