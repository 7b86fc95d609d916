"""What a Watch asks of a model that transformers runs: how each part of it is seen, and how it is handed over.

In: a Watch, and the passes of a sequence. Out: the Watch, filled. Knows no architecture and no cache. The insides are found when
they are first asked for (`hf_states`, `hf_parts`, `hf_attention`), so that a model without a list of blocks, or without attention,
is refused what it lacks and shows the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from fanlight.errors import OptionError
from fanlight.kernels.ops import Ops, Tensor
from fanlight.models.base import FINAL, DecoderConfig, Watch
from fanlight.models.hf_attention import AttentionReader
from fanlight.models.hf_parts import Parts
from fanlight.models.hf_states import Anatomy

STATES, INNER, WEIGHTS = "states", "inner", "weights"


@dataclass(slots=True, kw_only=True)
class Look:
    """What is wanted of one sequence, and what was found."""

    watch: Watch
    names: Sequence[int | str]
    """Of `Watch.states`."""
    positions: Sequence[int]
    """Ascending."""
    seen: dict[tuple[str, int | str], dict[int, Any]] = field(default_factory=dict)
    """By kind and layer, then by position: (n_embd,), or (n_heads, position + 1) of WEIGHTS."""


class Looker:
    """Sees inside one model. The caller sees to it that nobody else runs the model meanwhile."""

    def __init__(
        self, torch: Any, model: Any, config: DecoderConfig, ops: Ops, quiet: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """quiet: what keeps transformers silent."""
        self._torch, self._model, self._config, self._ops, self._quiet = torch, model, config, ops, quiet
        self._anatomy: Anatomy | None = None
        self._parts: Parts | None = None
        self._reader: AttentionReader | None = None

    @property
    def anatomy(self) -> Anatomy:
        """States by layer, and logits made of them. Errors: OptionError, here and below."""
        if self._anatomy is None:
            with self._quiet():
                self._anatomy = Anatomy(self._torch, self._model, self._config.n_layer)
        return self._anatomy

    @property
    def parts(self) -> Parts:
        """The insides of blocks."""
        if self._parts is None:
            with self._quiet():
                self._parts = Parts(self._torch, self._model, self.anatomy.blocks)
        return self._parts

    @property
    def reader(self) -> AttentionReader:
        """Attention weights."""
        if self._reader is None:
            with self._quiet():
                self._reader = AttentionReader(self._torch, self._model, self._config.n_layer, self._config.n_head)
        return self._reader

    def begin(self, watch: Watch) -> list[int | str]:
        """Empty the watch; the states to keep. Errors: OptionError for what cannot be had, before anything is computed."""
        n_layer = self._config.n_layer
        if watch.depth(n_layer) < n_layer:
            raise OptionError(
                f"assistant_early_exit {watch.n_layer}: a model that transformers runs cannot be left after some of its "
                "layers; take an assistant model instead, or the native backend"
            )
        watch.clear()
        if watch.layers or watch.final:
            self.anatomy.check(watch.layers, watch.final)
        if watch.attention:
            self.reader.check(watch.attention)
        if watch.middles or watch.times:
            n_blocks = len(self.parts.middles)
            if watch.times:
                ends = {("embedding", 0): 0.0, ("head", 0): 0.0}
                watch.seconds = ends | {
                    (part, i): 0.0 for i in range(n_blocks) for part in ("attention", "feed_forward")
                }
        return [*dict.fromkeys(watch.layers), *([FINAL] if watch.final else [])]

    @contextmanager
    def of_pass(self, look: Look, start: int, end: int, options: dict[str, Any]) -> Iterator[Callable[[Any], None]]:
        """While the model runs positions start to end - 1 with these options, which are added to. What this gives takes what the
        model returned, afterwards, and puts what was seen into `look`.
        """
        watch, positions = look.watch, [position for position in look.positions if start <= position < end]
        rows = [position - start for position in positions]
        states: dict[int | str, Any] = {}
        kept: dict[int, Any] = {}

        def put(kind: str, layer: int | str, values: Any) -> None:
            numbers = values.float().cpu().numpy()
            look.seen.setdefault((kind, layer), {}).update(zip(positions, numbers, strict=True))

        def take(result: Any) -> None:
            if not needs_states:
                return
            self.anatomy.name_states(result["hidden_states"], states)
            for name in look.names:
                put(STATES, name, states[name][0, rows])
            for block in range(len(self.parts.middles)) if watch.middles else ():
                put(INNER, block, self.parts.inner(block, states[block][0, rows], kept))

        needs_states = bool(rows) and bool(look.names or watch.middles)
        with ExitStack() as hooks:
            if needs_states:
                options["output_hidden_states"] = True
                hooks.enter_context(self.anatomy.states_of_pass(states))
                if watch.middles:
                    hooks.enter_context(self.parts.caught(rows, kept))
            if watch.times:  # the last to come is the first to end
                hooks.enter_context(self.parts.timed(watch.seconds, self._synchronize))
            yield take

    def attention(self, look: Look, run: Callable[[int, int], Any], start: int, end: int, at_once: int | None) -> None:
        """Put weights of positions start to end - 1 into `look`. run, at_once: as for `AttentionReader.look`; None: by its size."""
        positions = [position for position in look.positions if start <= position < end]
        if not positions:
            return
        rows = at_once or self.reader.rows_at_once(end)
        with self._quiet(), self.reader.eager():
            found = self.reader.look(run, start, end, rows, positions, look.watch.attention)
        for (layer, position), weights in found.items():
            look.seen.setdefault((WEIGHTS, layer), {})[position] = weights

    def hand_over(
        self,
        watch: Watch,
        names: Sequence[int | str],
        kept: Sequence[int],
        seen: dict[tuple[str, int | str], dict[int, Any]],
    ) -> None:
        """What was seen, by kind and layer, then by row: into the watch, in the order of the rows kept."""
        import numpy as np

        def tensor(kind: str, layer: int | str) -> Tensor:
            of_rows = seen.get((kind, layer), {})
            if not kept:
                return self._ops.tensor(b"", self._config.n_embd if kind != WEIGHTS else 1)
            n_columns = max(of_rows[row].shape[-1] for row in kept)
            together = np.zeros((len(kept), of_rows[kept[0]].size // of_rows[kept[0]].shape[-1], n_columns), np.float32)
            for i, row in enumerate(kept):
                together[i, :, : of_rows[row].shape[-1]] = of_rows[row]
            return self._ops.tensor(together.tobytes(), n_columns)

        watch.states = {name: tensor(STATES, name) for name in names}
        watch.inner = {block: tensor(INNER, block) for block in range(self._config.n_layer)} if watch.middles else {}
        watch.weights = {layer: tensor(WEIGHTS, layer) for layer in watch.attention}

    def _synchronize(self) -> None:
        """Wait for the device, so that its time is seen."""
        synchronize = getattr(getattr(self._torch, self._model.device.type, None), "synchronize", None)
        if synchronize is not None:
            synchronize()
