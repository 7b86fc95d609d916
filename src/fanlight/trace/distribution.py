"""One row of logits with its tokens: what pictures of the next token are made of. Plain data; knows no model.

Of a whole row, everything can be told; of a recorded step, what was kept: its candidates, and of the others the number and the
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.trace.records import StepRecord


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distribution:
    """Raw logits, descending; ties: lowest id first."""

    ids: NDArray[np.int64]
    """(n,)"""
    logits: NDArray[np.float64]
    """(n,): theirs."""
    logsumexp: float
    """Over the whole vocabulary."""
    entropy: float
    """Of the whole vocabulary, in nats."""
    n_vocab: int
    """Tokens that could come, those that are not in `ids` counted."""
    label: Callable[[int], str]
    """A token on one line."""
    context: str = ""
    """The end of the text before it, for titles."""
    n_top: int | None = None
    """So many of the first are certainly the most probable of the whole vocabulary; None: it is not known."""

    @property
    def is_whole(self) -> bool:
        """Whether it holds every token."""
        return len(self.ids) == self.n_vocab

    @property
    def probs(self) -> NDArray[np.float64]:
        """(n,)"""
        import numpy as np

        found: NDArray[np.float64] = np.exp(self.logits - self.logsumexp)
        return found

    @property
    def rest_prob(self) -> float:
        """Probability of the tokens that are not in `ids`."""
        return max(0.0, 1.0 - float(self.probs.sum())) if not self.is_whole else 0.0

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    @classmethod
    def of_row(cls, row: Any, label: Callable[[int], str], context: str = "") -> Distribution:
        """A whole row: (n_vocab,) logits."""
        import numpy as np

        logits = np.asarray(row, np.float64).reshape(-1)
        order = np.argsort(-logits, kind="stable")
        logits = logits[order]
        keep = np.isfinite(logits)
        largest = logits[0]
        logsumexp = float(largest + np.log(np.exp(logits[keep] - largest).sum()))
        logprobs = logits[keep] - logsumexp
        entropy = float(-(np.exp(logprobs) * logprobs).sum())
        return cls(
            ids=order.astype(np.int64),
            logits=logits,
            logsumexp=logsumexp,
            entropy=entropy,
            n_vocab=len(logits),
            label=label,
            context=context,
            n_top=len(logits),
        )

    @classmethod
    def of_record(cls, record: StepRecord, label: Callable[[int], str], context: str = "") -> Distribution:
        """What a step kept of its raw row."""
        import numpy as np

        ids: Sequence[int] = record.candidate_ids
        logits = np.asarray(record.raw_logits, np.float64)
        order = np.lexsort((np.asarray(ids), -logits))
        return cls(
            ids=np.asarray(ids, np.int64)[order],
            logits=logits[order],
            logsumexp=record.raw.logsumexp,
            entropy=record.raw.entropy,
            n_vocab=record.raw.n_kept,
            label=label,
            context=context,
            n_top=record.n_top,
        )
