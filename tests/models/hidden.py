"""States and early exits of transformers' models, to compare with. In: its model, ids. Knows nothing of Fanlight."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def blocks_of(model: Any) -> Any:
    """Its list of layers."""
    n_layer = model.config.num_hidden_layers
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layer)


def states_of(model: Any, ids: Sequence[int]) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """The residual stream before the first and after every block, and what the head, or a projection before it, reads."""
    given: list[Any] = []
    last: list[Any] = []
    final: list[Any] = []
    reader = getattr(model.base_model, "decoder", None)  # of OPT
    reader = getattr(reader, "project_out", None) or model.get_output_embeddings()

    def keep(_: Any, args: Any, named: Any) -> None:
        given.append(args[0] if args else named["hidden_states"])

    blocks = blocks_of(model)
    hooks = [
        *(block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks),
        blocks[-1].register_forward_hook(lambda _, __, result: last.append(result)),
        reader.register_forward_pre_hook(lambda _, given: final.append(given[0])),
    ]
    with torch.no_grad():
        model(torch.tensor([list(ids)]))
    for hook in hooks:
        hook.remove()
    state = last[0][0] if isinstance(last[0], tuple | list) else last[0]
    return [x.reshape(len(ids), -1).numpy() for x in (*given, state)], final[0][0].numpy()


def cut_after(model: Any, n_layer: int) -> Any:
    """A copy with so many layers."""
    shorter = copy.deepcopy(model)
    del blocks_of(shorter)[n_layer:]
    return shorter
