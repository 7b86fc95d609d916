"""The attention weights of a transformers model. Knows no architecture.

In: a model. Out: the weights of layers and heads, by position. transformers hands them out from its eager implementation alone,
whose sums round differently from the fast ones': so they come of a pass beside the one that writes, from a copy of its state, and
no text and no logit ever changes. Which layers' weights are handed out, and that they are weights, is found by one small pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanlight.errors import OptionError
from fanlight.models.hf_parts import N_TRIED, small_pass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EAGER = "eager"
MAX_BYTES = 1 << 28
"""Of weights that a pass hands out at once, of all layers: float32."""
MAX_SUM = 1.02
"""Of a query's weights; those of a model with sinks sum to less than 1."""


class AttentionReader:
    """What looks where. Errors: OptionError where a model does not tell."""

    def __init__(self, torch: Any, model: Any, n_layer: int, n_head: int) -> None:
        """Runs the model on a few ids."""
        self._torch, self._model, self._n_layer = torch, model, n_layer
        self._name = f"transformers' {type(model).__name__}"
        if not n_head:
            raise OptionError(f"{self._name} has no attention, and so no weights to keep; leave attention out")
        try:
            with self.eager():
                _, result = small_pass(torch, model, output_attentions=True)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # of many classes, and by its own checks
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"{self._name} does not hand out attention weights ({reason or type(error).__name__}); leave attention out"
            ) from error
        handed_out = result.get("attentions") or ()
        self._places = self._find_places(handed_out)
        self.n_heads = {layer: self._checked(layer, handed_out[place]) for layer, place in self._places.items()}

    def _find_places(self, handed_out: Sequence[Any]) -> dict[int, int]:
        """Layer -> its place among what was handed out: one for each layer, or one for each that has attention."""
        if len(handed_out) == self._n_layer:
            return {layer: layer for layer, weights in enumerate(handed_out) if weights is not None}
        config = self._model.config.get_text_config(decoder=True)
        for name in ("layer_types", "layers_block_type", "block_types"):
            kinds = getattr(config, name, None) or ()
            layers = [i for i, kind in enumerate(kinds) if "attention" in str(kind) and "linear" not in str(kind)]
            if len(kinds) == self._n_layer and layers and len(layers) == len(handed_out):
                return {layer: place for place, layer in enumerate(layers)}
        raise OptionError(
            f"{self._name} hands out {len(handed_out) or 'no'} attention weights, expected those of {self._n_layer} layers; "
            "leave attention out"
        )

    def _checked(self, layer: int, weights: Any) -> int:
        """How many heads; what is no distribution over earlier positions is something else."""
        if not isinstance(weights, self._torch.Tensor) or weights.dim() != 4 or weights.shape[2:] != (N_TRIED, N_TRIED):
            shape = tuple(getattr(weights, "shape", ()))
            raise OptionError(
                f"{self._name} hands out attention of shape {shape} in layer {layer}, expected (1, n_head, {N_TRIED}, {N_TRIED}) "
                f"for {N_TRIED} ids; leave this layer out"
            )
        w = weights.float()
        if bool(w.triu(1).any()) or float(w.min()) < 0 or not float(w.sum(-1).max()) <= MAX_SUM:
            raise OptionError(
                f"{self._name} hands out attention in layer {layer} that is no distribution over the positions before each; "
                "leave this layer out"
            )
        return int(weights.shape[1])

    def check(self, wanted: Mapping[int, Sequence[int] | None]) -> None:
        """Whether these layers' heads can be had. Errors: OptionError."""
        for layer, heads in wanted.items():
            if layer not in self.n_heads:
                there = ", ".join(map(str, self.n_heads))
                raise OptionError(
                    f"layer {layer} of {self._name} has no attention weights; those of layers {there} can be kept"
                )
            for head in heads or ():
                if not 0 <= head < self.n_heads[layer]:
                    raise OptionError(
                        f"there is no head {head} in layer {layer}; give numbers from 0 to {self.n_heads[layer] - 1}"
                    )

    @contextmanager
    def eager(self) -> Iterator[None]:
        """With the implementation that hands weights out; then all as it was."""
        config = self._model.config
        parts = {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
        before = {name: part._attn_implementation for name, part in {"": config, **parts}.items()}
        if all(kind in (EAGER, None) for kind in before.values()):
            yield
            return
        try:
            self._model.set_attn_implementation(EAGER)
            if config._attn_implementation != EAGER:  # Falcon cannot be told so, but asks in every pass
                config._attn_implementation = EAGER
            yield
        finally:
            for name, kind in before.items():
                (parts[name] if name else config)._attn_implementation = kind

    def rows_at_once(self, end: int) -> int:
        """How many queries of so many positions a pass may have."""
        return max(1, MAX_BYTES // (4 * self._n_layer * max(self.n_heads.values()) * end))

    def look(
        self,
        run: Callable[[int, int], Any],
        start: int,
        end: int,
        at_once: int,
        positions: Sequence[int],
        wanted: Mapping[int, Sequence[int] | None],
    ) -> dict[tuple[int, int], NDArray[np.float32]]:
        """Weights of positions in start to end - 1, by layer and position: (n_heads, position + 1).

        run: computes the positions from one to before another in the eager implementation, and returns what the model does.
        """
        found: dict[tuple[int, int], NDArray[np.float32]] = {}
        for first in range(start, positions[-1] + 1, at_once):
            last = min(end, first + at_once)
            handed_out = run(first, last).get("attentions") or ()
            here = [position for position in positions if first <= position < last]
            for layer, heads in wanted.items() if here else ():
                for position, row in self._rows(handed_out, layer, heads, first, last, here):
                    found[layer, position] = row
        return found

    def _rows(
        self,
        handed_out: Sequence[Any],
        layer: int,
        heads: Sequence[int] | None,
        first: int,
        last: int,
        positions: Sequence[int],
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """A window's cache gives fewer columns than there are positions: the last ones."""
        import numpy as np

        weights = handed_out[self._places[layer]]
        n_columns = weights.shape[-1]
        if weights.shape[1:3] != (self.n_heads[layer], last - first) or n_columns > last:
            raise OptionError(
                f"{self._name} hands out attention of shape {tuple(weights.shape)} in layer {layer} for positions {first} to "
                f"{last - 1}, expected (1, {self.n_heads[layer]}, {last - first}, up to {last}); leave this layer out"
            )
        kept = weights[0, :, [position - first for position in positions]]  # (heads, rows, columns)
        if heads is not None:
            kept = kept[list(heads)]
        numbers = np.zeros((len(positions), len(kept), last), np.float32)
        numbers[:, :, last - n_columns :] = kept.transpose(0, 1).float().cpu().numpy()
        for position, row in zip(positions, numbers, strict=True):
            yield position, row[:, : position + 1]
