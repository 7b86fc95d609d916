"""The Python API: a name -> a Model, and what it hands back. In: names and paths. Out: models.

model = fanlight.load()
out = model.generate("The future of artificial intelligence is", max_new_tokens=20)
out.text; out.stop; out.steps[3].candidates
"""

from __future__ import annotations

import os

from fanlight.decoding.layers import layered
from fanlight.generation import Generation, Step, Stream, TokenCandidate
from fanlight.kernels import load_ops
from fanlight.loading import LoadOptions, checked_threads, load_parts
from fanlight.model import PREFIX_BYTES, Model
from fanlight.model_base import Prompt

__all__ = ["Generation", "Model", "Prompt", "Step", "Stream", "TokenCandidate", "layered", "load"]


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    kernels: str | None = None,
    quantize: str | None = None,
    n_ctx: int | None = None,
    backend: str = "auto",
    device: str | None = None,
    cache_type: str | None = None,
    prefix_bytes: int = PREFIX_BYTES,
) -> Model:
    """A model: a .gguf file, a Hugging Face folder, or a name on the hub. None: FANLIGHT_MODEL, else the default model.

    threads: how many the kernels use, in this process; None: FANLIGHT_THREADS, else all cores. kernels: "native" or
    "reference". quantize: the type that float matrices become on the way in, "q8_0" or "q4_1"; None: they stay. n_ctx: the
    context window, up to the model's own. backend: "native", "hf" (transformers, on any torch device), or "auto": native
    where Fanlight knows the architecture. cache_type: what keys and values are kept as, "f16", "f32" or "int8"; None: f32 for
    float checkpoints, f16 for others. prefix_bytes: how much of them may stay between calls, for texts that begin alike.
    Errors: ModelNotFound, DownloadError, CheckpointError, TokenizerError, OptionError, MissingExtra.
    """
    options = LoadOptions(quantize=quantize, n_ctx=n_ctx, backend=backend, device=device)
    ops = load_ops(kernels)
    if threads is not None:
        ops.set_threads(checked_threads(threads))
    return Model(load_parts(name, ops, options), prefix_bytes=prefix_bytes, cache_type=cache_type)
