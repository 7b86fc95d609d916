"""The interface of the kernels: what an op takes and returns. Knows arrays; knows no model, no text, no file.

Two modules implement it, with the same names: `reference` (NumPy; it *defines* every op) and `native` (C++; fast).
A model or a decoding step is handed one of them as `ops`, so that both can run side by side in one process.

Shapes: T rows (tokens of this call, of all sequences), E n_embd, V n_vocab. All values are float32 unless said otherwise.
Every row of a result depends on the same row of the input alone, summed in a fixed order: a row's bits do not change with the
number of rows, of threads, or of sequences in the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fanlight.kernels.ops_attention import CACHE_DTYPES, AttentionOps, KVBatch, KVPool, Rope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Buffer",
    "Packed",
    "PACKED_AS",
    "DTYPES",
    "QUANTIZE",
    "ACTIVATIONS",
    "GATES",
    "CACHE_DTYPES",
    "Tensor",
    "Linear",
    "Rope",
    "KVPool",
    "KVBatch",
    "Part",
    "RowStats",
    "Ops",
    "Readings",
]

Buffer = Any
"""Anything with the buffer protocol: bytes, memoryview, array.array, NumPy array."""


class Packed(NamedTuple):
    """What `pack` makes of a stored type."""

    dtype: str
    """The type that the kernels multiply with."""
    exact: bool
    """Whether every weight stays the same number."""
    how: str


PACKED_AS = {
    "F32": Packed("F32", True, "as stored"),
    "F16": Packed("F16", True, "as stored"),
    "BF16": Packed("BF16", True, "as stored"),
    "F64": Packed("F32", False, "rounded to float32"),
    "Q4_0": Packed("Q4_1", True, "integers kept; the minimum is -8 * scale"),
    "Q4_1": Packed("Q4_1", True, "as stored"),
    "Q5_0": Packed("Q8_0", True, "integers kept"),
    "Q5_1": Packed("Q8_0", False, "rounded to 8 bits"),
    "Q8_0": Packed("Q8_0", True, "as stored"),
    "Q2_K": Packed("Q8_0", False, "rounded to 8 bits"),
    "Q3_K": Packed("Q8_0", True, "integers times their small scales, which fit a byte"),
    "Q4_K": Packed("Q4_1", False, "integers kept; scales and minima rounded to half precision"),
    "Q5_K": Packed("Q8_0", False, "rounded to 8 bits"),
    "Q6_K": Packed("Q8_0", False, "rounded to 8 bits"),
    "IQ4_NL": Packed("Q8_0", True, "the table's integers"),
    "IQ4_XS": Packed("Q8_0", False, "the table's integers; scales rounded to half precision"),
}
"""Weight types that `pack` takes. F*: numbers, row-major. Others: GGUF blocks of 32 or 256 weights, row after row.

What packing adds to a type's own error, as root mean square in percent of the weights (Gaussian; quantised by ggml), and how
much larger the whole error becomes by it:

    Q4_K    7.135  + 0.064   x 1.000        Q2_K   29.68   + 0.52   x 1.000        Q5_K   3.61  + 0.53   x 1.011
    IQ4_XS  7.671  + 0.018   x 1.000        Q5_1    3.79   + 0.54   x 1.010        Q6_K   1.78  + 0.53   x 1.046

So there are no tiles with a minimum for 8 bits (Q5_K, Q5_1) or with a scale for 16 weights (Q6_K): they would make the file's
own rounding smaller by 1 to 5 percent, and activations are rounded to 8 bits as well.
"""

DTYPES = tuple(PACKED_AS)
QUANTIZE = ("Q8_0", "Q4_1")
"""What `pack` can round float weights to."""

ACTIVATIONS = ("none", "silu", "gelu_tanh", "gelu", "relu", "tanh")
GATES = ("silu", "gelu_tanh")
"""Activations that a gated matrix can have."""


class Tensor(Protocol):
    """A float32 matrix that an op made. Immutable once returned."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def numpy(self) -> NDArray[np.float32]:
        """A copy as a NumPy array, (rows, columns)."""


class Linear(Protocol):
    """A packed weight matrix with its bias and activation."""

    @property
    def n_in(self) -> int:
        """Columns of the input."""

    @property
    def n_out(self) -> int:
        """Columns of the result."""

    @property
    def nbytes(self) -> int:
        """Bytes that the packed weights take."""

    @property
    def dtype(self) -> str:
        """The packed types, in the order of the parts: "Q4_1", or "Q4_1+Q8_0"."""

    @property
    def part_dtypes(self) -> Sequence[str]:
        """The packed type of each part."""

    @property
    def is_finite(self) -> bool:
        """Whether all weights are numbers: where they are not, rounded activations may hide it."""


class Part(NamedTuple):
    """A slice of rows of a packed matrix, as a checkpoint stores it."""

    data: Buffer
    n_rows: int
    dtype: str
    """One of DTYPES."""
    row_order: Sequence[int] | None = None
    """Packed row i is stored row row_order[i]; None keeps the order."""
    transposed: bool = False
    """Data is (n_in, n_rows), as GPT-2's Conv1D stores it. Float types only."""


class RowStats(NamedTuple):
    """One logits row, summed up."""

    n_kept: int
    """Tokens with a logit above -inf."""
    max: float
    logsumexp: float
    entropy: float
    """Of the softmax, in nats."""


class Readings(NamedTuple):
    """Logits rows, summed up: what `top`, `stats`, `gather` and `rank` say of each of T rows."""

    ids: NDArray[np.int32]
    """(T, k): the largest, descending; ties: lowest id first."""
    logits: NDArray[np.float32]
    """(T, k): theirs."""
    logsumexp: NDArray[np.float64]
    """(T,)"""
    entropy: NDArray[np.float64]
    """(T,), in nats."""
    token_logits: NDArray[np.float32]
    """(T,): of the token that was asked for in this row."""
    token_ranks: NDArray[np.int32]
    """(T,)"""


class Ops(AttentionOps, Protocol):
    """Every op; those of attention are in `ops_attention`. Errors: `KernelError` where a shape, type or index does not fit."""

    name: str
    """"reference", or "native (avx512)" and the like."""

    # -- matrices ---------------------------------------------------------------------------------------------------

    def tensor(self, data: Buffer, n_columns: int) -> Tensor:
        """Float32 bytes as a tensor (rows, n_columns)."""

    def pack(
        self,
        n_in: int,
        parts: Sequence[Part],
        *,
        quantize: str | None = None,
        bias: Buffer | None = None,
        activation: str = "none",
        gated: bool = False,
        mapped: bool = False,
    ) -> Linear:
        """Stack `parts` (rows = outputs) into one matrix in the kernel's own layout.

        Each part is packed as PACKED_AS says; `quantize`, one of QUANTIZE, rounds float parts to that type by ggml's rule, if
        n_in is a multiple of 32. Where types of parts meet within 32 rows, all parts become one type: Q8_0 if any is
        quantised, else F32. `Linear.dtype` tells.

        `gated` takes two parts of equal size, gate and up: the result is activation(x @ gate.T) * (x @ up.T), half as wide.
        Packing may go on in the background: the data must not change until `finish_packing`. `mapped`: the data is part of
        a mapped file, whose pages may leave memory once they are packed.
        """

    def finish_packing(self) -> None:
        """Wait until all is packed, and let go of the data."""

    def linear(self, x: Tensor, w: Linear, residual: Tensor | None = None) -> Tensor:
        """residual + activation(x @ w.T + bias). (T, n_in) -> (T, n_out).

        Quantised weights meet activations rounded to int8 in groups of 32 (scale = max|x| / 127): see `reference`.
        """

    def embed(self, w: Linear, ids: Sequence[int]) -> Tensor:
        """Rows `ids` of the matrix as packed, dequantised: (T, n_in)."""

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b, equal shapes."""

    def take_rows(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """The rows named, in that order: (len(rows), columns)."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight, row by row. Source: Zhang and Sennrich 2019."""

    def span_norm(self, x: Tensor, weight: Tensor, widths: Sequence[int], eps: float) -> Tensor:
        """rms_norm of each of the spans of columns that `widths` cut off one after another; columns after them are kept.

        weight is (1, sum(widths)).
        """

    def scale(self, x: Tensor, by: float) -> Tensor:
        """x * by."""

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        """cap * tanh(x / cap). Source: Gemma Team 2024 (Gemma 2)."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias, row by row. Source: Ba et al. 2016."""

    # -- one logits row (1, V): what decoding is made of ------------------------------------------------------------
    # A removed token has the logit -inf and stays removed. No op writes to its input. The order of tokens is that of `top`.
    # Bits of tokens: bit i % 32 of the little-endian uint32 word i // 32 belongs to token i; the buffer may be longer.

    def row(self, x: Tensor, index: int) -> Tensor:
        """Row `index` as (1, columns), without a copy where possible: for the ops of this section."""

    def argmax(self, row: Tensor) -> int:
        """The id of the largest logit; ties: lowest id."""

    def stats(self, row: Tensor) -> RowStats:
        """Count, maximum, logsumexp and entropy of the row. A second call for the same row costs nothing."""

    def deviation(self, row: Tensor) -> float:
        """Standard deviation of the logits left (divided by n, as llama.cpp does). A second call costs nothing.

        What top-n-sigma measures with. Source: Tang et al. 2024 (arXiv 2411.07641).
        """

    def top(self, row: Tensor, n: int) -> tuple[list[int], list[float]]:
        """Ids and logits of the n largest, descending; ties: lowest id first. Removed tokens are left out."""

    def gather(self, row: Tensor, ids: Sequence[int]) -> list[float]:
        """The logits of `ids`."""

    def rank(self, row: Tensor, token: int) -> int:
        """How many tokens come before this one in the order of `top`: 0 for the arg max."""

    def readings(self, h: Tensor, w: Linear, tokens: Sequence[int], k: int, softcap: float = 0.0) -> Readings:
        """Of the rows of `linear(h, w)` (softcap > 0: of `softcap` of it), without keeping them. tokens: one for each row.

        Every number is, bit for bit, that of the op on this row alone. At most n_out columns of ids; where fewer tokens than k are
        left in a row, ids of -1 with logits of -inf follow them. NumericError as for `stats`.
        """

    # -- a row with other logits ------------------------------------------------------------------------------------

    def temperature(self, row: Tensor, temperature: float) -> Tensor:
        """logit / temperature."""

    def repetition_penalty(self, row: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
        """For each distinct id: logit > 0 ? logit / penalty : logit * penalty. Source: Keskar et al. 2019 (CTRL)."""

    def bias(self, row: Tensor, ids: Sequence[int], amounts: Sequence[float]) -> Tensor:
        """logit + amount for each id, in float32; an id met twice gets both; an amount of -inf removes.

        Both may be lists, or buffers of one axis: int32 or int64, and float32 or float64.
        """

    def bias_mask(self, row: Tensor, bits: Buffer, amount: float) -> Tensor:
        """logit + amount for the tokens whose bit is set."""

    def finite(self, row: Tensor) -> Tensor:
        """NaN becomes 0, +inf the largest float32; -inf, a removed token, stays."""

    def log_softmax(self, row: Tensor) -> Tensor:
        """logit - logsumexp: the logarithms of the probabilities. NumericError as for `stats`."""

    def blend(self, a: Tensor, b: Tensor, weight_a: float, weight_b: float) -> Tensor:
        """weight_a * a + weight_b * b in float32, for tokens that are left in both; the others are removed."""

    def smooth(self, row: Tensor, factor: float, curve: float = 1.0) -> Tensor:
        """-k d^2 + s d^3 + max in float32, with d = logit - max, k = factor (3 - curve) / 2, s = factor (curve - 1) / 2.

        Source: quadratic sampling, as text-generation-webui has it.
        """

    def near_target(self, row: Tensor, target: float) -> Tensor:
        """5 - 10 d^2 / (1 + d) with d = |probability - target| / 0.3. NumericError as for `stats`.

        Source: adaptive-p, llama.cpp PR 17927.
        """

    # -- a row with fewer tokens ------------------------------------------------------------------------------------
    # At least the first `min_keep` tokens in the order stay, if so many are left. Probabilities are those of the tokens left.

    def top_k(self, row: Tensor, k: int) -> Tensor:
        """Remove tokens below the k-th largest logit; tokens equal to it stay. Source: Fan et al. 2018."""

    def top_p(self, row: Tensor, p: float, min_keep: int = 1) -> Tensor:
        """Keep the fewest tokens, in the order, whose probabilities sum to >= p; p of 1 removes nothing.

        Source: Holtzman et al. 2019 (nucleus sampling).
        """

    def keep_above(self, row: Tensor, limit: float, min_keep: int = 1) -> Tensor:
        """Remove tokens with float64(logit) < limit; where fewer than min_keep would stay, the first min_keep stay."""

    def drop_above(self, row: Tensor, limit: float) -> Tensor:
        """Of the tokens with float64(logit) >= limit, remove all but the last in the order.

        Source: exclude top choices (p-e-w 2024), which calls it by chance.
        """

    def typical_p(self, row: Tensor, mass: float, min_keep: int = 1) -> Tensor:
        """Keep the fewest tokens, by |-log p - entropy| ascending (ties: lowest id), whose probabilities sum to >= mass.

        min_keep counts in this order; a mass of 1 removes nothing. Source: Meister et al. 2022 (locally typical sampling).
        """

    def tail_free(self, row: Tensor, z: float, min_keep: int = 1) -> Tensor:
        """Cut the sorted probabilities where they have spent a share z of their curvature: see `reference_filters`.

        Source: Phénix 2019 (tail free sampling), as llama.cpp had it.
        """

    def top_h(self, row: Tensor, h: float, min_keep: int = 1) -> Tensor:
        """Keep tokens, in the order, while their terms -p log p sum to at most h times the entropy; the first always.

        Of the first 100 tokens, as in transformers: the others are removed. Source: Potraghloo et al. 2025 (Top-H).
        """

    def keep(self, row: Tensor, ids: Sequence[int]) -> Tensor:
        """Remove all but these ids, of which there must be one; ids as for `bias`."""

    def mask(self, row: Tensor, bits: Buffer) -> Tensor:
        """Remove the tokens whose bit is not set."""

    # -- chance -----------------------------------------------------------------------------------------------------

    def gumbel(self, seed: int, position: int, ids: Sequence[int]) -> list[float]:
        """Standard Gumbel noise of these tokens: a function of (seed, position, token), see `reference_rows`."""

    def gumbel_argmax(self, row: Tensor, seed: int, position: int) -> tuple[int, float]:
        """arg max of logit + noise over the tokens left, and that sum: an exact draw from softmax(row).

        Source: Gumbel 1954; Maddison et al. 2014.
        """

    def gumbel_top(self, row: Tensor, seed: int, position: int, n: int) -> tuple[list[int], list[float]]:
        """The n tokens with the largest logit + noise, descending, and those sums; fewer where fewer are left.

        A draw of n tokens without replacement, the first of them that of `gumbel_argmax`. Source: Kool et al. 2019.
        """

    def green_list(self, seed: int, n_vocab: int, n_green: int) -> bytes:
        """Bits of the first n_green entries of PyTorch's `randperm(n_vocab)` with this seed on the CPU, for `bias_mask`.

        Only the low 32 bits of the seed count. Source: Kirchenbauer et al. 2023 (watermarks); see `mersenne`.
        """

    # -- threads ----------------------------------------------------------------------------------------------------

    def set_threads(self, n: int) -> None:
        """How many threads ops use, from 1."""

    def get_threads(self) -> int:
        """How many threads ops use."""
