"""The arrays of a trace's file: names, types, shapes, and what may be in them. Out: nothing, or a TraceError. Knows no file.

A size is a name: all arrays that say "n_steps" must agree on it. Ragged lists are one flat array and offsets: list i of them is
flat[offsets[i]:offsets[i + 1]]. `docs/traces_format.md` says what each array means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isinf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanlight.errors import TraceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMAGED = "the file is damaged: copy it again, or record the trace again"
STEPS, SEARCH = "steps", "search"

INTS, FLOATS = ("I32", "I64"), ("F32", "F64")


class Kind(NamedTuple):
    """What numbers an array holds."""

    words: str
    types: tuple[str, ...]
    """As safetensors names them."""
    low: int | None = None
    is_id: bool = False
    """Below n_vocab."""
    no_nan: bool = False
    no_infinity: bool = False
    high: int | None = None


KINDS: Mapping[str, Kind] = {
    "id": Kind("token ids", INTS, 0, True),
    "maybe id": Kind("token ids, or -1 for none", INTS, -1, True),
    "int": Kind("whole numbers from 0", INTS, 0),
    "maybe int": Kind("whole numbers from -1", INTS, -1),
    "flag": Kind("0 or 1", ("U8",), 0, high=1),
    "byte": Kind("bytes", ("U8",)),
    "offset": Kind("offsets", ("I64",), 0),
    "float": Kind("numbers", FLOATS, no_nan=True),
    "finite": Kind("finite numbers", FLOATS, no_nan=True, no_infinity=True),
    "maybe float": Kind("numbers, or NaN for none", FLOATS),
    "weight": Kind("numbers", ("F16", "F32"), no_nan=True),
}


class Spec(NamedTuple):
    """What one array must be."""

    kind: str
    shape: tuple[str, ...]
    """Names of sizes; "n + 1" is one more."""
    optional: bool = False
    flat: str = ""
    """Of offsets: the size of what they point into."""


def _offsets(shape: str, flat: str) -> Spec:
    return Spec("offset", (f"{shape} + 1",), flat=flat)


_STEP, _CANDIDATE, _EFFECT = ("n_steps",), ("n_candidates",), ("n_effects",)
_BLOCKS, _BLOCKS_AND_ONE = ("n_steps", "n_layer"), ("n_steps", "n_layer + 1")

LAYOUT: Mapping[str, Spec] = {
    "prompt_ids": Spec("id", ("n_prompt",)),
    "ids": Spec("id", _STEP),
    "pieces/bytes": Spec("byte", ("n_piece_bytes",)),
    "pieces/offsets": _offsets("n_steps", "n_piece_bytes"),
    "vocabulary/ids": Spec("id", ("n_tokens",)),
    "vocabulary/bytes": Spec("byte", ("n_token_bytes",)),
    "vocabulary/offsets": _offsets("n_tokens", "n_token_bytes"),
    "steps/position": Spec("int", _STEP),
    "steps/raw_rank": Spec("int", _STEP),
    "steps/final_rank": Spec("int", _STEP),
    "steps/margin": Spec("maybe float", _STEP),
    "steps/lead": Spec("maybe float", _STEP),
    "steps/runner_up": Spec("maybe id", _STEP),
    "steps/eos_prob": Spec("finite", _STEP),
    "steps/final_eos_prob": Spec("finite", _STEP),
    "steps/raw_n_kept": Spec("int", _STEP),
    "steps/raw_max": Spec("finite", _STEP),
    "steps/raw_logsumexp": Spec("finite", _STEP),
    "steps/raw_entropy": Spec("finite", _STEP),
    "steps/n_top": Spec("int", _STEP),
    "steps/candidate_offsets": _offsets("n_steps", "n_candidates"),
    "steps/candidate_ids": Spec("id", _CANDIDATE),
    "steps/raw_logits": Spec("float", _CANDIDATE),
    "steps/noise": Spec("maybe float", _CANDIDATE, optional=True),
    "steps/effect_offsets": _offsets("n_steps", "n_effects"),
    "steps/effect_kind": Spec("int", _EFFECT),
    "steps/effect_value": Spec("maybe float", _EFFECT),
    "steps/effect_n_kept": Spec("int", _EFFECT),
    "steps/effect_max": Spec("finite", _EFFECT),
    "steps/effect_logsumexp": Spec("finite", _EFFECT),
    "steps/effect_entropy": Spec("finite", _EFFECT),
    "steps/effect_kept_logsumexp": Spec("maybe float", _EFFECT, optional=True),
    "steps/effect_before_n_kept": Spec("int", _EFFECT, optional=True),
    "steps/effect_before_max": Spec("finite", _EFFECT, optional=True),
    "steps/effect_before_logsumexp": Spec("finite", _EFFECT, optional=True),
    "steps/effect_before_entropy": Spec("finite", _EFFECT, optional=True),
    "steps/effect_logit_offsets": _offsets("n_effects", "n_effect_logits"),
    "steps/effect_logits": Spec("float", ("n_effect_logits",)),
    "steps/guess_drafter": Spec("maybe int", _STEP, optional=True),
    "steps/guess_id": Spec("maybe id", _STEP, optional=True),
    "steps/guess_right": Spec("flag", _STEP, optional=True),
    "search/parent": Spec("maybe int", ("n_nodes",)),
    "search/id": Spec("id", ("n_nodes",)),
    "search/depth": Spec("int", ("n_nodes",)),
    "search/logprob": Spec("float", ("n_nodes",)),
    "search/score": Spec("float", ("n_nodes",)),
    "search/fate": Spec("int", ("n_nodes",)),
    "search/group": Spec("int", ("n_nodes",)),
    "search/returned": Spec("int", ("n_returned",)),
    "lens/ids": Spec("id", ("n_steps", "n_layer + 1", "k")),
    "lens/logprobs": Spec("float", ("n_steps", "n_layer + 1", "k")),
    "lens/chosen_logprobs": Spec("float", _BLOCKS_AND_ONE),
    "lens/chosen_ranks": Spec("int", _BLOCKS_AND_ONE),
    "lens/entropies": Spec("float", _BLOCKS_AND_ONE),
    "attention/layers": Spec("int", ("n_layers",)),
    "attention/heads": Spec("int", ("n_heads",)),
    "attention/queries": Spec("int", ("n_queries",)),
    "attention/weights": Spec("weight", ("n_layers", "n_heads", "n_queries", "n_positions")),
    "attention/windows": Spec("int", ("n_windows",)),
    "contributions/embedding": Spec("float", _STEP),
    "contributions/attention": Spec("float", _BLOCKS),
    "contributions/feed_forward": Spec("float", _BLOCKS),
    "contributions/constant": Spec("float", _STEP),
    "contributions/logits": Spec("float", _STEP),
    "norms/residual": Spec("float", _BLOCKS_AND_ONE),
    "norms/attention": Spec("float", _BLOCKS),
    "norms/feed_forward": Spec("float", _BLOCKS),
    "timings/forward": Spec("maybe float", _STEP),
    "timings/deciding": Spec("maybe float", _STEP),
    "timings/layers": Spec("float", ("n_layer", "2")),
    "timings/head": Spec("float", ()),
    "timings/embedding": Spec("float", ()),
}
"""Name -> what it must be. A part of a trace ("lens/...") is there as a whole or not at all."""

TOGETHER = (
    ("steps/guess_drafter", "steps/guess_id", "steps/guess_right"),
    tuple(f"steps/effect_before_{name}" for name in ("n_kept", "max", "logsumexp", "entropy")),
)
"""Optional arrays that come together."""


def part_of(name: str) -> str:
    """ "lens" of "lens/ids"; "" of "prompt_ids"."""
    return name.partition("/")[0] if "/" in name else ""


def required(parts: Iterable[str]) -> list[str]:
    """The arrays that a file with these parts must have."""
    wanted = {"", "pieces", "vocabulary", *parts}
    return [name for name, spec in LAYOUT.items() if part_of(name) in wanted and not spec.optional]


def check_shapes(where: str, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Types and shapes of a file's arrays; the sizes by name. found: (type, shape) by name. Errors: TraceError."""
    parts = {part_of(name) for name in found if name in LAYOUT} | {STEPS}
    for name in required(parts):
        if name not in found:
            raise TraceError(f"{where}: expected the array {name!r}, found none of this name; {DAMAGED}")
    for names in TOGETHER:
        if 0 < len(found.keys() & names) < len(names):
            raise TraceError(f"{where}: expected the arrays {', '.join(names)} together, found some of them; {DAMAGED}")
    sizes: dict[str, int] = {}
    for name, spec in LAYOUT.items():
        if name not in found:
            continue
        kind, (dtype, shape) = KINDS[spec.kind], found[name]
        if dtype not in kind.types:
            raise TraceError(
                f"{where}: array {name!r} is of type {dtype}, expected {' or '.join(kind.types)}; {DAMAGED}"
            )
        if len(shape) != len(spec.shape) or not all(
            _fits(*pair, sizes) for pair in zip(spec.shape, shape, strict=True)
        ):
            known = [_size(symbol, sizes) for symbol in spec.shape]
            raise TraceError(
                f"{where}: array {name!r} has shape {list(shape)}, expected [{', '.join(known)}]; {DAMAGED}"
            )
    return sizes


def _fits(symbol: str, size: int, sizes: dict[str, int]) -> bool:
    """Whether a size is what its name stands for; a name that is new stands for it from now on."""
    if symbol.isdecimal():
        return size == int(symbol)
    name, _, more = symbol.partition(" + ")
    size -= int(more or 0)
    return size >= 0 and sizes.setdefault(name, size) == size


def _size(symbol: str, sizes: Mapping[str, int]) -> str:
    name, _, more = symbol.partition(" + ")
    return str(sizes[name] + int(more or 0)) if name in sizes else symbol


def check_values(where: str, name: str, values: NDArray[Any], sizes: Mapping[str, int], n_vocab: int) -> None:
    """That an array of LAYOUT holds nothing that its kind may not. n_vocab: 0 if it is not known. Errors: TraceError."""
    spec = LAYOUT[name]
    kind = KINDS[spec.kind]
    if values.size:
        low, high = _range(values) if kind.low is not None or kind.no_nan else (0, 0)
        most = n_vocab - 1 if kind.is_id and n_vocab else kind.high
        if kind.no_nan and (low != low or high != high):
            raise TraceError(f"{where}: array {name!r} holds NaN, expected {kind.words}; {DAMAGED}")
        if kind.no_infinity and (isinf(low) or isinf(high)):
            raise TraceError(f"{where}: array {name!r} holds an infinite number, expected {kind.words}; {DAMAGED}")
        if kind.low is not None and low < kind.low:
            raise TraceError(f"{where}: array {name!r} holds {low}, expected {kind.words}; {DAMAGED}")
        if most is not None and high > most:
            limit = f" below the {n_vocab} of its model" if kind.is_id else ""
            raise TraceError(f"{where}: array {name!r} holds {high}, expected {kind.words}{limit}; {DAMAGED}")
    if spec.flat:
        end = sizes[spec.flat]
        if values[0] != 0 or values[-1] != end or np.any(values[1:] < values[:-1]):
            raise TraceError(f"{where}: array {name!r}, expected offsets that rise from 0 to {end}; {DAMAGED}")


def _range(values: NDArray[Any]) -> tuple[Any, Any]:
    """The smallest and the largest; NaN if there is one. Sixteen-bit floats bit by bit, which is ten times as fast."""
    if values.dtype == np.float16:
        bits = values.view(np.uint16) & np.uint16(0x7FFF)
        return (np.nan, np.nan) if bits.max() > 0x7C00 else (0.0, 0.0)
    return values.min().item(), values.max().item()
