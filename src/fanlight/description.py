"""What a model is made of, as plain data and as a table. In: what was loaded. Knows no decoding and no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import TYPE_CHECKING, Any

from fanlight.decoding.defaults import ModelDefaults
from fanlight.models.weights import StoredArray, short

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops
    from fanlight.models.base import DecoderConfig
    from fanlight.models.weights import LoadReport
    from fanlight.text.tokenizer import AnyTokenizer

LABELS = {
    "embed": "token embedding",
    "positions": "position embedding",
    "segments": "segment embedding",
    "embed_norm": "norm of the embedding",
    "w_in": "into the blocks' width",
    "attn_norm": "norm before attention",
    "w_q": "queries",
    "w_k": "keys",
    "w_v": "values",
    "w_qkv": "queries, keys, values",
    "q_norm": "norm of queries",
    "k_norm": "norm of keys",
    "w_o": "attention output",
    "attn_post_norm": "norm after attention",
    "mlp_norm": "norm before feed-forward",
    "w_gate": "feed-forward gate",
    "w_up": "feed-forward up",
    "w_gate_up": "feed-forward gate and up",
    "w_down": "feed-forward down",
    "mlp_post_norm": "norm after feed-forward",
    "norm": "final norm",
    "w_out": "out of the blocks' width",
    "head": "language-model head",
    "w_span": "answer head",
}
"""Short canonical name -> what it is. A name that is not here stands for itself."""
TABLES = ("embed", "positions", "segments")
"""Whose rows are looked up: a number in, a row out."""
AFTER_BLOCKS = ("norm", "norm_bias", "w_out", "head", "head_bias", "w_span", "b_span")


@dataclass(frozen=True, slots=True)
class StackRow:
    """One part of the stack of blocks, or a sum of parts."""

    label: str
    shape: tuple[int, ...]
    """Of a matrix (out, in), of a table (columns, rows); () of a sum."""
    n_parameters: int
    dtypes: tuple[str, ...]
    n_bytes: int
    """As stored."""
    depth: int = 0
    """1 inside a block."""
    count: int = 1
    """How many alike there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a model is made of. `str()` of it is a table."""

    name: str
    path: str
    format: str
    model_type: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    n_ffn: int
    n_vocab: int
    n_ctx: int
    n_parameters: int
    is_encoder: bool
    """Every token sees all others; there is no language-model head."""
    norm: str
    """Where norms stand in a block: "before", "after", "both"."""
    parallel: bool
    """Attention and feed-forward read the same input."""
    activation: str
    gated: bool
    """Whether a gate multiplies the feed-forward's inner values."""
    tied_head: bool
    head_bias: bool
    stored_bytes: Mapping[str, int]
    """By type."""
    packed_bytes: int
    cache_bytes_per_token: int
    positions: str
    """How the model knows positions, in words."""
    windows: tuple[int, ...]
    """How many positions each layer sees, 0 for all; empty: all see all."""
    bos: str | None
    eos: tuple[str, ...]
    has_chat_template: bool
    chat_template_chars: int
    defaults: Mapping[str, Any]
    """The model's own settings."""
    defaults_origin: str
    """Where they come from; "": there are none."""
    defaults_ignored: Mapping[str, Any]
    """Settings that it asks for and Fanlight has no option for."""
    kernels: str
    threads: int
    conversions: tuple[str, ...]
    unread: tuple[str, ...]
    arrays: tuple[StoredArray, ...]
    """Every array as it was read; empty where another library read them."""

    def stack(self) -> list[StackRow]:
        """The parts from the embedding to the head, with the first block opened."""
        before = [a for a in self.arrays if "." not in a.name and a.name not in AFTER_BLOCKS]
        after = [a for a in self.arrays if a.name in AFTER_BLOCKS]
        blocks: dict[str, list[StoredArray]] = {}
        for array in self.arrays:
            if array.name.startswith("blocks."):
                blocks.setdefault(array.name.split(".")[1], []).append(array)
        rows = [_row(array, self.norm, self.n_embd) for array in before]
        if blocks:
            every = [array for block in blocks.values() for array in block]
            rows.append(_sum(f"{len(blocks)} blocks" if len(blocks) > 1 else "1 block", every, count=len(blocks)))
            rows += [_row(array, self.norm, self.n_embd, depth=1) for array in blocks["0"]]
        rows += [_row(array, self.norm, self.n_embd) for array in after]
        if self.tied_head and self.arrays:
            rows.append(StackRow("language-model head: the embedding", (self.n_vocab, self.n_embd), 0, (), 0))
        return rows

    @property
    def facts(self) -> dict[str, str]:
        """The table's lines: name and text."""
        types = sorted(self.stored_bytes.items(), key=lambda item: -item[1])
        window = self.cache_bytes_per_token * self.n_ctx
        kind = self.model_type + (", encoder" if self.is_encoder else "")
        memory = f"{self.packed_bytes / 1e6:.1f} MB of weights"
        cache = (
            f", {self.cache_bytes_per_token / 1e3:.1f} kB of cache a token, {window / 1e6:.1f} MB for the whole window"
        )
        head = f"{self.n_embd} in, {self.n_vocab} out, {'a' if self.head_bias else 'no'} bias"
        rows = {
            "model": f"{self.name} ({kind}, {_millions(self.n_parameters)} parameters)",
            "file": f"{self.path} ({self.format})",
            "stored as": ", ".join(f"{dtype} {size / 1e6:.1f} MB" for dtype, size in types),
            "in memory": memory + (cache if self.cache_bytes_per_token else ""),
            "blocks": f"n_layer {self.n_layer}, n_embd {self.n_embd}, n_ffn {self.n_ffn}",
            "attention": f"n_head {self.n_head}, n_kv_head {self.n_kv_head}, head_dim {self.head_dim}, n_ctx {self.n_ctx}",
            "positions": self.positions + _windows(self.windows),
            "head": "none" if self.is_encoder else head + (", tied to the embedding" if self.tied_head else ""),
            "tokens": f"n_vocab {self.n_vocab}, bos {self.bos or 'none'}, eos {' '.join(self.eos) or 'none'}",
            "chat template": f"yes, {self.chat_template_chars} characters" if self.has_chat_template else "no",
            "settings": _settings(self.defaults, self.defaults_origin),
            "kernels": f"{self.kernels}, {self.threads} thread{'s' if self.threads != 1 else ''}",
        }
        if self.defaults_ignored:
            rows["not applied"] = ", ".join(f"{name} {value}" for name, value in self.defaults_ignored.items())
        if self.conversions:
            rows["converted"] = _several(self.conversions)
        rows["not read"] = _several(self.unread) if self.unread else "nothing: every tensor of the file was read"
        if self.format == "transformers":
            rows["not read"] = "by Fanlight: transformers reads and computes this model"
        if self.is_encoder:
            del rows["settings"], rows["chat template"]
        return rows

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from fanlight.views.notebook import html_of

        return html_of(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<14} {value}" for name, value in self.facts.items())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, arrays as objects."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["arrays"] = [{**array._asdict(), "n_parameters": prod(array.shape)} for array in self.arrays]
        found["cache_bytes_for_window"] = self.cache_bytes_per_token * self.n_ctx
        return found


def describe(
    name: str,
    config: DecoderConfig,
    tokenizer: AnyTokenizer,
    report: LoadReport,
    ops: Ops,
    *,
    defaults: ModelDefaults | None = None,
    cache_bytes_per_token: int = 0,
    is_encoder: bool = False,
) -> Description:
    """Sizes, types, memory, special tokens, settings, and every array."""
    c, label, own = config, tokenizer.token_label, defaults or ModelDefaults()
    names = {short(array.name) for array in report.arrays}
    template = tokenizer.chat_template
    return Description(
        name=name,
        path=report.path,
        format=report.format,
        model_type=c.model_type,
        n_layer=c.n_layer,
        n_head=c.n_head,
        n_kv_head=c.n_kv_head,
        n_embd=c.n_embd,
        head_dim=c.head_dim,
        n_ffn=c.n_ffn,
        n_vocab=c.n_vocab,
        n_ctx=c.n_ctx,
        n_parameters=report.n_parameters,
        is_encoder=is_encoder,
        norm=_norm(c, names, is_encoder),
        parallel=c.parallel_residual,
        activation=c.activation,
        gated=bool({"w_gate", "w_gate_up"} & names),
        tied_head=c.tied_head,
        head_bias=bool({"head_bias", "b_head"} & names),
        stored_bytes=dict(report.dtypes),
        packed_bytes=report.packed_bytes,
        cache_bytes_per_token=cache_bytes_per_token,
        positions=_positions(c),
        windows=c.windows,
        bos=None if tokenizer.bos_id is None else label(tokenizer.bos_id),
        eos=tuple(label(token) for token in tokenizer.eos_ids),
        has_chat_template=template is not None,
        chat_template_chars=len(template or ""),
        defaults=own.values,
        defaults_origin=own.origin,
        defaults_ignored=own.ignored,
        kernels=ops.name,
        threads=ops.get_threads(),
        conversions=tuple(report.conversions),
        unread=tuple(report.unread),
        arrays=tuple(report.arrays),
    )


def _norm(c: DecoderConfig, names: set[str], is_encoder: bool) -> str:
    if {"attn_post_norm", "mlp_post_norm"} <= names:
        return "both" if "attn_norm" in names else "after"
    return "after" if is_encoder or not c.norm_first else "before"


def _millions(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n:,}"


def _positions(c: DecoderConfig) -> str:
    if c.rope is None:
        return f"learned, {c.n_ctx_declared} of them" if c.n_ctx_declared else "as transformers does it"
    share = "" if c.rope.n_rotated == c.head_dim else f", {c.rope.n_rotated} of {c.head_dim} dimensions"
    scaled = "" if c.rope.kind == "default" else f", {c.rope.kind} scaling by {c.rope.factor:g}"
    blind = c.rope_layers.count(False)
    return f"rotary, theta {c.rope.theta:g}{share}{scaled}" + (f", none in {blind} layers" if blind else "")


def _windows(windows: Sequence[int]) -> str:
    seeing = [window for window in windows if window]
    return f"; {len(seeing)} of {len(windows)} layers see {max(seeing)}" if seeing else ""


def _settings(values: Mapping[str, Any], origin: str) -> str:
    if not origin:
        return "none of its own"
    said = ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing that differs from the defaults"
    return f"{said} ({origin})"


def _several(items: Sequence[str], limit: int = 6) -> str:
    return "; ".join(items[:limit]) + (f"; and {len(items) - limit} more" if len(items) > limit else "")


def is_turned(array: StoredArray, n_embd: int) -> bool:
    """Whether a block's matrix is stored (in, out), as GPT-2's are: what reads the residual stream takes n_embd in."""
    if len(array.shape) != 2 or not array.name.startswith("blocks."):
        return False
    n_in, n_out = array.shape[::-1]
    at_stream, other = (n_out, n_in) if short(array.name) in ("w_down", "w_o") else (n_in, n_out)
    return at_stream != n_embd == other


def _row(array: StoredArray, norm: str, n_embd: int, depth: int = 0) -> StackRow:
    name = short(array.name)
    bias = name.startswith("b_") or name.endswith("_bias")
    base = "w_" + name[2:] if name.startswith("b_") else name.removesuffix("_bias")
    label = LABELS.get(base, base) + (", bias" if bias else "")
    if norm == "after" and base in ("attn_norm", "mlp_norm"):
        label = label.replace("before", "after")
    shape = array.shape[::-1] if base in TABLES or is_turned(array, n_embd) else array.shape
    return StackRow(label, shape, prod(array.shape), (array.dtype,), array.n_bytes, depth)


def shape_in_words(shape: Sequence[int]) -> str:
    """(1536, 576) -> "576 -> 1536": a matrix takes its columns in and gives its rows out."""
    return " -> ".join(map(str, reversed(shape)))


def _sum(label: str, arrays: Sequence[StoredArray], count: int) -> StackRow:
    dtypes = tuple(dict.fromkeys(array.dtype for array in arrays))
    return StackRow(label, (), sum(prod(a.shape) for a in arrays), dtypes, sum(a.n_bytes for a in arrays), 0, count)
