"""Hugging Face transformers on PyTorch, as its users run it: KV cache, scaled-dot-product attention, inference mode."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # before the import, which reads it

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Transformers:
    """A causal LM from a GGUF file (dequantised to `dtype`) or a folder."""

    def __init__(self, path: Path, *, name: str, threads: int, dtype: str = "float32") -> None:
        """Load the model."""
        self.name = name
        torch.set_num_threads(threads)
        folder, gguf = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(folder, dtype=getattr(torch, dtype), **gguf).eval()
        self._cache = transformers.DynamicCache()
        self._next = torch.zeros((1, 1), dtype=torch.long)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> int:
        """As `Peer.prefill`."""
        self._cache = transformers.DynamicCache()
        self._step(torch.tensor([list(ids)]))
        return int(self._next.item())

    @torch.inference_mode()
    def decode(self, n: int) -> list[int]:
        """As `Peer.decode`."""
        ids = []
        for _ in range(n):
            self._step(self._next)
            ids.append(int(self._next.item()))
        return ids

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of a text: (T, n_vocab)."""
        found: NDArray[np.float32] = self._model(torch.tensor([list(ids)])).logits[0].float().numpy()
        return found

    def _step(self, ids: torch.Tensor) -> None:
        logits = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        self._next = logits[:, -1:].argmax(dim=-1)
