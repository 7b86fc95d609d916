"""The tensor types of GGUF: number in the file -> name and size of a block. Plain tables; knows nothing else.

Source: the ggml project.
"""

from __future__ import annotations

from typing import NamedTuple


class Quant(NamedTuple):
    """How a tensor type is stored: blocks of `elements` weights in `nbytes` bytes."""

    name: str
    elements: int
    nbytes: int


QUANTS: dict[int, Quant] = {
    0: Quant("F32", elements=1, nbytes=4),
    1: Quant("F16", elements=1, nbytes=2),
    2: Quant("Q4_0", elements=32, nbytes=18),
    3: Quant("Q4_1", elements=32, nbytes=20),
    6: Quant("Q5_0", elements=32, nbytes=22),
    7: Quant("Q5_1", elements=32, nbytes=24),
    8: Quant("Q8_0", elements=32, nbytes=34),
    9: Quant("Q8_1", elements=32, nbytes=40),
    10: Quant("Q2_K", elements=256, nbytes=84),
    11: Quant("Q3_K", elements=256, nbytes=110),
    12: Quant("Q4_K", elements=256, nbytes=144),
    13: Quant("Q5_K", elements=256, nbytes=176),
    14: Quant("Q6_K", elements=256, nbytes=210),
    15: Quant("Q8_K", elements=256, nbytes=292),
    16: Quant("IQ2_XXS", elements=256, nbytes=66),
    17: Quant("IQ2_XS", elements=256, nbytes=74),
    18: Quant("IQ3_XXS", elements=256, nbytes=98),
    19: Quant("IQ1_S", elements=256, nbytes=50),
    20: Quant("IQ4_NL", elements=32, nbytes=18),
    21: Quant("IQ3_S", elements=256, nbytes=110),
    22: Quant("IQ2_S", elements=256, nbytes=82),
    23: Quant("IQ4_XS", elements=256, nbytes=136),
    24: Quant("I8", elements=1, nbytes=1),
    25: Quant("I16", elements=1, nbytes=2),
    26: Quant("I32", elements=1, nbytes=4),
    27: Quant("I64", elements=1, nbytes=8),
    28: Quant("F64", elements=1, nbytes=8),
    29: Quant("IQ1_M", elements=256, nbytes=56),
    30: Quant("BF16", elements=1, nbytes=2),
    34: Quant("TQ1_0", elements=256, nbytes=54),
    35: Quant("TQ2_0", elements=256, nbytes=66),
    39: Quant("MXFP4", elements=32, nbytes=17),
    40: Quant("NVFP4", elements=64, nbytes=36),
    41: Quant("Q1_0", elements=128, nbytes=18),
}
"""Tensor types by their number in the file. A type listed here has checked sizes; whether kernels take it is theirs."""

WITHDRAWN: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Tensor types that ggml has given up; no current program writes them."""
