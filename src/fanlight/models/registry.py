"""Which architecture a checkpoint is, and the decoder built from it. In: a Checkpoint, its configuration, ops. Out: a Decoder.

To add one: a file named after its `model_type` with a name map, the readers of its sizes, and `forward`; then an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.errors import CheckpointError
from fanlight.kernels.ops import Ops
from fanlight.models.base import Decoder
from fanlight.models.weights import LoadReport, Weights

GGUF_TYPES = ("llama",)
HF_TYPES = ("gpt2", "llama")
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")


def build_decoder(checkpoint: Checkpoint, config: Mapping[str, Any], ops: Ops) -> tuple[Decoder, LoadReport]:
    """config: GGUF metadata, or the content of config.json. Errors: CheckpointError."""
    gguf = checkpoint.format == "gguf"
    key, known = ("general.architecture", GGUF_TYPES) if gguf else ("model_type", HF_TYPES)
    kind = config.get(key)
    if kind not in known:
        raise CheckpointError(
            f"{checkpoint.path}: {key} is {kind!r}; Fanlight reads {', '.join(known)} from {checkpoint.format} files"
        )
    return (_llama if kind == "llama" else _gpt2)(checkpoint, config, ops)


def _llama(checkpoint: Checkpoint, config: Mapping[str, Any], ops: Ops) -> tuple[Decoder, LoadReport]:
    from fanlight.models import llama

    names, gguf = llama.NAMES[checkpoint.format], checkpoint.format == "gguf"
    weights = Weights(checkpoint, names, ops)
    if gguf:
        sizes = llama.config_from_gguf(config, checkpoint.path, tied_head=not weights.has("head"))
    else:
        sizes = llama.config_from_hf(config, checkpoint.path)
    decoder = llama.Llama(sizes, weights, gguf=gguf, cache_dtype=_cache_dtype(weights, "embed"))
    return decoder, weights.finish(llama.NO_WEIGHTS, llama.GGUF_ESSENTIAL if gguf else ())


def _gpt2(checkpoint: Checkpoint, config: Mapping[str, Any], ops: Ops) -> tuple[Decoder, LoadReport]:
    from fanlight.models import gpt2

    sizes = gpt2.config_from_hf(config, checkpoint.path)
    weights = Weights(checkpoint, gpt2.names(checkpoint.arrays), ops)
    decoder = gpt2.GPT2(sizes, weights, cache_dtype=_cache_dtype(weights, "embed"))
    return decoder, weights.finish(gpt2.NO_WEIGHTS)


def _cache_dtype(weights: Weights, name: str) -> str:
    """Float checkpoints keep keys and values in float32; quantised ones in half, whose rounding is far below their own."""
    return "F32" if weights.dtype(name) in FLOAT_TYPES else "F16"
