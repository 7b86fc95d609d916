"""What lies between the last block of a transformers model and its logits, found by one small pass. Knows no architecture.

In: a model. Out: its states by layer, and logits made of states. Only transformers' own promise is taken for granted: that
`output_hidden_states` hands out the input of every block, and, last, what the head reads. Where a model with a list of blocks
hands out what they return instead (Mamba, RWKV), the first input is caught on its way. The final norm is found as the
module outside the blocks that returns this last state; what the model does to the head's product (a factor, a cap) is
found by comparing. A model that fits none of this says so, and its texts are written as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fanlight.errors import KernelError, NumericError, OptionError
from fanlight.kernels.ops import Readings
from fanlight.models.base import FINAL
from fanlight.models.hf_parts import Call, find_blocks, given_tensor, small_pass

MAX_ERROR = 2e-2  # of logits computed in two ways, as a part of their range: far above the rounding of half precision
READ_BYTES = 1 << 26
"""Of logits that are summed up at once, about: float64."""


class Anatomy:
    """Where a model's states and logits come from. Errors: OptionError where they cannot be had."""

    def __init__(self, torch: Any, model: Any, n_layer: int) -> None:
        """Runs the model on a few ids."""
        self._torch, self._model, self._n_layer = torch, model, n_layer
        self._name = f"transformers' {type(model).__name__}"
        self._head = model.get_output_embeddings()
        calls, result = small_pass(torch, model, output_hidden_states=True)
        states = result.get("hidden_states")
        if states is None or len(states) != n_layer + 1:
            found = "no" if states is None else str(len(states))
            raise OptionError(
                f"{self._name} hands out {found} hidden states, expected {n_layer + 1}; choose options that need none"
            )
        self.blocks, self._is_late = find_blocks(torch, calls, states, n_layer)
        """The names of the blocks; none: they could not be told."""
        self._norm, self._ends_with_block = self._find_norm(calls, states[-1])
        self._finish = self._find_finish(states[-1], result["logits"])

    def _find_norm(self, calls: Sequence[Call], last: Any) -> tuple[Any, bool]:
        """The final norm, or None and whether the last state is that of the last block."""
        modules, of_block = dict(self._model.named_modules()), False
        for call in reversed(calls):
            if not self._equal(call.result, last):
                continue
            if any(part.isdigit() for part in call.name.split(".")):  # a block, or a part of one
                of_block = True
            elif call.given is not None and call.given.shape == last.shape and not self._equal(call.given, last):
                return modules[call.name], False
        return None, of_block

    def _find_finish(self, last: Any, logits: Any) -> tuple[float, float] | None:
        """The factor and the cap between the head's product and the logits; None where the head reads something else."""
        if self._head is None or last.shape[-1] != self._head.weight.shape[-1]:
            return None
        with self._torch.inference_mode():
            plain = self._head(last).float()
        logits = logits.float()
        cap = getattr(self._model.config.get_text_config(decoder=True), "final_logit_softcapping", None) or 0.0
        factor = float((plain * logits).sum() / (plain * plain).sum())
        for tried in ((1.0, 0.0), (1.0, float(cap)), (factor, 0.0)):
            if float((finish(plain, *tried) - logits).abs().max()) <= MAX_ERROR * float(logits.max() - logits.min()):
                return tried
        return None

    def _equal(self, a: Any, b: Any) -> bool:
        return isinstance(a, self._torch.Tensor) and a.shape == b.shape and bool(self._torch.equal(a, b))

    # -- states -------------------------------------------------------------------------------------------------------

    def check(self, layers: Sequence[int], final: bool) -> None:
        """Whether these states can be had. Errors: OptionError."""
        if final:
            self._checked_finish()
        if self._n_layer in layers and self._norm is None and not self._ends_with_block:
            raise OptionError(
                f"the states of layer {self._n_layer} of {self._name} before the final norm cannot be told from those after "
                f"it; choose layers from 0 to {self._n_layer - 1}"
            )

    @contextmanager
    def states_of_pass(self, into: dict[int | str, Any]) -> Iterator[None]:
        """While the model runs once: puts into `into` what it does not hand out: the state before the final norm, and, where
        states are handed out late, the one before the first block.
        """
        caught = {self._n_layer: self._norm}
        if self._is_late:
            caught[0] = self._model.get_submodule(self.blocks[0])

        def keep(layer: int) -> Callable[..., None]:
            def hook(_: Any, args: Any, named: Any) -> None:
                into[layer] = given_tensor(self._torch, args, named)

            return hook

        hooks = [
            module.register_forward_pre_hook(keep(layer), with_kwargs=True)
            for layer, module in caught.items()
            if module is not None
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def name_states(self, hidden_states: Sequence[Any], into: dict[int | str, Any]) -> None:
        """Put the states that a pass handed out into `into`, by layer."""
        *before, last = hidden_states
        into.update(enumerate(before, start=1 if self._is_late else 0))
        into.setdefault(self._n_layer, last)
        into[FINAL] = last

    # -- logits -------------------------------------------------------------------------------------------------------

    def read_out(self, x: Any, norm: bool) -> Any:
        """(T, n_embd) -> (T, n_vocab), both of torch."""
        factor, cap = self._checked_finish()
        with self._torch.inference_mode():
            return finish(self._head(self._normed(x, norm)).float(), factor, cap)

    def final(self, x: Any) -> Any:
        """(T, n_embd) -> (T, n), what the head reads; both of torch."""
        self._checked_finish()
        with self._torch.inference_mode():
            return self._normed(x, True).float()

    def head_rows(self, tokens: Sequence[int]) -> Any:
        """The head's weights of these tokens: (len(tokens), n), of torch."""
        self._checked_finish()
        weight = self._head.weight
        if not self._torch.is_floating_point(weight):
            raise OptionError(
                f"{self._name} keeps its head as {str(weight.dtype).removeprefix('torch.')}, expected numbers of floating point; "
                "choose options that need none of its rows"
            )
        for token in tokens:
            if not 0 <= token < len(weight):
                raise KernelError(f"head_rows: id {token} is outside 0..{len(weight) - 1}")
        with self._torch.inference_mode():
            return weight[list(tokens)].float()

    def readings(self, x: Any, tokens: Sequence[int], k: int) -> Readings:
        """See `models.base.Decoder`; in groups of rows, so that their logits never fill the memory."""
        import numpy as np

        at_once = max(1, READ_BYTES // (8 * len(self._head.weight))) if self._head is not None else 1
        groups = [
            summed_up(self._torch, self.read_out(x[i : i + at_once], True), tokens[i : i + at_once], k)
            for i in range(0, max(1, len(x)), at_once)  # no rows at all: one group of none
        ]
        return Readings(*(np.concatenate(parts) for parts in zip(*groups, strict=True)))

    def _normed(self, x: Any, norm: bool) -> Any:
        """On the head's device, in its type; norm: after the final norm."""
        if norm and self._norm is None and not self._ends_with_block:
            raise OptionError(
                f"{self._name} shows no final norm, so that earlier layers cannot be read; choose options that need none of them"
            )
        x = x.to(device=self._head.weight.device, dtype=self._head.weight.dtype)
        return self._norm(x) if norm and self._norm is not None else x

    def _checked_finish(self) -> tuple[float, float]:
        if self._finish is None:
            raise OptionError(
                f"{self._name} makes its logits of something else than its last hidden states; choose options that need none"
            )
        return self._finish


def finish(logits: Any, factor: float, cap: float) -> Any:
    """cap * tanh(logits * factor / cap), of torch; cap 0: no cap."""
    logits = logits * factor
    return cap * (logits / cap).tanh() if cap else logits


def summed_up(torch: Any, logits: Any, tokens: Sequence[int], k: int) -> Readings:
    """Of logits (T, n_vocab) of torch, float32. Ties: lowest id first. Errors: NumericError where a row has no numbers."""
    n_rows, n_vocab = logits.shape
    if len(tokens) != n_rows or k < 0 or any(not 0 <= token < n_vocab for token in tokens):
        raise KernelError(
            f"readings: {n_rows} rows with tokens {list(tokens)!r:.80} and k {k}; expected one token for each row, from 0 to "
            f"{n_vocab - 1}, and k of 0 or more"
        )
    k = min(k, n_vocab)
    with torch.inference_mode():
        if logits.device.type == "mps":  # which has no float64
            logits = logits.cpu()
        broken = torch.isnan(logits).any(-1) | ~torch.isfinite(logits.amax(-1)) if n_rows else logits.new_zeros(0)
        if bool(broken.any()):
            raise NumericError(
                f"readings: row {int(broken.int().argmax())} of the logits holds NaN, or its largest is infinite; the model's "
                "weights may be damaged"
            )
        ids = logits.topk(k).indices.sort().values  # of equal logits the lowest id stands first from here on
        found = logits.gather(-1, ids)
        order = found.sort(descending=True, stable=True)
        ids, found = ids.gather(-1, order.indices), order.values
        if k and n_rows:  # torch promises nothing of ties at the edge
            tied = ((logits >= found[:, -1:]).sum(-1) > k).nonzero().flatten()
            if len(tied):
                again = logits[tied].sort(descending=True, stable=True)
                ids[tied], found[tied] = again.indices[:, :k], again.values[:, :k]
        token_ids = torch.tensor(list(tokens), dtype=torch.long, device=logits.device)[:, None]
        of_token = logits.gather(-1, token_ids)
        lower = torch.arange(n_vocab, device=logits.device) < token_ids
        ranks = ((logits > of_token) | ((logits == of_token) & lower)).sum(-1)
        wide = logits.double()
        total = wide.logsumexp(-1, keepdim=True)
        entropy = torch.special.entr((wide - total).exp()).sum(-1).clamp_min(0.0)
    return Readings(
        ids=ids.int().cpu().numpy(),
        logits=found.cpu().numpy(),
        logsumexp=total[:, 0].cpu().numpy(),
        entropy=entropy.cpu().numpy(),
        token_logits=of_token[:, 0].cpu().numpy(),
        token_ranks=ranks.int().cpu().numpy(),
    )
