"""What lies between the last block of a transformers model and its logits, found by one small pass. Knows no architecture.

In: a model. Out: its states by layer, and logits made of states. Only transformers' own promise is taken for granted: that
`output_hidden_states` hands out the input of every block, and, last, what the head reads. The final norm is found as the
module outside the blocks that returns this last state; what the model does to the head's product (a factor, a cap) is
found by comparing. A model that fits none of this says so, and its texts are written as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fanlight.errors import OptionError
from fanlight.models.base import FINAL

MAX_ERROR = 2e-2  # of logits computed in two ways, as a part of their range: far above the rounding of half precision
N_TRIED = 5


class Anatomy:
    """Where a model's states and logits come from. Errors: OptionError where they cannot be had."""

    def __init__(self, torch: Any, model: Any, n_layer: int) -> None:
        """Runs the model on a few ids."""
        self._torch, self._model, self._n_layer = torch, model, n_layer
        self._name = f"transformers' {type(model).__name__}"
        self._head = model.get_output_embeddings()
        n_ids = model.get_input_embeddings().weight.shape[0]
        ids = torch.tensor([[(7 * i + 3) % n_ids for i in range(N_TRIED)]], device=model.device)
        calls: list[tuple[str, Any, Any]] = []  # name, first input, output
        hooks = [
            module.register_forward_hook(
                lambda _, args, result, name=name: calls.append((name, args[0] if args else None, result))
            )
            for name, module in model.named_modules()
        ]
        try:
            with torch.inference_mode():
                result = model(input_ids=ids, return_dict=True, output_hidden_states=True)
        finally:
            for hook in hooks:
                hook.remove()
        states = result.get("hidden_states")
        if states is None or len(states) != n_layer + 1:
            found = "no" if states is None else str(len(states))
            raise OptionError(
                f"{self._name} hands out {found} hidden states, expected {n_layer + 1}; choose options that need none"
            )
        self._norm, self._ends_with_block = self._find_norm(calls, states[-1])
        self._finish = self._find_finish(states[-1], result["logits"])

    def _find_norm(self, calls: Sequence[tuple[str, Any, Any]], last: Any) -> tuple[Any, bool]:
        """The final norm, or None and whether the last state is that of the last block."""
        modules, of_block = dict(self._model.named_modules()), False
        for name, given, result in reversed(calls):
            state = result[0] if isinstance(result, tuple) else result
            if not self._equal(state, last):
                continue
            if any(part.isdigit() for part in name.split(".")):  # a block, or a part of one
                of_block = True
            elif isinstance(given, self._torch.Tensor) and given.shape == last.shape and not self._equal(given, last):
                return modules[name], False
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
        """While the model runs once: puts the state before the final norm into `into`, where there is a norm."""

        def keep(module: Any, given: Any) -> None:
            into[self._n_layer] = given[0]

        hook = self._norm.register_forward_pre_hook(keep) if self._norm is not None else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    def name_states(self, hidden_states: Sequence[Any], into: dict[int | str, Any]) -> None:
        """Put the states that a pass handed out into `into`, by layer."""
        *before, last = hidden_states
        into.update(enumerate(before))
        into.setdefault(self._n_layer, last)
        into[FINAL] = last

    # -- logits -------------------------------------------------------------------------------------------------------

    def read_out(self, x: Any, norm: bool) -> Any:
        """(T, n_embd) -> (T, n_vocab), both of torch."""
        factor, cap = self._checked_finish()
        if norm and self._norm is None and not self._ends_with_block:
            raise OptionError(
                f"{self._name} shows no final norm, so that earlier layers cannot be read; choose options that need none of them"
            )
        with self._torch.inference_mode():
            x = x.to(device=self._head.weight.device, dtype=self._head.weight.dtype)
            x = self._norm(x) if norm and self._norm is not None else x
            return finish(self._head(x).float(), factor, cap)

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
