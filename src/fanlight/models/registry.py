"""Which architecture a checkpoint is, and the model built from it. In: a Checkpoint, its configuration, ops. Out: a Decoder
or a BidirectionalEncoder.

To add one: a file named after its `model_type` that ends in ARCHITECTURE, and its name here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.errors import CheckpointError
from fanlight.kernels.ops import Ops
from fanlight.models.architecture import Architecture, Source, read_config
from fanlight.models.base import Decoder
from fanlight.models.encoder import BidirectionalEncoder
from fanlight.models.fields import Fields
from fanlight.models.weights import LoadReport, Weights

MODEL_TYPES = (
    *("gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2"),
    *("opt", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""config.json's model_type; the architecture's file has the same name."""

FILES = {"gemma3_text": "gemma3"}
"""model_type -> the architecture's file, where it has another name."""

GGUF_TYPES = {
    **{name: name for name in ("gemma2", "gpt2", "llama", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")},
    "gemma3": "gemma3_text",
    "gptneox": "gpt_neox",
}
"""general.architecture -> model_type. Mistral's files say llama; the format has no OPT."""

ENCODERS = ("bert",)
"""Those that read texts and write none; both formats use the same names."""


def find_architecture(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Architecture:
    """The architecture of a checkpoint. Errors: CheckpointError, which lists what there is."""
    gguf = checkpoint.format == "gguf"
    key, names = ("general.architecture", GGUF_TYPES) if gguf else ("model_type", {name: name for name in MODEL_TYPES})
    known = {**names, **{name: name for name in ENCODERS}}
    kind = config.get(key)
    if not isinstance(kind, str) or kind not in known:
        other = "" if gguf else "; others run through transformers: pip install 'fanlight[hf]'"
        raise CheckpointError(
            f"{checkpoint.path}: {key} is {kind!r:.80}; Fanlight reads {', '.join(known)} from {checkpoint.format} files{other}"
        )
    return architecture_of(known[kind])


def own_types() -> str:
    """What Fanlight reads by itself, in words."""
    return f"Fanlight's own are {', '.join(MODEL_TYPES)}"


def architecture_of(model_type: str) -> Architecture:
    """The declaration of this model_type."""
    architecture: Architecture = import_module(f"fanlight.models.{FILES.get(model_type, model_type)}").ARCHITECTURE
    return architecture


def build_decoder(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    ops: Ops,
    *,
    quantize: str | None = None,
    n_ctx: int | None = None,
) -> tuple[Decoder, LoadReport]:
    """config: GGUF metadata, or the content of config.json. Errors: CheckpointError, OptionError."""
    arch = find_architecture(checkpoint, config)
    if arch.is_encoder:
        raise CheckpointError(
            f"{checkpoint.path}: {arch.model_type} is an encoder, which reads texts and writes none; use fanlight.load_encoder"
        )
    config = Fields(config, checkpoint.path).group("text_config") or config  # beside a vision part
    model, report = _build(Source(arch, checkpoint, config, n_ctx), ops, quantize)
    return cast("Decoder", model), report


def build_encoder(
    checkpoint: Checkpoint, config: Mapping[str, Any], ops: Ops
) -> tuple[BidirectionalEncoder, LoadReport]:
    """config: GGUF metadata, or the content of config.json. Errors: CheckpointError."""
    arch = find_architecture(checkpoint, config)
    if not arch.is_encoder:
        raise CheckpointError(
            f"{checkpoint.path}: {arch.model_type} is a decoder, which writes texts; use fanlight.load"
        )
    model, report = _build(Source(arch, checkpoint, config), ops, None)
    return cast("BidirectionalEncoder", model), report


def _build(source: Source, ops: Ops, quantize: str | None) -> tuple[Decoder | BidirectionalEncoder, LoadReport]:
    arch, checkpoint = source.arch, source.checkpoint
    sizes = read_config(source)
    weights = Weights(checkpoint, arch.layouts[checkpoint.format], sizes, ops, quantize)
    return arch.build(sizes, weights), weights.finish()
