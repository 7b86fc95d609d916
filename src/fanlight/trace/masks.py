"""Which position may look where: the masks of attention, as the numbers that are added to its scores. Plain arrays; knows no model.

In: scores (n, n), a row for each position that looks (query), a column for each that is looked at (key). Out: the same after the
mask, and the weights that softmax makes of them. Where a position may not look, BLOCKED is added: exp of it is 0 in float32 and
float64, so the weight is exactly 0, as with -inf; but a row that may look nowhere stays a row of numbers.
Sources: Vaswani et al. 2017 (causal), Devlin et al. 2018 (bidirectional), Beltagy et al. 2020 (sliding window).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKED = -1e9
"""The large negative number."""
KINDS = ("causal", "bidirectional", "sliding window")


def may_see(n: int, kind: str = "causal", window: int = 0) -> NDArray[np.bool_]:
    """(n, n): whether query i may look at key j. Errors: OptionError.

    causal: j <= i. bidirectional: always. sliding window: the last `window` positions up to i, itself counted.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise OptionError(f"a mask needs a number of positions, 1 or more: got {n!r:.80}")
    if kind not in KINDS:
        raise OptionError(f"a mask is {', '.join(KINDS)}: got {kind!r:.80}")
    back = np.arange(n)[:, None] - np.arange(n)[None, :]  # (n, n): how far behind the query a key lies
    if kind == "bidirectional":
        return np.ones((n, n), bool)
    if kind == "causal":
        return np.asarray(back >= 0)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise OptionError(f"a sliding window sees 1 position or more: got window={window!r:.80}")
    return np.asarray((back >= 0) & (back < window))


def mask(n: int, kind: str = "causal", window: int = 0, *, blocked: float = BLOCKED) -> NDArray[np.float64]:
    """(n, n): what is added to the scores: 0 where a query may look, `blocked` elsewhere. Errors: OptionError."""
    return np.where(may_see(n, kind, window), 0.0, blocked)


def masked(scores: Any, kind: str = "causal", window: int = 0, *, blocked: float = BLOCKED) -> NDArray[np.float64]:
    """(n, n): scores + mask. Errors: OptionError."""
    found = square(scores)
    return found + mask(len(found), kind, window, blocked=blocked)


def softmax(scores: Any) -> NDArray[np.float64]:
    """(n, n): each row as weights that sum to 1; a row of -inf: of NaN, as everywhere. Errors: OptionError."""
    found = square(scores, finite=False)
    with np.errstate(invalid="ignore"):
        raised = np.exp(found - found.max(axis=1, keepdims=True))
    weights: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return weights


def square(scores: Any, *, finite: bool = True) -> NDArray[np.float64]:
    """Scores as an array (n, n). Errors: OptionError for other shapes, and for NaN and infinite scores."""
    try:
        found = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise OptionError(f"scores must be a square of numbers: got {type(scores).__name__}") from None
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not found.size:
        raise OptionError(f"scores must be a square, a row for each query and a column for each key: got {found.shape}")
    if np.isnan(found).any() or (finite and np.isinf(found).any()):
        raise OptionError("scores must be numbers before they are masked: there are NaN or infinite ones")
    return found
