"""What transformers and TransformerLens leave to their user: logits -> accounts, hidden states -> what each layer would say.

Written as a user who cares for speed would: whole matrices, one layer at a time, so that (n, n_vocab) is the largest thing in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.peers.seen import N_LENS, Readings

Layer = Callable[[torch.Tensor], torch.Tensor]


def read(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> list[torch.Tensor]:
    """Logits (n, n_vocab), chosen tokens (n,) -> the fields of Readings, in their order."""
    logits = logits.float()
    sums = logits.logsumexp(dim=-1, keepdim=True)  # (n, 1)
    chosen = logits.gather(1, tokens[:, None])  # (n, 1)
    top = logits.topk(k, dim=-1)
    ranks = (logits > chosen).sum(dim=-1)
    entropies = sums[:, 0] - ((logits - sums).exp_().mul_(logits)).sum(dim=-1)
    return [top.indices, top.values - sums, (chosen - sums)[:, 0], ranks, entropies]


def accounts(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> Readings:
    """Of the rows that tokens were chosen from."""
    return _readings([field.numpy() for field in read(logits, tokens, k)])


def lens(
    states: Sequence[torch.Tensor], last: torch.Tensor, tokens: torch.Tensor, norm: Layer, head: Layer
) -> Readings:
    """What each layer would say. states: (n, n_embd) of all layers but the last; last: (n, n_vocab), the model's own logits."""
    layers = [read(head(norm(state)), tokens, N_LENS) for state in states]
    layers.append(read(last, tokens, N_LENS))
    return _readings([torch.stack(field, dim=1).numpy() for field in zip(*layers, strict=True)])


def _readings(fields: Sequence[np.ndarray]) -> Readings:
    ids, logprobs, chosen, ranks, entropies = fields
    return Readings(ids=ids, logprobs=logprobs, chosen_logprobs=chosen, chosen_ranks=ranks, entropies=entropies)
