"""What one decoding step saw: a StepRecord. In: numbers that `decoding.step` measured. Knows no model, no text, no op.

A record stores logits and sums; probabilities are derived when they are asked for, so that recording costs little.
raw: the logits as the model gave them. final: after all processors, what the token was chosen from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, expm1, isinf, nan
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanlight.kernels.ops import RowStats
    from fanlight.trace.stop import Stop


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have been chosen."""

    id: int
    raw_logit: float
    raw_prob: float
    final_prob: float
    """0 if a processor removed it."""


class Guess(NamedTuple):
    """What a drafter had guessed for a step."""

    drafter: str
    """"prompt_lookup", "assistant", "early_exit" or "forced"."""
    id: int
    right: bool
    """It was what the step chose, so that the step cost no pass of its own."""


class Removal(NamedTuple):
    """Why a token could not be chosen."""

    label: str
    """Of the processor: "top_p(0.92)"."""
    rule: str
    """In words and numbers: "top_p=0.92: cumulative 0.923 before it"."""

    def __str__(self) -> str:
        return self.rule


@dataclass(frozen=True, slots=True)
class ProcessorEffect:
    """What one processor did to the row."""

    label: str
    """With its setting: "top_p(0.9)"."""
    removes: bool
    """It is a filter: it removes tokens and leaves the other logits alone."""
    before: RowStats
    after: RowStats
    logits: tuple[float, ...]
    """After it, of the record's candidates, in their order; -inf: removed."""
    name: str = ""
    """The processor's: "top_p"."""
    value: float = field(default=nan, compare=False)
    """Its setting, where that is a number."""
    kept_logsumexp: float | None = None
    """Over the logits before it of the tokens that it left; None: it is a filter, which changes no other logit."""

    @property
    def n_before(self) -> int:
        """Tokens left before it."""
        return self.before.n_kept

    @property
    def n_kept(self) -> int:
        """Tokens left after it."""
        return self.after.n_kept

    @property
    def removed_prob(self) -> float:
        """Probability that the tokens had which it removed, 0..1."""
        if self.after.n_kept == self.before.n_kept:
            return 0.0
        kept = self.after.logsumexp if self.kept_logsumexp is None else self.kept_logsumexp
        return min(1.0, max(0.0, -expm1(kept - self.before.logsumexp)))

    @property
    def entropy_after(self) -> float:
        """In nats."""
        return self.after.entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One chosen token and the choices it had."""

    position: int
    """Of the chosen token in its sequence, the prompt counted: 0 is the first id of the prompt."""
    id: int
    """The chosen token."""
    candidate_ids: tuple[int, ...]
    """The most probable tokens of the raw logits, then those of the final logits that are not among them, then the chosen one."""
    raw_logits: tuple[float, ...]
    """Of the candidates."""
    raw: RowStats
    effects: tuple[ProcessorEffect, ...]
    """One for each processor, in the order they ran."""
    raw_rank: int
    """Tokens before the chosen one in the raw logits; 0: it was the arg max."""
    final_rank: int
    margin: float | None
    """Final logit of the chosen token minus the largest other one: negative if the draw passed over a more probable
    token; None if no other token was left."""
    eos_prob: float
    """Raw probability of ending the text here."""
    final_eos_prob: float = 0.0
    """The same after all processors."""
    n_top: int = 0
    """How many of the candidates are the most probable ones of the raw logits."""
    noise: tuple[float, ...] | None = None
    """What was added to the final logits of the candidates before the arg max; None where nothing was drawn."""
    runner_up: int | None = None
    """The token that would have been chosen without the chosen one; None: no other was left."""
    lead: float | None = None
    """By how much final logit + noise of the chosen token exceed those of the runner-up; None where nothing was drawn."""
    guess: Guess | None = None
    """With speculation: what was guessed here."""
    stop: Stop | None = None
    """Set on the last step of a text."""

    def _repr_html_(self) -> str:
        """How a notebook shows it: a record knows no texts, so that tokens are numbers."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    @property
    def final(self) -> RowStats:
        """Sums over the final logits."""
        return self.effects[-1].after if self.effects else self.raw

    @property
    def final_logits(self) -> tuple[float, ...]:
        """Of the candidates; -inf: removed."""
        return self.effects[-1].logits if self.effects else self.raw_logits

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order of `candidate_ids`."""
        raw, final = self.raw.logsumexp, self.final.logsumexp
        rows = zip(self.candidate_ids, self.raw_logits, self.final_logits, strict=True)
        return tuple(Candidate(token, was, exp(was - raw), exp(now - final)) for token, was, now in rows)

    @property
    def tail_prob(self) -> float:
        """Raw probability of all tokens beyond the n_top most probable ones."""
        return max(0.0, 1 - sum(exp(logit - self.raw.logsumexp) for logit in self.raw_logits[: self.n_top]))

    def logprobs(self, token: int) -> tuple[float, ...]:
        """Of a candidate: raw, then after each processor. Errors: KeyError if it is no candidate."""
        at = self._index(token)
        sums = (self.raw, *(effect.after for effect in self.effects))
        logits = (self.raw_logits, *(effect.logits for effect in self.effects))
        return tuple(row[at] - stats.logsumexp for row, stats in zip(logits, sums, strict=True))

    def removal(self, token: int) -> Removal | None:
        """Which processor removed a candidate, and by what rule; None: it was left. Errors: KeyError if it is no candidate.

        A token that one processor removed and a later one forced was left.
        """
        self._index(token)
        return self.removals().get(token)

    def removals(self) -> dict[int, Removal]:
        """Of every candidate that was not left, by its id."""
        from fanlight.trace.rules import KEEP_ORDER, aheads, rule

        rows = (self.raw_logits, *(effect.logits for effect in self.effects))
        lost = {at for at, logit in enumerate(rows[-1]) if isinf(logit)}
        found: dict[int, Removal] = {}
        for i in reversed(range(len(self.effects))):
            if not lost:
                break
            effect = self.effects[i]
            in_order = all(e.removes or e.name in KEEP_ORDER for e in self.effects[:i])
            for at, ahead in aheads(
                effect, rows[i], self.candidate_ids, in_order or self.n_top == self.raw.n_kept
            ).items():
                if at in lost:
                    lost.remove(at)
                    found[self.candidate_ids[at]] = Removal(effect.label, rule(effect, rows[i][at], ahead))
        return found

    def _index(self, token: int) -> int:
        try:
            return self.candidate_ids.index(token)
        except ValueError:
            raise KeyError(
                f"token {token} is not among the {len(self.candidate_ids)} candidates of this step"
            ) from None

    @property
    def raw_logprob(self) -> float:
        """Of the chosen token."""
        return self.raw_logits[self.candidate_ids.index(self.id)] - self.raw.logsumexp

    @property
    def final_logprob(self) -> float:
        """Of the chosen token, under the distribution it was drawn from (or was the arg max of)."""
        return self.final_logits[self.candidate_ids.index(self.id)] - self.final.logsumexp

    @property
    def raw_entropy(self) -> float:
        """In nats."""
        return self.raw.entropy

    @property
    def final_entropy(self) -> float:
        """In nats."""
        return self.final.entropy

    @property
    def n_kept(self) -> int:
        """Tokens that no processor removed."""
        return self.final.n_kept
