"""A distribution under other settings: what the processors make of one row. In: a Distribution, options. Knows no model, no text.

The processors are those of decoding, run on the kernels; there is no other copy of any filter. A row of which only a part was
recorded is tried with the two extremes of what the others can be: what both agree on holds for everything between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, log
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.decoding.processors import SWITCHES, Processor, Surroundings, build_processors, makers
from fanlight.decoding.shapes import Temperature
from fanlight.errors import OptionError
from fanlight.kernels import load_ops

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops, Tensor
    from fanlight.trace.distribution import Distribution

OF_A_ROW = (
    *("logit_bias", "suppress_tokens", "remove_invalid_values", "temperature", "smoothing_factor", "top_h", "top_k"),
    *(
        "top_n_sigma",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "tfs",
        "top_a",
        "renormalize_logits",
    ),
)
"""Processors that need nothing but the row."""
BESIDE = (
    *(
        "do_sample",
        "seed",
        "processors",
        "min_tokens_to_keep",
        "dynatemp_range",
        "dynatemp_exponent",
        "smoothing_curve",
    ),
)
"""Options that belong to these, or to the draw."""
OF_A_PART = ("top_k", "top_p", "min_p", "epsilon_cutoff", "top_a")
"""Filters that keep the first tokens of a row, and whose cut moves one way with the logsumexp over the others."""
BY_ID = ("logit_bias", "suppress_tokens")
"""Those that may speak of tokens that were not recorded."""
FORMS = ("regex", "choice", "json_schema", "grammar", "token_healing")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reshaped:
    """A distribution after processors; arrays in the order of `Distribution.ids`."""

    labels: tuple[str, ...]
    """Of the processors, in the order they ran: "temperature(0.7)", "top_p(0.9)"."""
    logits: NDArray[np.float64]
    """(n,): -inf: removed."""
    probs: NDArray[np.float64]
    """(n,): 0: removed."""
    kept: NDArray[np.bool_]
    """(n,): whether a token may still come."""
    n_kept: int
    """Of the whole vocabulary."""
    entropy: float
    """In nats."""
    removed_prob: float
    """Raw probability of the tokens that were removed, 0..1."""

    @property
    def n_removed(self) -> int:
        """Of the tokens in `Distribution.ids`."""
        return int((~self.kept).sum())


def reshaped(
    distribution: Distribution, options: GenerationConfig | Mapping[str, Any], *, n_top: int | None = None
) -> Reshaped:
    """What is left of a distribution under settings. A mapping asks for its own options alone, and means a draw.

    Settings that draw nothing (greedy) leave one token. n_top: of a recorded step, how many of its tokens are certainly the most
    probable (`StepRecord.n_top`); None: as many as `distribution.n_top` says.
    Errors: OptionError for settings that need more than a row, or more of the row than is there.
    """
    config = _config(options)
    ops = load_ops()
    size = max(distribution.n_vocab, int(distribution.ids.max()) + 1)
    processors = build_processors(config, Surroundings(ops=ops, n_vocab=size))
    for processor in processors:
        if processor.name not in OF_A_ROW:
            raise OptionError(_needs_text(processor.label))
    if distribution.is_whole:
        return _of_whole(distribution, processors, ops, greedy=not config.samples)
    n_top = distribution.n_top if n_top is None else n_top
    return _of_part(distribution, processors, ops, n_top=n_top, greedy=not config.samples)


# -- settings --------------------------------------------------------------------------------------------------------------


def _config(options: GenerationConfig | Mapping[str, Any]) -> GenerationConfig:
    if isinstance(options, GenerationConfig):
        config = options
    else:
        config = GenerationConfig.from_options({"do_sample": True, "top_k": 0} | dict(options))
        for name in options:
            if name not in OF_A_ROW and name not in BESIDE:
                raise OptionError(_needs_text(name))
    for name in _of_texts(config):
        if getattr(config, name) != DEFAULTS[name]:
            raise OptionError(_needs_text(name))
    return config


def _of_texts(config: GenerationConfig) -> Iterator[str]:
    """Options of processors that need more than a row, and would be in force."""
    for name, (_, only_sampling) in makers().items():
        if name in OF_A_ROW or (only_sampling and not config.samples):
            continue
        yield from (option for option in SWITCHES.get(name, (name,)) if option in DEFAULTS)
    yield from FORMS


def _needs_text(what: str) -> str:
    return (
        f"{what} does more than reshape one distribution: it needs the text before it, another row or a draw; here there can be "
        f"{', '.join(OF_A_ROW)}"
    )


# -- the whole row ---------------------------------------------------------------------------------------------------------


def _of_whole(distribution: Distribution, processors: tuple[Processor, ...], ops: Ops, *, greedy: bool) -> Reshaped:
    import numpy as np

    row = np.full(int(distribution.ids.max()) + 1, -np.inf, np.float32)
    row[distribution.ids] = distribution.logits
    found = _run(_tensor(row, ops), processors)
    logits = found.numpy()[0].astype(np.float64)[distribution.ids]
    return _found(distribution, processors, logits, greedy=greedy)


def _run(row: Tensor, processors: tuple[Processor, ...]) -> Tensor:
    for processor in processors:
        row = processor((), row)
    return row


def _tensor(row: NDArray[np.float32], ops: Ops) -> Tensor:
    return ops.tensor(row, len(row))


def _found(
    distribution: Distribution, processors: tuple[Processor, ...], logits: NDArray[np.float64], *, greedy: bool
) -> Reshaped:
    """From the logits after all processors, none of which belongs to a token that was not recorded."""
    import numpy as np

    kept = logits > -np.inf
    if greedy and kept.any():
        best = int(np.argmax(logits))  # ids of the same logit stand in their order
        same = np.flatnonzero(logits == logits[best])
        best = int(same[np.argmin(distribution.ids[same])])
        logits = np.where(np.arange(len(logits)) == best, logits, -np.inf)
        kept = logits > -np.inf
    largest = logits[kept].max() if kept.any() else 0.0
    weights = np.where(kept, np.exp(np.where(kept, logits, 0.0) - largest), 0.0)
    probs = weights / weights.sum() if kept.any() else weights
    own = probs[probs > 0]
    raw = distribution.probs
    removed = (
        float(raw[~kept].sum() + distribution.rest_prob) if kept.sum() > raw.size / 2 else 1 - float(raw[kept].sum())
    )
    return Reshaped(
        labels=tuple(processor.label for processor in processors),
        logits=logits,
        probs=probs,
        kept=kept,
        n_kept=int(kept.sum()),
        entropy=abs(float(-(own * np.log(own)).sum())),
        removed_prob=min(1.0, max(0.0, removed)),
    )


# -- a part of it ----------------------------------------------------------------------------------------------------------


def _of_part(
    distribution: Distribution, processors: tuple[Processor, ...], ops: Ops, *, n_top: int | None, greedy: bool
) -> Reshaped:
    """From what was recorded, where the others cannot matter: they are gone after the first filter, whatever they are."""
    import numpy as np

    if not processors and not greedy:
        return _untouched(distribution)
    n = len(distribution.ids)
    tails = _tails(distribution, n_top)
    rows = [_tensor(np.concatenate([distribution.logits, tail]).astype(np.float32), ops) for tail in tails]
    there = True
    for processor in processors:
        of_a_part = isinstance(processor, Temperature) or (processor.removes and processor.name in OF_A_PART)
        if processor.name in BY_ID or (there and not of_a_part):
            raise OptionError(_needs_row(processor.label, distribution))
        before, rows = rows, [processor((), row) for row in rows]
        if there and processor.removes:
            if not _agree(before, rows, n):
                raise OptionError(_needs_row(processor.label, distribution))
            there = False
    if there and not greedy:
        raise OptionError(_needs_row(processors[-1].label, distribution))
    if there and not _agree(rows, [ops.top_k(row, 1) for row in rows], n):
        raise OptionError(_needs_row("the most probable token", distribution))
    return _found(distribution, processors, rows[0].numpy()[0].astype(np.float64)[:n], greedy=greedy)


def _agree(before: Sequence[Tensor], after: Sequence[Tensor], n: int) -> bool:
    """Whether a filter left the same of the n recorded tokens in all rows, and these are beyond all others."""
    import numpy as np

    rows = [row.numpy()[0] for row in before]
    left = [row.numpy()[0] > -np.inf for row in after]
    first = left[0][:n]
    if not first.any() or any(one[n:].any() or not np.array_equal(one[:n], first) for one in left):
        return False
    return all(bool(row[:n][first].min() > row[n:].max()) for row in rows)


def _untouched(distribution: Distribution) -> Reshaped:
    import numpy as np

    return Reshaped(
        labels=(),
        logits=distribution.logits,
        probs=distribution.probs,
        kept=distribution.logits > -np.inf,
        n_kept=distribution.n_vocab,
        entropy=distribution.entropy,
        removed_prob=0.0,
    )


def _tails(distribution: Distribution, n_top: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits of the tokens that were not recorded, at the two extremes: all alike, and as few with as much as can be.

    No other logits of that number, sum and bound have a larger or a smaller sum of powers (Karamata 1932), so none has a
    logsumexp outside these at any temperature.
    """
    import numpy as np

    n, mass = distribution.n_vocab - len(distribution.ids), distribution.rest_prob
    if mass <= 0:
        return np.full(n, -inf), np.full(n, -inf)
    all_mass = log(mass) + distribution.logsumexp
    bound = all_mass
    if n_top:
        bound = min(bound, float(distribution.logits[min(n_top, len(distribution.ids)) - 1]))
    bound = max(bound, all_mass - log(n))  # rounding may leave less room than there must be
    bound = float(np.nextafter(np.float32(bound), np.float32(inf))) if bound == all_mass else bound
    even = np.full(n, all_mass - log(n))
    few = np.full(n, -inf)
    n_full = min(n, ceil(exp(min(all_mass - bound, log(n)))))
    few[:n_full] = bound
    left = mass - (n_full - 1) * exp(bound - distribution.logsumexp)
    few[n_full - 1] = min(bound, log(left) + distribution.logsumexp) if left > 0 else -inf
    return even, few


def _needs_row(what: str, distribution: Distribution) -> str:
    return (
        f"{what} needs more of the row than the {len(distribution.ids):,} of {distribution.n_vocab:,} tokens that were recorded; "
        "give the prompt, so that the model computes the row, or record the trace with candidates=-1"
    )
