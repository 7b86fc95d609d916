"""The C++ ops, under the names of `ops.Ops`. Sets up their threads from FANLIGHT_THREADS; knows nothing else."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence

from fanlight.errors import KernelError, OptionError
from fanlight.kernels import _native
from fanlight.kernels._native import (
    add,
    argmax,
    attention,
    attention_weights,
    bias,
    bias_mask,
    blend,
    deviation,
    drop_above,
    embed,
    finish_packing,
    finite,
    gather,
    get_threads,
    green_list,
    gumbel,
    gumbel_argmax,
    gumbel_top,
    keep,
    keep_above,
    kv_pool,
    layer_norm,
    linear,
    log_softmax,
    mask,
    near_target,
    pack,
    rank,
    repetition_penalty,
    rms_norm,
    rope,
    row,
    scale,
    set_threads,
    smooth,
    softcap,
    span_norm,
    store_kv,
    tail_free,
    take_rows,
    temperature,
    tensor,
    top,
    top_h,
    top_k,
    top_p,
    typical_p,
)
from fanlight.kernels.ops import Readings, RowStats

__all__ = [
    "add",
    "argmax",
    "attention",
    "attention_weights",
    "bias",
    "bias_mask",
    "blend",
    "deviation",
    "drop_above",
    "embed",
    "finish_packing",
    "finite",
    "gather",
    "get_threads",
    "green_list",
    "gumbel",
    "gumbel_argmax",
    "gumbel_top",
    "keep",
    "keep_above",
    "kv_pool",
    "layer_norm",
    "linear",
    "log_softmax",
    "mask",
    "name",
    "near_target",
    "pack",
    "rank",
    "readings",
    "repetition_penalty",
    "rms_norm",
    "rope",
    "row",
    "scale",
    "set_threads",
    "smooth",
    "softcap",
    "span_norm",
    "stats",
    "store_kv",
    "tail_free",
    "take_rows",
    "temperature",
    "tensor",
    "top",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
]

MAX_THREADS = 256


def stats(row: _native.Tensor) -> RowStats:
    """See `ops.Ops.stats`."""
    return RowStats(*_native.stats(row))


def readings(h: _native.Tensor, w: _native.Linear, tokens: Sequence[int], k: int, softcap: float = 0.0) -> Readings:
    """See `ops.Ops.readings`."""
    return Readings(*_native.readings(h, w, tokens, k, softcap))


def _from_environment() -> None:
    isa = os.environ.get("FANLIGHT_ISA")
    if isa:
        try:
            _native.use_isa(isa)
        except KernelError as error:
            raise OptionError(f"FANLIGHT_ISA is {isa!r}: {error}; leave it unset for the best there is") from None
    threads = os.environ.get("FANLIGHT_THREADS")
    if threads:
        if not threads.isdecimal() or not 1 <= int(threads) <= MAX_THREADS:
            raise OptionError(f"FANLIGHT_THREADS is {threads!r}; it takes a whole number from 1 to {MAX_THREADS}")
        set_threads(int(threads))


_from_environment()
atexit.register(_native.stop_threads)
name = f"native ({_native.isa()})"
