"""Logits row -> Choice. In: (1, n_vocab) and a seed. Knows no model, no text and no processor.

Sampling is an arg max too: of logit + Gumbel noise, where the noise is a function of (seed, position, token). That is
an exact draw from the softmax (Gumbel 1954; Maddison et al. 2014), and it depends on nothing else: not on the batch,
not on what was drawn before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.kernels.ops import Ops, RowStats, Tensor


class Choice(NamedTuple):
    """A chosen token. What was not asked for is None."""

    id: int
    logprob: float | None = None
    """Natural logarithm of its probability in the row it was chosen from."""
    rank: int | None = None
    """Tokens before it in that row; 0: it is the arg max."""
    margin: float | None = None
    """Its logit minus the largest other one; None also if no other token was left."""


def pick(logits: Tensor, *, seed: int, position: int, sample: bool, ops: Ops) -> int:
    """The id alone: the arg max, or a draw. Raises NumericError if nothing can be chosen."""
    return ops.gumbel_argmax(logits, seed, position)[0] if sample else ops.argmax(logits)


def choose(logits: Tensor, *, seed: int, position: int, sample: bool, ops: Ops) -> Choice:
    """The choice with its logprob, rank and margin. Raises NumericError if nothing can be chosen."""
    token = pick(logits, seed=seed, position=position, sample=sample, ops=ops)
    return describe(token, ops.gather(logits, (token,))[0], logits, ops.stats(logits), ops)


def describe(
    token: int, logit: float, logits: Tensor, stats: RowStats, ops: Ops, leading: Sequence[float] = ()
) -> Choice:
    """Where a token stands in its row, in at most one more pass over it.

    logit: its own. stats: the row's. leading: the row's largest logits, if they are known.
    """
    logprob = logit - stats.logsumexp
    if stats.n_kept == 1 and logit == stats.max:
        return Choice(token, logprob, 0, None)
    if logit < stats.max:
        return Choice(token, logprob, ops.rank(logits, token), logit - stats.max)
    first, second = leading[:2] if len(leading) > 1 else ops.top(logits, 2)[1]
    return Choice(token, logprob, 0 if second < first else ops.rank(logits, token), first - second)
