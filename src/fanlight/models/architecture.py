"""What an architecture's file declares: its name map, its configuration keys, its class. In both formats, both ways.

A file's arrays and configuration keys go by other names in each format; both are written down once, as data, so that
reading a checkpoint, describing it and writing it in the other format all follow the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.errors import CheckpointError, OptionError
from fanlight.models.base import Decoder, DecoderConfig
from fanlight.models.encoder import BidirectionalEncoder, EncoderConfig
from fanlight.models.fields import HF_ACTIVATIONS, Fields
from fanlight.models.rope import RopeConfig, rope_from_gguf, rope_from_hf

if TYPE_CHECKING:
    from fanlight.checkpoints.arrays import Checkpoint
    from fanlight.models.weights import Weights

SAFETENSORS, GGUF = "safetensors", "gguf"
ROPE_ARRAYS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
LAST = ("norm", "norm_bias", "head")
SLIDING, FULL = "sliding_attention", "full_attention"
"""transformers' names for the kinds of layers."""
FORMATS = (SAFETENSORS, GGUF)
Values = dict[str, Any]
"""Fields of DecoderConfig by name."""


class Key(NamedTuple):
    """One field of DecoderConfig, and what the formats call it."""

    field: str
    hf: str | None = None
    gguf: str | None = None
    """Without the architecture's prefix."""
    kind: str = "size"
    """size (from 1), number (above 0), flag, cap (a number; 0 or null: none), activation, gate (of a gated matrix)."""
    default: Any = None
    """None: the key must be there. Of an activation, in the words of the ops. A function gets the values read so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a format stores the arrays of an architecture. Short names are canonical ones without "blocks.{i}."."""

    names: Mapping[str, str]
    """Stored name -> canonical name, "{i}" standing for a block's number in both."""
    row_order: Mapping[str, Callable[[DecoderConfig], Sequence[int]]] = field(default_factory=dict)
    """Short name -> the stored row of each row, where a format shuffles them; for a matrix and for its bias."""
    offset: Mapping[str, float] = field(default_factory=dict)
    """Short name of a vector -> what is added to the stored values."""
    transposed: frozenset[str] = frozenset()
    """Short names of matrices stored as (n_in, n_out)."""
    ignored: tuple[str, ...] = ()
    """Endings of stored names that hold no weights."""
    essential: tuple[str, ...] = ()
    """Beginnings of stored names that may not be left unread: see Weights.finish."""
    prefixes: tuple[str, ...] = ()
    """What stored names may begin with, but for `bare` ones; the first with which any name of the map is found holds for all."""
    bare: frozenset[str] = frozenset(("head",))
    """Canonical names of arrays that never have a prefix."""
    older: Mapping[str, str] = field(default_factory=dict)
    """Ending of a stored name -> what older files have instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One family of models."""

    model_type: str
    hf_class: str
    """What config.json says under "architectures"."""
    keys: tuple[Key, ...]
    layouts: Mapping[str, Layout]
    build: Callable[[Any, Weights], Decoder | BidirectionalEncoder]
    """Gets a `config`."""
    config: type[DecoderConfig] = DecoderConfig
    """EncoderConfig: an encoder."""
    refine: Callable[[Source, Values], None] = lambda source, values: None
    """Reads what a key alone does not say (rotation, windows, biases), and refuses what is not implemented."""
    to_hf: Callable[[Any], Values] = lambda config: {}
    """What config.json holds besides the keys."""
    to_gguf: Callable[[Any], tuple[Values, dict[str, list[float]]]] = lambda config: ({}, {})
    """Metadata besides the keys, and small arrays that the format keeps beside the weights (factors of rotation)."""
    gguf_name: str = ""
    """general.architecture; "": as model_type."""
    gguf_head: bool = False
    """Whether llama.cpp wants the head's array in the file even where it is the embedding."""
    tied_head: bool = False
    """What config.json means where it does not say whether the head is the embedding."""

    @property
    def gguf(self) -> str:
        """What GGUF files call it."""
        return self.gguf_name or self.model_type

    @property
    def is_encoder(self) -> bool:
        """Whether it reads texts and writes none."""
        return issubclass(self.config, EncoderConfig)


class Source(NamedTuple):
    """A checkpoint's configuration while it is read."""

    arch: Architecture
    checkpoint: Checkpoint
    config: Mapping[str, Any]
    """GGUF metadata, or config.json."""
    n_ctx: int | None = None
    """The window asked for."""

    @property
    def is_gguf(self) -> bool:
        return self.checkpoint.format == GGUF

    @property
    def path(self) -> str:
        return self.checkpoint.path

    @property
    def fields(self) -> Fields:
        """Typed access to the configuration."""
        return Fields(self.config, self.path, prefix=f"{self.arch.gguf}." if self.is_gguf else "")

    def floats(self, stored: str) -> list[float] | None:
        """The values of a small float32 array, by its stored name; None if there is none. CheckpointError: another type."""
        found = self.checkpoint.arrays.get(stored)
        if found is None:
            return None
        if found.dtype != "F32" or len(found.shape) != 1:
            raise CheckpointError(
                f"{self.path}: tensor {stored!r} is {found.dtype} of shape {found.shape}, expected a float32 vector; "
                "get another file of this model"
            )
        return list(memoryview(bytes(found.data)).cast("f"))

    def stores(self, canonical: str) -> bool:
        """Whether the checkpoint has this array (of the first block, where every block has one)."""
        arrays = self.checkpoint.arrays
        stored = stored_names(self.arch.layouts[self.checkpoint.format], arrays).get(canonical)
        return stored is not None and stored.replace("{i}", "0") in arrays


def stored_names(layout: Layout, arrays: Mapping[str, Any]) -> dict[str, str]:
    """Canonical name -> stored name in this checkpoint, "{i}" standing for a block's number in both."""
    prefix = next(
        (p for p in layout.prefixes if any(p + stored.replace("{i}", "0") in arrays for stored in layout.names)),
        layout.prefixes[0] if layout.prefixes else "",
    )
    full = {name: stored if name in layout.bare else prefix + stored for stored, name in layout.names.items()}
    for new, old in layout.older.items():
        before = {name: stored.removesuffix(new) + old for name, stored in full.items() if stored.endswith(new)}
        full.update({name: stored for name, stored in before.items() if stored.replace("{i}", "0") in arrays})
    return full


def canonical_names(layout: Layout, arrays: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(canonical name, stored name) of every array that the map knows, in the map's order, block by block."""
    general = stored_names(layout, arrays)
    for name, stored in general.items():
        if "{i}" not in stored and stored in arrays and name not in LAST:
            yield name, stored
    blocks = {name: stored for name, stored in general.items() if "{i}" in stored}
    i = 0
    while any(stored.replace("{i}", str(i)) in arrays for stored in blocks.values()):
        for name, stored in blocks.items():
            if (found := stored.replace("{i}", str(i))) in arrays:
                yield name.replace("{i}", str(i)), found
        i += 1
    for name in LAST:
        if name in general and general[name] in arrays:
            yield name, general[name]


def read_config(source: Source) -> DecoderConfig:
    """The sizes and switches of a checkpoint, checked. Errors: CheckpointError; OptionError for a window that it has not."""
    f, values = source.fields, Values(model_type=source.arch.model_type)
    for key in source.arch.keys:
        name = key.gguf if source.is_gguf else key.hf
        values[key.field] = (
            _default(source, key, values) if name is None else f.read(key.kind, name, _default(source, key, values))
        )
    tied = not source.stores("head") if source.is_gguf else f.flag("tie_word_embeddings", source.arch.tied_head)
    values["tied_head"], values["n_ctx_declared"] = tied, values["n_ctx"]
    source.arch.refine(source, values)
    most = max(values["n_ctx_declared"], values["n_ctx"])
    if source.n_ctx is not None:
        if not 1 <= source.n_ctx <= most:
            raise OptionError(f"n_ctx must be from 1 to {most}, the context window of this model: got {source.n_ctx}")
        values["n_ctx"] = source.n_ctx
    return _checked(source.arch.config(**values), source.path)


def _default(source: Source, key: Key, values: Values) -> Any:
    """What a missing key means. A plain default is that of transformers' configuration classes; GGUF files state all."""
    if callable(key.default):
        return key.default(values)
    if source.is_gguf and key.field == "n_vocab":
        tokens = source.config.get("tokenizer.ggml.tokens")
        return len(tokens) if isinstance(tokens, list) else None
    return None if source.is_gguf and key.gguf is not None else key.default


def write_hf_config(arch: Architecture, config: DecoderConfig) -> Values:
    """config.json of this model. Errors: CheckpointError where transformers' class has no word for it."""
    names = {key.hf: _spelled(key, _stored_value(key, config)) for key in arch.keys if key.hf is not None}
    return {
        "architectures": [arch.hf_class],
        "model_type": arch.model_type,
        **names,
        "tie_word_embeddings": config.tied_head,
        **arch.to_hf(config),
    }


def write_gguf_config(arch: Architecture, config: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """GGUF metadata of this model under full keys, and the small arrays that go with it. Errors: CheckpointError where the
    format knows no such model.
    """
    if GGUF not in arch.layouts:
        raise CheckpointError(f"GGUF has no form of {arch.model_type}; write a folder instead")
    more, arrays = arch.to_gguf(config)
    own = {
        key.gguf: _stored_value(key, config)
        for key in arch.keys
        if key.gguf is not None and key.kind not in ("activation", "gate")
    }
    values = {f"{arch.gguf}.{name}": value for name, value in {**own, **more}.items() if value is not None}
    return {"general.architecture": arch.gguf, **values}, arrays


def _stored_value(key: Key, config: DecoderConfig) -> Any:
    return config.n_ctx_declared or config.n_ctx if key.field == "n_ctx" else getattr(config, key.field)


def refuse_for_gguf(config: DecoderConfig, facts: Mapping[str, bool]) -> None:
    """What a GGUF file of this architecture takes for granted, and whether it holds. Errors: CheckpointError."""
    for fact, holds in facts.items():
        if not holds:
            raise CheckpointError(
                f"a GGUF file of {config.model_type} has {fact}, because llama.cpp knows nothing else; "
                "this model differs: keep it in safetensors"
            )


def _spelled(key: Key, value: Any) -> Any:
    if key.kind in ("activation", "gate"):
        return HF_ACTIVATIONS[value][0]
    return None if key.kind == "cap" and not value else value


def _checked(c: DecoderConfig, path: str) -> DecoderConfig:
    if c.n_head % c.n_kv_head:
        raise CheckpointError(f"{path}: n_head is {c.n_head}, expected a multiple of n_kv_head {c.n_kv_head}")
    if c.rope is not None and (c.rope.n_rotated % 2 or c.rope.n_rotated > c.head_dim):
        raise CheckpointError(
            f"{path}: rotary positions turn {c.rope.n_rotated} dimensions of a head of {c.head_dim}, "
            "expected an even number, at most as many"
        )
    for item in fields(c):
        value = getattr(c, item.name)
        if isinstance(value, tuple) and value and len(value) != c.n_layer:
            raise CheckpointError(
                f"{path}: {len(value)} entries of {item.name}, expected one for each of {c.n_layer} layers"
            )
    return c


def hf_rope(source: Source, values: Values, layer_type: str | None = None, theta: float = 10000.0) -> RopeConfig:
    """Rotation as config.json describes it."""
    sizes = {"head_dim": values["head_dim"], "n_ctx": values["n_ctx"]}
    return rope_from_hf(source.config, source.path, layer_type=layer_type, theta=theta, **sizes)


def gguf_rope(source: Source, values: Values) -> RopeConfig:
    """Rotation as GGUF metadata and the arrays beside the weights describe it."""
    found = {name: source.floats(name) for name in ROPE_ARRAYS}
    factors = {name: numbers for name, numbers in found.items() if numbers is not None}
    sizes = {"head_dim": values["head_dim"], "n_ctx": values["n_ctx"]}
    return rope_from_gguf(source.config, source.arch.gguf, source.path, factors=factors, **sizes)


def hf_windows(source: Source, n_layer: int, layer_types: Sequence[str] | None = None) -> tuple[int, ...]:
    """How many positions each layer sees, as config.json says it: sliding_window and, where there are any, layer_types."""
    f = source.fields
    types = f.value("layer_types", layer_types)
    if types is None:
        return ()
    if not isinstance(types, Sequence) or any(kind not in (SLIDING, FULL) for kind in types):
        raise f.refuse("layer_types", f"expected a list of {SLIDING!r} and {FULL!r}")
    if f.value("sliding_window") is None or SLIDING not in types:
        return ()
    window = f.size("sliding_window")
    return tuple(window if kind == SLIDING else 0 for kind in types)


def hf_layer_types(config: DecoderConfig) -> Values:
    """sliding_window and layer_types of config.json."""
    if not config.windows:
        return {"sliding_window": None}
    return {
        "sliding_window": max(config.windows),
        "layer_types": [SLIDING if window else FULL for window in config.windows],
    }
