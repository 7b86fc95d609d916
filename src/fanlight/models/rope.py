"""Rotary positions as plain data. In: config.json, or GGUF metadata and factors. Out: inverse frequencies, and both forms again.

Position p turns pair i of a head by p * inv_freq[i]. Kinds: default (Su et al. 2021), linear (Chen et al. 2023), dynamic (bloc97,
emozilla), yarn (Peng et al. 2023), llama3 (Llama 3.1), longrope (Ding et al. 2024; Phi-3). Formulas are those of transformers'
modeling_rope_utils.py, GGUF's keys and their meaning those of llama.cpp. Knows no tensor, no op, no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from operator import mul
from typing import Any

from fanlight.errors import CheckpointError
from fanlight.models.fields import Fields

KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
SMALLEST, LARGEST = 1e-18, 1e18  # beyond, powers of theta and quotients leave the range of floats
LARGEST_FACTOR = 3.4e38  # files write 1e30 and more for a pair that does not turn

FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"  # GGUF's tensors
PHI3_N_ORIGINAL = 4096  # transformers' Phi3Config: counts when config.json does not name it on its first level
LLAMA3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "n_original": 8192}  # Llama 3.1 to 3.3
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
# What other architectures have under rope.scaling; any other number would change the angles.
GGUF_FIXED = {"alpha": 1.0, "yarn_log_multiplier": 0.0, "yarn_ext_factor": 1.0, "yarn_attn_factor": 1.0}

HF_NUMBERS = {  # kind: numbers in "rope_parameters" besides those of every kind; llama3 must have its own
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "longrope": ("attention_factor", "short_mscale", "long_mscale"),
}
HF_KEYS = {
    *("type", "rope_type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
    *("truncate", "short_factor", "long_factor"),
    *(key for keys in HF_NUMBERS.values() for key in keys),
    "finetuned",  # a remark of early YaRN checkpoints, without effect
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """How the heads of a layer turn. Errors: CheckpointError for numbers that no checkpoint can mean."""

    n_rotated: int  # the first dimensions of a head turn, an even number of them
    theta: float
    head_dim: int | None = None  # None: n_rotated, the whole head
    kind: str = "default"
    factor: float = 1.0  # how much the context window was stretched
    n_original: int | None = None  # the context window before that
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None  # of cosines and sines; None: what the kind says
    short_factors: tuple[float, ...] | None = None  # longrope, (n_rotated / 2,)
    long_factors: tuple[float, ...] | None = None
    short_mscale: float | None = None  # both given: instead of attention_factor, as in PhiMoE
    long_mscale: float | None = None
    freq_factors: tuple[float, ...] | None = None  # GGUF's rope_freqs.weight, (n_rotated / 2,): divide the frequencies

    def __post_init__(self) -> None:
        head_dim, low = self.n_rotated if self.head_dim is None else self.head_dim, self.low_freq_factor
        if self.n_rotated % 2 or not 2 <= self.n_rotated <= head_dim:
            expected = f"expected an even number from 2 to {head_dim}"
            raise CheckpointError(f"rotary positions turn {self.n_rotated} dimensions of a head; {expected}")
        for name in ("theta", "factor", *(key for keys in HF_NUMBERS.values() for key in keys)):
            value = getattr(self, name)
            if value is not None and not SMALLEST <= value <= LARGEST:
                raise CheckpointError(f"rotary {name} is {value!r}; expected a number from {SMALLEST} to {LARGEST}")
        for name in ("short_factors", "long_factors", "freq_factors"):
            if getattr(self, name) is not None:
                _numbers(getattr(self, name), f"rotary {name}", self.n_rotated // 2)
        for kinds, wanted, holds, name in (
            ((self.kind,), f"one of {', '.join(KINDS)}", self.kind in KINDS, "kind"),
            (KINDS[2:], "a window of at least 2 before scaling", (self.n_original or 0) > 1, "n_original"),
            (("yarn",), "a theta over 1", self.theta > 1, "theta"),
            (("yarn",), f"at least beta_slow {self.beta_slow}", self.beta_fast >= self.beta_slow, "beta_fast"),
            (("llama3",), f"over low_freq_factor {low}", self.high_freq_factor > low, "high_freq_factor"),
            (("longrope",), "a list", self.short_factors is not None, "short_factors"),
            (("longrope",), "a list", self.long_factors is not None, "long_factors"),
            (("dynamic", "longrope"), "none", self.freq_factors is None, "freq_factors"),
            (("dynamic",), "none", self.attention_factor is None, "attention_factor"),
        ):
            if self.kind in kinds and not holds:
                raise CheckpointError(
                    f"rotary {name} is {repr(getattr(self, name))[:80]}; {self.kind} expects {wanted}"
                )

    def inv_freq(self, n_ctx: int) -> tuple[list[list[float]], float]:
        """Rows of inverse frequencies, (n_rotated / 2,) each, and the factor of cosines and sines.

        `n_ctx` is the window that the model runs with. Row p is that of position p, the last row that of all positions beyond, so
        that one row is enough for every kind but `dynamic` in a window longer than `n_original`. There position p turns as the last
        one of a text of p + 1 positions (equal rows are one object). transformers computes the same token by token; when it
        prefills a long prompt at once, it uses the prompt's length for all of its positions, so that numbers depend on how a text
        was cut into calls. Here they depend on the position alone.

        `longrope` takes the short factors if `n_ctx` fits into `n_original` and else the long ones, for all positions, as llama.cpp
        does; transformers changes from one to the other as the text grows.
        """
        if self.kind == "dynamic" and n_ctx > self._original:
            grown = (self._dynamic_row(n_text) for n_text in range(self._original + 1, n_ctx + 1))
            return [*repeat(self._plain_row(), self._original), *grown], 1.0
        row = self._row(n_ctx)
        if self.freq_factors is not None:
            row = [freq / f for freq, f in zip(row, self.freq_factors, strict=True)]
        return [row], self._attention(n_ctx)

    @property
    def _original(self) -> int:
        assert self.n_original is not None  # __post_init__ asks for it where it is used
        return self.n_original

    def _plain_row(self) -> list[float]:
        return [self.theta ** (-2 * i / self.n_rotated) for i in range(self.n_rotated // 2)]

    def _dynamic_row(self, n_text: int) -> list[float]:
        """Theta grows with the text so that the slowest pair turns `factor` times slower per window that the text is too long."""
        if self.n_rotated == 2:
            return [1.0]
        stretch = self.factor * n_text / self._original - (self.factor - 1)
        theta = self.theta * stretch ** (self.n_rotated / (self.n_rotated - 2))
        step = theta ** (-2 / self.n_rotated)
        return list(accumulate(repeat(step, self.n_rotated // 2 - 1), mul, initial=1.0))

    def _row(self, n_ctx: int) -> list[float]:
        row = self._plain_row()
        if self.kind == "linear":
            return [freq / self.factor for freq in row]
        if self.kind == "llama3":
            return [self._llama3(freq) for freq in row]
        if self.kind == "yarn":
            low, high = self._yarn_range()
            shares = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(row))]
            return [freq * ((1 - share) + share / self.factor) for freq, share in zip(row, shares, strict=True)]
        if self.kind == "longrope":
            factors = self.short_factors if n_ctx <= self._original else self.long_factors
            return [freq / f for freq, f in zip(row, factors or (), strict=True)]
        return row

    def _llama3(self, freq: float) -> float:
        """Pairs that turn often in the original window stay, those that hardly turn are stretched, between them a mixture."""
        turns = self._original * freq / (2 * math.pi)
        share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = min(max(share, 0.0), 1.0)
        return freq * (kept + (1 - kept) / self.factor)

    def _yarn_range(self) -> tuple[float, float]:
        """The pairs between which stretching sets in: they turn beta_fast and beta_slow times in the original window."""
        low, high = (
            self.n_rotated * math.log(self._original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.n_rotated - 1)
        return low, high + 0.001 if low == high else high

    def _attention(self, n_ctx: int) -> float:
        if self.kind == "longrope" and self.short_mscale is not None and self.long_mscale is not None:
            return self.short_mscale if n_ctx <= self._original else self.long_mscale
        if self.attention_factor is not None:
            return self.attention_factor
        if self.kind == "yarn":
            if self.mscale is not None and self.mscale_all_dim is not None:
                return _yarn_attention(self.factor, self.mscale) / _yarn_attention(self.factor, self.mscale_all_dim)
            return _yarn_attention(self.factor)
        if self.kind == "longrope" and self.factor > 1:
            return math.sqrt(1 + math.log(self.factor) / math.log(self._original))
        return 1.0


def _yarn_attention(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _numbers(values: object, name: str, n: int) -> tuple[float, ...]:
    """A list of n positive numbers as it stands in a file."""
    if not isinstance(values, list | tuple) or len(values) != n:
        found = f"holds {len(values)} values" if isinstance(values, list | tuple) else f"is {repr(values)[:80]}"
        raise CheckpointError(f"{name} {found}; expected {n} numbers, one for each pair of dimensions that turns")
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not SMALLEST <= value <= LARGEST_FACTOR:
            found = f"{name}[{i}] is {repr(value)[:80]}"
            raise CheckpointError(f"{found}; expected a number from {SMALLEST} to {LARGEST_FACTOR}")
    return tuple(map(float, values))


def _checked(path: str, **values: Any) -> RopeConfig:
    try:
        return RopeConfig(**values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


# -- config.json --------------------------------------------------------------------------------------------------------


def rope_from_hf(
    config: Mapping[str, Any],
    path: str,
    *,
    head_dim: int,
    n_ctx: int,
    layer_type: str | None = None,
    theta: float = 10000.0,
    partial: float = 1.0,
) -> RopeConfig:
    """From config.json, of transformers 5 ("rope_parameters") or older ("rope_scaling", "rope_theta"). Errors: CheckpointError.

    `n_ctx` is max_position_embeddings. `theta` and `partial` (the part of a head that turns) are the architecture's own, for a file
    that names none. An architecture whose layers turn in different ways gives `layer_type`, "full_attention" or
    "sliding_attention"; in the old form (Gemma 3) the second has rope_local_base_freq for theta, and no scaling.
    """
    top = Fields(config, path)
    key = "rope_scaling" if top.group("rope_scaling") else "rope_parameters"
    group = top.group(key)
    nested = any(isinstance(value, Mapping) for value in group.values())
    theta_key = "rope_theta" if config.get("rope_theta") is not None else "rotary_emb_base"  # the second: GPT-NeoX
    if layer_type is None and nested:
        raise CheckpointError(f"{path}: {key} differs between layers; in this architecture all layers turn alike")
    if layer_type is not None and key == "rope_parameters":
        if group and not nested:
            raise CheckpointError(f"{path}: {key} has no {layer_type}; expected an object for each type of layer")
        group, key = Fields(group, f"{path}: {key}").group(layer_type), f"{key}.{layer_type}"
    if layer_type == "sliding_attention":
        theta_key = "rope_local_base_freq"
        group = {} if key == "rope_scaling" else group
    unknown = sorted(str(name) for name, value in group.items() if value is not None and name not in HF_KEYS)
    if unknown:
        known = ", ".join(sorted(HF_KEYS))
        raise CheckpointError(f"{path}: {key} has {', '.join(unknown)[:80]}; Fanlight knows {known}")

    inner = Fields(group, f"{path}: {key}")
    kind_key = "type" if group.get("rope_type") is None else "rope_type"
    model_type = config.get("model_type")
    kind = group.get(kind_key) or "default"
    if kind == "su" or (kind == "yarn" and (model_type == "phi3" or group.get("short_factor") is not None)):
        kind = "longrope"  # as the first Phi-3 files call it
    else:
        inner.only(kind_key, *KINDS)
    part_key = "partial_rotary_factor" if config.get("partial_rotary_factor") is not None else "rotary_pct"
    part = inner.number("partial_rotary_factor", top.number(part_key, partial))
    if part > 1:
        raise CheckpointError(f"{path}: partial_rotary_factor is {part}; expected a part of the head, at most 1")
    n_rotated = int(head_dim * part)
    values: dict[str, Any] = {"kind": kind, "n_rotated": n_rotated, "head_dim": head_dim}
    values["theta"] = inner.number("rope_theta", top.number(theta_key, theta))
    if kind == "dynamic":
        values["n_original"] = n_ctx
    elif kind in KINDS[3:]:  # the first level counts before the group, as in transformers
        given = PHI3_N_ORIGINAL if model_type == "phi3" else inner.size("original_max_position_embeddings", n_ctx)
        values["n_original"] = top.size("original_max_position_embeddings", given)
    if kind in ("yarn", "longrope"):
        values["factor"] = inner.number("factor", n_ctx / values["n_original"])
    elif kind != "default":
        values["factor"] = inner.number("factor")
    for name in HF_NUMBERS.get(kind, ()):
        if kind == "llama3" or group.get(name) is not None:
            values[name] = inner.number(name)
    if kind == "yarn":
        values["truncate"] = inner.flag("truncate", True)
    if kind == "longrope":
        for name in ("short_factor", "long_factor"):
            values[name + "s"] = _numbers(group.get(name), f"{path}: {key}: {name}", n_rotated // 2)
    return _checked(path, **values)


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """The content of "rope_parameters" (transformers 5). Phi-3 has original_max_position_embeddings on the first level too.

    Factors from a GGUF file are written as llama3 if they are those of Llama 3.1 and its successors, else as longrope with equal
    lists: the same frequencies in every window.
    """
    head_dim = rope.head_dim or rope.n_rotated
    out: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.n_rotated < head_dim:
        part = rope.n_rotated / head_dim  # 1 / 49 * 49 < 1, and readers cut off
        out["partial_rotary_factor"] = part if int(head_dim * part) == rope.n_rotated else math.nextafter(part, 1)
    if rope.freq_factors is not None or (rope.attention_factor is not None and rope.kind not in ("yarn", "longrope")):
        return rope_to_hf(_in_hf_words(rope))
    if rope.kind != "default":
        out["factor"] = rope.factor
    if rope.kind in KINDS[3:]:
        out["original_max_position_embeddings"] = rope.n_original
    if rope.kind == "yarn":
        out["truncate"] = rope.truncate
    if rope.kind == "longrope":
        out |= {"short_factor": list(rope.short_factors or ()), "long_factor": list(rope.long_factors or ())}
    given = {name: getattr(rope, name) for name in HF_NUMBERS.get(rope.kind, ())}
    return out | {name: value for name, value in given.items() if value is not None}


def _in_hf_words(rope: RopeConfig) -> RopeConfig:
    """The same frequencies without freq_factors."""
    if rope.kind == "default" and rope.freq_factors is not None and rope.attention_factor in (None, 1.0):
        factor = min(max(rope.freq_factors), LARGEST)
        guess = replace(rope, kind="llama3", factor=factor, freq_factors=None, attention_factor=None, **LLAMA3)
        if all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(_ratios(guess), rope.freq_factors, strict=True)):
            return guess
    ratios, attention = tuple(_ratios(rope)), rope._attention(0)
    n_original = rope.n_original or PHI3_N_ORIGINAL  # without effect: the two lists are equal
    lists: dict[str, Any] = {"short_factors": ratios, "long_factors": ratios, "freq_factors": None}
    return replace(rope, kind="longrope", attention_factor=attention, n_original=n_original, **lists)


def _ratios(rope: RopeConfig) -> list[float]:
    """Plain frequencies over those of a kind whose rows do not depend on the window."""
    rows, _ = rope.inv_freq(0)
    return [plain / freq for plain, freq in zip(rope._plain_row(), rows[0], strict=True)]


# -- GGUF ---------------------------------------------------------------------------------------------------------------


def rope_from_gguf(
    metadata: Mapping[str, Any],
    arch: str,
    path: str,
    *,
    head_dim: int,
    n_ctx: int,
    factors: Mapping[str, Iterable[float]],
    layer_type: str | None = None,
) -> RopeConfig:
    """From GGUF metadata and the contents of the factor tensors that the file has, by name. Errors: CheckpointError.

    `n_ctx` is {arch}.context_length. `layer_type` as for `rope_from_hf`: "sliding_attention" (Gemma 3) has
    rope.freq_base_swa, 10000 if it is missing, and no scaling.
    """
    f = Fields(metadata, path, prefix=f"{arch}.rope.")
    values: dict[str, Any] = {"n_rotated": f.size("dimension_count", head_dim), "head_dim": head_dim}
    if layer_type == "sliding_attention":
        values["n_rotated"] = f.size("dimension_count_swa", values["n_rotated"])
        return _checked(path, theta=f.number("freq_base_swa", 10000.0), **values)
    for key, known in GGUF_FIXED.items():
        f.only(f"scaling.{key}", known)
    f.only("scaling.type", "linear", "none", "yarn", "longrope")
    kind = metadata.get(f"{arch}.rope.scaling.type") or "linear"  # llama.cpp: linear, by 1 if there is no factor
    factor = f.number("scaling.factor", f.number("scale_linear", 1.0))
    attention = f.number("scaling.attn_factor", 1.0)
    n_pairs = values["n_rotated"] // 2
    lists = {k: _numbers(list(map(float, v)), f"{path}: tensor {k!r}", n_pairs) for k, v in factors.items()}
    n_original = f.size("scaling.original_context_length", n_ctx)
    if kind == "longrope" or LONG in lists or SHORT in lists:
        if kind == "yarn" or factor != 1 or set(lists) != {LONG, SHORT}:
            found = (
                f"rope.scaling.type is {kind!r}, its factor {factor}, its tensors {', '.join(sorted(lists)) or 'none'}"
            )
            raise CheckpointError(f"{path}: {found}; expected {LONG} and {SHORT} alone, or neither")
        values |= {"kind": "longrope", "factor": n_ctx / n_original, "n_original": n_original}
        values |= {"attention_factor": attention, "short_factors": lists[SHORT], "long_factors": lists[LONG]}
    elif kind == "yarn":
        values |= {"kind": "yarn", "factor": factor, "n_original": n_original}
        values |= {name: f.number(f"scaling.yarn_{name}", default) for name, default in BETAS.items()}
        values["attention_factor"] = None if attention == 1 else attention * _yarn_attention(factor)
    else:
        values |= {"kind": "linear", "factor": factor} if kind == "linear" and factor != 1 else {}
        values["attention_factor"] = None if attention == 1 else attention
    return _checked(path, theta=f.number("freq_base", 10000.0), freq_factors=lists.get(FREQS), **values)


def rope_to_gguf(rope: RopeConfig) -> tuple[dict[str, int | float | str], dict[str, list[float]]]:
    """Metadata, to be written under "{arch}." + key, and tensors. Errors: CheckpointError for two mscales of longrope.

    What GGUF has no keys for (llama3, a yarn that is not truncated) becomes rope_freqs.weight: the same frequencies. `dynamic` is
    written as default, which it is inside the window that the file declares.
    """
    metadata: dict[str, int | float | str] = {"rope.dimension_count": rope.n_rotated, "rope.freq_base": rope.theta}
    tensors: dict[str, list[float]] = {}
    attention = 1.0 if rope.kind == "dynamic" else rope._attention(0)
    if rope.kind == "longrope":
        if rope.short_mscale != rope.long_mscale:
            raise CheckpointError(f"rotary mscales are {rope.short_mscale} and {rope.long_mscale}; GGUF has one")
        metadata |= {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": rope._original}
        tensors = {LONG: list(rope.long_factors or ()), SHORT: list(rope.short_factors or ())}
    elif rope.kind == "llama3" or (rope.kind == "yarn" and not rope.truncate):
        tensors[FREQS] = _ratios(rope)
    else:
        if rope.kind in ("linear", "yarn"):
            metadata |= {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.factor}
        if rope.kind == "yarn":
            metadata["rope.scaling.original_context_length"] = rope._original
            metadata |= {f"rope.scaling.yarn_{k}": getattr(rope, k) for k, v in BETAS.items() if getattr(rope, k) != v}
            attention /= _yarn_attention(rope.factor)  # llama.cpp multiplies by this
        if rope.freq_factors is not None:
            tensors[FREQS] = list(rope.freq_factors)
    if attention != 1:
        metadata["rope.scaling.attn_factor"] = attention
    return metadata, tensors
