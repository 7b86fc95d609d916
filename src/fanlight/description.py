"""What a model is made of, as plain data and as a table. In: what `loading` made. Knows no decoding and no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from fanlight.models.weights import StoredArray, short

if TYPE_CHECKING:
    from fanlight.loading import Loaded

LABELS = {
    "embed": "token embedding",
    "positions": "position embedding",
    "project_in": "into the blocks' width",
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
    "project_out": "out of the blocks' width",
    "head": "language-model head",
}
"""Short canonical name -> what it is. A name that is not here stands for itself."""
AFTER_BLOCKS = ("norm", "norm_bias", "project_out", "head")


@dataclass(frozen=True, slots=True)
class StackRow:
    """One part of the stack of blocks, or a sum of parts."""

    label: str
    shape: tuple[int, ...]
    """Of a matrix (out, in); () of a sum."""
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
        rows = [_row(array) for array in before]
        if blocks:
            every = [array for block in blocks.values() for array in block]
            rows.append(_sum(f"{len(blocks)} blocks" if len(blocks) > 1 else "1 block", every, count=len(blocks)))
            rows += [_row(array, depth=1) for array in blocks["0"]]
        rows += [_row(array) for array in after]
        if self.tied_head and self.arrays:
            rows.append(StackRow("language-model head (the token embedding)", (self.n_vocab, self.n_embd), 0, (), 0))
        return rows

    def __str__(self) -> str:
        stored = ", ".join(
            f"{dtype} {size / 1e6:.1f} MB"
            for dtype, size in sorted(self.stored_bytes.items(), key=lambda item: -item[1])
        )
        head = f"{self.n_embd} in, {self.n_vocab} out, {'a' if self.head_bias else 'no'} bias"
        rows = {
            "model": f"{self.name} ({self.model_type}, {self.n_parameters / 1e6:.1f} M parameters)",
            "file": f"{self.path} ({self.format})",
            "stored as": stored,
            "in memory": f"{self.packed_bytes / 1e6:.1f} MB of weights, {self.cache_bytes_per_token / 1e3:.1f} kB of cache a token",
            "blocks": f"n_layer {self.n_layer}, n_embd {self.n_embd}, n_ffn {self.n_ffn}",
            "attention": f"n_head {self.n_head}, n_kv_head {self.n_kv_head}, head_dim {self.head_dim}, n_ctx {self.n_ctx}",
            "positions": self.positions + _windows(self.windows),
            "head": head + (", tied to the embedding" if self.tied_head else ""),
            "tokens": f"n_vocab {self.n_vocab}, bos {self.bos or 'none'}, eos {' '.join(self.eos) or 'none'}",
            "chat template": "yes" if self.has_chat_template else "no",
            "settings": _settings(self.defaults, self.defaults_origin),
            "kernels": f"{self.kernels}, {self.threads} thread{'s' if self.threads != 1 else ''}",
        }
        if self.defaults_ignored:
            rows["not applied"] = ", ".join(f"{name} {value}" for name, value in self.defaults_ignored.items())
        if self.conversions:
            rows["converted"] = _several(self.conversions)
        if self.unread:
            rows["not read"] = _several(self.unread)
        return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def describe(parts: Loaded) -> Description:
    """Sizes, types, memory, special tokens, settings, and every array."""
    c, report, tokenizer, ops = parts.decoder.config, parts.report, parts.tokenizer, parts.decoder.ops
    pool, label = parts.decoder.new_pool(), parts.tokenizer.token_label
    return Description(
        name=parts.name,
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
        tied_head=c.tied_head,
        head_bias=any(array.name == "head_bias" for array in report.arrays),
        stored_bytes=dict(report.dtypes),
        packed_bytes=report.packed_bytes,
        cache_bytes_per_token=pool.page_bytes // pool.page_tokens,
        positions=_positions(parts),
        windows=c.windows,
        bos=None if tokenizer.bos_id is None else label(tokenizer.bos_id),
        eos=tuple(label(token) for token in tokenizer.eos_ids),
        has_chat_template=tokenizer.chat_template is not None,
        defaults=parts.defaults.values,
        defaults_origin=parts.defaults.origin,
        defaults_ignored=parts.defaults.ignored,
        kernels=ops.name,
        threads=ops.get_threads(),
        conversions=tuple(report.conversions),
        unread=tuple(report.unread),
        arrays=tuple(report.arrays),
    )


def _positions(parts: Loaded) -> str:
    c = parts.decoder.config
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


def _row(array: StoredArray, depth: int = 0) -> StackRow:
    name = short(array.name)
    bias = name.startswith("b_") or name.endswith("_bias")
    base = "w_" + name[2:] if name.startswith("b_") else name.removesuffix("_bias")
    label = LABELS.get(base, base) + (", bias" if bias else "")
    return StackRow(label, array.shape, prod(array.shape), (array.dtype,), array.n_bytes, depth)


def _sum(label: str, arrays: Sequence[StoredArray], count: int) -> StackRow:
    dtypes = tuple(dict.fromkeys(array.dtype for array in arrays))
    return StackRow(label, (), sum(prod(a.shape) for a in arrays), dtypes, sum(a.n_bytes for a in arrays), 0, count)
